"""What frameworks set aside for a model: KV cache and state, buffers, and what they take before the first weight.

Read in their sources: llama.cpp's llama-context.cpp, llama-kv-cache-iswa.cpp and llama-memory-recurrent.cpp as of
llama-cpp-python 0.3.36; vLLM's v1/kv_cache_interface.py at 001cabc and platforms/interface.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from memfirst.convert.mixes import layer_of
from memfirst.graph import Graph, KVCache, StateCache
from memfirst.graph.ops.attention import Attention
from memfirst.graph.ops.experts import Experts
from memfirst.graph.ops.glu import Glu
from memfirst.graph.ops.latent import LatentAttention
from memfirst.graph.ops.linear import Linear
from memfirst.graph.ops.opaque import Opaque
from memfirst.graph.traffic import KVTraffic
from memfirst.hardware.machines import Machine
from memfirst.ledger import process_bytes
from memfirst.predict.fitted.cost import PIPELINE

MIB, GIB = 1 << 20, 1 << 30

PROCESS = "peak resident memory of a process less what is counted: vocabularies of 49k and 262k tokens, Linux x86-64"


@dataclass(frozen=True)
class Estimate:
    """Bytes, and where the figure comes from."""

    nbytes: int
    source: str


class Allocator(ABC):
    """How one framework allocates. `contexts` are the tokens that each sequence may reach."""

    name: str
    share = 1.0
    """Of a device's memory, the part that it takes at most."""
    kv_codecs: tuple[str, ...] = ()
    """What it can cache keys and values in."""
    cuts_embedding = False
    """Whether devices that share layers share the embedding's rows too, and do not copy them."""

    def embedding_on_host(self) -> bool:
        """Whether the embedding's rows are looked up in the host's memory, and not the device's."""
        return False

    def shared(self, parallel: str) -> Allocator:
        """The same where several devices share a model."""
        return self

    def on(self, machine: Machine) -> Allocator:
        """The same on a device of that kind."""
        return self

    @abstractmethod
    def kv(self, graph: Graph, contexts: Sequence[int]) -> int:
        """Bytes allocated for keys and values (or latents)."""

    @abstractmethod
    def state(self, graph: Graph, sequences: int) -> int:
        """Bytes allocated for recurrent state."""

    @abstractmethod
    def buffers(self, graph: Graph, contexts: Sequence[int]) -> Estimate:
        """Working memory of its largest step."""

    @abstractmethod
    def overhead(self, graph: Graph) -> Estimate:
        """What it takes whatever the model's size."""


@dataclass(frozen=True)
class Memfirst(Allocator):
    """This engine: blocks of 64 positions, two slots of state where a step may be rolled back.

    capacity  tokens of its largest step
    """

    capacity: int = 256
    name = "memfirst"
    kv_codecs = ("f16", "q8_0", "q4_0", "f32")

    def kv(self, graph: Graph, contexts: Sequence[int]) -> int:
        lengths = Counter(contexts).items()
        caches = [(c, c.block * c.position_bytes) for c in kv_caches(graph)]
        return sum(times * c.most_blocks(n, self.capacity) * block for c, block in caches for n, times in lengths)

    def state(self, graph: Graph, sequences: int) -> int:
        return sequences * sum(c.allocated_bytes(1) for c in state_caches(graph))

    def buffers(self, graph: Graph, contexts: Sequence[int]) -> Estimate:
        floats = self.capacity * (2 * graph.hidden_size + 2 * widest(graph)) + head_rows(graph)
        return Estimate(
            4 * floats, "estimated: two states of the stream and the widest pair of values; one row of logits"
        )

    def overhead(self, graph: Graph) -> Estimate:
        return Estimate(process_bytes(graph.vocab_size), PROCESS)


@dataclass(frozen=True)
class LlamaCpp(Allocator):
    """llama.cpp: one context size for all sequences, all of it allocated at the start.

    unified  sequences share one buffer of all their contexts (else each has its own)
    ubatch   tokens of its largest step
    gpu      the layers are on a GPU; the embedding's rows stay with the processor
    flash    attention without the matrix of scores in memory, the default
    copies   of what goes from one device to the next: 4 where several share the layers, so that all work at once
    """

    unified: bool = False
    ubatch: int = 512
    gpu: bool = False
    flash: bool = True
    copies: int = 1
    name = "llama.cpp"
    kv_codecs = ("f16", "q8_0", "q4_0", "f32", "bf16", "q4_1", "q5_0", "q5_1", "iq4_nl")

    def embedding_on_host(self) -> bool:
        return self.gpu

    def shared(self, parallel: str) -> LlamaCpp:
        return replace(self, copies=COPIES) if self.gpu and parallel == PIPELINE else self

    def kv(self, graph: Graph, contexts: Sequence[int]) -> int:
        alike = [(len(group.caches), group.cache) for group in graph.cache_groups]
        return sum(
            layers * self.cells(_window(graph, c), _entries(c, contexts)) * c.position_bytes for layers, c in alike
        )

    def cells(self, window: int | None, contexts: Sequence[int]) -> int:
        """Positions allocated in a layer: whole contexts in 256s; a window's, and what a step adds to it."""
        sequences = len(contexts)
        streams = 1 if self.unified else sequences
        each = padded(sum(contexts) if self.unified else max(contexts), 256)
        if window is not None:
            each = padded(min(each, window * (sequences if self.unified else 1) + self.ubatch), 256)
        return streams * each

    def state(self, graph: Graph, sequences: int) -> int:
        return max(1, sequences) * sum(c.state_bytes for c in state_caches(graph))

    def buffers(self, graph: Graph, contexts: Sequence[int]) -> Estimate:
        """The most that is alive at once: in attention, in a feed-forward, or when the logits are there.

        Masks are alive until the last attention, and once for each copy; without flash attention they are float32, and
        so are the scores of every head.
        """
        stream = 4 * self.ubatch * graph.hidden_size
        attending: list[Attention | LatentAttention] = [*graph.of(Attention), *graph.of(LatentAttention)]
        cells = {self.cells(window, contexts) for window in {_window(graph, op.cache) for op in attending}}
        masks = sum(cells) * self.ubatch * (2 if self.flash else 4)
        heads = max((op.heads for op in attending), default=0)
        scores = 0 if self.flash else 4 * self.ubatch * heads * max(cells, default=0)
        queries = 4 * self.ubatch * max((op.width for op in attending), default=0)
        copied = (self.copies - 1) * (masks + stream)
        attention = scores + masks + 2 * queries + 2 * stream
        forward = masks + 2 * stream + 8 * self.ubatch * widest(graph)
        logits = 4 * self.ubatch * head_rows(graph) + 2 * stream + (masks if self.copies > 1 else 0)
        source = "what is alive at once in a micro-batch: scores and masks, the widest values, logits; as it reports"
        return Estimate(max(attention, forward, logits) + copied, source)

    def overhead(self, graph: Graph) -> Estimate:
        if self.gpu:
            return Estimate(457 * MIB, "cudaMinimumMemory in Ollama's discover/gpu.go: the driver's context")
        return Estimate(37_000_000, "resident memory of llama-bench less model and cache; Linux x86-64, 49k tokens")


@dataclass(frozen=True)
class Vllm(Allocator):
    """vLLM: blocks of 16 tokens out of 0.9 of the device's memory.

    hybrid     its hybrid cache manager frees what a sliding window has left; else such layers take whole contexts
    batched    tokens of its largest step (max_num_batched_tokens)
    sequences  for which it prepares to sample (max_num_seqs)
    elsewhere  bytes outside of PyTorch on the device: contexts and libraries
    graphs     bytes of CUDA graphs, which it takes out of its share since 0.21
    """

    hybrid: bool = False
    batched: int = 8192
    sequences: int = 256
    elsewhere: int = round(1.79 * GIB)
    graphs: int = 0
    name = "vllm"
    share = 0.9
    cuts_embedding = True
    kv_codecs = ("f16", "bf16", "f8_e4m3")

    def kv(self, graph: Graph, contexts: Sequence[int]) -> int:
        block = self.block(graph)
        caches = kv_caches(graph)
        return sum(self._blocks(c.window, _entries(c, contexts), block) * block * c.position_bytes for c in caches)

    def block(self, graph: Graph) -> int:
        """Tokens of a block: 16, or more where a block must be as large as a layer's recurrent state."""
        position = max((c.position_bytes for c in kv_caches(graph)), default=0)
        return 16 * max(1, -(-self._state_page(graph) // (16 * position))) if position else 16

    def _blocks(self, window: int | None, contexts: Sequence[int], block: int) -> int:
        """Blocks of a layer. A window may begin within a block; one sequence at a time also has a step's tokens."""
        lengths = Counter(contexts).items()
        if window is None or not self.hybrid:
            return sum(times * -(-n // block) for n, times in lengths)
        steady = sum(times * -(-min(n, window + block - 1) // block) for n, times in lengths)
        longest = max(contexts)
        filling = -(-min(longest, window + block - 1 + self.batched) // block)
        return steady + filling - -(-min(longest, window + block - 1) // block)

    def _state_page(self, graph: Graph) -> int:
        by_layer: dict[int, int] = {}
        for cache in state_caches(graph):
            layer = layer_of(cache.name)
            by_layer[layer] = by_layer.get(layer, 0) + cache.state_bytes
        return max(by_layer.values(), default=0)

    def state(self, graph: Graph, sequences: int) -> int:
        layers = len({layer_of(c.name) for c in state_caches(graph)})
        position = max((c.position_bytes for c in kv_caches(graph)), default=0)
        page = self.block(graph) * position if position else self._state_page(graph)
        return sequences * layers * page

    def buffers(self, graph: Graph, contexts: Sequence[int]) -> Estimate:
        sampling = 41 * self.sequences * head_rows(graph)
        feeding = 2 * self.batched * (3 * widest(graph) + 3 * graph.hidden_size)
        source = "sampling or feed-forward of a full step; scaled from its report for Llama-3-8B, 1.26 GiB (vllm#10511)"
        return Estimate(max(sampling, feeding), source)

    def overhead(self, graph: Graph) -> Estimate:
        source = (
            "memory outside of PyTorch: 1.79 GiB on an H100 (vllm#10511), 0.04 to 0.20 on GeForce cards, A10 and V100;"
            " about 86 CUDA graphs of 8 MiB (vllm#39559)"
        )
        return Estimate(self.elsewhere + self.graphs, source)

    def on(self, machine: Machine) -> Vllm:
        large = machine.kind == "datacentre-gpu" and machine.memory_type.startswith("hbm3")
        return replace(self, elsewhere=ELSEWHERE[large], graphs=GRAPHS)


@dataclass(frozen=True)
class Sglang(Vllm):
    """SGLang: tokens out of 0.88 of the memory (mem_fraction_static of one GPU), no rounding to blocks."""

    name = "sglang"
    share = 0.88

    def block(self, graph: Graph) -> int:
        return 1 if kv_caches(graph) and not state_caches(graph) else super().block(graph)


@dataclass(frozen=True)
class TensorRT(Vllm):
    """TensorRT-LLM: blocks of 32 tokens out of 0.9 of what is free (free_gpu_memory_fraction)."""

    name = "tensorrt-llm"

    def block(self, graph: Graph) -> int:
        return 2 * super().block(graph)


@dataclass(frozen=True)
class Mlx(Allocator):
    """mlx-lm: caches that grow in steps of 256 tokens, and of a window hold no more than it; no memory of its own.

    chunk  tokens of a prompt that it takes at a time (prefill_step_size)
    """

    chunk: int = 2048
    name = "mlx"
    kv_codecs = ("f16", "bf16", "q8_0", "q4_0")

    def kv(self, graph: Graph, contexts: Sequence[int]) -> int:
        return sum(
            times * padded(min(c.entries(n), c.window or n), 256) * c.position_bytes
            for c in kv_caches(graph)
            for n, times in Counter(contexts).items()
        )

    def state(self, graph: Graph, sequences: int) -> int:
        return sequences * sum(c.state_bytes for c in state_caches(graph))

    def buffers(self, graph: Graph, contexts: Sequence[int]) -> Estimate:
        tokens = min(self.chunk, max(contexts))
        floats = tokens * (2 * graph.hidden_size + 2 * widest(graph)) + head_rows(graph)
        return Estimate(2 * floats, "two states of the stream and the widest pair of values of a chunk, 16 bit")

    def overhead(self, graph: Graph) -> Estimate:
        return Estimate(300 * MIB, "assumed: Python, mlx and a vocabulary")


@dataclass(frozen=True)
class Exllama(Allocator):
    """ExLlama: pages of 256 tokens for a cache that is sized at the start."""

    name = "exllama"
    cuts_embedding = True
    kv_codecs = ("f16", "q8_0", "q4_0")

    def embedding_on_host(self) -> bool:
        return True

    def kv(self, graph: Graph, contexts: Sequence[int]) -> int:
        return sum(padded(n, 256) * c.position_bytes for c in kv_caches(graph) for n in _entries(c, contexts))

    def state(self, graph: Graph, sequences: int) -> int:
        return sequences * sum(c.state_bytes for c in state_caches(graph))

    def buffers(self, graph: Graph, contexts: Sequence[int]) -> Estimate:
        floats = 2048 * (2 * graph.hidden_size + 2 * widest(graph)) + head_rows(graph)
        return Estimate(2 * floats, "two states of the stream and the widest pair of values of a chunk, 16 bit")

    def overhead(self, graph: Graph) -> Estimate:
        return Estimate(800 * MIB, "assumed: PyTorch's context on a CUDA device")


ELSEWHERE = (round(0.15 * GIB), round(1.79 * GIB))
"""Bytes outside of PyTorch: on other cards, on those with HBM3."""

GRAPHS = 86 * 8 * MIB
"""51 piecewise and 35 whole CUDA graphs: 0.73 GiB where it says so."""

COPIES = 4
"""GGML_SCHED_MAX_COPIES."""

_WINDOWLESS = ("phi3", "llama")
"""Architectures whose windows llama.cpp leaves out: it computes and keeps all positions (src/models/phi3.cpp)."""


def _window(graph: Graph, cache: KVCache) -> int | None:
    """A layer's window as llama.cpp has it."""
    return None if graph.architecture in _WINDOWLESS else cache.window


def _entries(cache: KVCache, contexts: Sequence[int]) -> Sequence[int]:
    """Entries of each sequence, where one is not a position's."""
    return contexts if cache.every == 1 else [cache.entries(n) for n in contexts]


def kv_caches(graph: Graph) -> tuple[KVCache, ...]:
    """Caches that grow with the context."""
    return tuple(c for c in graph.caches if isinstance(c, KVCache))


def kv_reads(graph: Graph) -> tuple[KVCache, ...]:
    """Those caches, once for each operation that reads one: a layer may read what an earlier one keeps."""
    ops = (op for kind in (Attention, LatentAttention, Opaque) for op in graph.of(kind))  # others' traffic takes long
    return tuple(r.cache for op in ops for r in op.traffic() if isinstance(r, KVTraffic) and not r.write)


def state_caches(graph: Graph) -> tuple[StateCache, ...]:
    """Caches that do not."""
    return tuple(c for c in graph.caches if isinstance(c, StateCache))


def padded(n: int, to: int) -> int:
    """`n` rounded up to a multiple."""
    return -(-n // to) * to


def head_rows(graph: Graph) -> int:
    """Logits of a token, 0 where this device has no head."""
    return max((op.weight.rows for op in graph.of(Linear) if op.head), default=0)


def widest(graph: Graph) -> int:
    """Floats of a token's widest value within a layer: a feed-forward's, its experts', or all heads'."""
    widths = [op.k * op.up.rows for op in graph.of(Experts)]
    kinds: tuple[type[Glu | Attention | LatentAttention | Opaque], ...] = (Glu, Attention, LatentAttention, Opaque)
    for kind in kinds:
        widths += [op.width for op in graph.of(kind)]
    return max(widths, default=0)
