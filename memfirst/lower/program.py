"""How one target executes a graph: phases with a barrier between them, tasks of fused kernels, buffers, packed weights.

Plain data, built without kernels. The pricer, the planner and every backend read the same Program, so what one
prices is what the other runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from memfirst.graph import Graph, Step, Weight
from memfirst.graph.traffic import Traffic

_ITEMSIZE = {"u8": 1, "i8": 1, "i32": 4, "f32": 4, "i64": 8}


@dataclass(frozen=True)
class Buffer:
    """Working memory: `width` items for each row; `rows` counts tokens unless fixed.

    private  each worker has its own copy, so that no barrier is needed to fill it
    """

    name: str
    kind: str
    width: int
    rows: int = 0
    private: bool = False

    def items(self, capacity: int, workers: int) -> int:
        """Items to allocate for `capacity` tokens."""
        return self.width * (self.rows or capacity) * (workers if self.private else 1)

    def nbytes(self, capacity: int, workers: int) -> int:
        """Bytes to allocate."""
        return self.items(capacity, workers) * _ITEMSIZE[self.kind]


class Ref(NamedTuple):
    """An operand that is an array: a buffer, a weight, a cache's storage, or one of the step's own arrays.

    offset  items of the array before the operand's first: how a kernel gets a part of a fused tensor
    """

    space: str  # "buffer", "weight", "cache", "step", "table"; "rows": those that a step looked up in a table on disk
    name: str
    offset: int = 0


Operand = Ref | int | float


class Call(NamedTuple):
    """One kernel with its static parameters and its operands by parameter name.

    op, purpose  what the bytes that it returns are counted as; "" where it moves only activations
    """

    kernel: str
    statics: tuple[tuple[str, int | str], ...]
    args: tuple[tuple[str, Operand], ...]
    op: str = ""
    purpose: str = ""

    @property
    def key(self) -> tuple[str, tuple[tuple[str, int | str], ...]]:
        """What is compiled: calls with the same key share their code."""
        return self.kernel, self.statics


@dataclass(frozen=True)
class Task:
    """Calls run one after another over the same range of units, claimed in chunks by any worker.

    units   how many there are, for each of the step's `per` ("tokens", "logits", "items.G", "experts.N"; "": once)
    chunk   units claimed at a time
    moves   the memory that it moves, each traffic with the name of the operation that it belongs to
    reuse   tokens for which one load of a weight's bytes serves; loads after the first come from cache
    """

    name: str
    calls: tuple[Call, ...]
    units: int
    chunk: int
    moves: tuple[tuple[str, Traffic], ...]
    per: str = ""
    reuse: int = 1


@dataclass(frozen=True)
class Phase:
    """Tasks without dependencies among them; every worker first runs the prologue for itself."""

    name: str
    tasks: tuple[Task, ...]
    prologue: tuple[Call, ...] = ()
    prologue_per: str = "tokens"
    prologue_units: int = 1
    """Units of the prologue's range for each of `prologue_per`."""


READERS, SLICE, PAGE = 4, 1 << 20, 4096
"""Threads that read from disk at once, the bytes that each asks for at a time, and what its requests are aligned to."""


@dataclass(frozen=True)
class Streamed:
    """One weight's place.

    nbytes  as packed; `at`: where it begins in the ring
    behind  so many weights before it, one lies whose bytes it overwrites
    head    only a step that asks for logits reads it
    """

    name: str
    nbytes: int
    at: int
    behind: int
    head: bool


@dataclass(frozen=True)
class Pool:
    """Places in memory for experts of one size: `slots` of `nbytes` each, shared by `experts` of all layers."""

    nbytes: int
    slots: int
    experts: int


@dataclass(frozen=True)
class RoutedFromDisk:
    """One operation's routed experts, of which a pool holds some.

    tensors  stored names of its matrices, in the order in which phases come to them; offsets: of each in a slot
    pool     which of `Streaming.pools`
    first    its first expert's number among all of the pool; counts: where its own begin in the step's `routing`
    """

    op: str
    experts: int
    tensors: tuple[str, ...]
    offsets: tuple[int, ...]
    pool: int
    first: int
    counts: int


@dataclass(frozen=True)
class Streaming:
    """What a program reads from disk in each step, see `memfirst.lower.streaming`.

    weights  in the order in which a step reads them; ring: bytes that they pass through
    request  bytes that a reader asks for at a time, at most
    tables   bytes by name: room for the rows that a step looks up in a table
    routed   experts that are read when a router picked them, and kept in `pools`
    """

    weights: tuple[Streamed, ...] = ()
    ring: int = 0
    request: int = 0
    tables: Mapping[str, int] = field(default_factory=dict)
    routed: tuple[RoutedFromDisk, ...] = ()
    pools: tuple[Pool, ...] = ()

    @property
    def nbytes(self) -> int:
        """Memory that it takes: the ring, pools, rows, and what the readers read into and pack from."""
        staging = READERS * (2 * self.request + 2 * PAGE) if self.request else 0
        return self.ring + self.cached + sum(self.tables.values()) + staging

    @property
    def cached(self) -> int:
        """Bytes of the pools."""
        return sum(pool.slots * pool.nbytes for pool in self.pools)

    def resident(self) -> dict[str, float]:
        """By operation of routed experts on disk, the share of them that memory holds."""
        return {r.op: self.pools[r.pool].slots / self.pools[r.pool].experts for r in self.routed}


@dataclass(frozen=True)
class Stretch:
    """Phases `start` to `end`, the last excluded, that are walked without a stop.

    needs, frees  they need the first `needs` of the streamed weights, and leave the first `frees` of them behind
    routed        stored names of experts' matrices that they need
    """

    start: int
    end: int
    needs: int = 0
    frees: int = 0
    routed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Output:
    """The buffer that holds the logits, and the items from one row to the next."""

    buffer: str
    stride: int


class Rows(NamedTuple):
    """Where a value lies in a buffer: `width` items of each of the step's `per` ("tokens" or "logits") rows, which are
    `stride` apart, from item `at` on."""

    buffer: str
    at: int
    width: int
    stride: int
    per: str


GATHER, SEND, RECEIVE = "gather", "send", "receive"


@dataclass(frozen=True)
class Exchange:
    """Before phase `phase` this process exchanges values with others; all do so in the same order.

    kind   "gather": everyone's `part` side by side, in the order of processes, becomes `whole`; "send": `part` goes to
           process `peer`; "receive": `whole` comes from there
    parts  widths of the parts
    """

    phase: int
    op: str
    kind: str
    part: Rows | None
    whole: Rows | None
    parts: tuple[int, ...] = ()
    peer: int = 0


@dataclass(frozen=True)
class Program:
    """One target's execution of a graph for steps of up to `capacity` tokens.

    weights    as packed for the target, by name
    room       tokens that its buffers are for: programs of the same room share them, and their calls' operands
    streaming  how those weights that lie on disk come to memory
    exchanges  with other processes that run the same model, in order
    """

    target: str
    graph: Graph
    capacity: int
    phases: tuple[Phase, ...]
    buffers: tuple[Buffer, ...]
    weights: Mapping[str, Weight]
    output: Output
    room: int
    streaming: Streaming = Streaming()
    exchanges: tuple[Exchange, ...] = ()

    def buffer_bytes(self, workers: int) -> int:
        """Bytes of all buffers; that of the logits exists twice, so that they outlive the next step."""
        copies = {self.output.buffer: 2}
        return sum(copies.get(b.name, 1) * b.nbytes(self.room, workers) for b in self.buffers)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """All tasks in order."""
        return tuple(task for phase in self.phases for task in phase.tasks)

    @property
    def calls(self) -> list[Call]:
        """Every call of a kernel, in order: of each phase the prologue's first."""
        return [c for p in self.phases for part in (p.prologue, *(t.calls for t in p.tasks)) for c in part]

    @property
    def kernels(self) -> frozenset[tuple[str, tuple[tuple[str, int | str], ...]]]:
        """Every kernel that it needs compiled."""
        return frozenset(c.key for c in self.calls)

    @property
    def moves(self) -> Iterator[tuple[str, Traffic]]:
        """The traffic of all tasks, each with the name of the operation that it belongs to."""
        resident = self.streaming.resident()
        return (
            (op, move)
            for task in self.tasks
            for op, read in task.moves
            for move in read.with_disk(resident.get(op, 0.0))
        )

    def flops(self, step: Step) -> int:
        """Floating-point operations of a step, from the graph."""
        return self.graph.flops(step)
