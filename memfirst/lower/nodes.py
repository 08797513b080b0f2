"""What the passes of a lowering work on: values, and nodes that compute them with kernels.

`default` makes nodes op by op, `fuse` joins some of them, `phases` puts them between barriers, `buffers` gives their
values memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import lcm
from typing import NamedTuple

from memfirst.graph.traffic import Traffic
from memfirst.lower.program import Ref

COLUMNS, TOKENS, UNITS, EXPERTS = "columns", "tokens", "units", "experts"
"""What a kernel's range lo..hi counts: columns of its output for all tokens, tokens, units of attention, or columns of
one active expert after another."""

SEQUENCES = "sequences"
"""The step's count that a range of sequences is; of such a node `over` is TOKENS."""

ROWS = 16
"""Chunks of columns are multiples of this: the widest register takes 16."""

Moves = tuple[tuple[str, Traffic], ...]
"""Traffic, each with the name of the operation that it belongs to."""


OfCapacity = Callable[[int], int]
"""What depends on the tokens of the largest step: nodes are the same for all capacities."""


class Place(NamedTuple):
    """An operand in a storage: `offset` items from the start of one of its arrays on."""

    storage: str
    offset: int = 0
    array: str = ""


class PrivateStride(NamedTuple):
    """A kernel's operand `private` for a storage: token rows from one worker's copy to the next, 0 where all share one.

    Resolved when buffers are assigned.
    """

    storage: str


class Scratch(NamedTuple):
    """Working memory that each worker has for itself while a kernel runs: of `items`, for operands of that name.

    A worker runs one kernel at a time, so all calls that want as much under the same name share it.
    """

    name: str
    kind: str
    items: int


NodeOperand = Ref | Place | Scratch | PrivateStride | int | float
NodeStatic = int | str | OfCapacity


class NodeCall(NamedTuple):
    """A `program.Call` before buffers are assigned, for any capacity."""

    kernel: str
    statics: tuple[tuple[str, NodeStatic], ...]
    args: tuple[tuple[str, NodeOperand], ...]
    op: str = ""
    purpose: str = ""


class Value(NamedTuple):
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
    def place(self) -> Place:
        """As an operand."""
        return Place(self.storage, self.at)

    def part(self, start: int, width: int) -> Value:
        """`width` of its columns from `start` on: a view."""
        return self._replace(at=self.at + start, width=width)

    def overlaps(self, other: Value) -> bool:
        """Whether both have a column in common."""
        return self.storage == other.storage and self.at < other.at + other.width and other.at < self.at + self.width


class Storage(NamedTuple):
    """Memory that values lie in, used from its first to its last touch.

    arrays  kind and items a row of each array, by name; "" where there is one
    rows    as many as tokens, unless a function of the capacity says how many
    """

    name: str
    arrays: Mapping[str, tuple[str, int]]
    rows: OfCapacity | None = None


class Touch(NamedTuple):
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


class Exchanged(NamedTuple):
    """Values that a node exchanges with other processes, see `program.Exchange`; None where it has none to give or
    gets none."""

    op: str
    kind: str
    part: Value | None
    whole: Value | None
    parts: tuple[int, ...] = ()
    peer: int = 0


@dataclass(eq=False, slots=True)
class Node:
    """Kernels that run one after another over the same range.

    over     what the range counts; `units` of them, times the step's count `per` ("": once)
    align    chunks of columns are multiples of it
    moves    the traffic that it accounts for
    reads, writes  what it touches
    repeats  it may be done by every worker for itself
    other_rows  of tokens, it reads those of others: it cannot follow what makes them, on the same tokens
    """

    name: str
    calls: list[NodeCall]
    over: str
    units: int
    per: str
    reads: list[Touch]
    writes: list[Touch]
    moves: Moves = ()
    align: int = ROWS
    repeats: bool = False
    first: Touch | None = None
    """The columns that the range of a COLUMNS or EXPERTS node counts, in the storage that it writes."""
    times: OfCapacity | None = None
    """Of an EXPERTS node: active experts at most, by the tokens of the largest step."""
    other_rows: bool = False
    exchange: Exchanged | None = None
    """Instead of kernels: it exchanges values with other processes."""

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


@dataclass
class Nodes:
    """All nodes of a program in order, and the storages that they use."""

    nodes: list[Node] = field(default_factory=list)
    storages: dict[str, Storage] = field(default_factory=dict)
    output: Value | None = None
