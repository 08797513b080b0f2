"""Seconds of a step of our own engine on a measured machine.

t = step + Σ over phases [ repeated + √(memory² + work²) + phase ]

memory: the phase's bytes over what this many threads stream; work: its calls at the rates that they have in cache,
shared by the threads; repeated: what every worker does for itself. Bytes and arithmetic of a phase overlap, so they go
together as a soft maximum.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import ceil, log

from memfirst.graph import Graph, Sequence, Step
from memfirst.graph.traffic import EXPERTS, KV_READ, STATE_READ, STREAMED
from memfirst.lower.program import Program
from memfirst.predict.fitted import COMPUTE, KV, OVERHEAD, WEIGHTS
from memfirst.predict.measured.store import Rate, Rates, nearest
from memfirst.predict.measured.work import LARGEST, PhaseWork, Work, program_for, works
from memfirst.predict.prediction import Prediction, Term

SOFT = 2
"""Power of the soft maximum."""

REACH = 1.15
"""Half-width of the 80 % interval, as a factor: 33 of 42 measured steps (79 %) were inside it, see docs/log.md."""

_EXPERT = "experts"
_TERM = {EXPERTS: _EXPERT, KV_READ: KV, STATE_READ: KV}


def step_time(
    graph: Graph,
    step: Step,
    rates: Rates,
    threads: int | None = None,
    bandwidth: float | None = None,
    context: int | None = None,
) -> Prediction:
    """Time of one step. `bandwidth`: measured read bandwidth of that many threads, bytes/s; default the stored rate;
    `context`: positions that the cache is made for, default those of the step.

    Raises UnsupportedError where the CPU backend does not run the model.
    """
    threads = threads or max(rates.read)
    longest = max(s.past + s.new for s in step.sequences)
    program = program_for(graph, step.tokens, context or longest, threads)
    sums = dict.fromkeys((WEIGHTS, _EXPERT, KV, COMPUTE, OVERHEAD), 0.0)
    for phase in phase_times(program, step, rates, threads, bandwidth):
        _add(sums, phase)
    sums[OVERHEAD] += rates.step
    return _prediction(sums, program, step, bandwidth or nearest(rates.read, threads))


def prefill(
    graph: Graph, tokens: int, rates: Rates, threads: int | None = None, bandwidth: float | None = None
) -> Prediction:
    """Time of a prompt of that many tokens, in the backend's largest steps."""
    starts = range(0, tokens, LARGEST)
    parts = [Step((Sequence(at, min(LARGEST, tokens - at), logits=_last(at, tokens)),)) for at in starts]
    found = [step_time(graph, part, rates, threads, bandwidth) for part in parts]
    sums: dict[str, float] = {}
    for prediction in found:
        for term in prediction.terms:
            sums[term.name] = sums.get(term.name, 0.0) + term.seconds
    mbu = sum((p.mbu or 0.0) * (p.seconds or 0.0) for p in found) / sum(sums.values())
    return of_terms(sums, tokens, mbu)


def _last(start: int, tokens: int) -> tuple[int, ...] | None:
    return None if start + LARGEST >= tokens else ()


@dataclass(frozen=True)
class PhaseTime:
    """Seconds of a phase: bytes by term, shared work, both together as they overlap, repeated work, what is beside."""

    part: PhaseWork
    memory: Mapping[str, float]
    work: float
    repeated: float
    beside: float

    @property
    def overlapped(self) -> float:
        """Bytes and work together."""
        return float((sum(self.memory.values()) ** SOFT + self.work**SOFT) ** (1 / SOFT))


def phase_times(
    program: Program, step: Step, rates: Rates, threads: int, bandwidth: float | None = None
) -> Iterator[PhaseTime]:
    """Every phase of a step."""
    for part in works(program, step, threads):
        yield PhaseTime(
            part, _memory(part, step, rates, threads, bandwidth),
            _seconds(part.shared, rates) * _share(part.chunks, threads), _seconds(part.repeated, rates),
            nearest(rates.phase, threads),
        )  # fmt: skip


def _add(sums: dict[str, float], phase: PhaseTime) -> None:
    """The phase's seconds by term: of what overlaps the longer counts whole, the shorter what it adds."""
    sums[OVERHEAD] += phase.beside + phase.repeated
    read, both = sum(phase.memory.values()), phase.overlapped
    counted = read if read >= phase.work else both - phase.work
    for name, seconds in phase.memory.items():
        sums[name] += seconds * counted / read if read else 0.0
    sums[COMPUTE] += both - counted


def _share(chunks: int, threads: int) -> float:
    """Of the shared work, what the last worker to finish does: chunks are claimed whole."""
    return ceil(chunks / threads) / chunks if 0 < chunks < 4 * threads else 1 / threads


def _memory(part: PhaseWork, step: Step, rates: Rates, threads: int, bandwidth: float | None) -> dict[str, float]:
    """Seconds of the phase's bytes by term."""
    read = bandwidth or nearest(rates.read, threads)
    out: dict[str, float] = {}
    for task in part.phase.tasks:
        for _, move in task.moves:
            if move.purpose in STREAMED:
                term = _TERM.get(move.purpose, WEIGHTS)
                reach = nearest(rates.gather if term == KV else rates.stream, threads)
                out[term] = out.get(term, 0.0) + move.amount(step).mean / (read * reach)
    return out


def _seconds(work: Iterable[Work], rates: Rates) -> float:
    return sum(w.units * r.unit + w.amount * r.item for w in work for r in (rate_of(w.key, rates),))


def rate_of(key: str, rates: Rates) -> Rate:
    """The rate of that key, or of the most similar call that was measured, scaled by its arithmetic."""
    found = rates.work.get(key)
    if found is not None:
        return found
    kernel = key.split(" ", 1)[0]
    similar = [k for k in rates.work if k.split(" ", 1)[0] == kernel]
    if not similar:
        return Rate(0.0, 0.0)
    best = min(similar, key=lambda k: _distance(_numbers(k), _numbers(key)))
    scale = _arithmetic(_numbers(key)) / _arithmetic(_numbers(best))
    return Rate(rates.work[best].unit * scale, rates.work[best].item * scale)


def _numbers(key: str) -> dict[str, int]:
    return {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)\b", key)}


def _distance(a: dict[str, int], b: dict[str, int]) -> float:
    return sum(abs(log((1 + a.get(n, 0)) / (1 + b.get(n, 0)))) for n in a.keys() | b.keys())


def _arithmetic(numbers: dict[str, int]) -> float:
    """Attention loads a key and a value once for a tile of tokens, and multiplies them for each head of the group."""
    loads = 1 / numbers["TILE"] if "GROUP" in numbers and "TILE" in numbers else 1.0
    return numbers.get("DIM", 1) * (loads + numbers.get("GROUP", 0))


def _prediction(sums: dict[str, float], program: Program, step: Step, read: float) -> Prediction:
    streamed = sum(
        move.amount(step).mean
        for task in program.tasks for _, move in task.moves if move.purpose in STREAMED
    )  # fmt: skip
    return of_terms(sums, step.tokens, streamed / (sum(sums.values()) * read))


def of_terms(sums: dict[str, float], tokens: int, mbu: float) -> Prediction:
    """A prediction whose terms are these seconds."""
    seconds = sum(sums.values())
    terms = tuple(Term(name, value) for name, value in sums.items() if value > 0)
    binding = max(terms, key=lambda t: t.seconds).name
    return Prediction(seconds, seconds / REACH, seconds * REACH, terms, binding, tokens, mbu=mbu)
