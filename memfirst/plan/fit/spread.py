"""A model over several devices: each layer cut for all of them, or whole layers one after another."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from itertools import accumulate

from memfirst.convert.mixes import layer_of
from memfirst.errors import ConfigError
from memfirst.graph import Cache, Graph
from memfirst.graph.ops.embed import Embed
from memfirst.plan.fit.allocators import Allocator
from memfirst.predict.fitted import PARALLEL, TENSOR

MAX_DEVICES = 1 << 12


def parts(
    graph: Graph, memories: Sequence[int], parallel: str, contexts: Sequence[int], allocator: Allocator
) -> tuple[Graph, ...]:
    """Each device's graph.

    parallel  "tensor": every layer cut into equal shares (KV heads copied where there are fewer than devices);
              "pipeline": whole layers in order, by each device's share of the memory

    Raises ConfigError for another kind of parallelism, UnsupportedError where a tensor cannot be cut.
    """
    if parallel not in PARALLEL or not 1 <= len(memories) <= MAX_DEVICES or min(memories) < 1:
        raise ConfigError(
            f"{len(memories)} devices in {parallel!r} parallelism", f"at least one, {' or '.join(PARALLEL)}"
        )
    if len(memories) == 1:
        return (graph,)
    if parallel == TENSOR:
        from memfirst.transform.shard import shard  # few plans cut layers

        cut = (shard(graph, i, len(memories)) for i in range(len(memories)))
        return tuple(_rows_cut(part, len(memories)) if allocator.cuts_embedding else part for part in cut)
    first = boundaries(layer_bytes(graph, contexts, allocator), memories)
    return tuple(_stage(graph, i, first) for i in range(len(memories)))


def layer_count(graph: Graph) -> int:
    """Layers of a graph."""
    return 1 + max(layer_of(op.name) for op in graph.ops)


def layer_bytes(graph: Graph, contexts: Sequence[int], allocator: Allocator) -> list[int]:
    """Weights, cache and state of each layer; what stands before and after them counts with the first and last."""
    sizes, place = cache_bytes(graph, contexts, allocator), 0
    for op in graph.ops:
        layer = layer_of(op.name)
        place = layer if layer >= 0 else (len(sizes) - 1 if place else 0)
        sizes[place] += sum(w.nbytes for w in op.weights)
    return sizes


def cache_bytes(graph: Graph, contexts: Sequence[int], allocator: Allocator) -> list[int]:
    """Cache and state that the engine allocates for each layer."""
    by_layer: list[list[Cache]] = [[] for _ in range(layer_count(graph))]
    for cache in graph.caches:
        by_layer[layer_of(cache.name)].append(cache)
    sizes, found = list[int](), dict[Hashable, int]()
    for own in by_layer:
        alike = tuple((type(c), *(value for name, value in vars(c).items() if name != "name")) for c in own)
        if alike not in found:  # most layers are
            alone = replace(graph, caches=tuple(own))
            found[alike] = allocator.kv(alone, contexts) + allocator.state(alone, len(contexts))
        sizes.append(found[alike])
    return sizes


def boundaries(sizes: Sequence[int], memories: Sequence[int]) -> list[int]:
    """The first layer of each device, and the number of layers: each takes layers up to its share of the memory.

    A layer belongs to the device that its middle byte falls to; a device may get none.
    """
    whole, total = sum(memories), sum(sizes)
    ends = [share * total / whole for share in accumulate(memories)]
    middles = [end - size / 2 for size, end in zip(sizes, accumulate(sizes), strict=True)]
    return [0, *(sum(m < end for m in middles) for end in ends[:-1]), len(sizes)]


def _rows_cut(graph: Graph, of: int) -> Graph:
    """The graph with a share of the embedding's rows, those of the last device being as many as the others'."""
    ops = tuple(_share_of_rows(op, of) if isinstance(op, Embed) else op for op in graph.ops)
    return replace(graph, ops=ops)


def _share_of_rows(op: Embed, of: int) -> Embed:
    rows, columns = op.weight.shape
    return replace(op, weight=replace(op.weight, shape=(-(-rows // of), columns)))


def _stage(graph: Graph, index: int, first: Sequence[int]) -> Graph:
    """Device `index`'s operations and caches; the first also embeds, the last has the head."""
    low, high = first[index], first[index + 1]
    start, stop = index == 0, index == len(first) - 2
    ops, before = [], True
    for op in graph.ops:
        layer = layer_of(op.name)
        before = before and layer < 0
        if low <= layer < high or (layer < 0 and (start if before else stop)):
            ops.append(op)
    caches = tuple(replace(c, device=index) for c in graph.caches if low <= layer_of(c.name) < high)
    return replace(graph, ops=tuple(ops), caches=caches)
