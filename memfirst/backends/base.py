"""What the engine asks of a backend. Optional abilities are methods that return None where there are none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from memfirst.codecs.base import F32
from memfirst.graph import Graph, Step
from memfirst.graph.ops.experts import Experts
from memfirst.ledger import Ledger, Memory

STATES_PER_SEQUENCE = 2
"""Slots of recurrent state: a step reads one and writes the other, so that an interrupted step loses nothing."""


class Top(Protocol):
    """Finds the likeliest tokens; may be compiled. It belongs to one sampler."""

    @property
    def most(self) -> int:
        """The largest k."""

    def __call__(
        self, logits: F32, seen: NDArray[np.int32], count: int, k: int, penalty: float
    ) -> tuple[list[int], list[float], int]:
        """The k largest of logits f32 [vocab] once those of seen[:count] are penalized; the array is left as it was.

        Gives ids and values, the largest first, of equals the lower id, without -inf; and how many more equal the least
        of the k, or -1 for NaN or +inf. `logits` is writable, aligned and contiguous; `seen` is always the same array.
        """

    @property
    def part(self) -> int:
        """Values whose mass `masses` sums up together."""

    def masses(self, logits: F32, inverse: float) -> tuple[float, list[float]]:
        """The largest of logits f32 [vocab], and the sums of e^((logit − largest) · inverse) of each `part` of them."""

    def masked(self, logits: F32, bits: NDArray[np.int32], out: F32) -> None:
        """Write logits f32 [vocab] to `out` where their bit is set, the lowest of a word first; elsewhere -inf."""


class Storage(NamedTuple):
    """Bytes of the KV cache and of recurrent state, as they may be written to a file and read again.

    blocks  of each cache group, u8 [blocks, bytes of a block]
    states  u8 [slots, bytes of a slot]
    """

    blocks: list[NDArray[np.uint8]]
    states: NDArray[np.uint8]


@dataclass(frozen=True)
class FromDisk:
    """What was read from disk for a step.

    bytes     by operation
    resident  by operation of routed experts on disk, how many of those that it needs were in memory
    missing   how many of all operations were not
    """

    bytes: Mapping[str, int] = field(default_factory=dict)
    resident: Mapping[str, int] = field(default_factory=dict)
    missing: int = 0

    @property
    def total(self) -> int:
        """Bytes of all operations."""
        return sum(self.bytes.values())


NO_DISK = FromDisk()
"""All weights are in memory."""


@dataclass(slots=True)
class StepResult:
    """What a step gave.

    logits  f32 [step.logits, vocab], valid until the next step but one; the same array object may come again
    counts  bytes counted by the kernels before and after it, for `Backend.recorded`
    routed  tokens that each expert got, of one operation of routed experts after the other, for `Backend.routing`; None
            where there are none
    disk    what was read from disk for it
    aside   by look-up in a table in 12 bits, the blocks that lay aside of its rows
    """

    logits: F32
    counts: tuple[NDArray[np.int64], NDArray[np.int64]]
    routed: NDArray[np.int32] | None = None
    disk: FromDisk = NO_DISK
    aside: Mapping[str, int] = field(default_factory=dict)
    listed: int | None = None
    """Tiles of the output head that were read in full, where only the likeliest token was wanted."""
    others: tuple[Mapping[str, int], Mapping[str, int]] | None = None
    """Of a split model, the bytes by purpose that the other processes counted before and after it."""

    def joined(self, later: StepResult) -> StepResult:
        """What all steps from this one to a later one gave, of those that followed each other."""
        others = (self.others[0], later.others[1]) if self.others and later.others else None
        return replace(later, counts=(self.counts[0], later.counts[1]), others=others)


def routing_of(graph: Graph, result: StepResult) -> dict[str, tuple[int, ...]]:
    """By operation of routed experts, the tokens that each expert got in a step."""
    counts = iter([] if result.routed is None else result.routed.tolist())
    experts = {op.name: op.up.shape[0] for op in graph.of(Experts)}
    return {name: tuple(islice(counts, n)) for name, n in experts.items()}


def observed(backend: Backend, step: Step, result: StepResult) -> Step:
    """The step with what was left to chance before it ran, so that its price is exact: which experts tokens were routed
    to, how many of those on disk were in memory, what lay aside of the rows that were looked up, and how many tiles of
    the output head could hold the likeliest."""
    routing, resident = backend.routing(result), result.disk.resident
    return replace(step, routing=routing, resident=resident, aside=result.aside, listed=result.listed)


class Peers(Protocol):
    """The processes that run parts of one model, as the backend of one of them sees the others."""

    @property
    def index(self) -> int:
        """Which of them this is; 0 is the one that gives out logits."""

    def gather(self, part: F32, whole: F32, parts: tuple[int, ...], everywhere: bool) -> None:
        """All parts f32 [rows, width of each], side by side in the order of processes, into whole f32 [rows, Σ widths]:
        of all processes, or of the first."""

    def send(self, value: F32, to: int) -> None:
        """Hand f32 [rows, width] to another process."""

    def receive(self, value: F32, source: int) -> None:
        """Fill f32 [rows, width] with what another process sends."""


class Backend(Protocol):
    """Executes one forward step for a batch. Not for use from several threads at once: the engine sees to that."""

    @property
    def graph(self) -> Graph:
        """The model that it runs."""

    @property
    def rows_are_exact(self) -> bool:
        """Whether a row's logits are the same bits whatever else its step computes."""

    @property
    def max_tokens(self) -> int:
        """Most new tokens of one step."""

    @property
    def max_sequences(self) -> int:
        """Most sequences of one step."""

    @property
    def blocks(self) -> tuple[int, ...]:
        """Blocks of each cache group."""

    @property
    def slots(self) -> int:
        """Slots of recurrent state."""

    def step(self, step: Step, tokens: Sequence[int] | NDArray[np.int32]) -> StepResult:
        """Do a step of `tokens`, those of one sequence after those of another."""

    @property
    def storage(self) -> Storage | None:
        """What a sequence's blocks and states hold; None where they are not plain bytes."""

    def copy_block(self, group: int, source: int, target: int) -> None:
        """Copy a block of a cache group: how a sequence goes on from a prefix that ends within a block."""

    def predicted(self, step: Step) -> Ledger:
        """What `step` will move."""

    def recorded(self, step: Step, result: StepResult) -> Ledger:
        """What it moved; empty where the backend does not count."""

    def by_purpose(self, result: StepResult) -> dict[str, int]:
        """The same by purpose alone, cheaply."""

    def routing(self, result: StepResult) -> Mapping[str, tuple[int, ...]]:
        """By operation of routed experts, the tokens that each expert got: as `Step.routing` it makes the step's price
        exact. Nothing for a model without them."""

    def memory(self, contexts: Iterable[int]) -> Memory:
        """What is held for sequences of these lengths."""

    def top(self) -> Top | None:
        """A compiled search for a sampler's candidates, for one sampler; None: NumPy does it."""

    def warm_up(self) -> None:
        """Make now what steps of any size will need."""

    def warm_up_hidden(self) -> None:
        """Make now what steps that give hidden rows will need; UnsupportedError where it does none."""

    def read_bandwidth(self, seconds: float = 0.33) -> float | None:
        """Measured read bandwidth of the backend's threads, bytes/s; None where it is not measured."""

    def disk_bandwidth(self, seconds: float = 0.33) -> float | None:
        """Measured read bandwidth of the disk that weights come from, bytes/s; None where all are in memory."""

    def close(self) -> None:
        """Release threads and memory. A second call does nothing."""
