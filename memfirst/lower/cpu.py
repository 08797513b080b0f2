"""Graph → Program for the CPU: weights packed by sixteen rows, nodes op by op, rules, phases, buffers, chunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import ceil

from memfirst import codecs
from memfirst.errors import UnsupportedError
from memfirst.graph import DISK, Graph
from memfirst.graph.ops.experts import Experts
from memfirst.lower import attention, delta, exchange, experts, latent, rwkv, sketched, ssm  # noqa: F401  (their lowerings)
from memfirst.lower.buffers import Assigned, assign
from memfirst.lower.default import Default, lowered
from memfirst.lower.fuse import chosen, fuse
from memfirst.lower.nodes import COLUMNS, EXPERTS, SEQUENCES, TOKENS, UNITS, Moves, Node, Value
from memfirst.lower.phases import Stage, stages
from memfirst.lower.program import Call, Exchange, Output, Phase, Program, Rows, Streaming, Task
from memfirst.lower.step_fields import MAX_GROUPS, MAX_ROUTED
from memfirst.lower.streaming import streaming

INLINE_TOKENS = 2
"""Tokens of a step up to which each worker prepares inputs for itself, which is cheaper than a barrier."""

CAPACITIES = (1, 4, 8, 32, 256)
"""Step sizes that programs are built for, each when first needed."""

BETWEEN = (2, 3, 5, 6)
"""More of them, for steps that check drafts: two tokens take 1.2 of one token's time, by the program for four 1.45."""

ROOMS = (INLINE_TOKENS, 8, CAPACITIES[-1])
"""Tokens that buffers are for: programs of one room differ in their kernels' tiles and in their chunks only."""


class Lowering:
    """A graph as nodes, lowered op by op and fused: the programs of all capacities are made of them.

    Args:
        graph: What is run.
        context: Positions of a sequence at most.
        expert_cache: Bytes for routed experts that lie on disk, see `memfirst.lower.placement`.

    Raises:
        UnsupportedError: An operation, an attribute or a codec has no kernel.
    """

    def __init__(self, graph: Graph, context: int, expert_cache: int = 0) -> None:
        self.graph, self.context, self._expert_cache = graph, context, expert_cache
        self._programs: dict[tuple[int, int], Program] = {}
        self._streaming: Streaming | None = None
        self._both: list[Program] = []
        try:
            _check_kinds(graph)
            _check_codecs(graph)
            default = Default(graph, context)
            self._made = default.lower()
        except UnsupportedError as error:
            raise _refused(graph, error) from error
        if self._made.output is None:
            raise UnsupportedError(f"{graph.architecture} has no operations")
        self._weights = {name: default.weights[name] for name in graph.weights()}
        self._output = self._made.output
        fuse(self._made, graph, chosen())
        self._rooms: dict[int, tuple[list[Stage], Assigned]] = {}

    def program(self, capacity: int, workers: int) -> Program:
        """For steps of up to `capacity` tokens by `workers` threads; made once."""
        made = self._programs.get((capacity, workers))
        if made is None:
            made = self._program(capacity, workers)
            if any(weight.tier == DISK for weight in self._weights.values()):
                made = replace(made, streaming=self.streaming())
            self._programs[capacity, workers] = made
        return made

    def streaming(self, names: Sequence[str] | None = None, expert_cache: int = 0) -> Streaming:
        """How its programs read the weights that lie on disk; or those of `names`, if they lay there."""
        if names is None and self._streaming is not None:
            return self._streaming
        if not self._both:
            # Phases are the same for all steps whose workers do not prepare inputs for themselves.
            self._both = [self._program(capacity, 1) for capacity in (1, CAPACITIES[-1])]
        found = streaming(self._both, names, self._expert_cache if names is None else expert_cache)
        if names is None:
            self._streaming = found
        return found

    def _program(self, capacity: int, workers: int) -> Program:
        room = next(r for r in ROOMS if r >= capacity)
        if room not in self._rooms:
            parts = stages(self._made.nodes, room <= INLINE_TOKENS)
            self._rooms[room] = parts, assign(parts, self._made.storages, self._output.storage, room)
        parts, assigned = self._rooms[room]
        phases, exchanges = _phases(parts, assigned, capacity, workers)
        output = Output(assigned.place[self._output.storage, ""], self._output.stride)
        buffers = tuple(assigned.buffers.values())
        return Program("cpu", self.graph, capacity, phases, buffers, self._weights, output, room, exchanges=exchanges)


def lower(graph: Graph, capacity: int, context: int, workers: int) -> Program:
    """One program of a `Lowering`."""
    return Lowering(graph, context).program(capacity, workers)


def _phases(
    parts: list[Stage], assigned: Assigned, capacity: int, workers: int
) -> tuple[tuple[Phase, ...], tuple[Exchange, ...]]:
    """Stages as phases; what is exchanged stands between two, and its traffic counts with the one behind it (at the end
    with the last)."""
    phases: list[Phase] = []
    exchanges: list[Exchange] = []
    moved: Moves = ()
    for stage in parts:
        for node in (n for n in stage.nodes if n.exchange):
            exchanges.append(_exchange(node, assigned, len(phases)))
            moved += node.moves
        kernels = [n for n in stage.nodes if not n.exchange]
        if kernels:
            phases.append(_with_moves(_phase(Stage(kernels, stage.prologue), assigned, capacity, workers), moved))
            moved = ()
    if moved:
        phases[-1] = _with_moves(phases[-1], moved)
    return tuple(phases), tuple(exchanges)


def _with_moves(phase: Phase, moves: Moves) -> Phase:
    first, *others = phase.tasks
    return replace(phase, tasks=(replace(first, moves=moves + first.moves), *others)) if moves else phase


def _exchange(node: Node, assigned: Assigned, phase: int) -> Exchange:
    def rows(value: Value | None) -> Rows | None:
        if value is None:
            return None
        return Rows(assigned.place[value.storage, ""], value.at, value.width, value.stride, value.rows)

    what = node.exchange
    if what is None:
        raise ValueError(f"{node.name} exchanges nothing")
    return Exchange(phase, what.op, what.kind, rows(what.part), rows(what.whole), what.parts, what.peer)


def _phase(stage: Stage, assigned: Assigned, capacity: int, workers: int) -> Phase:
    """A stage as a phase, by the name of its first node that is no small copy; what its prologue moves counts with the
    first task."""
    total = sum(_columns(node, capacity) for node in stage.nodes)
    before = tuple([move for node in stage.prologue for move in node.moves])
    calls = [tuple([assigned.resolve(call, capacity) for call in node.calls]) for node in stage.nodes]
    tasks = [
        _task(node, made, before if i == 0 else (), _chunk(node, capacity, workers, total))
        for i, (node, made) in enumerate(zip(stage.nodes, calls, strict=True))
    ]
    prologue = tuple([assigned.resolve(call, capacity) for node in stage.prologue for call in node.calls])
    per, units = (stage.prologue[0].per, stage.prologue[0].units) if stage.prologue else (TOKENS, 1)
    name = next((node.name for node in stage.nodes if node.per != SEQUENCES), stage.nodes[0].name)
    return Phase(name, tuple(tasks), prologue, per, units)


def _task(node: Node, calls: tuple[Call, ...], before: Moves, chunk: int) -> Task:
    reuse = max((int(tile) for call in calls for name, tile in call.statics if name == "TILE"), default=1)
    return Task(node.name, calls, node.units, chunk, before + node.moves, node.per, reuse)


def _columns(node: Node, capacity: int) -> int:
    """Columns that a phase is divided by, of a node: those of all experts that may be active."""
    if node.over in (COLUMNS, EXPERTS):
        return node.units * (node.times(capacity) if node.times else 1)
    return 0


def _chunk(node: Node, capacity: int, workers: int, total: int) -> int:
    """Units claimed at a time. Columns: about eight claims a worker in a phase, with many tokens 64, to stay in cache;
    tokens: four claims a worker; units of attention: one, or in steps of many tokens `align`."""
    if node.over == TOKENS:
        return ceil(node.units * capacity / workers / 4)
    if node.over == UNITS:
        return 1 if capacity <= 8 else node.align
    wanted = min(64, total) if capacity > 8 else ceil(total / workers / (8 if workers > 1 else 1))
    return ceil(wanted / node.align) * node.align


def _check_kinds(graph: Graph) -> None:
    """All kinds of operation without a default lowering, each by its first."""
    if len(graph.cache_groups) > MAX_GROUPS:
        raise UnsupportedError(f"{len(graph.cache_groups)} shapes of KV caches", f"at most {MAX_GROUPS}")
    if (routed := sum(isinstance(op, Experts) for op in graph.ops)) > MAX_ROUTED:
        raise UnsupportedError(f"{routed} layers of routed experts", f"at most {MAX_ROUTED}")
    missing: dict[str, str] = {}
    for op in graph.ops:
        if not lowered(type(op)):
            missing.setdefault(type(op).__name__, op.name)
    if missing:
        raise UnsupportedError("no kernel for " + ", ".join(f"{kind} ({name})" for kind, name in missing.items()))


def _check_codecs(graph: Graph) -> None:
    for weight in graph.weights().values():
        if len(weight.shape) > 1 and weight.codec not in codecs.CODECS:
            raise UnsupportedError(f"no kernel for {weight.codec}, {weight.name}")


def _refused(graph: Graph, error: UnsupportedError) -> UnsupportedError:
    found = f"the cpu backend does not run {graph.architecture} yet ({error})"
    if error.do:  # then something that the user may change
        return UnsupportedError(found)
    readable = all(w.codec in codecs.CODECS for w in graph.weights().values())
    return UnsupportedError(found, do="it is priced, and --backend reference runs it" if readable else "it is priced")
