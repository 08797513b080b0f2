"""One process's part of a model that several run together with the bits of one: by rows, or by layers.

tensor    every process has some of the heads and of each matrix's rows, and all values whole: what a matrix multiplies
          is gathered before it, not summed behind it. A row's sum is then added up in one process, in the order in
          which one process alone would; partial sums of columns would be other bits.
pipeline  every process has some of the layers; the last one hands the logits back to the first.

Unlike `memfirst.transform.shard`, which is what other engines do, parts need not be alike: 9 heads over 3 of keys are
cut for two processes as 3 and 6.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

from memfirst.convert.mixes import layer_of
from memfirst.errors import ConfigError, UnsupportedError
from memfirst.graph import Graph, KVCache, Op, Shard, StateCache, Weight
from memfirst.graph.ops.add import Add
from memfirst.graph.ops.attention import Attention
from memfirst.graph.ops.collective import AllGather, Receive, Send
from memfirst.graph.ops.embed import Embed
from memfirst.graph.ops.glu import Glu
from memfirst.graph.ops.linear import Linear
from memfirst.graph.ops.norm import RMSNorm
from memfirst.graph.ops.rope import Rope
from memfirst.graph.ops.scale import Scale
from memfirst.graph.ops.select import Select
from memfirst.graph.types import PACK

TENSOR, PIPELINE = "tensor", "pipeline"
KINDS = (TENSOR, PIPELINE)
CUTTABLE = (Embed, RMSNorm, Linear, Rope, Attention, Glu, Add, Select, Scale)
"""What a model cut by rows may consist of."""


def check_kind(kind: str) -> str:
    """ConfigError for another kind of split."""
    if kind not in KINDS:
        raise ConfigError(f"a model split by {kind[:40]!r}", " or ".join(KINDS))
    return kind


def split(graph: Graph, kind: str, index: int, of: int) -> Graph:
    """Process `index`'s part of `of`; UnsupportedError where the model cannot be cut so."""
    if of == 1:
        return graph
    return _by_layers(graph, index, of) if kind == PIPELINE else _by_rows(graph, index, of)


# --- by rows


def _by_rows(graph: Graph, index: int, of: int) -> Graph:
    do = "split it by layers: pipeline"
    odd = [op.name for op in graph.ops if not isinstance(op, CUTTABLE)]
    if odd:
        raise UnsupportedError(f"{odd[0]} cannot be cut by rows yet", "attention and dense feed-forwards", do)
    rows = _Rows(graph, index, of)
    for op in graph.ops:
        rows.add(op)
    caches = tuple(rows.caches.get(c.name, c) for c in graph.caches)
    return replace(graph, ops=tuple(rows.ops), caches=caches)


class _Rows:
    """The operations of one process, as they are made."""

    def __init__(self, graph: Graph, index: int, of: int) -> None:
        self.index, self.of = index, of
        self.ops: list[Op] = []
        self.caches: dict[str, KVCache] = {}
        self._cut = self._cuts(graph)
        self._whole: dict[str, str] = {}

    def _cuts(self, graph: Graph) -> dict[str, tuple[int, ...]]:
        """Values of which each process holds its columns, with all their widths: queries, keys and values by whole
        heads of keys, and what is gated."""
        cut: dict[str, tuple[int, ...]] = {}
        made = {op.output: op for op in graph.ops}
        for op in reversed(graph.ops):
            if isinstance(op, Attention):
                heads = _shares(op.cache.heads, self.of, 1, op.name)
                group = op.heads // op.cache.heads
                widths = (group * op.cache.k_dim, op.cache.k_dim, op.cache.v_dim)
                for value, width in zip(op.inputs, widths, strict=False):
                    cut[value] = tuple(n * width for n in heads)
                cut[op.output] = tuple(n * group * op.cache.v_dim for n in heads)
            elif isinstance(op, Glu):
                cut |= dict.fromkeys((op.output, *op.inputs), _shares(op.width, self.of, PACK, op.name))
            elif isinstance(op, Rope | RMSNorm) and op.output in cut and op.heads:
                cut[op.inputs[0]] = cut[op.output]
            elif op.output in cut and not isinstance(op, Linear):
                raise UnsupportedError(f"{op.name} cannot be cut by rows", "a matrix", "split it by layers: pipeline")
        return {value: widths for value, widths in cut.items() if value in made}

    def add(self, op: Op) -> None:
        """The operation's part, behind what gathers its inputs."""
        if isinstance(op, Attention | Glu) or (op.output in self._cut and not isinstance(op, Linear)):
            self.ops.append(self._part(op))
            return
        op = replace(op, inputs=tuple(self._gathered(value, op) for value in op.inputs))
        if isinstance(op, Linear):
            self._linear(op)
        else:
            self.ops.append(op)

    def _part(self, op: Op) -> Op:
        """Of what works on heads, or on columns one by one."""
        mine = self._cut[op.output][self.index]
        if isinstance(op, Attention):
            group, first, n = op.heads // op.cache.heads, *_own(op.cache.heads, self.index, self.of)
            cache = self.caches[op.cache.name] = replace(op.cache, heads=n)
            sinks = op.sinks and _rows(op.sinks, first * group, n * group)
            return replace(op, cache=cache, heads=n * group, sinks=sinks)
        if isinstance(op, Rope | RMSNorm):
            return replace(op, heads=op.heads * mine // sum(self._cut[op.output]))
        return replace(op, width=mine)  # type: ignore[call-arg]  # Glu, Scale

    def _gathered(self, value: str, op: Op) -> str:
        """The whole of a value, gathered when it is first needed."""
        if value not in self._cut:
            return value
        if value not in self._whole:
            whole, parts = f"{value}.whole", self._cut[value]
            self._whole[value] = whole
            self.ops.append(AllGather(whole, (value,), whole, sum(parts), self.of, False, parts, self.index))
        return self._whole[value]

    def _linear(self, op: Linear) -> None:
        """Some rows of the matrix; the output is gathered unless only its own columns are worked on."""
        parts = self._cut.get(op.output) or _shares(op.weight.rows, self.of, PACK, op.name)
        first, n = sum(parts[: self.index]), parts[self.index]
        bias = op.bias and _rows(op.bias, first, n)
        if op.output in self._cut:
            self.ops.append(replace(op, weight=_rows(op.weight, first, n), bias=bias))
            return
        part = replace(op, weight=_rows(op.weight, first, n), bias=bias, output=f"{op.output}.part")
        whole = AllGather(
            f"{op.name}.whole", (part.output,), op.output, sum(parts), self.of, op.head, parts, self.index
        )
        self.ops += [part, whole]


def _shares(n: int, of: int, unit: int, name: str) -> tuple[int, ...]:
    """n cut for all processes, in whole units but for the last; the first, which has more to do, gets no more than
    others."""
    units = -(-n // unit)
    if units < of:
        raise UnsupportedError(f"{name}: {units} parts for {of} processes", "at least one for each", "start fewer")
    ends = [min(n, unit * (units * i // of)) for i in range(of)] + [n]
    return tuple(b - a for a, b in pairwise(ends))


def _own(n: int, index: int, of: int) -> tuple[int, int]:
    parts = _shares(n, of, 1, "heads")
    return sum(parts[:index]), parts[index]


def _rows(weight: Weight, first: int, n: int) -> Weight:
    """Rows (axis 0) from `first` on."""
    whole = weight.shard
    if whole is not None:
        raise UnsupportedError(f"{weight.name} is a part already", "a whole model")
    return replace(weight, shape=(n, *weight.shape[1:]), shard=Shard(0, 0, 1, ((first, n),)))


# --- by layers


@dataclass(frozen=True)
class _Stages:
    """Which process has which operation."""

    graph: Graph
    of: int

    def places(self) -> list[int]:
        """The process of each operation: whole layers, as many bytes of weights for each as can be; what stands before
        the layers is the first one's, what stands behind them the last one's."""
        ops, layers = self.graph.ops, 1 + max(layer_of(op.name) for op in self.graph.ops)
        if layers < self.of:
            raise UnsupportedError(f"{layers} layers for {self.of} processes", "at least one for each", "start fewer")
        sizes, layer = [0.0] * layers, 0
        at: list[int] = []
        for op in ops:
            found = layer_of(op.name)
            layer = found if found >= 0 else (layers - 1 if any(a == layers - 1 for a in at) else layer)
            at.append(layer)
            sizes[layer] += sum(0 if isinstance(op, Embed) else w.nbytes for w in op.weights)
        bounds = _bounds(sizes, self.of)
        return [next(i for i in range(self.of) if bounds[i] <= a < bounds[i + 1]) for a in at]


def _bounds(sizes: list[float], of: int) -> list[int]:
    """The first layer of each process, and the number of layers: ends nearest to equal bytes, none without a layer."""
    total, bounds = sum(sizes), [0]
    for i in range(1, of):
        low, high = bounds[-1] + 1, len(sizes) - (of - i)
        target = total * i / of
        bounds.append(min(range(low, high + 1), key=lambda end: abs(sum(sizes[:end]) - target)))
    return [*bounds, len(sizes)]


def _by_layers(graph: Graph, index: int, of: int) -> Graph:
    places = _Stages(graph, of).places()
    made = {op.output: place for op, place in zip(graph.ops, places, strict=True)}
    last = {value: place for op, place in zip(graph.ops, places, strict=True) for value in op.inputs}
    mine = [op for op, place in zip(graph.ops, places, strict=True) if place == index]
    cached = _caches(graph, places, index)
    widths = {op.output: _width(op) for op in graph.ops}
    # What an earlier process made and this one or a later one needs passes through every process between them.
    before = [v for v, place in made.items() if place < index <= last.get(v, place)]
    after = [v for v, place in made.items() if place <= index < last.get(v, place)]
    ops: list[Op] = [Receive(f"{v}.from", (), v, widths[v], index - 1) for v in before]
    ops += map(_stored, mine) if index else mine
    ops += [Send(f"{v}.to", (v,), f"{v}.sent", widths[v], index + 1) for v in after]
    logits = graph.ops[-1].output
    if index == of - 1:
        ops.append(Send("logits.to", (logits,), f"{logits}.sent", graph.vocab_size, 0, True))
    elif index == 0:
        ops.append(Receive("logits.from", (), logits, graph.vocab_size, of - 1, True))
    return replace(graph, ops=tuple(ops), caches=cached)


def _stored(op: Op) -> Op:
    """An operation behind the first process, which has the embedding: a head that shares its bytes has its own here."""
    own = {w.name: replace(w, name=w.alias, alias="") for w in op.weights if w.alias}
    return op.with_weights(own)


def _width(op: Op) -> int:
    """Columns of an operation's output."""
    if isinstance(op, Linear):
        return op.weight.rows
    if isinstance(op, Attention):
        return op.heads * op.cache.v_dim
    return int(getattr(op, "width", 0)) or op.weights[0].columns


def _caches(graph: Graph, places: list[int], index: int) -> tuple[KVCache | StateCache, ...]:
    """Those that this process's operations use. Block tables are the same in all processes, so each must have caches of
    every shape."""
    users: dict[str, set[int]] = {}
    for op, place in zip(graph.ops, places, strict=True):
        found = getattr(op, "cache", None)
        for cache in (found,) if found is not None else ():
            users.setdefault(cache.name, set()).add(place)
    crossing = next((name for name, who in users.items() if len(who) > 1), "")
    if crossing:
        raise UnsupportedError(f"{crossing} is read by layers of several processes", "layers with caches of their own")
    own = tuple(c for c in graph.caches if index in users.get(c.name, ()))
    kinds = {_kind(c) for c in graph.caches}
    if {_kind(c) for c in own} != kinds:
        raise UnsupportedError(
            f"a part with {len(own)} caches, not of all {len(kinds)} shapes", "layers of every shape in each part",
            "start fewer processes",
        )  # fmt: skip
    return own


def _kind(cache: KVCache | StateCache) -> object:
    return replace(cache, name="") if isinstance(cache, KVCache) else StateCache
