"""A described model as a graph: to be priced, never run."""

from __future__ import annotations

from collections.abc import Iterator

from memfirst.graph import Cache, Graph, Op, Weight
from memfirst.graph.ops.embed import Embed
from memfirst.graph.ops.linear import Linear
from memfirst.graph.ops.opaque import Opaque
from memfirst.models.base import ShapeOnly
from memfirst.models.described.parts import Described, Layer, Shape
from memfirst.models.quantized import CodecOf


def build(model: Described, architecture: str, codec: CodecOf, picked: int) -> Graph:
    """Its operations in order; a token reads `picked` of a layer's experts."""
    weight = ShapeOnly(codec)
    embedding = weight("token_embd.weight", (model.vocab, model.hidden))
    ops: list[Op] = [Embed(embedding.name, ("tokens",), embedding.name, embedding)]
    for name, shape in model.tables.items():
        ops.append(Embed(f"{name}.weight", ("tokens",), name, weight(f"{name}.weight", shape)))
    for layer in model.layers:
        named = [(part, weight(_named(f"blk.{layer.index}.{part}", shape), shape)) for part, shape in
                 layer.tensors.items()]  # fmt: skip
        routed = tuple(w for part, w in named if part.endswith("_exps"))
        plain = tuple(w for part, w in named if not part.endswith("_exps"))
        few = min(picked, *(w.shape[0] for w in routed)) if routed else 0
        ops.append(Opaque(f"blk.{layer.index}.tensors", ("stream",), "stream", plain, routed, few, tuple(layer.states)))
        ops += attention(layer)
    outside = tuple(weight(_named(name, shape), shape) for name, shape in model.outside.items())
    ops.append(Opaque("rest", ("stream",), "stream", outside))
    head = weight("output.weight", (model.vocab, model.hidden))
    if model.tied:
        head = Weight(head.name, head.shape, embedding.codec, alias=embedding.name)
    ops.append(Linear("output", ("stream",), "logits", head, head=True))
    return Graph(architecture, tuple(ops), caches(model), model.vocab, model.hidden, model.context)


def caches(model: Described) -> tuple[Cache, ...]:
    """What a sequence keeps, each cache once."""
    found: dict[str, Cache] = {}
    for layer in model.layers:
        kept: list[Cache] = [*layer.states, *(cache for cache, _ in (*layer.attends, *layer.scores))]
        for cache in kept:
            found.setdefault(cache.name, cache)
    return tuple(found.values())


def attention(layer: Layer) -> Iterator[Op]:
    """What reads and writes the caches of a layer."""
    at = f"blk.{layer.index}."
    for cache, heads in layer.scores:
        yield Opaque(f"{cache.name}.scores", ("stream",), "scores", (), caches=(cache,), heads=heads, scores=True)
    for cache, heads in layer.attends:
        own = cache.name.startswith(at)
        kept, read = ((cache,), ()) if own else ((), (cache,))
        name = f"{at}{cache.name.rpartition('.')[2]}.attn"
        yield Opaque(name, ("stream",), "stream", (), caches=kept, heads=heads, shared=read)


def _named(name: str, shape: Shape) -> str:
    """As GGUF has it: biases of routers are no weights by name."""
    return f"{name}.bias" if name.endswith(("exp_probs_b", "_bias", "ssm_dt")) and len(shape) == 1 else f"{name}.weight"
