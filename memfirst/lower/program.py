"""How one target executes a graph: phases with a barrier between them, tasks of fused kernels, buffers, packed weights.

Plain data, built without kernels. The pricer, the planner and every backend read the same Program, so what one
prices is what the other runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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

    space: str  # "buffer", "weight", "cache", "step", "table"
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


@dataclass(frozen=True)
class Output:
    """The buffer that holds the logits, and the items from one row to the next."""

    buffer: str
    stride: int


@dataclass(frozen=True)
class Program:
    """One target's execution of a graph for steps of up to `capacity` tokens.

    weights  as packed for the target, by name
    room     tokens that its buffers are for: programs of the same room share them, and their calls' operands
    """

    target: str
    graph: Graph
    capacity: int
    phases: tuple[Phase, ...]
    buffers: tuple[Buffer, ...]
    weights: Mapping[str, Weight]
    output: Output
    room: int

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
        return (move for task in self.tasks for move in task.moves)

    def flops(self, step: Step) -> int:
        """Floating-point operations of a step, from the graph."""
        return self.graph.flops(step)
