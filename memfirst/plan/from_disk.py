"""A model that memory does not hold, run by memfirst with `--memory`: the rest is on disk, read in each step."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from memfirst.errors import MemfirstError, UnsupportedError
from memfirst.graph import Step
from memfirst.graph.traffic import Amount
from memfirst.ledger import required
from memfirst.lower.cpu import CAPACITIES, Lowering
from memfirst.lower.placement import place as placed
from memfirst.lower.program import Program
from memfirst.plan.options import Options
from memfirst.plan.place import Place
from memfirst.plan.subject import Subject
from memfirst.predict.disk import disk_bytes, from_disk, in_steps
from memfirst.predict.prediction import Prediction

ASSUMED = 7e9
"""Bytes/s of a fast NVMe drive on PCIe 4.0: where a machine's row does not say, and nothing can be measured."""


@dataclass(frozen=True)
class FromDisk:
    """Where the weights are, and how fast the disk is.

    program    with the weights' tiers; on_disk: bytes of those that are not in memory
    bandwidth  of the disk, bytes/s; source: "measured", "given", "the machine's row" or "assumed"
    """

    program: Program
    on_disk: int
    bandwidth: float
    source: str

    @property
    def experts(self) -> float | None:
        """Of the routed experts on disk, the share that memory keeps; None for a model without them."""
        kept = self.program.streaming.resident().values()
        return sum(kept) / len(kept) if kept else None

    def reads(self, step: Step) -> Amount:
        """Bytes from disk."""
        streamed, experts = disk_bytes(self.program, in_steps(step))
        return streamed + experts

    def time(self, found: Prediction, step: Step) -> Prediction:
        """A step whose weights were all in memory, as it is from disk."""
        return from_disk(found, self.program, step, self.bandwidth)


def streamed(model: Subject, place: Place, options: Options, context: int) -> FromDisk | None:
    """How memfirst runs a model in `place.memory` bytes; None where it does not, or where not even the least fits."""
    room = place.memory(options)
    if place.engine(options) != "memfirst" or options.devices > 1 or options.speculation or not room:
        return None
    try:
        lowering = Lowering(model.priced(options.kv).graph, context)
    except UnsupportedError:
        return None
    workers = place.threads(options)
    need = required(lowering.program(1, workers), [context] * options.batch, workers, CAPACITIES[-1])
    found = placed(lowering, room - (need.total - need.weights))
    if found.missing or not found.on_disk:
        return None
    program = found.of(lowering).program(1, workers)
    on_disk = sum(program.weights[name].nbytes for name in found.on_disk)
    return FromDisk(program, on_disk, *disk_rate(model, place, options))


def disk_rate(model: Subject, place: Place, options: Options) -> tuple[float, str]:
    """Bytes/s of the disk that the model would be on, and how they are known."""
    if options.disk:
        return options.disk, "given"
    if place.here and model.path:
        return _measured(model.path), "measured"
    stated = place.machine.disk_bandwidth
    return (stated, "the machine's row") if stated else (ASSUMED, "assumed")


@lru_cache(8)
def _measured(path: str) -> float:
    """Once for each file: a plan is made some ten times for its advice."""
    from memfirst.hardware.disk import file_rate  # needed for files alone

    try:
        return file_rate(path)
    except MemfirstError:  # who runs it is told; a plan does without
        return ASSUMED
