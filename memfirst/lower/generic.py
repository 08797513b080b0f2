"""Any graph as a Program without kernels: one operation a task, phases by dependency. To price only."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from memfirst.graph import Graph, Op
from memfirst.lower.program import Buffer, Phase, Program, Task


@runtime_checkable
class HasWidth(Protocol):
    """An operation that says how many floats a row of its output has."""

    @property
    def width(self) -> int: ...


def lower(graph: Graph, capacity: int = 1) -> Program:
    """Weights as in the file, a buffer for each value, in one phase what does not wait for another."""
    levels = _levels(graph)
    by_level: dict[int, list[Task]] = {}
    for op in graph.ops:
        by_level.setdefault(levels[op.output], []).append(_task(op))
    phases = tuple(Phase(f"phase {level}", tuple(by_level[level])) for level in sorted(by_level))
    buffers = tuple(Buffer(op.output, "f32", _width(op)) for op in graph.ops)
    return Program("generic", graph, capacity, phases, buffers, graph.weights())


def _levels(graph: Graph) -> dict[str, int]:
    """By value, how many operations must come before its own, one after another."""
    levels: dict[str, int] = {}
    for op in graph.ops:
        levels[op.output] = 1 + max((levels[name] for name in op.inputs if name in levels), default=-1)
    return levels


def _task(op: Op) -> Task:
    return Task(op.name, (), 1, 1, op.reads())


def _width(op: Op) -> int:
    return op.width if isinstance(op, HasWidth) else 0
