"""Seconds of a step of a model that several processes on this machine run together.

tensor    Σ over stretches between two exchanges [ the slowest process's ] + exchanges · c, each process reading with
          its share of what all their threads stream
pipeline  Σ over processes [ its part, by its own threads ] + exchanges · c: they take turns
"""

from __future__ import annotations

from memfirst.graph import Graph, Step
from memfirst.graph.traffic import STREAMED
from memfirst.lower.cpu import CAPACITIES, lower
from memfirst.lower.program import Program
from memfirst.lower.streaming import stretches
from memfirst.predict.fitted import LINK, WEIGHTS
from memfirst.predict.measured.predict import of_terms, phase_times
from memfirst.predict.measured.store import Rates, nearest
from memfirst.predict.prediction import Prediction
from memfirst.transform.split import TENSOR, split

EXCHANGE_SECONDS = 60e-6
"""Of one exchange between two phases: MPI through shared memory, and leaving and entering compiled code. Assumed: an
all-gather of 576 values alone takes 34 to 76 µs between two processes on two loaded cores."""


def split_time(
    graph: Graph, step: Step, rates: Rates, kind: str, processes: int, threads: int, context: int
) -> Prediction:
    """Time of one step by processes of `threads` threads each.

    Raises UnsupportedError where the model cannot be cut so, or the CPU backend does not run it.
    """
    capacity = next(c for c in CAPACITIES if c >= step.tokens)
    programs = [lower(split(graph, kind, i, processes), capacity, context, threads) for i in range(processes)]
    at_once = processes if kind == TENSOR else 1
    read = nearest(rates.read, threads * at_once) / at_once
    times = [_stretches(program, step, rates, threads, read) for program in programs]
    own = sum(map(max, *times)) if kind == TENSOR else sum(map(sum, times))
    exchanges = len(programs[0].exchanges) if kind == TENSOR else processes
    sums = {WEIGHTS: own + rates.step, LINK: exchanges * EXCHANGE_SECONDS}
    nbytes = sum(
        move.amount(step).mean for p in programs for _, move in p.moves if move.purpose in STREAMED
    )  # fmt: skip
    return of_terms(sums, step.tokens, nbytes / (sum(sums.values()) * read * at_once))


def _stretches(program: Program, step: Step, rates: Rates, threads: int, read: float) -> list[float]:
    """Seconds between exchanges."""
    phases = [p.overlapped + p.repeated + p.beside for p in phase_times(program, step, rates, threads, read)]
    return [sum(phases[s.start : s.end]) for s in stretches(program)]
