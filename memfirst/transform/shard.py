"""One device's part of a model whose layers are shared by `of` devices (tensor parallelism).

q, k, v, gate and up are cut by rows, so that a device has whole heads; the projections after them by
columns, which leaves each device a partial sum for an AllReduce; the head by rows, with an AllGather. Experts are
cut the same way, each of them; a bias after a sum is added by the first device.
KV heads are replicated where there are fewer than devices, and MLA's latent, which all heads read, by all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from memfirst import codecs
from memfirst.errors import UnsupportedError
from memfirst.graph import Cache, Graph, KVCache, Op, Shard, Weight
from memfirst.graph.ops.add import Add
from memfirst.graph.ops.attention import Attention
from memfirst.graph.ops.collective import AllGather, AllReduce
from memfirst.graph.ops.embed import Embed
from memfirst.graph.ops.experts import Experts, Router
from memfirst.graph.ops.glu import Glu
from memfirst.graph.ops.latent import LatentAttention
from memfirst.graph.ops.linear import Linear
from memfirst.graph.ops.norm import RMSNorm
from memfirst.graph.ops.rope import Rope
from memfirst.graph.ops.select import Select
from memfirst.graph.ops.slice import Slice

SHAREABLE = (Embed, RMSNorm, Linear, Rope, Attention, Glu, Add, Select, Router, Experts, LatentAttention, Slice)


def shard(graph: Graph, index: int, of: int) -> Graph:
    """Device `index`'s graph; UnsupportedError where heads, widths or codec blocks do not divide."""
    if of == 1:
        return graph
    odd = [op.name for op in graph.ops if not isinstance(op, SHAREABLE)]
    if odd:
        found = f"{odd[0]} cannot be shared by devices yet"
        raise UnsupportedError(found, "a model of attention, feed-forwards and experts", "split it by layers")
    cut = _cut_values(graph)
    slices = tuple(op for op in graph.of(Slice) if op.output in cut)
    part = _Part(index, of, cut, slices)
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
        elif isinstance(op, LatentAttention):
            cut |= {op.output: op.heads, op.inputs[0]: op.heads}
        elif isinstance(op, Glu):
            cut |= dict.fromkeys((op.output, *op.inputs), 0)
        elif isinstance(op, Rope | RMSNorm) and op.output in cut:
            cut |= dict.fromkeys(op.inputs, cut[op.output])
    return cut


@dataclass(frozen=True)
class _Part:
    """slices: those that cut values are taken from; the product that they share is cut as they are."""

    index: int
    of: int
    cut: dict[str, int]
    slices: tuple[Slice, ...] = ()

    def ops(self, op: Op) -> tuple[Op, ...]:
        """What takes the operation's place."""
        if isinstance(op, Linear):
            return self._linear(op)
        if isinstance(op, Experts):
            return self._experts(op)
        return (self._share_of(op),)

    def _share_of(self, op: Op) -> Op:
        """The device's part of an operation that exchanges nothing."""
        if isinstance(op, Attention):
            sinks = None if op.sinks is None else self._rows(op.sinks, op.heads)
            return replace(op, cache=self._kv(op.cache), heads=self._share(op.heads, op.name), sinks=sinks)
        if isinstance(op, LatentAttention):
            return self._latent(op)
        if isinstance(op, Slice) and op in self.slices:
            return self._slice(op)
        if isinstance(op, Rope) or (isinstance(op, RMSNorm) and op.heads):
            return replace(op, heads=self._heads(op.heads, op.name))
        return replace(op, width=self._share(op.width, op.name)) if isinstance(op, Glu) else op

    def _slice(self, op: Slice) -> Slice:
        """The device's part of a value, behind its parts of those before it."""
        before = (s for s in self._beside(op.inputs[0]) if s.start < op.start)
        return replace(op, start=sum(map(self._width, before)), width=self._width(op))

    def _linear(self, op: Linear) -> tuple[Op, ...]:
        if op.head:
            part = replace(op, weight=self._rows(op.weight, 0), output=f"{op.output}_part")
            gather = AllGather(f"{op.name}_gather", (part.output,), op.output, op.width, self.of, head=True)
            return part, gather
        if beside := self._beside(op.output):
            return (self._fused(op, beside),)
        if op.output in self.cut:
            heads = self.cut[op.output]
            bias = None if op.bias is None else self._rows(op.bias, heads)
            return (replace(op, weight=self._rows(op.weight, heads), bias=bias),)
        if op.inputs[0] not in self.cut:
            return (op,)
        return self._summed(replace(op, weight=self._columns(op.weight), bias=self._once(op.bias)))

    def _fused(self, op: Linear, slices: tuple[Slice, ...]) -> Linear:
        """A product whose output is several values: a share of each, one after another."""
        if op.bias is not None:
            raise UnsupportedError(f"{op.name}: a bias of several values", "no bias")
        ranges = tuple((s.start + self._place(s) * self._width(s), self._width(s)) for s in slices)
        place = Shard(0, self.index, self.of, ranges)
        return replace(op, weight=self._placed(op.weight, place, (sum(n for _, n in ranges), op.weight.columns)))

    def _place(self, op: Slice) -> int:
        """Which of a slice's parts this device has: several have the same where heads are fewer than devices."""
        heads = self.cut[op.output]
        return self.index * min(heads, self.of) // self.of if heads else self.index

    def _beside(self, value: str) -> tuple[Slice, ...]:
        """The slices of a value that are cut, in order."""
        return tuple(sorted((s for s in self.slices if s.inputs[0] == value), key=lambda s: s.start))

    def _width(self, op: Slice) -> int:
        """Floats of a slice on this device, by whole heads where it has any."""
        heads = self.cut[op.output]
        return op.width // heads * self._heads(heads, op.name) if heads else self._share(op.width, op.name)

    def _experts(self, op: Experts) -> tuple[Op, ...]:
        """A share of each expert's feed-forward; which experts a token picks is the same on all devices."""
        gate, up, down = op.gate and self._inner(op.gate), self._inner(op.up), self._columns(op.down)
        gate_b, up_b = (None if b is None else self._inner(b) for b in (op.gate_b, op.up_b))
        part = replace(op, gate=gate, up=up, down=down, gate_b=gate_b, up_b=up_b, down_b=self._once(op.down_b))
        return self._summed(part)

    def _inner(self, weight: Weight) -> Weight:
        """[experts, width of the feed-forward, …], a share of that width."""
        experts, width, *rest = weight.shape
        share = self._share(width, weight.name)
        return self._placed(weight, Shard(1, self.index, self.of), (experts, share, *rest))

    def _latent(self, op: LatentAttention) -> Op:
        """A share of the heads, each with its own matrices; the latent is everyone's."""
        v_b = None if op.v_b is None else self._rows(op.v_b, op.heads)
        heads = self._share(op.heads, op.name)
        return replace(op, cache=self._kv(op.cache), heads=heads, k_b=self._rows(op.k_b, op.heads), v_b=v_b)

    def _once(self, bias: Weight | None) -> Weight | None:
        """What is added after a sum: by the first device."""
        return bias if self.index == 0 else None

    def _summed(self, op: Linear | Experts) -> tuple[Op, ...]:
        part = replace(op, output=f"{op.output}_part")
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
        block = codecs.sized(weight.codec).block
        if columns % block:
            found = f"{weight.name}: {columns} columns a device"
            raise UnsupportedError(found, f"whole {weight.codec} blocks of {block}")
        axis = len(weight.shape) - 1
        return self._placed(weight, Shard(axis, self.index, self.of), (*weight.shape[:-1], columns))

    def _placed(self, weight: Weight, place: Shard, shape: tuple[int, ...]) -> Weight:
        return replace(weight, shard=place, shape=shape, device=self.index)
