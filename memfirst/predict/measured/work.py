"""How much each call of a CPU program does in a step: what a measured rate is multiplied by.

The same amounts are used when rates are measured and when a time is predicted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import ceil

from memfirst.graph import Graph, KVCache, Op, Step
from memfirst.graph.ops.attention import Attention
from memfirst.graph.ops.experts import Experts
from memfirst.graph.ops.positions import attended_pairs
from memfirst.graph.ops.sketched import SketchedHead
from memfirst.lower.attention import shared_reads
from memfirst.lower.cpu import CAPACITIES, lower
from memfirst.lower.items import cut
from memfirst.lower.nodes import TOKENS
from memfirst.lower.program import Call, Phase, Program, Ref, Task
from memfirst.lower.specs import KERNELS
from memfirst.lower.specs import Counts as Amounts
from memfirst.lower.step_fields import LIKELIEST, active_experts, count_of, in_group
from memfirst.predict.measured.routed import active, tiles_by_size

LARGEST = CAPACITIES[-1]
"""Tokens of its largest step."""


@dataclass(frozen=True)
class Work:
    """One call in one step: `units` fixed costs and `amount` items of the rate named `key`."""

    key: str
    units: float
    amount: float


def program_for(graph: Graph, tokens: int, context: int, threads: int) -> Program:
    """The program that the CPU backend runs for a step of that many tokens."""
    return lower(graph, next(c for c in CAPACITIES if c >= tokens), context, threads)


@dataclass(frozen=True)
class PhaseWork:
    """A phase of a step: what every worker does for itself, what is shared, and in how many chunks.

    calls  each of the phase's calls with its works, those of the prologue first
    """

    phase: Phase
    calls: tuple[tuple[Call, tuple[Work, ...]], ...]
    chunks: int

    @property
    def repeated(self) -> tuple[Work, ...]:
        """Of the prologue."""
        return tuple(w for _, works in self.calls[: len(self.phase.prologue)] for w in works)

    @property
    def shared(self) -> tuple[Work, ...]:
        """Of the tasks."""
        return tuple(w for _, works in self.calls[len(self.phase.prologue) :] for w in works)


def works(program: Program, step: Step, threads: int = 1) -> Iterator[PhaseWork]:
    """Every phase of the program with its work in that step."""
    counts = _counts(program, step, threads)
    ops = {op.name: op for op in program.graph.ops}
    for phase in program.phases:
        calls = [(call, phase.prologue_units) for call in phase.prologue]
        calls += [(call, task.units) for task in phase.tasks for call in task.calls]
        found = tuple((call, tuple(_works(call, units, step, counts, ops[call.op]))) for call, units in calls)
        yield PhaseWork(phase, found, sum(_chunks(task, counts) for task in phase.tasks))


def _counts(program: Program, step: Step, threads: int) -> dict[str, float]:
    items, parts = _attention(program.graph, step, threads)
    routed = list(program.graph.of(Experts))
    return {
        "tokens": step.tokens,
        "logits": step.logits,
        "any_logits": int(step.logits > 0),
        "sequences": len(step.sequences),
        LIKELIEST: int(step.likeliest),
        "": 1,
        **{in_group("items", g): n for g, n in enumerate(items)},
        **{in_group("parts", g): n for g, n in enumerate(parts)},
        **{active_experts(i): active(op, step) for i, op in enumerate(routed)},
    }


def _attention(graph: Graph, step: Step, threads: int) -> tuple[list[int], list[int]]:
    """Items of each cache group, and the partials that they make."""
    groups = [g.cache for g in graph.cache_groups]
    cuts = [
        cut(step.sequences, cache, threads, shared) for cache, shared in zip(groups, shared_reads(graph), strict=True)
    ]
    return [len(items) for items, _ in cuts], [parts[-1] for _, parts in cuts]


def _chunks(task: Task, counts: Mapping[str, float]) -> int:
    return ceil(task.units * counts[task.per] / max(1, task.chunk))


def _works(call: Call, units: int, step: Step, counts: Mapping[str, float], op: Op) -> Iterator[Work]:
    """What its kernel's spec says of it. A matmul of experts consists of the tiles of other matmuls, of several sizes:
    each has its rate from there."""
    tokens = int(counts[_rows_of(call)]) * (units if KERNELS[call.kernel].over == TOKENS else 1)
    attended = _attended(op.cache, step) if isinstance(op, Attention) else 0
    pairs = step.tokens * op.k if isinstance(op, Experts) else 0
    items, parts = (_of_group(dict(call.args), counts, name) for name in ("items", "parts"))
    found = Amounts(units, tokens, items, parts, attended, len(step.sequences), pairs)
    if isinstance(op, SketchedHead) and call.kernel.startswith("matmul."):  # the tiles that the sketch leaves
        work = _work(call, found)
        yield replace(work, units=work.units * op.tiles.share(step), amount=work.amount * op.tiles.share(step))
        return
    if isinstance(op, Attention) and call.kernel == "attention.attend":
        yield from _tiles(call, found, op, step)
        return
    if not isinstance(op, Experts) or not call.kernel.startswith("routed."):
        yield _work(call, found)
        return
    statics = dict(call.statics)
    for size, count in tiles_by_size(op, step, int(statics["TILE"])).items():
        work = _work(call, replace(found, tiles=count))
        kernel = f"matmul.{statics.get('FAMILY', 'floats')}"
        yield replace(work, key=f"{kernel} CODEC={statics['CODEC']} TILE={size}")


def _tiles(call: Call, counts: Amounts, op: Attention, step: Step) -> Iterator[Work]:
    """Tokens in tiles, and those alone, each at a rate of its own."""
    tile = int(dict(call.statics)["TILE"])
    alone = 0
    for s in step.sequences:
        if tile > 1 and s.new % tile == 1:
            last = s.past + s.new - 1
            alone += last + 1 - op.cache.first(last)
    together = counts.attended - alone if tile > 1 else 0
    for attended, size in ((together, tile), (counts.attended - together, 1)):
        if attended:
            share = counts.units * attended / counts.attended
            statics = tuple((name, size if name == "TILE" else value) for name, value in call.statics)
            yield _work(call._replace(statics=statics), replace(counts, attended=attended, units=share))


def _work(call: Call, counts: Amounts) -> Work:
    spec = KERNELS[call.kernel]
    work = spec.work(dict(call.args), dict(call.statics), counts)
    key = " ".join([call.kernel, *(f"{n}={v}" for n, v in call.statics if n not in spec.untimed)])
    return Work(key, work.units, work.amount)


def _rows_of(call: Call) -> str:
    """The count of the rows that it runs for."""
    given = dict(call.args).get("count")
    return next((name for name in ("logits", "any_logits") if count_of(name) == given), "tokens")


def _of_group(args: Mapping[str, object], counts: Mapping[str, float], name: str) -> int:
    """What is counted of the cache group that an attention call works on: its arrays have the group's number in their
    names."""
    first = args.get("item_token", args.get("first_part"))
    return int(counts[in_group(name, int(first.name.rsplit(".", 1)[1]))]) if isinstance(first, Ref) else 0


def _attended(cache: KVCache, step: Step) -> int:
    """Positions that the step's tokens attend, each token's counted."""
    return sum(attended_pairs(s, cache) for s in step.sequences)
