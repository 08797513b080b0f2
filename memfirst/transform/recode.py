"""A graph in other codecs: what "Q4_K_M" or AWQ make of a model, or q8_0 of its KV cache, without a file."""

from __future__ import annotations

from dataclasses import replace

from memfirst import codecs
from memfirst.convert.mixes import fit
from memfirst.errors import ConfigError
from memfirst.graph import Cache, Graph, KVCache, Op, Weight
from memfirst.graph.ops.attention import Attention
from memfirst.graph.ops.latent import LatentAttention
from memfirst.graph.ops.opaque import Opaque
from memfirst.transform.weight_formats import codecs_of


def mixed(graph: Graph, name: str) -> Graph:
    """The graph with every weight in the codec that the format `name` gives it; vectors stay f32.

    Raises UnsupportedError with the nearest names. Files of other makers than llama.cpp's quantizer may differ.
    """
    codec = codecs_of(name, graph)

    def recoded(weight: Weight) -> Weight:
        given = codec(weight.alias or weight.name, weight.shape)
        return weight if given == weight.codec else replace(weight, codec=given)

    def changed(op: Op) -> dict[str, Weight]:
        return {w.name: new for w in op.weights if (new := recoded(w)) is not w}

    return replace(graph, ops=tuple(op.with_weights(new) if (new := changed(op)) else op for op in graph.ops))


KV_CODECS = ("f16", "q8_0", "q4_0", "f32")
"""What our own engine can keep keys and values in."""


def parse_kv(text: str) -> tuple[str, str]:
    """("q8_0", "q4_0") of "q8_0/q4_0", and ("q8_0", "q8_0") of "q8_0"; any case.

    Raises:
        ConfigError: not one or two of `KV_CODECS`.
    """
    parts = text.lower().split("/")
    if not 1 <= len(parts) <= 2 or any(part not in KV_CODECS for part in parts):
        raise ConfigError(f"a KV cache of {text[:40]!r}", f"one of {', '.join(KV_CODECS)}, or two as q8_0/q4_0 (K/V)")
    return parts[0], parts[-1]


def with_kv(graph: Graph, k_codec: str, v_codec: str) -> Graph:
    """The graph with keys and values cached in other codecs; MLA's latent counts as keys.

    Heads that a codec's blocks do not divide stay f16. Where both are quantized, heads are rotated by a Hadamard matrix
    first: of SmolLM2's q8_0 that leaves a third of the divergence.
    """
    caches = {c.name: _recoded(c, k_codec, v_codec) for c in graph.caches}
    if all(caches[c.name] == c for c in graph.caches):
        return graph
    ops = tuple(_with_cache(op, caches) for op in graph.ops)
    return replace(graph, ops=ops, caches=tuple(caches.values()))


def without_windows(graph: Graph) -> Graph:
    """The graph with every position cached and attended, as by an engine that does not apply the model's windows."""
    caches = {c.name: replace(c, window=None) if isinstance(c, KVCache) else c for c in graph.caches}
    return replace(graph, ops=tuple(_with_cache(op, caches) for op in graph.ops), caches=tuple(caches.values()))


def _recoded(cache: Cache, k_codec: str, v_codec: str) -> Cache:
    if not isinstance(cache, KVCache):
        return cache
    k, v = fit(k_codec, cache.k_dim), fit(v_codec, cache.v_dim) if cache.v_dim else cache.v_codec
    rotate = all(codecs.BLOCK_TYPES[codec].block > 1 for codec in (k, v))
    return replace(cache, k_codec=k, v_codec=v, rotate=rotate)


def _with_cache(op: Op, caches: dict[str, Cache]) -> Op:
    if isinstance(op, Opaque):
        read = tuple(new for old in op.shared if isinstance(new := caches[old.name], KVCache))
        return replace(op, caches=tuple(caches[cache.name] for cache in op.caches), shared=read)
    if not isinstance(op, Attention | LatentAttention):
        return op
    cache = caches[op.cache.name]
    return replace(op, cache=cache) if isinstance(cache, KVCache) else op
