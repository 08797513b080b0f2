"""A step's time by part, predicted and measured in the same way, and the sentence that says where they differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from memfirst.graph import Graph, Step
from memfirst.lower.program import Program
from memfirst.predict.measured.predict import phase_times
from memfirst.predict.measured.store import Rates
from memfirst.predict.measured.work import program_for

MATMULS, ATTENTION, PREPARATION, WAITING = "matmuls", "attention", "preparation", "waiting"
PARTS = (MATMULS, ATTENTION, PREPARATION, WAITING)
"""Products and what follows them on the same rows; attention; norms, quantization and merging before a product;
barriers, idle threads and Python."""

EQUAL = 0.03
"""Nearer than this, predicted and measured are called equal."""


@dataclass(frozen=True)
class Comparison:
    """Seconds of one step by part, predicted and measured."""

    predicted: Mapping[str, float]
    measured: Mapping[str, float]
    date: str

    @property
    def predicted_tok_s(self) -> float:
        """Of a step of one token."""
        return 1 / sum(self.predicted.values())

    @property
    def miss(self) -> float:
        """Seconds that the step took longer than predicted."""
        return sum(self.measured.values()) - sum(self.predicted.values())

    @property
    def largest_miss(self) -> str:
        """The part that differs most in the direction of the miss."""
        sign = 1 if self.miss > 0 else -1
        return max(PARTS, key=lambda part: sign * (self.measured[part] - self.predicted[part]))

    def sentence(self) -> str:
        """What was predicted, what was measured, and which part the difference is in."""
        measured = 1 / sum(self.measured.values())
        start = f"predicted {self.predicted_tok_s:.0f} tok/s from this machine's rates of {self.date[:10]}"
        off = measured / self.predicted_tok_s - 1
        if abs(off) < EQUAL:
            return f"{start}, measured {measured:.0f}: within {100 * EQUAL:.0f} %"
        part = self.largest_miss
        more = self.measured[part] - self.predicted[part]
        where = f"{part} took {1e6 * self.measured[part]:.0f} us where {1e6 * self.predicted[part]:.0f} were predicted"
        share = f", {min(1.0, more / self.miss):.0%} of the difference"
        return f"{start}, measured {measured:.0f} ({off:+.0%}): {where}{share}"


def predicted_parts(
    graph: Graph, step: Step, rates: Rates, threads: int, bandwidth: float, context: int
) -> dict[str, float]:
    """Seconds by part, as `step_time` adds them up."""
    program = program_for(graph, step.tokens, context, threads)
    sums = dict.fromkeys(PARTS, 0.0)
    for phase in phase_times(program, step, rates, threads, bandwidth):
        attends = any(w.key.startswith("attention.attend") for w in phase.part.shared)
        sums[ATTENTION if attends else MATMULS] += phase.overlapped
        sums[PREPARATION] += phase.repeated
        sums[WAITING] += phase.beside
    sums[WAITING] += rates.step
    return sums


def measured_parts(program: Program, spent: Mapping[int, float], threads: int, seconds: float) -> dict[str, float]:
    """Seconds by part of a step that took `seconds`; `spent`: all threads' seconds in each call, by its identity."""
    sums = dict.fromkeys(PARTS, 0.0)
    for phase in program.phases:
        for call in phase.prologue:
            sums[PREPARATION] += spent[id(call)] / threads
        for call in (call for task in phase.tasks for call in task.calls):
            sums[ATTENTION if call.kernel == "attention.attend" else MATMULS] += spent[id(call)] / threads
    sums[WAITING] = max(0.0, seconds - sum(sums.values()))
    return sums
