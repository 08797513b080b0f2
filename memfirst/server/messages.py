"""What the HTTP process and the engine's process say to each other: JSON lists over a pipe, one message a send."""

from __future__ import annotations

import json
import select
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from memfirst.runtime.sampling import SamplingParams

ASK, DROP, CLOSE, BANDWIDTH = "ask", "drop", "close", "bandwidth"
"""To the engine: a request, nobody reads it any more, end, measure the read bandwidth now."""
NOTE, PROGRESS, LOADED, FAILED, BATCH, STATS = "note", "progress", "loaded", "failed", "batch", "stats"
"""From the engine: loading goes on, it can take requests, it could not load, what a step gave, how things are."""


CANCELLED = "cancelled"
"""Why an answer ended that its reader left."""


class Ask(NamedTuple):
    """A request: `Request` without what lives in the engine's process.

    number      the HTTP side's own
    grammar     what the answer follows: the fields of a `Grammar`
    special     its text shows control tokens
    prediction  tokens that the answer may be like
    client      whose it is; priority: the lowest of a client's goes first
    pooling     of an embedding, what its vector is made of; "": an answer
    progress    say how much of its prompt is computed
    """

    number: int
    prompt: list[int]
    max_tokens: int | None
    stop: list[str]
    params: dict[str, Any]
    logprobs: int | None = None
    end_ids: Sequence[int] = ()
    least: int = 0
    endless: bool = False
    grammar: tuple[str, str, str] | None = None
    special: bool = False
    prediction: Sequence[int] = ()
    client: str = ""
    priority: int = 0
    pooling: str = ""
    progress: bool = False


class Loaded(NamedTuple):
    """What the HTTP side must know of the model that was loaded.

    context      positions of one request at most; longest: that the KV cache holds
    sequences    requests of one step at most
    block        positions of a block, in which the KV cache is given out
    blocks       that each cache group has
    block_bytes  of each cache group
    memory       bytes held: weights, KV cache, buffers, state
    threads      that the engine works with
    hidden_size  numbers of an embedding; pooling: how it is made, "": the server makes none
    """

    architecture: str
    context: int
    trained: int
    sequences: int
    block: int
    blocks: list[int]
    block_bytes: list[int]
    memory: dict[str, int]
    weights: int
    codec: str
    threads: int
    longest: int
    hidden_size: int = 0
    pooling: str = ""


class Piece(NamedTuple):
    """A token of a request: the text that can be shown now, and where they were asked for the log-probabilities of the
    chosen token and of the likeliest, as [id, logprob]."""

    number: int
    text: str
    id: int
    logprobs: list[tuple[int, float]] | None


class PromptProgress(NamedTuple):
    """How much of a request's prompt is computed, or was cached; seconds since its first step."""

    number: int
    total: int
    cached: int
    done: int
    seconds: float


class End(NamedTuple):
    """A request ended. `reason` is one of `runtime.request`, "" with an error: [found, expected, do, kind]. `vector`:
    of an embedding, its float32 in base64."""

    number: int
    reason: str
    usage: dict[str, Any]
    error: list[str] | None = None
    vector: str = ""


class Running(NamedTuple):
    """A request that is being worked on, for the page: the HTTP side's number, tokens of its prompt, of them from the
    cache, generated, cached, blocks held, whether it waits."""

    number: int
    prompt: int
    reused: int
    generated: int
    cached: int
    blocks: int
    waiting: bool


class Stats(NamedTuple):
    """The engine after a step; counters since it was loaded.

    bytes   by purpose, as the kernels counted
    used    blocks of each cache group that somebody holds; kept: those that only the prefix cache holds
    counts  of the scheduler and of the KV memory
    wait    predicted seconds until a request that comes now is begun
    gaps    how many times between tokens of an answer were within each bound of `gaps.BOUNDS`, and longer than all;
            gap_seconds: their sum
    """

    steps: int
    tokens: int
    prompt_tokens: int
    rows: int
    seconds: float
    bytes: dict[str, int]
    used: list[int]
    kept: list[int]
    requests: list[Running]
    last_tokens: int
    last_seconds: float
    read_bandwidth: float
    counts: dict[str, int]
    wait: float
    gaps: Sequence[int] = ()
    gap_seconds: float = 0.0


def params_of(fields: Mapping[str, Any]) -> SamplingParams:
    """Sampling parameters as they were before `asdict` and JSON."""
    bias = {int(id): float(value) for id, value in fields.get("logit_bias", {}).items()}
    return SamplingParams(**{**fields, "logit_bias": bias})


def fields_of(params: SamplingParams) -> dict[str, Any]:
    """Sampling parameters as JSON."""
    return asdict(params)


_ENCODE = json.JSONEncoder(separators=(",", ":")).encode
"""Made once: `json.dumps` makes one for each message."""


def encoded(kind: str, *parts: object) -> bytes:
    """A message."""
    return _ENCODE([kind, *parts]).encode()


def waits(pipe: Connection) -> Callable[[float | None], bool]:
    """What waits for a message of `pipe` so many seconds, None: for ever; whether one is there, or the end.
    `Connection.poll` makes a selector each time it is asked, several times a token."""
    if not hasattr(select, "poll"):  # Windows
        return pipe.poll
    asked = select.poll()
    asked.register(pipe.fileno(), select.POLLIN)
    return lambda seconds: bool(asked.poll(None if seconds is None else 1000 * seconds))


def decoded(message: bytes) -> tuple[str, list[Any]]:
    """Its kind and its parts."""
    kind, *parts = json.loads(message)
    return kind, parts
