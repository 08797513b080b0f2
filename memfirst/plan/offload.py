"""A model that a GPU cannot hold: the rest lies in the host's memory, and the CPU computes it there.

What llama.cpp does with `-ngl` (whole layers) and `--n-cpu-moe` (the experts of layers). A step takes the GPU's time
for its part and the CPU's for the rest, one after the other; no weights cross the bus.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from memfirst.convert.mixes import layer_of
from memfirst.errors import MemfirstError
from memfirst.graph import Graph, Op, Step
from memfirst.graph.traffic import ExpertTraffic
from memfirst.hardware.machines import Machine
from memfirst.plan.fit.tiers import Placement
from memfirst.plan.fit.tiers import place as placed
from memfirst.plan.framework import ON_GPU
from memfirst.plan.options import Options
from memfirst.plan.place import Place
from memfirst.plan.priced import Priced
from memfirst.plan.subject import Subject
from memfirst.predict import fitted
from memfirst.predict.fitted.pieces import HOP
from memfirst.transform.recode import with_kv

CORES, CORE_RATE = {"datacentre-gpu": 32}, 1e11
"""Cores of a host by the GPU's kind, else 8; float32 operations a second of a core: 32 for each of 3.1 GHz."""

HOST_BANDWIDTH = {
    "datacentre-gpu": (204.8e9, 307.2e9),  # 8 channels of DDR4-3200, of DDR5-4800
    "gpu": (51.2e9, 89.6e9),  # 2 channels of DDR4-3200, of DDR5-5600
    "laptop-gpu": (51.2e9, 76.8e9),  # 2 channels of DDR4-3200, of DDR5-4800
}
"""Bytes/s assumed of the host's memory, by the GPU's kind: of older families, and of those that came with DDR5."""

WITH_DDR5 = ("ada", "blackwell", "hopper", "rdna3", "rdna4", "cdna3", "xe2")

ASSUMED = 1.2
"""What an assumed bandwidth may be wrong by: DDR5-4800 to DDR5-6400, DDR4-2666 to DDR4-3600."""


@dataclass(frozen=True)
class Offload:
    """A split model and its predicted step. Seconds with the 80 % interval [low, high]."""

    placement: Placement
    host_bandwidth: float
    assumed: bool
    """Nobody stated the host's bandwidth."""
    host_bytes: float
    """That the CPU reads in a step."""
    seconds: float
    low: float
    high: float

    @property
    def gpu_layers(self) -> int:
        """Layers whose attention is on the GPU."""
        whole = self.placement.what == "layers"
        return Priced(self.placement.graph).layers - (self.placement.layers if whole else 0)


def host_bandwidth(machine: Machine, options: Options) -> tuple[float, bool]:
    """Bytes/s of the memory of a GPU's host, and whether they are assumed."""
    if given := options.host_bandwidth or machine.host_bandwidth:
        return given, False
    return HOST_BANDWIDTH[machine.kind][machine.family.startswith(WITH_DDR5)], True


def offloaded(subject: Subject, place: Place, options: Options, context: int, step: Step) -> Offload | None:
    """The fastest split that fits: layers, or of a mixture experts; None where there is none to predict."""
    able = place.framework(options).offloads and place.machine.kind in ON_GPU and options.devices == 1
    if not able or not place.memory(options):
        return None
    wholes = ("layers", "experts") if subject.priced("f16").routed() else ("layers",)
    found = [f for what in wholes if (f := _offloaded(subject, place, options, context, step, what))]
    return min(found, key=lambda f: f.seconds, default=None)


def _offloaded(subject: Subject, place: Place, options: Options, context: int, step: Step, what: str) -> Offload | None:
    contexts, kv = [context] * options.batch, options.codecs
    memory = place.memory(options) or 0
    try:
        split = placed(
            subject.graph, memory, contexts, allocator=place.allocator(options), kv=kv, what=what, tier="slow"
        )
    except MemfirstError:
        return None
    if not split.fits or (options.host_memory and split.moved > options.host_memory):
        return None
    graph, layers = with_kv(subject.graph, *kv), subject.priced("f16").layers
    gpu, cpu = (Priced(part).cost(step) for part in halves(graph, split))
    bandwidth, assumed = host_bandwidth(place.machine, options)
    how = replace(place.deployment(options), threads=0)
    gpu = replace(gpu, layers=layers - split.layers if what == "layers" else layers)
    cpu = replace(cpu, layers=split.layers)
    fast, slow = fitted.predict(gpu, place.machine, how), fitted.predict(cpu, host(place.machine, bandwidth), how)
    if not (fast.seconds and fast.low and fast.high and slow.seconds and slow.low and slow.high):
        return None
    crossings = HOP * (split.layers if what == "experts" else 1)  # a hidden state there and back
    wide = ASSUMED if assumed else 1.0
    return Offload(
        split, bandwidth, assumed, cpu.total, fast.seconds + slow.seconds + crossings,
        fast.low + slow.low / wide + crossings, fast.high + slow.high * wide + crossings,
    )  # fmt: skip


def host(machine: Machine, bandwidth: float) -> Machine:
    """The computer that a GPU sits in, as a machine that computes."""
    cores = CORES.get(machine.kind, 8)
    return Machine(
        f"host of {machine.name}", "", "cpu", memory_type="ddr", bandwidth=bandwidth, cores=cores,
        compute={"f32": cores * CORE_RATE},
    )  # fmt: skip


def halves(graph: Graph, split: Placement) -> tuple[Graph, Graph]:
    """The operations of the GPU, and those of the CPU."""

    def on_host(op: Op) -> bool:
        if not 0 <= layer_of(op.name) < split.layers:
            return False
        return split.what == "layers" or any(isinstance(read, ExpertTraffic) for read in op.traffic())

    return tuple(replace(graph, ops=tuple(op for op in graph.ops if on_host(op) is side)) for side in (False, True))  # type: ignore[return-value]
