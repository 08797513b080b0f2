"""The physics of a step's time: pieces of seconds, each with the named constants that scale it.

    t = (host⁴ + (stream + kv + overhead + link)⁴)^¼,    stream = (memory⁴ + core⁴ + arithmetic⁴ + matmul⁴)^¼

memory: bytes over bandwidth; core: what the threads can load; arithmetic: unpacking weights; matmul:
operations at matrix rates; overhead: launches and barriers by layer; link: exchanges between devices; host:
an interpreter that launches every operation itself. Pieces that overlap go together as a soft maximum.
A piece's seconds are multiplied by e^(sum of its constants), fitted to published speeds (`priors.json`);
with all constants at zero they are what is expected before any fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log

from memfirst import codecs
from memfirst.hardware.machines import Machine
from memfirst.predict.fitted.cost import PIPELINE, TENSOR, Cost, Deployment

WEIGHTS, EXPERTS, KV, COMPUTE, OVERHEAD, LINK = "weights", "experts", "KV", "compute", "overhead", "link"
TERMS = (WEIGHTS, EXPERTS, KV, COMPUTE, OVERHEAD, LINK)
"""What may bind a step."""

SOFT = 4
"""Power of the soft maximum: two equal pieces that overlap take 1.19 of one."""

MEMORY_LANE, CORE_LANE, UNPACK_LANE, MATMUL_LANE, ADDED, HOST = range(6)
"""Pieces of a lane add up; the first four lanes overlap, what is added follows, the host overlaps with all."""

# Expected before any fit, from data sheets and common knowledge of these engines, not from the rows fitted:
REACHED, CACHE = 0.85, 0.70  # share of the peak that weights and KV reach
PER_CORE = 30e9  # bytes/s that one core loads: about 48 lines of 64 bytes in flight over 100 ns
LAUNCH, STEP = 50e-6, 300e-6  # s: about 12 kernels a layer of 4 us each; sampling and bookkeeping of a token
BARRIER = 4e-6  # s a layer and thread: about 12 barriers, at each of which a thread's flag crosses the chip
SOCKETS = 0.5  # share that a processor of several sockets reaches: half of the memory is a socket away
EAGER = 800e-6  # s a layer: about 80 operations that Python launches, 10 us each (25 ms for 32 layers, 36 for 40)
HOP = 100e-6  # s: a layer's output copied to the next device and waited for
MATMUL, FEW = 0.5, 0.5  # share of the peak that a prompt reaches; of float32's peak, a few tokens
SMALL = 64  # tokens of a step that are few

UNPACK = {"float": 2.0, "legacy": 4.0, "k": 8.0, "i": 12.0, "group": 4.0, "fp4": 6.0}
"""Operations to unpack and multiply a weight, by class of codec, in units of a float32 operation."""

OWN = "memfirst"
"""The engine whose kernels were timed, not fitted: they multiply in int8, and have no rows among the published ones."""

INT8 = 3.2  # operations of int8 dot products for one of float32: 101 a cycle for 32 with AVX2, 4 times with VNNI
OWN_TILE = {"float": 0.2}  # share of that which tiles of eight tokens reach; 0.52 (AVX2) to 0.7 (VNNI) of other codecs
OWN_TILE_OTHER = 0.6
OWN_UNPACK = {"float": 3.5}  # float32 operations to unpack and multiply a weight for one token; of other codecs:
OWN_UNPACK_OTHER = 1.5  # 1.0 (VNNI) to 2 (AVX2)
OWN_LAUNCH, OWN_STEP, OWN_BARRIER = 10e-6, 100e-6, 1e-6  # s: a compiled walk, whose threads wait for chunks of work

_CLASSES = {
    **dict.fromkeys(("f32", "f16", "bf16"), "float"),
    **dict.fromkeys(("mxfp4", "nvfp4", "nf4", "f4"), "fp4"),
    **dict.fromkeys(("gptq4", "gptq8", "awq", "exl2", "int2", "int3", "int4", "int5", "int6"), "group"),
}
_BITS = {"gptq4": 4.3, "gptq8": 8.3, "awq": 4.3, "exl2": 4.0, "int4": 4.5, "int8": 8.0}


@dataclass(frozen=True)
class Piece:
    """`seconds` before any fit; `constants`: (name, how many times it counts)."""

    term: str
    lane: int
    seconds: float
    constants: tuple[tuple[str, float], ...]


def codec_class(codec: str) -> str:
    """The class of a codec: what unpacking one of its weights takes."""
    codec = codec.partition("-")[0]  # without the size of its groups
    if codec in _CLASSES:
        return _CLASSES[codec]
    return "i" if codec.startswith("iq") else "k" if codec.endswith("_k") else "legacy"


def bits_per_weight(codec: str) -> float:
    """Bits of a weight, scales included; 4.5 for a codec that nobody described."""
    try:
        return codecs.sized(codec).bits_per_weight
    except KeyError:
        return _BITS.get(codec, 4.5)


def backend(machine: Machine) -> str:
    """Whose kernels run on it: "cuda", "metal", "cpu" or "other"."""
    if machine.kind in ("cpu", "board"):
        return "cpu"
    if machine.family.startswith("apple"):
        return "metal"
    return "other" if machine.family.startswith(("rdna", "cdna", "gcn", "xe")) else "cuda"


def memory_class(machine: Machine) -> str:
    """Memories that behave alike: "hbm", "gddr", "unified" (shared with a processor) or "ddr"."""
    if machine.memory_type.startswith(("hbm", "gddr")):
        return machine.memory_type.rstrip("0123456789ex")
    return {"unified": "unified", "cpu": "ddr", "board": "ddr", "datacentre-gpu": "hbm"}.get(machine.kind, "gddr")


def matrix_rate(machine: Machine) -> float:
    """Operations a second of float16 matmuls, or of float32 where those are faster (old GPUs, processors)."""
    return max(plain_rate(machine), machine.compute.get("f16", 0.0))


def plain_rate(machine: Machine) -> float:
    """Operations a second of the units that unpack weights: float32's rate, else the slowest that is known."""
    return machine.compute.get("f32", min(machine.compute.values()))


def peak_rate(machine: Machine, how: Deployment) -> float:
    """Operations a second of the fastest units that an engine multiplies with."""
    return INT8 * plain_rate(machine) if how.family == OWN else matrix_rate(machine)


def pieces(cost: Cost, machine: Machine, how: Deployment) -> tuple[Piece, ...]:
    """Everything a step's time is made of; its bandwidth and a rate of arithmetic must be known."""
    parts = how.devices if how.parallel == TENSOR else 1
    found = (
        *_memory(cost, machine, how, parts), _arithmetic(cost, machine, how, parts),
        _matmul(cost, machine, how, parts), _cache(cost, machine, how, parts), _scores(cost, machine, how, parts),
        *_overhead(cost, machine, how), *_link(cost, machine, how),
    )  # fmt: skip
    return tuple(piece for piece in found if piece.seconds > 0)


def _names(head: str, *tails: str) -> tuple[tuple[str, float], ...]:
    return ((head, 1.0), *((f"{head}/{tail}", 1.0) for tail in tails))


def _memory(cost: Cost, machine: Machine, how: Deployment, parts: int) -> tuple[Piece, ...]:
    sockets = backend(machine) == "cpu" and machine.dies > 1
    near = 1 - (cost.slow + cost.disk) / max(cost.weights + cost.experts, 1.0)  # share in the device's own memory
    rate = (machine.bandwidth or 0.0) * REACHED * parts * (SOCKETS if sockets else 1.0) / max(near, 1e-9)
    kind = memory_class(machine)
    names = _names("memory", kind, how.family, f"{how.family}:{kind}")
    names += (("sockets" if sockets else "memory/dies", float(machine.dies > 1)), ("memory/age", how.age))
    skew = log(cost.experts / cost.least) if 0 < cost.least < cost.experts else 0.0
    dense = Piece(WEIGHTS, MEMORY_LANE, cost.weights / rate, names)
    experts = Piece(EXPERTS, MEMORY_LANE, cost.experts / rate, (*names, ("experts", 1.0), ("skew", skew)))
    if not (how.threads and 0 < how.threads < machine.cores):
        return dense, experts
    core = (cost.weights + cost.experts) / (PER_CORE * how.threads)
    return dense, experts, Piece(WEIGHTS, CORE_LANE, core, _names("core"))


def _arithmetic(cost: Cost, machine: Machine, how: Deployment, parts: int) -> Piece:
    """Unpacking every weight that is read, once a step; matmuls of further tokens are `_matmul`'s."""
    kind, where = codec_class(cost.codec), backend(machine)
    weights = (cost.weights + cost.experts) * 8 / bits_per_weight(cost.codec)
    share = min(1.0, how.threads / machine.cores) if how.threads and machine.cores else 1.0
    rate = plain_rate(machine) * parts * share
    if how.family == OWN:
        return Piece(
            COMPUTE, UNPACK_LANE, weights * OWN_UNPACK.get(kind, OWN_UNPACK_OTHER) / rate, _names("unpack", OWN)
        )
    names = _names("unpack", where, kind, f"{where}:{kind}", how.family)
    return Piece(COMPUTE, UNPACK_LANE, weights * UNPACK[kind] / rate, (*names, ("unpack/age", how.age)))


def _matmul(cost: Cost, machine: Machine, how: Deployment, parts: int) -> Piece:
    """A few tokens run on the units that unpack weights, a prompt on matrix units."""
    kind, where, plain = codec_class(cost.codec), backend(machine), plain_rate(machine) * parts
    if how.family == OWN:
        rate = peak_rate(machine, how) * parts * OWN_TILE.get(kind, OWN_TILE_OTHER)
        return Piece(COMPUTE, MATMUL_LANE, cost.flops / rate, _names("matmul", OWN))
    if cost.tokens <= SMALL:
        return Piece(COMPUTE, MATMUL_LANE, cost.flops / (plain * FEW), _names("few", where, kind))
    rate = matrix_rate(machine) * parts * MATMUL
    names = _names("matmul", where, how.family, kind, f"{where}:{kind}")
    names += (("matmul/routed", float(cost.experts > 0)),)
    return Piece(COMPUTE, MATMUL_LANE, cost.flops / rate, (*names, ("matmul/age", how.age)))


def _cache(cost: Cost, machine: Machine, how: Deployment, parts: int) -> Piece:
    rate = (machine.bandwidth or 0.0) * CACHE * parts
    names = _names("cache", "flash" if how.flash else "scores", backend(machine), how.family)
    # a matmul for each query head reads the keys of its group again; on processors these are in a core's cache
    again = 1.0 if how.flash or backend(machine) == "cpu" else cost.group
    return Piece(KV, ADDED, again * cost.kv / rate, (*names, ("cache/age", how.age)))


def _scores(cost: Cost, machine: Machine, how: Deployment, parts: int) -> Piece:
    """A prompt's scores in memory: one for each head (of about 128 numbers) and pair of tokens, half of them later
    masked; float32, about 4 passes."""
    pairs = 0.0 if how.flash or cost.tokens <= SMALL else cost.tokens**2 / 2 / max(1, cost.sequences)
    moved = cost.layers * cost.width / 128 * pairs * 4 * 4
    return Piece(KV, ADDED, moved / ((machine.bandwidth or 0.0) * REACHED * parts), _names("scores"))


def _overhead(cost: Cost, machine: Machine, how: Deployment) -> tuple[Piece, ...]:
    where, age = backend(machine), how.age
    threads = how.threads or machine.cores
    own = how.family == OWN
    launch, step, barrier = (OWN_LAUNCH, OWN_STEP, OWN_BARRIER) if own else (LAUNCH, STEP, BARRIER)
    barriers = Piece(OVERHEAD, ADDED, cost.layers * barrier * threads, _names("barrier"))
    layers = Piece(OVERHEAD, ADDED, cost.layers * launch, (*_names("layer", where, how.family), ("layer/age", age)))
    mixed = cost.layers * launch if cost.experts else 0.0
    routed = Piece(OVERHEAD, ADDED, mixed, (*_names("layer", where, how.family), ("layer/age", age), ("routing", 1.0)))
    token = Piece(OVERHEAD, ADDED, step, _names("token", how.family))
    host = cost.layers * EAGER if how.family == "transformers" else 0.0
    return barriers, layers, routed, token, Piece(OVERHEAD, HOST, host, _names("eager"))


def _link(cost: Cost, machine: Machine, how: Deployment) -> tuple[Piece, ...]:
    """Pipeline: one hop between neighbours. Tensor: two sums over devices a layer, 2 bytes a number."""
    far = _far(cost, machine)
    if how.devices == 1:
        return far
    if how.parallel == PIPELINE:
        return (*far, Piece(LINK, ADDED, (how.devices - 1) * HOP, _names("hop")))
    latency = machine.link.latency if machine.link else 25e-6
    rate = machine.link.bandwidth if machine.link else 15.75e9
    moved = 2 * (how.devices - 1) / how.devices * 2 * cost.width * cost.tokens
    sums = 2 * cost.layers
    return (*far, Piece(LINK, ADDED, sums * (latency + moved / rate), _names("sum", how.family)))


def _far(cost: Cost, machine: Machine) -> tuple[Piece, ...]:
    """Weights that do not lie in the device's own memory come over its bus, or from disk."""
    slow = cost.slow / (REACHED * (machine.slow_bandwidth or 1.0))
    disk = cost.disk / (REACHED * (machine.disk_bandwidth or 1.0))
    return Piece(LINK, ADDED, slow, _names("slow")), Piece(LINK, ADDED, disk, _names("disk"))
