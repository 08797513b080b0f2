"""Measuring a model on this machine: prefill, decode, each operation's bytes and time, beside what memory delivers."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memfirst import __version__
from memfirst.backends.base import StepResult, observed
from memfirst.backends.cpu.backend import CpuBackend
from memfirst.errors import CapacityError
from memfirst.formats.checkpoint import Checkpoint
from memfirst.graph import Graph, Step
from memfirst.graph import Sequence as Tokens
from memfirst.graph.ops.sketched import sketched
from memfirst.graph.traffic import ACTIVATIONS, HEAD
from memfirst.hardware.memory_modules import MemoryPeak, memory_peak
from memfirst.ledger import Distinct, Ledger, Memory, distinct_experts
from memfirst.measure.profile import StepProfile, profile_step, time_calls
from memfirst.predict.llama_bench import Row, measured_row
from memfirst.predict.measured import Comparison, measured_parts, predicted_parts
from memfirst.predict.measured import load as load_rates
from memfirst.progress import Progress, Silent
from memfirst.runtime.head_use import HeadUse
from memfirst.runtime.model import Model, load
from memfirst.runtime.placing import Limit
from memfirst.runtime.report import DiskUse
from memfirst.runtime.request import Timing
from memfirst.transform.sketched import HEAD_FULL

SEED = 20260101
"""Of the prompt's token ids: any ids cost the same."""


LOGGED, TOKENS, PROMPTS = 24, 48, 8
"""Steps that are logged: for the time of each operation; for a profile, of one token, and of a prompt."""


def _made_as(checkpoint: Checkpoint) -> str:
    """What a model without a file calls itself: its name, codec and that its weights are random."""
    named = (checkpoint.metadata.get(key) for key in ("general.name", "_name_or_path"))
    return f"{next(filter(None, named), 'synthetic')}, random weights"


@dataclass(frozen=True)
class OpRow:
    """One kind of operation while decoding: per token its bytes, and the time that workers spent in it."""

    op: str
    bytes: int
    seconds: float
    threads: int

    @property
    def rate(self) -> float:
        """Bytes per second while all workers were in it."""
        return self.bytes * self.threads / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class HeadRead:
    """An output head with a sketch, while decoding: greedily, as each step gives the next one's token.

    steps     of them; sketched: those that went by the sketch; listed: tiles of 16 rows that these read in full
    tiles     of the head; expected: the share of them that was expected to be read
    whole     bytes of the head
    predicted bytes of the head in all steps, with the tiles that were recorded; counted: by the kernels
    """

    steps: int
    sketched: int
    listed: int
    tiles: int
    expected: float
    whole: int
    predicted: int
    counted: int

    @property
    def share(self) -> float:
        """Of the tiles that steps by the sketch read in full; of none where none did."""
        return self.listed / self.tiles / self.sketched if self.sketched else 0.0

    def report(self) -> dict[str, Any]:
        """For JSON."""
        return vars(self) | {"share": self.share}

    def line(self) -> str:
        """In words."""
        return (
            f"by its sketch in {self.sketched} of {self.steps} steps: {100 * self.share:.1f} % of the rows in full"
            f" ({100 * self.expected:.1f} % expected), {self.counted / self.steps / 1e6:.1f} MB a token of"
            f" {self.whole / 1e6:.1f}"
        )


@dataclass(frozen=True)
class Measured:
    """What `bench` found. Rates are tokens or bytes per second, times seconds.

    model_type, model_size, model_n_params  architecture and codec, bytes and weights of its tensors as stored
    peak_rss  most bytes that the process held while it ran the model
    """

    model: str
    threads: int
    prompt: int
    generated: int
    read_bandwidth: float
    prefill_tok_s: float
    decode_tok_s: float
    predicted: Ledger
    recorded: Ledger
    ops: tuple[OpRow, ...]
    memory: Memory
    startup_s: dict[str, float]
    compiled: int
    peak_rss: int
    model_type: str
    model_size: int
    model_n_params: int
    comparison: Comparison | None = None
    profiles: tuple[StepProfile, ...] = ()
    """Of a decoded token and of a step of the prompt, where they were asked for."""
    read_pattern: str = ""
    """What `read_bandwidth` was read with: the fastest of several."""
    peak: MemoryPeak | None = None
    experts: Distinct | None = None
    """Routed experts of a layer that a token's step reads; None for a model without them."""
    prompt_experts: Distinct | None = None
    """The same of the first step of the prompt."""
    disk: DiskUse | None = None
    """What a decoded token reads from disk; None where all weights are in memory."""
    head: HeadRead | None = None
    """Where the output head has a sketch; then `predicted` and `recorded` are of one of its steps."""

    @property
    def streamed(self) -> float:
        """Bytes a decoded token: of all steps, where these read the output head differently."""
        last = self.predicted.bytes_per_token
        if self.head is None:
            return last
        return last - self.predicted.by_purpose()[HEAD].mean + self.head.predicted / self.head.steps

    @property
    def ceiling_tok_s(self) -> float:
        """Decoded tokens/s that the read bandwidth allows."""
        return self.read_bandwidth / self.streamed

    @property
    def decode_rate(self) -> float:
        """Streamed bytes per second while decoding."""
        return self.decode_tok_s * self.streamed

    def report(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "model": self.model, "threads": self.threads, "prompt": self.prompt, "generate": self.generated,
            "read_bandwidth_GBps": self.read_bandwidth / 1e9, "read_pattern": self.read_pattern,
            "peak_GBps": self.peak.bandwidth / 1e9 if self.peak else None,
            "prefill_tok_s": self.prefill_tok_s, "decode_tok_s": self.decode_tok_s,
            "decode_GBps": self.decode_rate / 1e9,
            "decode_bandwidth_fraction": self.decode_rate / self.read_bandwidth,
            "disk": self.disk.json(self.decode_tok_s) if self.disk else None,
            "distinct_experts": vars(self.experts) if self.experts else None,
            "distinct_experts_of_prompt": vars(self.prompt_experts) if self.prompt_experts else None,
            "head_sketch": self.head.report() if self.head else None,
            "bytes_per_token": _purposes(self.predicted),
            "recorded_bytes_per_token": _purposes(self.recorded),
            "ops": [
                {"op": r.op, "bytes": r.bytes, "us": 1e6 * r.seconds / r.threads, "GBps": r.rate / 1e9,
                 "share_of_ceiling": r.rate / self.read_bandwidth} for r in self.ops
            ],
            **self._predicted_parts(),
            "packed_weight_bytes": self.memory.weights, "kv_held_bytes": self.memory.kv_held,
            "kv_allocated_bytes": self.memory.kv_allocated,
            "startup_s": self.startup_s, "kernels_compiled": self.compiled, "peak_rss_bytes": self.peak_rss,
            **({"profile": [p.report() for p in self.profiles]} if self.profiles else {}),
        }  # fmt: skip

    def _predicted_parts(self) -> dict[str, Any]:
        c = self.comparison
        if c is None:
            return {"predicted_decode_tok_s": None}
        predicted, measured = ({k: 1e6 * v for k, v in us.items()} for us in (c.predicted, c.measured))
        return {"predicted_decode_tok_s": c.predicted_tok_s, "predicted_us": predicted, "measured_us": measured,
                "explained": c.sentence()}  # fmt: skip

    def rows(self) -> list[Row]:
        """As llama-bench's rows: the prompt, then the answer at the prompt's depth; one repetition of each."""
        about = {"model_type": self.model_type, "model_size": self.model_size, "model_n_params": self.model_n_params,
                 "model_filename": self.model, "n_threads": self.threads, "backends": "CPU",
                 "other": {"build_commit": f"memfirst-{__version__}"}}  # fmt: skip
        prompt_s, answer_s = self.prompt / self.prefill_tok_s, self.generated / self.decode_tok_s
        return [
            measured_row([prompt_s], n_prompt=self.prompt, n_gen=0, **about),
            measured_row([answer_s], n_prompt=0, n_gen=self.generated, n_depth=self.prompt, **about),
        ]


def _purposes(ledger: Ledger) -> dict[str, int]:
    return {p: int(a) for p, a in ledger.by_purpose().items() if p != ACTIVATIONS}


def bench(
    source: str | os.PathLike[str] | Checkpoint,
    *,
    threads: int | None = None,
    prompt: int = 256,
    generate: int = 128,
    ctx: int | None = None,
    kv: str = "f16",
    memory: Limit | None = None,
    pack: str = "auto",
    split: str = "",
    profile: bool = False,
    head: str = HEAD_FULL,
    progress: Progress | None = None,
) -> Measured:
    """Prefill `prompt` tokens, decode `generate` more, with fixed token ids; read bandwidth before and after.

    memory   bytes that the process may take, or "auto": weights beyond them stay on disk
    pack     "auto", or "plain": BF16 as in the file
    profile  then log a decoded token and a step of the prompt, phase by phase and call by call
    head     "auto": with a sketch of the output head, where one is made, tokens are those that the model likes best
    """
    progress = progress or Silent()
    context = ctx or _context(prompt + generate)
    how: dict[str, Any] = {"memory": memory, "pack": pack, "split": split, "head": head}
    with load(source, threads=threads, ctx=context, kv=kv, progress=progress, **how) as model:
        backend = model.backend
        if not isinstance(backend, CpuBackend):
            raise CapacityError("nothing to measure", "the cpu backend")
        work = Bench(model, backend, prompt, generate, progress)
        measured = work.run()
        return replace(measured, profiles=tuple(work.profiles())) if profile else measured


DRAWN_S = 0.25
"""Between two drawings of the progress of decoding."""


def _context(tokens: int) -> int:
    return -(-tokens // 64) * 64


class Bench:
    """One measurement of one model."""

    def __init__(self, model: Model, backend: CpuBackend, prompt: int, generate: int, progress: Progress) -> None:
        if prompt + generate > model.context:
            limit = f"at most the context of {model.context}"
            raise CapacityError(f"{prompt} + {generate} tokens", limit, "raise --ctx")
        self.model, self.backend, self.progress = model, backend, progress
        self.prompt, self.generate = prompt, generate
        self.tables = backend.own_tables()
        rng = np.random.default_rng(SEED)
        self.ids = rng.integers(0, model.graph.vocab_size, prompt + generate).astype(np.int32)
        self.sketched = sketched(backend.graph)
        self.use = HeadUse(self.sketched.weight.groups if self.sketched else 0)
        self.listed: list[int | None] = []
        """Of each step of `decode`, as `StepResult` has them."""

    def run(self) -> Measured:
        """Warm up, then measure."""
        backend = self.backend
        with self.stage("warm-up"):
            self.prefill(Silent())  # first touches of memory, kernels of larger steps
            self.decode(self.prompt, min(4, self.generate))
        resident = peak_rss()  # before memory is allocated to measure its bandwidth: twice the caches
        with self.stage("read bandwidth"):
            ceilings = [backend.read_bandwidth(0.25)]
        prefill_s = self.prefill(self.progress)
        before = backend.counted()
        timing = Timing()
        times = self.decode(self.prompt, self.generate, timing, self.progress)
        moved = backend.moved(before, backend.counted())
        head = self.head_read(moved)
        with self.stage("operations"):
            spent = self.spent(head)
        ops = tuple(self.ops(moved, spent))
        with self.stage("read bandwidth again"):
            ceilings.append(backend.read_bandwidth(0.25))
        last = self.token_step(self.prompt + self.generate - 1, head is not None)
        result = backend.step(last, self.ids[-1:])
        last = observed(backend, last, result)
        return Measured(
            self.model.checkpoint.path or _made_as(self.model.checkpoint), backend.options.threads,
            self.prompt, self.generate, median(ceilings), self.prompt / prefill_s, len(times) / sum(times),
            backend.predicted(last), backend.recorded(last, result),
            ops, self.model.memory([self.prompt + self.generate]), self.model.stages.seconds,
            len(backend.library.compiled), resident, *_stored(self.model.graph),
            self.compared(sum(times) / len(times), spent, median(ceilings), head),
            read_pattern=backend.read_pattern, peak=memory_peak(), experts=distinct_experts(self.model.graph, last),
            prompt_experts=self.prompt_experts(), disk=self.model.disk_use(timing), head=head,
        )  # fmt: skip

    def prompt_experts(self) -> Distinct | None:
        """Of the prompt's first step."""
        size = min(self.prompt, self.backend.max_tokens)
        step = self.step(0, size, size == self.prompt)
        routing = self.backend.routing(self.backend.step(step, self.ids[:size]))
        return distinct_experts(self.model.graph, replace(step, routing=routing))

    def profiles(self) -> Iterator[StepProfile]:
        """Of one decoded token at the prompt's depth, and of the prompt's first step, each run several times."""
        size = min(self.prompt, self.backend.max_tokens)
        token, first = self.step(self.prompt, 1, True), self.step(0, size, size == self.prompt)
        for what, ids, runs in ((first, self.ids[:size], PROMPTS), (token, self.ids[-1:], TOKENS)):
            self.progress.note(f"profile: {runs} steps of {what.tokens}")
            yield profile_step(self.backend, what, ids, runs)

    def head_read(self, moved: NDArray[np.int64]) -> HeadRead | None:
        """What the steps of the answer read of a head with a sketch, predicted and counted; None without one."""
        if self.sketched is None:
            return None
        step, listed = self.step(self.prompt, 1, True), [n for n in self.listed if n is not None]
        predicted = sum(
            int(self.backend.predicted(replace(step, likeliest=n is not None, listed=n)).by_purpose()[HEAD])
            for n in self.listed
        )
        counted = sum(int(n) for call, n in zip(self.backend.calls(), moved, strict=True) if call.purpose == HEAD)
        return HeadRead(
            len(self.listed), len(listed), sum(listed), self.use.tiles, self.sketched.tiles.expected,
            self.sketched.weight.nbytes, predicted, counted,
        )  # fmt: skip

    def kinds(self, past: int, head: HeadRead | None) -> list[tuple[Step, float]]:
        """Steps of one token as the answer had them, each with its share of them: with and without the sketch."""
        if head is None:
            return [(self.step(past, 1, logits=True), 1.0)]
        listed = round(head.listed / head.sketched) if head.sketched else None
        share = head.sketched / head.steps
        both = (replace(self.token_step(past, True), listed=listed), share), (self.token_step(past, False), 1 - share)
        return [(step, part) for step, part in both if part]

    def spent(self, head: HeadRead | None) -> dict[int, float]:
        """Seconds of all workers in each call of a token in the middle of the answer, by the call's identity."""
        found: dict[int, float] = {}
        for step, share in self.kinds(self.prompt + self.generate // 2, head):
            seconds, _ = time_calls(self.backend, step, self.ids[-1:], min(self.generate, LOGGED))
            for call, s in zip(self.backend.program(1).calls, seconds, strict=True):
                found[id(call)] = found.get(id(call), 0.0) + share * float(s)
        return found

    def compared(
        self, seconds: float, spent: dict[int, float], read: float, head: HeadRead | None
    ) -> Comparison | None:  # fmt: skip
        """A decoded token's time by part beside what this machine's rates predict; None where it is not measured."""
        rates = load_rates()
        if rates is None:
            return None
        threads, context, predicted = self.backend.options.threads, self.backend.options.context, dict[str, float]()
        for step, share in self.kinds(self.prompt + self.generate // 2, head):
            for part, s in predicted_parts(self.model.graph, step, rates, threads, read, context).items():
                predicted[part] = predicted.get(part, 0.0) + share * s
        measured = measured_parts(self.backend.program(1).program, spent, threads, seconds)
        return Comparison(predicted, measured, rates.date)

    def step(self, past: int, new: int, logits: bool) -> Step:
        return Step((Tokens(past, new, self.tables, logits=None if logits else ()),))

    def token_step(self, past: int, by_sketch: bool) -> Step:
        """Of one token, by the head's sketch or not."""
        return replace(self.step(past, 1, logits=True), likeliest=by_sketch)

    @contextmanager
    def stage(self, what: str) -> Iterator[None]:
        """Something that is not counted as it goes."""
        self.progress.update(what, 0, 1, unit="")
        yield
        self.progress.update(what, 1, 1, unit="")

    def prefill(self, progress: Progress) -> float:
        """Seconds of the prompt's steps, without what is drawn between them; logits of its last token."""
        size, seconds = self.backend.max_tokens, 0.0
        for start in range(0, self.prompt, size):
            progress.update("prefill", start, self.prompt, unit="")
            end = min(start + size, self.prompt)
            what, begun = self.step(start, end - start, end == self.prompt), time.perf_counter()
            self.backend.step(what, self.ids[start:end])
            seconds += time.perf_counter() - begun
        progress.update("prefill", self.prompt, self.prompt, unit="")
        return seconds

    def decode(
        self, past: int, count: int, timing: Timing | None = None, progress: Progress | None = None
    ) -> list[float]:
        """Seconds of each of `count` steps of one token; `timing` is told what they read from disk. Nothing is drawn
        while a step is timed, and a few times a second between them. With a sketch of the head, whose bytes depend on
        it, each token is the likeliest after those before."""
        times, drawn_at = list[float](), 0.0
        self.listed = []
        for i in range(past, past + count):
            start = time.perf_counter()
            if progress and start - drawn_at > DRAWN_S:
                progress.update("decode", i - past, count, unit="")
                drawn_at = start = time.perf_counter()
            result = self.backend.step(self.token_step(i, self.use.wanted()), self.ids[i : i + 1])
            times.append(time.perf_counter() - start)
            self.follow(i + 1, result)
            if timing is not None:
                timing.add_disk(result.disk)
                timing.decode_steps += 1
        if progress:
            progress.update("decode", count, count, unit="")
        return times

    def follow(self, at: int, result: StepResult) -> None:
        """With a sketch of the head: what the step read of it, and the next token."""
        if self.sketched is None:
            return
        self.listed.append(result.listed)
        if result.listed is not None:
            self.use.learn(result.listed)
        if at < len(self.ids):
            self.ids[at] = int(result.logits[0].argmax())

    def ops(self, moved: NDArray[np.int64], spent: dict[int, float]) -> Iterator[OpRow]:
        """Bytes and time a token by kind of operation ("attn_q" of all layers), in order."""
        rows: dict[str, tuple[int, float]] = {}
        for call, n in zip(self.backend.calls(), moved, strict=True):
            name = call.op.split(".", 2)[-1]
            so_far = rows.get(name, (0, 0.0))
            rows[name] = so_far[0] + (int(n) if call.purpose else 0), so_far[1] + spent.get(id(call), 0.0)
        for op, (n, seconds) in rows.items():
            if n or seconds:
                yield OpRow(op, round(n / self.generate), seconds, self.backend.options.threads)


def peak_rss() -> int:
    """Most bytes of memory that this process held at once; 0 where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    most: int = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _stored(graph: Graph) -> tuple[str, int, int]:
    """Architecture and commonest codec, bytes, and how many weights, of the tensors as they are in the file."""
    weights = graph.weights().values()
    sizes: dict[str, int] = {}
    for w in weights:
        sizes[w.codec] = sizes.get(w.codec, 0) + w.nbytes
    codec = max(sizes, key=lambda c: sizes[c])
    return f"{graph.architecture} {codec.upper()}", sum(sizes.values()), sum(prod(w.shape) for w in weights)
