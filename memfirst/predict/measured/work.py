"""How much each call of a CPU program does in a step: what a measured rate is multiplied by.

The same amounts are used when rates are measured and when a time is predicted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import ceil

from memfirst.graph import Graph, KVCache, Op, Sequence, Step
from memfirst.graph.ops.attention import Attention
from memfirst.graph.ops.experts import Experts
from memfirst.graph.ops.positions import attended_pairs
from memfirst.lower.cpu import CAPACITIES, lower
from memfirst.lower.nodes import TOKENS
from memfirst.lower.program import Call, Phase, Program, Ref, Task
from memfirst.lower.specs import KERNELS
from memfirst.lower.specs import Counts as Amounts
from memfirst.lower.step_fields import SPLIT, active_experts, count_of, in_group
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


def works(program: Program, step: Step) -> Iterator[PhaseWork]:
    """Every phase of the program with its work in that step."""
    counts = _counts(program, step)
    ops = {op.name: op for op in program.graph.ops}
    for phase in program.phases:
        calls = [(call, phase.prologue_units) for call in phase.prologue]
        calls += [(call, task.units) for task in phase.tasks for call in task.calls]
        found = tuple((call, tuple(_works(call, units, step, counts, ops[call.op]))) for call, units in calls)
        yield PhaseWork(phase, found, sum(_chunks(task, counts) for task in phase.tasks))


def _counts(program: Program, step: Step) -> dict[str, float]:
    routed = [op for op in program.graph.ops if isinstance(op, Experts)]
    return {
        "tokens": step.tokens,
        "logits": step.logits,
        "any_logits": int(step.logits > 0),
        "sequences": len(step.sequences),
        "": 1,
        **{in_group("items", g): n for g, n in enumerate(_items(program, step))},
        **{active_experts(i): active(op, step) for i, op in enumerate(routed)},
    }


def _items(program: Program, step: Step) -> list[int]:
    """Units of attention of each cache group: a token each, or with few tokens a split of its context each (as the
    backend's steps)."""
    if program.capacity > 8:
        return [step.tokens] * len(program.graph.cache_groups)
    caches = [group.cache for group in program.graph.cache_groups]
    return [max(step.tokens, sum(_splits(s, cache) for s in step.sequences)) for cache in caches]


def _splits(sequence: Sequence, cache: KVCache) -> int:
    positions = range(sequence.past, sequence.past + sequence.new)
    return sum(at // SPLIT - cache.first(at) // SPLIT + 1 for at in positions)


def _chunks(task: Task, counts: Mapping[str, float]) -> int:
    return ceil(task.units * counts[task.per] / max(1, task.chunk))


def _works(call: Call, units: int, step: Step, counts: Mapping[str, float], op: Op) -> Iterator[Work]:
    """What its kernel's spec says of it. A matmul of experts consists of the tiles of other matmuls, of several sizes:
    each has its rate from there."""
    tokens = int(counts[_rows_of(call)]) * (units if KERNELS[call.kernel].over == TOKENS else 1)
    attended = _attended(op.cache, step) if isinstance(op, Attention) else 0
    pairs = step.tokens * op.k if isinstance(op, Experts) else 0
    found = Amounts(units, tokens, _units(dict(call.args), counts), attended, len(step.sequences), pairs)
    if not isinstance(op, Experts) or not call.kernel.startswith("routed."):
        yield _work(call, found)
        return
    statics = dict(call.statics)
    for size, count in tiles_by_size(op, step, int(statics["TILE"])).items():
        work = _work(call, replace(found, tiles=count))
        kernel = f"matmul.{statics.get('FAMILY', 'floats')}"
        yield replace(work, key=f"{kernel} CODEC={statics['CODEC']} TILE={size}")


def _work(call: Call, counts: Amounts) -> Work:
    spec = KERNELS[call.kernel]
    work = spec.work(dict(call.args), dict(call.statics), counts)
    key = " ".join([call.kernel, *(f"{n}={v}" for n, v in call.statics if n not in spec.untimed)])
    return Work(key, work.units, work.amount)


def _rows_of(call: Call) -> str:
    """The count of the rows that it runs for."""
    given = dict(call.args).get("count")
    return next((name for name in ("logits", "any_logits") if count_of(name) == given), "tokens")


def _units(args: Mapping[str, object], counts: Mapping[str, float]) -> int:
    """Units of the cache group that an attention call works on: its arrays have the group's number in their names."""
    first = args.get("item_token", args.get("first_item"))
    return int(counts[in_group("items", int(first.name.rsplit(".", 1)[1]))]) if isinstance(first, Ref) else 0


def _attended(cache: KVCache, step: Step) -> int:
    """Positions that the step's tokens attend, each token's counted."""
    return sum(attended_pairs(s, cache) for s in step.sequences)
