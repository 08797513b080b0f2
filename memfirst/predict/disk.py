"""Seconds of a step that reads some of its weights from disk.

t = max(computed, streamed / d) + experts / d, with d the disk's bytes a second: matrices that every step reads come
ahead of the layers that need them, experts only when their router has spoken.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from memfirst.graph import Sequence, Step
from memfirst.graph.traffic import NOTHING, Amount, DiskTraffic, ExpertTraffic
from memfirst.lower.cpu import CAPACITIES
from memfirst.lower.program import Program
from memfirst.predict.prediction import Prediction, Term

DISK = "disk"
"""The term of what is read from disk beyond the time that is computed meanwhile."""

REACH = 1.2
"""Factor at both ends of the interval by which the disk's part may be wrong."""


def disk_bytes(program: Program, steps: Iterable[Step]) -> tuple[Amount, Amount]:
    """Bytes that these steps read from disk: those that come ahead, and routed experts."""
    moves = [move for _, move in program.moves if isinstance(move, DiskTraffic)]
    streamed = experts = NOTHING
    for step in steps:
        for move in moves:
            if isinstance(move.read, ExpertTraffic):
                experts += move.amount(step)
            else:
                streamed += move.amount(step)
    return streamed, experts


def in_steps(step: Step) -> list[Step]:
    """The backend's steps for a prompt that is longer than its largest: one of one sequence is cut."""
    most = CAPACITIES[-1]
    if step.tokens <= most or len(step.sequences) > 1:
        return [step]
    whole = step.sequences[0]
    return [
        Step((Sequence(whole.past + at, min(most, whole.new - at), logits=None if at + most >= whole.new else ()),))
        for at in range(0, whole.new, most)
    ]


def from_disk(found: Prediction, program: Program, step: Step, bandwidth: float) -> Prediction:
    """The same step where the weights of `program` that are on disk are read at `bandwidth` bytes a second."""
    streamed, experts = disk_bytes(program, in_steps(step))
    if found.seconds is None or found.low is None or found.high is None or not (streamed.high or experts.high):
        return found
    ahead, then = streamed.mean / bandwidth, experts.mean / bandwidth
    # The mean is of a router that likes no expert more than others; one that does finds more of them in memory: of
    # random weights of Qwen3-30B-A3B 97 to 99 % with 56 % of the experts there. So the least may be read, not the mean.
    seconds, least = max(found.seconds, ahead) + then, experts.low / bandwidth
    terms = (*found.terms, Term(DISK, seconds - found.seconds))
    return replace(
        found, seconds=seconds, low=max(found.low, ahead / REACH) + least / REACH,
        high=max(found.high, ahead * REACH) + then * REACH, terms=terms,
        binding=max(terms, key=lambda term: term.seconds).name, mbu=found.mbu and found.mbu * found.seconds / seconds,
        mfu=found.mfu and found.mfu * found.seconds / seconds,
    )  # fmt: skip
