"""One device's part of a model whose layers are shared by `of` devices (tensor parallelism).

q, k, v, gate and up are cut by rows, so that a device has whole heads; the projections after them by
columns, which leaves each device a partial sum for an AllReduce; the head by rows, with an AllGather.
KV heads are replicated where there are fewer than devices.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from memfirst import codecs
from memfirst.errors import UnsupportedError
from memfirst.graph import Cache, Graph, KVCache, Op, Shard, Weight
from memfirst.ops.add import Add
from memfirst.ops.attention import Attention
from memfirst.ops.collective import AllGather, AllReduce
from memfirst.ops.embed import Embed
from memfirst.ops.glu import Glu
from memfirst.ops.linear import Linear
from memfirst.ops.norm import RMSNorm
from memfirst.ops.rope import Rope
from memfirst.ops.select import Select

SHAREABLE = (Embed, RMSNorm, Linear, Rope, Attention, Glu, Add, Select)


def shard(graph: Graph, index: int, of: int) -> Graph:
    """Device `index`'s graph; UnsupportedError where heads, widths or codec blocks do not divide."""
    if of == 1:
        return graph
    odd = [op.name for op in graph.ops if not isinstance(op, SHAREABLE)]
    if odd:
        raise UnsupportedError(f"{odd[0]} cannot be shared by devices yet", "a Llama or a relative")
    part = _Part(index, of, _cut_values(graph))
    ops = tuple(new for op in graph.ops for new in part.ops(op))
    return replace(graph, ops=ops, caches=tuple(part.cache(c) for c in graph.caches))


def _cut_values(graph: Graph) -> dict[str, int]:
    """Values of which a device holds its share, with the heads that they are made of (0: cut anywhere).

    Read backwards from attentions and gated units: what feeds them is cut as they are.
    """
    cut: dict[str, int] = {}
    for op in reversed(graph.ops):
        if isinstance(op, Attention):
            q, k, v = op.inputs
            cut |= {op.output: op.heads, q: op.heads, k: op.cache.heads, v: op.cache.heads}
        elif isinstance(op, Glu):
            cut |= dict.fromkeys((op.output, *op.inputs), 0)
        elif isinstance(op, Rope | RMSNorm) and op.output in cut:
            cut |= dict.fromkeys(op.inputs, cut[op.output])
    return cut


@dataclass(frozen=True)
class _Part:
    index: int
    of: int
    cut: dict[str, int]

    def ops(self, op: Op) -> tuple[Op, ...]:
        """What takes the operation's place."""
        if isinstance(op, Linear):
            return self._linear(op)
        if isinstance(op, Attention):
            if op.sinks is not None:
                raise UnsupportedError("attention sinks shared by devices", "one device")
            return (replace(op, cache=self._kv(op.cache), heads=self._share(op.heads, op.name)),)
        if isinstance(op, Rope) or (isinstance(op, RMSNorm) and op.heads):
            return (replace(op, heads=self._heads(op.heads, op.name)),)
        return (replace(op, width=self._share(op.width, op.name)),) if isinstance(op, Glu) else (op,)

    def _linear(self, op: Linear) -> tuple[Op, ...]:
        if op.head:
            part = replace(op, weight=self._rows(op.weight, 0), output=f"{op.output}_part")
            gather = AllGather(f"{op.name}_gather", (part.output,), op.output, op.width, self.of, head=True)
            return part, gather
        if op.output in self.cut:
            heads = self.cut[op.output]
            bias = None if op.bias is None else self._rows(op.bias, heads)
            return (replace(op, weight=self._rows(op.weight, heads), bias=bias),)
        if op.inputs[0] not in self.cut:
            return (op,)
        if op.bias is not None:
            raise UnsupportedError(f"{op.name}: a bias after a sum over devices", "no bias")
        part = replace(op, weight=self._columns(op.weight), output=f"{op.output}_part")
        return part, AllReduce(f"{op.name}_sum", (part.output,), op.output, op.width, self.of)

    def cache(self, cache: Cache) -> Cache:
        """The device's part of a cache."""
        return self._kv(cache) if isinstance(cache, KVCache) else cache

    def _kv(self, cache: KVCache) -> KVCache:
        return replace(cache, heads=self._heads(cache.heads, cache.name), device=self.index)

    def _share(self, n: int, name: str) -> int:
        if n % self.of:
            raise UnsupportedError(f"{name}: {n} over {self.of} devices", "a whole share for each")
        return n // self.of

    def _heads(self, heads: int, name: str) -> int:
        """A device's heads: its share, or one that several devices hold."""
        return 1 if self.of % heads == 0 else self._share(heads, name)

    def _rows(self, weight: Weight, heads: int) -> Weight:
        """Rows (axis 0) of this device, by whole heads where there are any."""
        parts = min(heads, self.of) if heads else self.of
        if self._shareable(weight.shape[0], parts, weight.name):
            place = Shard(0, self.index * parts // self.of, parts)
            return self._placed(weight, place, (weight.shape[0] // parts, *weight.shape[1:]))
        return weight

    def _shareable(self, rows: int, parts: int, name: str) -> bool:
        if rows % parts:
            raise UnsupportedError(f"{name}: {rows} rows over {parts} devices", "a whole share for each")
        return parts > 1

    def _columns(self, weight: Weight) -> Weight:
        columns = self._share(weight.columns, weight.name)
        block = codecs.BLOCK_TYPES[weight.codec].block
        if columns % block:
            found = f"{weight.name}: {columns} columns a device"
            raise UnsupportedError(found, f"whole {weight.codec} blocks of {block}")
        return self._placed(weight, Shard(1, self.index, self.of), (weight.rows, columns))

    def _placed(self, weight: Weight, place: Shard, shape: tuple[int, ...]) -> Weight:
        return replace(weight, shard=place, shape=shape, device=self.index)
