"""How much each call of a CPU program does in a step: what a measured rate is multiplied by.

The same amounts are used when rates are measured and when a time is predicted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil

from memfirst.graph import Graph, Sequence, Step
from memfirst.graph.ops.attention import Attention
from memfirst.graph.ops.positions import attended_pairs
from memfirst.lower.cpu import CAPACITIES, lower
from memfirst.lower.program import Call, Phase, Program, Ref, Task
from memfirst.lower.specs import KERNELS
from memfirst.lower.specs import Counts as Amounts
from memfirst.lower.step_fields import SPLIT, count_of, in_group

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
    """A phase of a step: what every worker does for itself, what is shared, and in how many chunks."""

    phase: Phase
    repeated: tuple[Work, ...]
    shared: tuple[Work, ...]
    chunks: int


def works(program: Program, step: Step) -> Iterator[PhaseWork]:
    """Every phase of the program with its work in that step."""
    counts = _counts(program, step)
    windows = {op.name: op.cache.window for op in program.graph.ops if isinstance(op, Attention)}
    for phase in program.phases:
        repeated = tuple(_work(call, 1, step, counts, windows) for call in phase.prologue)
        shared = tuple(_work(call, task.units, step, counts, windows) for task in phase.tasks for call in task.calls)
        yield PhaseWork(phase, repeated, shared, sum(_chunks(task, counts) for task in phase.tasks))


def _counts(program: Program, step: Step) -> dict[str, int]:
    return {
        "tokens": step.tokens,
        "logits": step.logits,
        "any_logits": int(step.logits > 0),
        "sequences": len(step.sequences),
        "": 1,
        **{in_group("items", g): n for g, n in enumerate(_items(program, step))},
    }


def _items(program: Program, step: Step) -> list[int]:
    """Units of attention of each cache group: a token each, or with few tokens a split of its context each (as the
    backend's steps)."""
    if program.capacity > 8:
        return [step.tokens] * len(program.graph.cache_groups)
    windows = [group.cache.window for group in program.graph.cache_groups]
    return [max(step.tokens, sum(_splits(s, window) for s in step.sequences)) for window in windows]


def _splits(sequence: Sequence, window: int | None) -> int:
    ends = range(sequence.past + 1, sequence.past + sequence.new + 1)
    return sum((end - 1) // SPLIT - (max(0, end - window) if window else 0) // SPLIT + 1 for end in ends)


def _chunks(task: Task, counts: dict[str, int]) -> int:
    return ceil(task.units * counts[task.per] / max(1, task.chunk))


def _work(call: Call, units: int, step: Step, counts: dict[str, int], windows: dict[str, int | None]) -> Work:
    """What its kernel's spec says of it."""
    spec, args, statics = KERNELS[call.kernel], dict(call.args), dict(call.statics)
    tokens = counts[next((name for name in ("logits", "any_logits") if count_of(name) == args.get("count")), "tokens")]
    attended = _attended(windows[call.op], step) if call.kernel == "attention.attend" else 0
    work = spec.work(args, statics, Amounts(units, tokens, _units(args, counts), attended, len(step.sequences)))
    key = " ".join([call.kernel, *(f"{n}={v}" for n, v in call.statics if n not in spec.untimed)])
    return Work(key, work.units, work.amount)


def _units(args: Mapping[str, object], counts: dict[str, int]) -> int:
    """Units of the cache group that an attention call works on: its arrays have the group's number in their names."""
    first = args.get("item_token", args.get("first_item"))
    return counts[in_group("items", int(first.name.rsplit(".", 1)[1]))] if isinstance(first, Ref) else 0


def _attended(window: int | None, step: Step) -> int:
    """Positions that the step's tokens attend, each token's counted."""
    return sum(attended_pairs(s, window) for s in step.sequences)
