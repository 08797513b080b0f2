"""Graphs that no fixed pattern covers: a tiny Llama changed in one way each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from memfirst.convert.synthetic import SyntheticCheckpoint
from memfirst.graph import Cache, Graph, KVCache, Op
from memfirst.graph.ops.add import Add
from memfirst.graph.ops.attention import Attention
from memfirst.graph.ops.norm import RMSNorm
from tests.support.tiny_models import tiny

Change = Callable[[Graph], Graph]


def each(change: Callable[[Op], Op]) -> Change:
    """A change of single operations; caches follow from what they have."""

    def changed(graph: Graph) -> Graph:
        ops = tuple(change(op) for op in graph.ops)
        caches: dict[str, Cache] = {c.name: c for c in graph.caches}
        caches |= {op.cache.name: op.cache for op in ops if isinstance(op, Attention)}
        return replace(graph, ops=ops, caches=tuple(caches.values()))

    return changed


def window(size: int, layers: str = "blk.", chunked: bool = False) -> Change:
    """A window, or chunks, in the layers whose names begin so."""

    def change(op: Op) -> Op:
        if not isinstance(op, Attention) or not op.name.startswith(layers):
            return op
        cache: KVCache = replace(op.cache, window=size, chunked=chunked)
        return replace(op, cache=cache)

    return each(change)


def late_norm(op: Op) -> Op:
    """The feed-forward reads the embedding: the residual has changed by then, and the old one must still be there."""
    return replace(op, inputs=("token_embd",)) if op.name == "blk.0.ffn_norm" else op


def two_readers(op: Op) -> Op:
    """The second layer's feed-forward reads the first layer's norm as well: an old value with readers in two phases."""
    return replace(op, inputs=("blk.0.attn_norm",)) if op.name == "blk.1.ffn_up" else op


def no_norm(graph: Graph) -> Graph:
    """Matmuls that read the residual itself, and norms of what they give (as OLMo 2)."""
    ops: list[Op] = []
    renamed: dict[str, str] = {}
    for op in graph.ops:
        inputs = tuple(renamed.get(name, name) for name in op.inputs)
        if isinstance(op, RMSNorm) and op.name.endswith(("attn_norm", "ffn_norm")):
            renamed[op.output] = inputs[0]
        elif isinstance(op, Add):
            norm = next(o for o in graph.ops if isinstance(o, RMSNorm) and o.weight.columns == op.width)
            name = f"{op.name}_post"
            ops.append(replace(norm, name=name, output=name, inputs=(inputs[1],)))
            ops.append(replace(op, inputs=(inputs[0], name)))
        else:
            ops.append(replace(op, inputs=inputs))
    return replace(graph, ops=tuple(ops))


def parallel(op: Op) -> Op:
    """Attention and feed-forward both read the layer's input, and both are added to it."""
    layer = op.name.rsplit(".", 1)[0]
    return replace(op, inputs=(f"{layer}.attn_norm",)) if op.name.endswith(("ffn_gate", "ffn_up")) else op


def added_twice(op: Op) -> Op:
    """A sum of a value with itself."""
    return replace(op, inputs=(op.inputs[0], op.inputs[0])) if op.name == "blk.1.ffn_residual" else op


CHANGES: Mapping[str, Change] = {
    "llama": lambda graph: graph,
    "windows in all layers": window(100),
    "windows in some layers": window(40, "blk.0."),
    "an old residual": each(late_norm),
    "an old norm": each(two_readers),
    "post-norms": no_norm,
    "parallel blocks": each(parallel),
    "added to itself": each(added_twice),
}


def changed(name: str, codec: str, architecture: str = "llama") -> tuple[Graph, SyntheticCheckpoint]:
    """A tiny model, changed."""
    graph, checkpoint = tiny(architecture, codec)
    return CHANGES[name](graph), checkpoint
