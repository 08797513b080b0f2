"""What the passes of a lowering work on: values, and nodes that compute them with kernels.

`default` makes nodes op by op, `fuse` joins some of them, `phases` puts them between barriers, `buffers` gives their
values memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import lcm

from memfirst.graph.traffic import Traffic
from memfirst.lower.program import Call, Operand, Ref

COLUMNS, TOKENS, UNITS = "columns", "tokens", "units"
"""What a kernel's range lo..hi counts: columns of its output for all tokens, tokens, or units of attention."""

ROWS = 16
"""Chunks of columns are multiples of this: the widest register takes 16."""

Moves = tuple[tuple[str, Traffic], ...]
"""Traffic, each with the name of the operation that it belongs to."""


@dataclass(frozen=True, slots=True)
class Value:
    """An operation's output in memory: `width` floats a row, rows `stride` apart, from column `at` of a storage on.

    rows    "tokens" or "logits": what a row belongs to
    picked  rows are still those of all tokens, and `logit_rows` says which of them count (a Select not yet made)
    """

    storage: str
    width: int
    stride: int
    at: int = 0
    rows: str = TOKENS
    picked: bool = False

    @property
    def ref(self) -> Ref:
        """As an operand."""
        return Ref("value", self.storage, self.at)

    def part(self, start: int, width: int) -> Value:
        """`width` of its columns from `start` on: a view."""
        return replace(self, at=self.at + start, width=width)

    def overlaps(self, other: Value) -> bool:
        """Whether both have a column in common."""
        return self.storage == other.storage and self.at < other.at + other.width and other.at < self.at + self.width


@dataclass(frozen=True)
class Storage:
    """Memory of one or more values: `width` items a row; `rows` counts tokens unless fixed.

    scratch  one copy for each worker, whatever reads it
    """

    name: str
    kind: str
    width: int
    rows: int = 0
    scratch: bool = False


@dataclass(frozen=True, slots=True)
class Touch:
    """A part of a storage that a node reads or writes; `width` 0: all of it."""

    storage: str
    at: int = 0
    width: int = 0

    def meets(self, other: Touch) -> bool:
        """Whether both have a byte in common."""
        if self.storage != other.storage:
            return False
        if not self.width or not other.width:
            return True
        return self.at < other.at + other.width and other.at < self.at + self.width

    def within(self, outer: Touch) -> bool:
        """Whether `outer` covers it."""
        if self.storage != outer.storage:
            return False
        if not outer.width:
            return True
        return bool(self.width) and outer.at <= self.at and self.at + self.width <= outer.at + outer.width


@dataclass(eq=False)
class Node:
    """Kernels that run one after another over the same range.

    over     what the range counts; `units` of them, times the step's count `per` ("": once)
    align    chunks of columns are multiples of it
    moves    the traffic that it accounts for
    reads, writes  what it touches
    repeats  it may be done by every worker for itself
    """

    name: str
    calls: list[Call]
    over: str
    units: int
    per: str
    reads: list[Touch]
    writes: list[Touch]
    moves: Moves = ()
    align: int = ROWS
    repeats: bool = False
    first: Touch | None = None
    """The columns that the range of a COLUMNS node counts, in the storage that it writes."""

    @property
    def storages(self) -> set[str]:
        """The storages that it touches."""
        return {t.storage for t in (*self.reads, *self.writes)}

    def follow(self, other: Node) -> None:
        """`other` runs behind it, on the same range."""
        made = list(self.writes)
        self.calls += other.calls
        self.moves += other.moves
        self.reads += [t for t in other.reads if not any(t.within(w) for w in made)]
        self.writes += other.writes
        self.align = lcm(self.align, other.align)
        self.repeats = self.repeats and other.repeats


@dataclass(frozen=True)
class PrivateStride:
    """A kernel's operand `private` for a storage: token rows from one worker's copy to the next, 0 where all share one.

    Resolved when buffers are assigned.
    """

    storage: str


@dataclass
class Nodes:
    """All nodes of a program in order, and the storages that they use."""

    nodes: list[Node] = field(default_factory=list)
    storages: dict[str, Storage] = field(default_factory=dict)
    output: Value | None = None


NodeOperand = Operand | PrivateStride
