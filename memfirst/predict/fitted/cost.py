"""What a step asks of a machine, and how it is run: the input of a prediction, without the model itself."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from memfirst.errors import MemfirstError
from memfirst.graph import Graph, Op, StateCache, Step
from memfirst.graph.ops.attention import Attention
from memfirst.graph.ops.latent import LatentAttention
from memfirst.graph.ops.opaque import Opaque
from memfirst.graph.ops.sketched import sketched
from memfirst.graph.traffic import EXPERTS, KV_READ, STATE_READ, STREAMED
from memfirst.ledger import price

FITTED = ("llama.cpp", "ollama", "ik_llama.cpp", "vllm", "exllama", "exllama-v1", "gpt-fast", "mlc", "transformers")
"""Engines whose published speeds the constants are fitted to."""

PARALLEL = PIPELINE, TENSOR = "pipeline", "tensor"
"""How devices share a model: whole layers one after another, or each layer cut."""

BACKENDS = ("cuda", "rocm", "vulkan", "sycl", "metal", "cpu")
"""What an engine's kernels are written in."""

_SAME_KERNELS = {"ollama": "llama.cpp"}

ATTENDS = (Attention, LatentAttention)
"""Operations over a context of any length."""

_LAYER = re.compile(r"blk\.(\d+)\.")


@dataclass(frozen=True)
class Cost:
    """A step of a model, over all devices together.

    streamed   bytes by purpose of the ledger (`memfirst.graph.traffic`), streamed purposes, expectations
    flops      operations of the step, a multiply-add counting 2
    tokens     new tokens; sequences: how many share the step
    layers     of the model; width: numbers of its hidden state, what devices exchange for a token
    least      bytes of routed experts if every token of the step chose the same ones
    group      query heads that share a key and value head: without flash attention GPUs read these once for each
    attention  operations of attention, a part of `flops`; recurrent: layers with a recurrent state
    sketched   weights of an output head that is read by its sketch
    slow,disk  bytes of the weights that are read from slower memory and from disk: a part of `streamed`
    codec      of the bulk of the weights: a name of GGUF's types, or "gptq4", "gptq8", "exl2", "awq", "int8"
    """

    streamed: Mapping[str, float]
    flops: float
    tokens: int
    layers: int
    codec: str
    sequences: int = 1
    width: int = 0
    least: float = 0.0
    slow: float = 0.0
    disk: float = 0.0
    group: float = 1.0
    attention: float = 0.0
    recurrent: int = 0
    sketched: float = 0.0

    @property
    def kv(self) -> float:
        """Bytes of the cache and of recurrent state."""
        return self.streamed.get(KV_READ, 0.0) + self.streamed.get(STATE_READ, 0.0)

    @property
    def experts(self) -> float:
        """Bytes of routed experts."""
        return self.streamed.get(EXPERTS, 0.0)

    @property
    def total(self) -> float:
        """Bytes that must come from memory."""
        return sum(self.streamed.values())

    @property
    def fast(self) -> float:
        """Bytes that come from the device's own memory."""
        return self.total - self.slow - self.disk

    @property
    def weights(self) -> float:
        """Bytes of every other weight: layers, head, embedding rows."""
        return self.total - self.kv - self.experts


@dataclass(frozen=True)
class Deployment:
    """How the model is run.

    engine   one of FITTED; another is predicted from all of them together, with a wide interval
    devices  that share the model; parallel: one of PARALLEL
    flash    attention without the matrix of scores in memory, the default of today's engines
    threads  of a processor, 0 for all of its cores
    age      years before 2026 that the engine's build is from: kernels got faster
    backend  what its kernels are written in, one of BACKENDS; "": the usual one of the machine
    """

    engine: str = "llama.cpp"
    devices: int = 1
    parallel: str = PIPELINE
    flash: bool = True
    threads: int = 0
    age: float = 0.0
    backend: str = ""

    def __post_init__(self) -> None:
        if self.devices < 1 or self.threads < 0:
            raise MemfirstError(f"{self.devices} devices with {self.threads} threads", "1 device or more")
        if self.backend and self.backend not in BACKENDS:
            raise MemfirstError(f"the backend {self.backend!r}", f"one of {', '.join(BACKENDS)}")
        if self.parallel not in PARALLEL:
            raise MemfirstError(f"{self.parallel!r} parallelism", f"one of {', '.join(PARALLEL)}")

    @property
    def family(self) -> str:
        """The engine whose kernels run: Ollama runs llama.cpp's."""
        return _SAME_KERNELS.get(self.engine, self.engine)


def cost(graph: Graph, step: Step) -> Cost:
    """What `step` of a whole model costs."""
    by_purpose = price(graph, step).by_purpose()
    weights = graph.weights()
    layers = {m.group(1) for name in weights if (m := _LAYER.match(name))}
    codecs: Counter[str] = Counter()
    for weight in weights.values():
        codecs[weight.codec] += weight.nbytes
    return Cost(
        {p: a.mean for p, a in by_purpose.items() if p in STREAMED}, graph.flops(step), step.tokens,
        len(layers), codecs.most_common(1)[0][0] if codecs else "f16", len(step.sequences),
        graph.hidden_size, by_purpose[EXPERTS].low if EXPERTS in by_purpose else 0.0, group=group(graph.ops),
        attention=attention_flops(graph.ops, step), recurrent=recurrent_layers(graph.ops),
        sketched=sketched_weights(graph, step),
    )  # fmt: skip


def attention_flops(ops: Iterable[Op], step: Step) -> float:
    """Operations of attention over the context: a part of those of the step."""
    return float(sum(attending(op, step) for op in ops))


def attending(op: Op, step: Step) -> int:
    """The same of one operation."""
    if isinstance(op, Opaque):
        return op.attention_flops(step)
    return op.flops(step) if isinstance(op, ATTENDS) else 0


def sketched_weights(graph: Graph, step: Step) -> float:
    """Weights of the output head, where the step reads its sketch."""
    head = sketched(graph) if step.likeliest else None
    return float(head.weight.rows * head.weight.columns) if head else 0.0


def recurrent_layers(ops: Iterable[Op]) -> int:
    """Layers that update a recurrent state, convolutions and shifts left out."""
    return sum(recurs(op) for op in ops)


def recurs(op: Op) -> bool:
    """Whether it is such a layer's."""
    if isinstance(op, Opaque):
        return any(isinstance(cache, StateCache) for cache in op.caches)
    return op.recurs


def group(ops: Iterable[Op]) -> float:
    """The most query heads that share a key and value head; 1 without attention."""
    return max((op.heads / op.cache.heads for op in ops if isinstance(op, Attention)), default=1.0)
