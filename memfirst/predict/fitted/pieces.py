"""The physics of a step's time: pieces of seconds, each with the named constants that scale it.

    t = (host⁴ + (stream + attention + overhead + link)⁴)^¼
    stream = (memory⁴ + core⁴ + unpack⁴ + matmul⁴)^¼, attention = (cache⁴ + attend⁴)^¼

memory: bytes over bandwidth; core: what the threads can load; unpack: work on each weight; matmul: operations at
matrix rates; cache: keys and values over bandwidth; attend: the operations on them; overhead: launches and barriers
by layer; link: exchanges between devices; host: an interpreter that launches every operation itself. Pieces that
overlap go together as a soft maximum. A piece's seconds are multiplied by e^(sum of its constants), fitted to
published speeds (`priors.json`); with all constants at zero they are what is expected before any fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log

from memfirst import codecs
from memfirst.hardware.machines import Machine
from memfirst.predict.fitted.cost import PIPELINE, TENSOR, Cost, Deployment

WEIGHTS, EXPERTS, KV, COMPUTE, OVERHEAD, LINK = "weights", "experts", "KV", "compute", "overhead", "link"
TERMS = (WEIGHTS, EXPERTS, KV, COMPUTE, OVERHEAD, LINK)
"""What may bind a step."""

SOFT = 4
"""Power of the soft maximum: two equal pieces that overlap take 1.19 of one."""

MEMORY_LANE, CORE_LANE, UNPACK_LANE, MATMUL_LANE, CACHE_LANE, ATTEND_LANE, ADDED, HOST = range(8)
"""Pieces of a lane add up; the first four lanes overlap, so do the two of attention, which follow them; what is added
follows, the host overlaps with all."""

STREAM, ATTENTION = slice(MEMORY_LANE, CACHE_LANE), slice(CACHE_LANE, ADDED)

# Expected before any fit, from data sheets and common knowledge of these engines, not from the rows fitted:
REACHED, CACHE = 0.85, 0.70  # share of the peak that weights and KV reach
PER_CORE = 30e9  # bytes/s that one core loads: about 48 lines of 64 bytes in flight over 100 ns
LAUNCH, STEP = 50e-6, 300e-6  # s: about 12 kernels a layer of 4 us each; sampling and bookkeeping of a token
PREPARED = 2e-3  # s a step that vLLM's first engine (until 2025) prepares on the host while the GPU waits
BARRIER = 4e-6  # s a layer and thread: about 12 barriers, at each of which a thread's flag crosses the chip
SOCKETS = 0.5  # share that a processor of several sockets reaches: half of the memory is a socket away
EAGER = 800e-6  # s a layer: about 80 operations that Python launches, 10 us each (25 ms for 32 layers, 36 for 40)
HOP = 100e-6  # s: a layer's output copied to the next device and waited for
MATMUL = {"cuda": 0.5, "metal": 0.5, "cpu": 0.5, "rocm": 0.36, "sycl": 0.3, "vulkan": 0.22}  # share of f16's peak
INTEGERS = 0.22  # share of int8's peak that llama.cpp reaches with CUDA, whose kernels multiply quantized blocks so
FEW = 0.8  # share of float32's peak that the further tokens of a small batch reach
ATTEND = 0.25  # share of float32's peak that attention reaches, of matrix units for a prompt
SMALL = 64  # tokens of a step that are few
UBATCH = {"llama.cpp": 512, "ik_llama.cpp": 512, "vllm": 8192}  # tokens of a prompt that share a read of the weights

SKEW = -0.14
"""Routers favour some experts, so that a batch touches even · (even ÷ fewest)^SKEW of them: of Qwen3-30B-A3B's 128
experts 65 get 90 % of the choices (mcp-tool-shop-org.github.io/gpu-container, counts of llama-imatrix); a log-normal
popularity with that share leaves 0.94 of the even number at two tokens, 0.71 at sixteen."""

UNPACK = {
    "f32": 1.0, "f16": 2.0, "bf16": 2.0, "q8_0": 4.0, "q4_0": 5.0, "q4_1": 5.0, "q5_0": 7.0, "q5_1": 7.0,
    "q2_k": 6.0, "q3_k": 9.0, "q4_k": 8.0, "q5_k": 10.0, "q6_k": 11.0,
}  # fmt: skip
CLASS_UNPACK = {"float": 2.0, "legacy": 5.0, "k": 8.0, "i": 12.0, "group": 4.0, "fp4": 6.0}
"""Operations to unpack and multiply a weight, by codec and by class of codec, in units of a float32 operation: planes
of bits to put together and scales to unpack, as llama.cpp's dot products of a block have them."""

DOT = 0.5
"""Of this work where integers are multiplied: dot products take four of them at once."""

OWN = "memfirst"
"""The engine whose kernels were timed, not fitted: they multiply in int8, and have no rows among the published ones."""

INT8 = 3.2  # operations of int8 dot products for one of float32: 101 a cycle for 32 with AVX2, 4 times with VNNI
OWN_TILE = {"float": 0.2}  # share of that which tiles of eight tokens reach; 0.52 (AVX2) to 0.7 (VNNI) of other codecs
OWN_TILE_OTHER = 0.6
OWN_UNPACK = {"float": 3.5}  # float32 operations to unpack and multiply a weight for one token; of other codecs:
OWN_UNPACK_OTHER = 1.5  # 1.0 (VNNI) to 2 (AVX2)
SKETCH = 1.2  # float32 operations a weight that a sketch of the head takes beside reading it: 5 ps on two Zen 4 cores
OWN_LAUNCH, OWN_STEP, OWN_BARRIER = 10e-6, 100e-6, 1e-6  # s: a compiled walk, whose threads wait for chunks of work

_CLASSES = {
    **dict.fromkeys(("f32", "f16", "bf16"), "float"),
    **dict.fromkeys(("mxfp4", "nvfp4", "nf4", "f4"), "fp4"),
    **dict.fromkeys(("gptq4", "gptq8", "awq", "exl2", "int2", "int3", "int4", "int5", "int6"), "group"),
}
_BITS = {"gptq4": 4.3, "gptq8": 8.3, "awq": 4.3, "exl2": 4.0, "int4": 4.5, "int8": 8.0}

_HALF = ("ada", "hopper", "rdna3", "rdna4", "cdna3")
"""Families whose data sheets count two float32 units for each that multiplies integers (or dual issue)."""


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
    """The usual backend of the machine: one of `cost.BACKENDS`."""
    if machine.kind in ("cpu", "board"):
        return "cpu"
    if machine.family.startswith("apple"):
        return "metal"
    if machine.family.startswith("xe"):
        return "sycl"
    return "rocm" if machine.family.startswith(("rdna", "cdna", "gcn")) else "cuda"


def where(machine: Machine, how: Deployment) -> str:
    """What the kernels are written in: as said, else the machine's usual backend."""
    return backend(machine) if not how.backend or backend(machine) == "cpu" else how.backend


def _where(machine: Machine, how: Deployment) -> tuple[str, ...]:
    """Names of the backend, the wider first."""
    found = where(machine, how)
    return ("other", found) if found in ("rocm", "vulkan", "sycl") else (found,)


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


def unpack_rate(machine: Machine) -> float:
    """The same where integers are multiplied: half of float32's where those units are half as many."""
    consumer = machine.family == "ampere" and machine.memory_type.startswith("gddr")
    return plain_rate(machine) * (0.5 if consumer or machine.family.startswith(_HALF) else 1.0)


def pieces(cost: Cost, machine: Machine, how: Deployment) -> tuple[Piece, ...]:
    """Everything a step's time is made of; its bandwidth and a rate of arithmetic must be known."""
    parts = how.devices if how.parallel == TENSOR else 1
    found = (
        *_memory(cost, machine, how, parts), _arithmetic(cost, machine, how, parts),
        _matmul(cost, machine, how, parts), _cache(cost, machine, how, parts), _attend(cost, machine, how, parts),
        _scores(cost, machine, how, parts), _sketch(cost, machine, how),
        *_overhead(cost, machine, how), *_link(cost, machine, how),
    )  # fmt: skip
    return tuple(piece for piece in found if piece.seconds > 0)


def _names(head: str, *tails: str) -> tuple[tuple[str, float], ...]:
    return ((head, 1.0), *((f"{head}/{tail}", 1.0) for tail in tails))


def passes(cost: Cost, how: Deployment) -> int:
    """How often a prompt reads the weights: once for each batch that the engine cuts it into."""
    if cost.tokens <= SMALL or cost.sequences > 1 or how.family not in UBATCH:
        return 1
    return ceil(cost.tokens / UBATCH[how.family])


def _memory(cost: Cost, machine: Machine, how: Deployment, parts: int) -> tuple[Piece, ...]:
    sockets = backend(machine) == "cpu" and machine.dies > 1
    near = 1 - (cost.slow + cost.disk) / max(cost.weights + cost.experts, 1.0)  # share in the device's own memory
    rate = (machine.bandwidth or 0.0) * REACHED * parts * (SOCKETS if sockets else 1.0) / max(near, 1e-9)
    rate /= passes(cost, how)
    kind, there = memory_class(machine), _where(machine, how)
    names = _names("memory", kind, machine.memory_type, how.family, f"{how.family}:{kind}", *there)
    names += (("sockets" if sockets else "memory/dies", float(machine.dies > 1)), ("memory/age", how.age))
    skew = log(cost.experts / cost.least) if 0 < cost.least < cost.experts else 0.0
    spread = (cost.experts / cost.least) ** SKEW if skew else 1.0
    dense = Piece(WEIGHTS, MEMORY_LANE, cost.weights / rate, names)
    routed = (("experts", 1.0), *((f"experts/{name}", 1.0) for name in there), ("skew", skew))
    experts = Piece(EXPERTS, MEMORY_LANE, spread * cost.experts / rate, (*names, *routed))
    if not (how.threads and 0 < how.threads < machine.cores):
        return dense, experts
    core = (cost.weights + cost.experts) / (PER_CORE * how.threads)
    return dense, experts, Piece(WEIGHTS, CORE_LANE, core, _names("core", machine.family))


def _share(machine: Machine, how: Deployment) -> float:
    """Of a processor's arithmetic, what the threads have."""
    return min(1.0, how.threads / machine.cores) if how.threads and machine.cores else 1.0


def _arithmetic(cost: Cost, machine: Machine, how: Deployment, parts: int) -> Piece:
    """Unpacking every weight that is read, once a step; matmuls of further tokens are `_matmul`'s."""
    kind, there = codec_class(cost.codec), _where(machine, how)
    weights = (cost.weights + cost.experts) * 8 / bits_per_weight(cost.codec)
    work = UNPACK.get(cost.codec, CLASS_UNPACK[kind]) * (1.0 if kind == "float" else DOT)
    rate = (plain_rate(machine) if kind == "float" else unpack_rate(machine)) * parts * _share(machine, how)
    if how.family == OWN:
        work, rate = OWN_UNPACK.get(kind, OWN_UNPACK_OTHER), plain_rate(machine) * parts * _share(machine, how)
        return Piece(COMPUTE, UNPACK_LANE, weights * work / rate, _names("unpack", OWN))
    names = _names("unpack", *there, kind, f"{there[-1]}:{kind}", how.family)
    if there == ("cpu",):
        names += _names("unpack", f"cpu:{machine.family}", f"{how.family}:{kind}")[1:]
    return Piece(COMPUTE, UNPACK_LANE, weights * work / rate, (*names, ("unpack/age", how.age)))


def _matmul(cost: Cost, machine: Machine, how: Deployment, parts: int) -> Piece:
    """A few tokens run on the units that unpack weights, a prompt on matrix units."""
    kind, there, flops = codec_class(cost.codec), _where(machine, how), cost.flops - cost.attention
    if how.family == OWN:
        rate = peak_rate(machine, how) * parts * OWN_TILE.get(kind, OWN_TILE_OTHER)
        return Piece(COMPUTE, MATMUL_LANE, cost.flops / rate, _names("matmul", OWN))
    if cost.tokens <= SMALL:
        plain = plain_rate(machine) * parts * _share(machine, how)
        return Piece(COMPUTE, ADDED, flops / (plain * FEW), _names("few", *there, kind, f"{there[-1]}:{kind}"))
    rate = _prompt_rate(machine, how, kind) * parts * _share(machine, how)
    names = _names("matmul", *there, how.family, kind, f"{there[-1]}:{kind}", f"{there[-1]}:{machine.family}")
    if cost.experts > 0:
        names += _names("matmul", "routed", *(f"routed:{name}" for name in there))[1:]
    return Piece(COMPUTE, MATMUL_LANE, flops / rate, (*names, ("matmul/age", how.age)))


def _prompt_rate(machine: Machine, how: Deployment, kind: str) -> float:
    """Operations a second that a prompt's matmuls are expected to reach."""
    there, blocks = where(machine, how), kind != "float" and how.family in ("llama.cpp", "ik_llama.cpp")
    if there == "cuda" and blocks and "i8" in machine.compute:
        return INTEGERS * machine.compute["i8"]
    return MATMUL[there] * matrix_rate(machine)


def _cache(cost: Cost, machine: Machine, how: Deployment, parts: int) -> Piece:
    rate = (machine.bandwidth or 0.0) * CACHE * parts
    names = _names("cache", "flash" if how.flash else "scores", *_where(machine, how), how.family)
    # a matmul for each query head reads the keys of its group again; on processors these are in a core's cache
    again = 1.0 if how.flash or backend(machine) == "cpu" else cost.group
    return Piece(KV, CACHE_LANE, again * cost.kv / rate, (*names, ("cache/age", how.age)))


def _attend(cost: Cost, machine: Machine, how: Deployment, parts: int) -> Piece:
    """Attention's arithmetic: of a few tokens on plain units, of a prompt on matrix units."""
    few = cost.tokens <= SMALL
    rate = (plain_rate(machine) if few else matrix_rate(machine)) * parts * ATTEND * _share(machine, how)
    names = _names("attend" if few else "attention", *_where(machine, how), how.family)
    done = 0.0 if how.family == OWN else cost.attention  # timed with its matmuls
    return Piece(KV, ATTEND_LANE, done / rate, names)


def _scores(cost: Cost, machine: Machine, how: Deployment, parts: int) -> Piece:
    """A prompt's scores in memory: one for each head (of about 128 numbers) and pair of tokens, half of them later
    masked; float32, about 4 passes."""
    pairs = 0.0 if how.flash or cost.tokens <= SMALL else cost.tokens**2 / 2 / max(1, cost.sequences)
    moved = cost.layers * cost.width / 128 * pairs * 4 * 4
    return Piece(KV, ADDED, moved / ((machine.bandwidth or 0.0) * REACHED * parts), _names("scores"))


def _sketch(cost: Cost, machine: Machine, how: Deployment) -> Piece:
    """What a head's sketch takes that memory does not hide: with it greedy answers of Gemma 3 270M were 1.26 times as
    fast for 0.67 of the bytes, of SmolLM2 135M 1.01 times for 0.90."""
    return Piece(COMPUTE, ADDED, cost.sketched * SKETCH / (plain_rate(machine) * _share(machine, how)), ())


def _overhead(cost: Cost, machine: Machine, how: Deployment) -> tuple[Piece, ...]:
    there, age = _where(machine, how), how.age
    threads = how.threads or machine.cores
    own = how.family == OWN
    launch, step, barrier = (OWN_LAUNCH, OWN_STEP, OWN_BARRIER) if own else (LAUNCH, STEP, BARRIER)
    states = cost.recurrent * launch * passes(cost, how)
    launch *= cost.layers * passes(cost, how)
    barriers = Piece(OVERHEAD, ADDED, cost.layers * barrier * threads, _names("barrier"))
    names = (*_names("layer", *there, how.family, f"{how.family}:{codec_class(cost.codec)}"), ("layer/age", age))
    layers = Piece(OVERHEAD, ADDED, launch, names)
    routed = Piece(OVERHEAD, ADDED, launch if cost.experts else 0.0, (*names, ("routing", 1.0)))
    recurrent = Piece(OVERHEAD, ADDED, states, (*names, ("recurrent", 1.0), (f"recurrent/{how.family}", 1.0)))
    token = Piece(OVERHEAD, ADDED, step, _names("token", how.family))
    prepared = PREPARED * min(1.0, how.age) if how.family == "vllm" else 0.0
    host = cost.layers * EAGER if how.family == "transformers" else 0.0
    return (
        barriers, layers, routed, recurrent, token, Piece(OVERHEAD, ADDED, prepared, _names("prepared")),
        Piece(OVERHEAD, HOST, host, _names("eager")),
    )  # fmt: skip


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
