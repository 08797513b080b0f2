"""How a model is to be run: what a user chooses, checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from memfirst.errors import ConfigError, UnsupportedError
from memfirst.graph import Step, decode
from memfirst.plan.framework import framework
from memfirst.predict.fitted import BACKENDS, PARALLEL
from memfirst.transform.sketched import HEAD_AUTO, HEAD_FULL
from memfirst.transform.weight_formats import format_name

KV_CODECS = ("f16", "bf16", "f32", "f8_e4m3", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
"""Of some engine."""

DEFAULT_CONTEXT, DEFAULT_PROMPT, DEFAULT_ANSWER = 8192, 512, 128
"""Tokens; as many as `memfirst run` makes room for."""
MOST_DRAFTED, MOST_DEVICES = 64, 1 << 12
MOST_TOKENS, MOST_SEQUENCES = 1 << 28, 1 << 13
MOST_BANDWIDTH, MOST_MEMORY, MOST_RATE = 1e14, 1 << 50, 1e6


@dataclass(frozen=True)
class Speculation:
    """`tokens` are drafted, then checked in one step; each is accepted with the probability `acceptance`.

    draft  name of the model that drafts; "": drafting is free, as from the prompt's own n-grams
    """

    tokens: int = 4
    acceptance: float = 0.7
    draft: str = ""

    def __post_init__(self) -> None:
        if not 1 <= self.tokens <= MOST_DRAFTED or not 0 <= self.acceptance < 1:
            found = f"{self.tokens} drafted tokens, accepted at {self.acceptance:g}"
            raise ConfigError(found, f"1 to {MOST_DRAFTED} tokens, and a probability below 1")

    @property
    def gained(self) -> float:
        """Tokens that a step is expected to add: (1 − a^(k+1)) / (1 − a) (arXiv:2211.17192, equation 1)."""
        a = self.acceptance
        return float((1 - a ** (self.tokens + 1)) / (1 - a))


@dataclass(frozen=True)
class Options:
    """Raises ConfigError or UnsupportedError for what cannot be.

    codec    a mix or a scheme such as "q4_k_m" or "awq", as people write it; "": as the file has it, without a file
             what the engine usually runs
    kv       codec of keys and values, or of keys/values apart: "q8_0/q4_0"
    context  tokens that each sequence reaches; 0: DEFAULT_CONTEXT, or less where the model was trained for less
    prompt   tokens before the first answer; 0: DEFAULT_PROMPT, at most the context
    engine   one of FRAMEWORKS; "": memfirst on this machine, llama.cpp elsewhere (vLLM, or MLX on Apple, for a scheme)
    parallel how several devices share the layers; "": as the engine's users do
    threads  of a processor; 0: all
    host_bandwidth  bytes/s of the memory beside a GPU; 0: as the machine's row says, else assumed
    host_memory     bytes of that memory; 0: enough
    memory   bytes of each device to use at most; 0: all. What does not fit memfirst reads from disk
    disk     bytes/s of the disk that it reads from; 0: measured here, else as the machine's row says, or assumed
    users    of a server, each asking again once answered; 0: no server. They are the batch where that is 1
    rate     requests a second that come to it at random moments besides; answer: tokens of an answer
    replicas servers of the model, each with `batch` sequences
    split    "tensor" or "pipeline": over so many `processes` on this machine, started by mpiexec
    backend  what a GPU's kernels are written in, one of BACKENDS; "": the usual one of the machine
    flash    attention without the matrix of scores in memory, which all engines use unless told otherwise
    head     "auto": memfirst answers greedily, by a sketch of the output head where it makes one; "full": as it is
    """

    codec: str = ""
    kv: str = "f16"
    context: int = 0
    batch: int = 1
    prompt: int = 0
    engine: str = ""
    devices: int = 1
    parallel: str = ""
    threads: int = 0
    speculation: Speculation | None = None
    host_bandwidth: float = 0.0
    host_memory: int = 0
    memory: int = 0
    disk: float = 0.0
    users: int = 0
    rate: float = 0.0
    answer: int = DEFAULT_ANSWER
    replicas: int = 1
    split: str = ""
    processes: int = 2
    backend: str = ""
    flash: bool = True
    head: str = HEAD_FULL

    def __post_init__(self) -> None:
        _within("batch", self.batch, 1, MOST_SEQUENCES)
        _within("context", self.context, 0, MOST_TOKENS)
        _within("prompt", self.prompt, 0, MOST_TOKENS)
        _within("devices", self.devices, 1, MOST_DEVICES)
        _within("replicas", self.replicas, 1, MOST_DEVICES)
        _within("processes", self.processes, 2, MOST_DEVICES)
        if self.split:
            from memfirst.transform.split import check_kind  # few plans need it

            check_kind(self.split)
        _within("threads", self.threads, 0, 1 << 12)
        if not 0 <= self.host_bandwidth <= MOST_BANDWIDTH:
            raise ConfigError(f"a host of {self.host_bandwidth / 1e9:g} GB/s", f"0 to {MOST_BANDWIDTH / 1e9:g}")
        _within("the host's memory", self.host_memory, 0, MOST_MEMORY)
        _within("memory", self.memory, 0, MOST_MEMORY)
        if not 0 <= self.disk <= MOST_BANDWIDTH:
            raise ConfigError(f"a disk of {self.disk / 1e9:g} GB/s", f"0 to {MOST_BANDWIDTH / 1e9:g}")
        _within("users", self.users, 0, MOST_SEQUENCES)
        _within("answer", self.answer, 1, MOST_TOKENS)
        if not 0 <= self.rate <= MOST_RATE:
            raise ConfigError(f"{self.rate:g} requests a second", f"0 to {MOST_RATE:g}")
        if self.rate and not self.users:
            raise ConfigError("a rate of requests without users of a server", "users too", command="give --users N too")
        if self.users and self.batch == 1:
            object.__setattr__(self, "batch", self.users)
        _one_of("backend", self.backend, ("", *BACKENDS))
        _one_of("head", self.head, (HEAD_FULL, HEAD_AUTO))
        if self.codec:
            object.__setattr__(self, "codec", format_name(self.codec))
        for codec in self.codecs:
            if codec not in KV_CODECS:
                expected = f"one of {', '.join(KV_CODECS)}, or two as in q8_0/q4_0"
                raise UnsupportedError(f"keys and values in {self.kv[:40]!r}", expected)
        if self.engine:
            framework(self.engine)
        if self.parallel and self.parallel not in PARALLEL:
            raise ConfigError(f"{self.parallel[:40]!r} parallelism", " or ".join(PARALLEL))
        if self.context and self.prompt > self.context:
            raise ConfigError(f"a prompt of {self.prompt} tokens in a context of {self.context}", "a longer context")

    @property
    def codecs(self) -> tuple[str, str]:
        """Those of keys and of values."""
        keys, slash, values = self.kv.partition("/")
        return keys, values if slash else keys

    def step(self, context: int) -> Step:
        """The step that brings each sequence to `context` tokens. One alone that is answered greedily wants only its
        likeliest token."""
        likeliest = self.head == HEAD_AUTO and self.batch == 1 and self.speculation is None
        return replace(decode(context - 1, self.batch), likeliest=likeliest)

    def reached(self, trained: int) -> int:
        """Tokens that each sequence reaches, of a model trained for `trained`."""
        return self.context or max(self.prompt, min(DEFAULT_CONTEXT, trained))

    def prompted(self, context: int) -> int:
        """Tokens of the prompt."""
        return self.prompt or min(DEFAULT_PROMPT, context)


def _one_of(what: str, name: str, names: Sequence[str]) -> None:
    if name not in names:
        raise UnsupportedError(f"the {what} {name[:40]!r}", f"one of {', '.join(filter(None, names))}")


def _within(what: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{what} is {value}", f"{low} to {high}")
