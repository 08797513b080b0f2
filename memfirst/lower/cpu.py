"""Graph → Program for the CPU: weights packed by sixteen rows, nodes op by op, rules, phases, buffers, chunks."""

from __future__ import annotations

from dataclasses import replace
from math import ceil

from memfirst import codecs
from memfirst.errors import UnsupportedError
from memfirst.graph import Graph
from memfirst.lower.buffers import Assigned, assign
from memfirst.lower.default import Default, lowered
from memfirst.lower.fuse import chosen, fuse
from memfirst.lower.nodes import COLUMNS, TOKENS, Node
from memfirst.lower.packing import cpu_weight
from memfirst.lower.phases import Stage, stages
from memfirst.lower.program import Output, Phase, Program, Task
from memfirst.lower.step_fields import MAX_GROUPS

INLINE_TOKENS = 2
"""Tokens of a step up to which each worker prepares inputs for itself, which is cheaper than a barrier."""

CAPACITIES = (1, 4, 8, 32, 256)
"""Step sizes that programs are built for, each when first needed."""

FAMILIES = ("block32", "k256", "float")
"""Of codecs: those that matmuls read."""


def lower(graph: Graph, capacity: int, context: int, workers: int) -> Program:
    """The CPU's program for steps of up to `capacity` tokens over up to `context` positions, by `workers` threads.

    Raises:
        UnsupportedError: an operation, an attribute or a codec has no kernel.
    """
    try:
        _check_kinds(graph)
        _check_codecs(graph)
        made = Default(graph, capacity, context).lower()
    except UnsupportedError as error:
        raise _refused(graph, error) from error
    fuse(made, graph, chosen())
    parts = stages(made.nodes, capacity <= INLINE_TOKENS)
    if made.output is None:
        raise UnsupportedError(f"{graph.architecture} has no operations")
    assigned = assign(parts, made.storages, made.output.storage)
    phases = tuple(_phase(stage, assigned, capacity, workers) for stage in parts)
    weights = {name: cpu_weight(w) for name, w in graph.weights().items()}
    output = Output(assigned.place[made.output.storage], made.output.stride)
    return Program("cpu", graph, capacity, phases, tuple(assigned.buffers), weights, output)


def _phase(stage: Stage, assigned: Assigned, capacity: int, workers: int) -> Phase:
    """A stage as a phase: what its prologue moves counts with the first task."""
    total = sum(node.units for node in stage.nodes if node.over == COLUMNS)
    tasks = [_task(node, assigned, capacity, workers, total) for node in stage.nodes]
    moves = tuple(move for node in stage.prologue for move in node.moves)
    before = Task("", (), 0, 1, tuple(m for _, m in moves), tuple(n for n, _ in moves))
    tasks[0] = replace(tasks[0], reads=before.reads + tasks[0].reads, owners=before.owners + tasks[0].owners)
    prologue = tuple(assigned.resolve(call, capacity) for node in stage.prologue for call in node.calls)
    per = stage.prologue[0].per if stage.prologue else TOKENS
    return Phase(stage.nodes[0].name, tuple(tasks), prologue, per)


def _task(node: Node, assigned: Assigned, capacity: int, workers: int, total: int) -> Task:
    calls = tuple(assigned.resolve(call, capacity) for call in node.calls)
    reuse = max((int(tile) for call in calls for name, tile in call.statics if name == "TILE"), default=1)
    reads, owners = tuple(read for _, read in node.moves), tuple(name for name, _ in node.moves)
    return Task(node.name, calls, node.units, _chunk(node, capacity, workers, total), reads, owners, node.per, reuse)


def _chunk(node: Node, capacity: int, workers: int, total: int) -> int:
    """Units claimed at a time. Columns: about eight claims a worker in a phase, with many tokens 64, to stay in cache;
    tokens: four claims a worker; units of attention: one, or eight of many."""
    if node.over == TOKENS:
        return ceil(capacity / workers / 4)
    if node.over != COLUMNS:
        return 1 if capacity <= 8 else 8
    wanted = min(64, total) if capacity > 8 else ceil(total / workers / (8 if workers > 1 else 1))
    return ceil(wanted / node.align) * node.align


def _check_kinds(graph: Graph) -> None:
    """All kinds of operation without a default lowering, each by its first."""
    if len(graph.cache_groups) > MAX_GROUPS:
        raise UnsupportedError(f"{len(graph.cache_groups)} shapes of KV caches", f"at most {MAX_GROUPS}")
    missing: dict[str, str] = {}
    for op in graph.ops:
        if not lowered(type(op)):
            missing.setdefault(type(op).__name__, op.name)
    if missing:
        raise UnsupportedError("no kernel for " + ", ".join(f"{kind} ({name})" for kind, name in missing.items()))


def _check_codecs(graph: Graph) -> None:
    for weight in graph.weights().values():
        if len(weight.shape) > 1 and codecs.get(weight.codec).family not in FAMILIES:
            raise UnsupportedError(f"no kernel for {weight.codec}, {weight.name}")


def _refused(graph: Graph, error: UnsupportedError) -> UnsupportedError:
    found = f"the cpu backend does not run {graph.architecture} yet ({error})"
    if error.do:  # then something that the user may change
        return UnsupportedError(found)
    readable = all(w.codec in codecs.CODECS for w in graph.weights().values())
    return UnsupportedError(found, do="it is priced, and --backend reference runs it" if readable else "it is priced")
