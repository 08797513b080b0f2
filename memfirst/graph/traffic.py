"""The memory that an operation moves in a step, by purpose, as functions of the step (the ledger's rules).

Weight bytes count once per step, however many tokens share it; the input embedding counts the rows looked
up; the head counts only when logits are asked for; KV is read once per sequence, layer and step; state once
per sequence and step.
"""

from __future__ import annotations

from dataclasses import dataclass

from memfirst.codecs import bf12
from memfirst.codecs.base import ROWS
from memfirst.graph import DISK, KVCache, StateCache, Step, Weight

WEIGHTS, EMBEDDING, HEAD, EXPERTS = "weights", "embedding", "head", "experts"
KV_READ, KV_WRITE = "kv_read", "kv_write"
STATE_READ, STATE_WRITE = "state_read", "state_write"
COLLECTIVE, ACTIVATIONS = "collective", "activations"
DRAFT = "draft"
"""All that a draft model reads from memory for a step, whatever for."""
FROM_DISK = "disk"
"""Bytes that a step brings from a file to memory, where they are read under their own purpose."""

STREAMED = (WEIGHTS, EMBEDDING, HEAD, EXPERTS, KV_READ, STATE_READ, DRAFT)
"""Purposes whose bytes must come from memory for a token: what is divided by bandwidth."""

SHORT_NAMES = {WEIGHTS: "weights", EXPERTS: "experts", HEAD: "head", KV_READ: "KV", STATE_READ: "state",
               DRAFT: "draft"}  # fmt: skip
"""What they are called in a line; the embedding's few rows are not among them."""


MEASURED_TILES = {(262_144, 640): 0.006, (49_152, 576): 0.107}
"""Share of an output head's tiles that a sketch leaves to be read, by the head's rows and columns: of Gemma 3 270M and
of SmolLM2 135M, greedy answers to the 24 prompts of `benchmarks/data/edits_prompts.json`."""
EXPECTED_TILES = max(MEASURED_TILES.values())
"""Of heads that were not measured."""


@dataclass(frozen=True, repr=False)
class Amount:
    """Bytes: exact when low = high, else an expectation with its bounds (experts before the run)."""

    mean: float
    low: int
    high: int

    @property
    def exact(self) -> bool:
        """True where nothing is left to chance."""
        return self.low == self.high

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.mean + other.mean, self.low + other.low, self.high + other.high)

    def __int__(self) -> int:
        return self.low if self.exact else round(self.mean)

    def __repr__(self) -> str:
        return f"Amount({self.low})" if self.exact else f"Amount({self.mean:.0f}, {self.low} to {self.high})"


def exactly(n: int) -> Amount:
    """`n` bytes, certain."""
    return Amount(n, n, n)


NOTHING = exactly(0)


def _weight_bytes(weight: Weight) -> Amount:
    """Bytes of a whole weight; bounds where what lies aside is not counted yet."""
    low, high = (weight.nbytes + (n - weight.aside) * bf12.ASIDE_BYTES for n in weight.aside_bounds)
    return Amount(weight.nbytes, low, high)


@dataclass(frozen=True)
class Traffic:
    """One kind of traffic of one operation."""

    @property
    def purpose(self) -> str:
        """One of this module's purposes."""
        raise NotImplementedError

    def amount(self, step: Step) -> Amount:
        """Bytes moved in `step`."""
        raise NotImplementedError

    def with_disk(self, resident: float = 0.0) -> tuple[Traffic, ...]:
        """It, and the same bytes on their way from disk where they lie there.

        resident  of routed experts, the share that memory keeps from steps before
        """
        return (self,)


@dataclass(frozen=True)
class WeightTraffic(Traffic):
    """A whole weight, once, if any token needs it; `head`: if any token needs logits."""

    weight: Weight
    head: bool = False

    @property
    def purpose(self) -> str:
        return HEAD if self.head else WEIGHTS

    def amount(self, step: Step) -> Amount:
        if not self.needed(step):
            return NOTHING
        return _weight_bytes(self.weight)

    def needed(self, step: Step) -> bool:
        """Whether the step reads it at all."""
        return bool(step.logits if self.head else step.tokens)

    def with_disk(self, resident: float = 0.0) -> tuple[Traffic, ...]:
        return (self, DiskTraffic(self)) if self.weight.tier == DISK else (self,)


@dataclass(frozen=True)
class HeadTraffic(WeightTraffic):
    """The output head's matrix or bias: of a step that names tiles of 16 rows, these."""

    head: bool = True

    def amount(self, step: Step) -> Amount:
        if step.head is None or not self.needed(step):
            return super().amount(step)
        rows = self.weight.shape[0] + self.weight.padding
        named = sum(min(ROWS, rows - ROWS * tile) for tile in step.head)
        return exactly(self.weight.nbytes // rows * named)


@dataclass(frozen=True)
class SketchedTraffic(HeadTraffic):
    """The matrix of an output head with a sketch: of a step that wants only the likeliest token, the tiles of 16 rows
    that must be read in full. How many is known once it is recorded; before, one up to all of them."""

    def amount(self, step: Step) -> Amount:
        if not step.likeliest or not self.needed(step):
            return super().amount(step)
        tile = ROWS * self.weight.row_bytes
        if step.listed is not None:
            return exactly(step.listed * tile)
        return Amount(self.expected * self.weight.nbytes, tile, self.weight.nbytes)

    @property
    def measured(self) -> bool:
        """Whether the expected share is of this very head."""
        return (self.weight.rows, self.weight.columns) in MEASURED_TILES

    @property
    def expected(self) -> float:
        """Share of the tiles that a step by the sketch is expected to read in full."""
        return MEASURED_TILES.get((self.weight.rows, self.weight.columns), EXPECTED_TILES)

    def share(self, step: Step) -> float:
        """Share of the tiles that a step reads: as recorded, else as expected; 1 of one that reads the whole head."""
        if not step.likeliest:
            return 1.0
        return self.expected if step.listed is None else step.listed / self.weight.groups


@dataclass(frozen=True)
class SketchTraffic(WeightTraffic):
    """The sketch of an output head, whole, if only the likeliest token is wanted."""

    head: bool = True

    def needed(self, step: Step) -> bool:
        return step.likeliest and super().needed(step)


@dataclass(frozen=True)
class RowTraffic(Traffic):
    """One row of an embedding for each token, with those packed beside it: they share cache lines.

    Of BF16 in 12 bits, what of these rows lies aside is known once it was recorded for `op`.
    """

    weight: Weight
    op: str = ""

    @property
    def purpose(self) -> str:
        return EMBEDDING

    def amount(self, step: Step) -> Amount:
        w, rows = self.weight, step.tokens * self.weight.lookup_bytes
        if not w.twelve_bits:
            return exactly(rows)
        if self.op in step.aside:
            return exactly(rows + step.aside[self.op] * bf12.ASIDE_BYTES)
        most = step.tokens * min(w.columns // bf12.COLUMNS, w.aside_bounds[1]) * bf12.ASIDE_BYTES
        mean = rows + step.tokens * w.aside / w.groups * bf12.ASIDE_BYTES
        return Amount(mean if most else rows, rows, rows + most)

    def with_disk(self, resident: float = 0.0) -> tuple[Traffic, ...]:
        return (self, DiskTraffic(self)) if self.weight.tier == DISK else (self,)


@dataclass(frozen=True)
class ExpertTraffic(Traffic):
    """The experts that at least one token is routed to, of `weight` [experts, …]; `k` a token.

    Before the run, routing is taken as uniform: E·(1 − (1 − k/E)^n) distinct experts for n tokens, at least k
    and at most min(E, k·n). Picking within groups of experts changes neither, as long as each expert is as
    likely as any other. With the step's recorded counts it is exact.
    """

    weight: Weight
    k: int
    op: str

    @property
    def purpose(self) -> str:
        return EXPERTS

    def distinct(self, step: Step) -> Amount:
        """Experts that are read."""
        experts, n = self.weight.shape[0], step.tokens
        if self.op in step.routing:
            return exactly(sum(c > 0 for c in step.routing[self.op]))
        if not n:
            return NOTHING
        low, high = min(self.k, experts), min(experts, self.k * n)
        return Amount(experts * (1 - (1 - self.k / experts) ** n) if low < high else low, low, high)

    def amount(self, step: Step) -> Amount:
        size = self.weight.nbytes // self.weight.shape[0]  # a matrix, or a row of the experts' biases
        found = self.distinct(step)
        return Amount(found.mean * size, found.low * size, found.high * size)

    def with_disk(self, resident: float = 0.0) -> tuple[Traffic, ...]:
        return (self, DiskTraffic(self, resident)) if self.weight.tier == DISK else (self,)


@dataclass(frozen=True)
class DiskTraffic(Traffic):
    """Bytes of a weight that come from disk before `read`, as a file has them: without padding.

    Of a table that is looked up each token's row alone; of routed experts those that are not in memory from steps
    before, each with the probability `resident`: exact with the step's recorded counts.
    """

    read: WeightTraffic | RowTraffic | ExpertTraffic
    resident: float = 0.0

    @property
    def purpose(self) -> str:
        return FROM_DISK

    def amount(self, step: Step) -> Amount:
        weight = self.read.weight
        if isinstance(self.read, RowTraffic):
            return exactly(step.tokens * weight.row_bytes)
        if isinstance(self.read, WeightTraffic):
            return exactly(weight.stored_bytes if self.read.needed(step) else 0)
        size, found = weight.stored_bytes // weight.matrices, self.read.distinct(step)
        if self.read.op in step.resident:
            there = step.resident[self.read.op]
            return Amount((found.mean - there) * size, (found.low - there) * size, (found.high - there) * size)
        low = 0 if self.resident else found.low * size
        return Amount(found.mean * (1 - self.resident) * size, low, found.high * size)


@dataclass(frozen=True)
class KVTraffic(Traffic):
    """What a step reads from (or writes to) a KV cache, each sequence by itself."""

    cache: KVCache
    write: bool = False

    @property
    def purpose(self) -> str:
        return KV_WRITE if self.write else KV_READ

    def amount(self, step: Step) -> Amount:
        count = self.cache.write_bytes if self.write else self.cache.read_bytes
        return exactly(sum(count(s) for s in step.sequences))


@dataclass(frozen=True)
class StateTraffic(Traffic):
    """Recurrent state: one slot read, or one written, per sequence."""

    cache: StateCache
    write: bool = False

    @property
    def purpose(self) -> str:
        return STATE_WRITE if self.write else STATE_READ

    def amount(self, step: Step) -> Amount:
        return exactly(sum(s.new > 0 for s in step.sequences) * self.cache.state_bytes)


@dataclass(frozen=True)
class CollectiveTraffic(Traffic):
    """Bytes that each device sends to combine a value of `width` floats a token across `degree` devices.

    A ring all-reduce sends 2·(p − 1)/p of the value, an all-gather (p − 1)/p.
    """

    width: int
    degree: int
    gather: bool = False
    itemsize: int = 4
    head: bool = False

    @property
    def purpose(self) -> str:
        return COLLECTIVE

    def amount(self, step: Step) -> Amount:
        share = (1 if self.gather else 2) * (self.degree - 1)
        rows = step.logits if self.head else step.tokens
        return exactly(rows * self.width * self.itemsize * share // self.degree)


@dataclass(frozen=True)
class HandoverTraffic(Traffic):
    """Bytes of a value of `width` floats a token that one device sends to another."""

    width: int
    head: bool = False

    @property
    def purpose(self) -> str:
        return COLLECTIVE

    def amount(self, step: Step) -> Amount:
        return exactly((step.logits if self.head else step.tokens) * self.width * 4)


@dataclass(frozen=True)
class ActivationTraffic(Traffic):
    """Values between operations: they live in cache, and are listed apart. `head`: only for logits."""

    floats_per_token: int
    head: bool = False

    @property
    def purpose(self) -> str:
        return ACTIVATIONS

    def amount(self, step: Step) -> Amount:
        rows = step.logits if self.head else step.tokens
        return exactly(rows * self.floats_per_token * 4)
