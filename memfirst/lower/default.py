"""The default lowering: one operation at a time, over any values, with any number of consumers.

Each kind of operation has one function, here or in a module of its own (`attention`), that adds its nodes; an
operation whose kind has none is refused by name. A value is written over the one before it only where nobody reads
that any more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import singledispatch
from itertools import accumulate
from math import ceil

from memfirst.errors import UnsupportedError
from memfirst.graph import CacheGroup, Graph, Op, Weight
from memfirst.graph.ops.activation import Activation
from memfirst.graph.ops.add import Add
from memfirst.graph.ops.attention import Attention
from memfirst.graph.ops.embed import Embed
from memfirst.graph.ops.experts import Experts, Router
from memfirst.graph.ops.glu import Glu
from memfirst.graph.ops.latent import LatentAttention
from memfirst.graph.ops.layer_norm import LayerNorm
from memfirst.graph.ops.linear import Linear
from memfirst.graph.ops.multiply import Multiply
from memfirst.graph.ops.norm import RMSNorm
from memfirst.graph.ops.rope import HALF, Rope
from memfirst.graph.ops.scale import Scale, ScaleParts
from memfirst.graph.ops.select import Select
from memfirst.graph.ops.slice import Slice
from memfirst.graph.ops.token_gate import TokenGate
from memfirst.graph.ops.unit_norm import UnitNorm
from memfirst.graph.traffic import EMBEDDING, HEAD, WEIGHTS, Traffic
from memfirst.lower.nodes import (
    COLUMNS,
    ROWS,
    TOKENS,
    Moves,
    Node,
    NodeCall,
    NodeOperand,
    Nodes,
    OfCapacity,
    Place,
    PrivateStride,
    Storage,
    Touch,
    Value,
)
from memfirst.lower.packing import cpu_weights, family, kernel_of, look_up, matmul_operands, offset_of, tile_of, wide
from memfirst.lower.program import Ref
from memfirst.lower.specs import KERNELS
from memfirst.lower.step_fields import SPLIT, count_of, in_group
from memfirst.lower.streaming import looked_up

LOGITS = "logits"
STEP = Ref("step", "step")

Args = dict[str, NodeOperand]


class Default:
    """Lowers a graph op by op, for steps of any capacity over up to `context` positions."""

    def __init__(self, graph: Graph, context: int) -> None:
        self.graph, self.splits = graph, ceil(context / SPLIT)
        self.weights = {w.name: w for op in graph.ops for w in cpu_weights(op)}
        """As the CPU keeps them, by name."""
        self.places = {name: place for i, g in enumerate(graph.cache_groups) for name, place in _places(i, g)}
        """Of each KV cache: its group, the bytes of the group's blocks, and where it begins in one."""
        ends = [0, *accumulate(cache.elements for cache in graph.states)]
        self.state_at = {cache.name: at for cache, at in zip(graph.states, ends, strict=False)}
        """Of each recurrent state, where it begins in a slot of `slot` floats."""
        self.slot = ends[-1]
        self.made = Nodes()
        self.values: dict[str, Value] = {}
        self.views: dict[str, list[str]] = {}
        self.int8: dict[str, Args] = {}
        self.pending = Counter(value for op in graph.ops for value in op.inputs)
        self.readers: dict[str, list[Op]] = {}
        for op in graph.ops:
            for value in op.inputs:
                self.readers.setdefault(value, []).append(op)

    def lower(self) -> Nodes:
        """All operations, in order."""
        for op in self.graph.ops:
            value = self.values[op.output] = lower(op, self)
            self.views.setdefault(value.storage, []).append(op.output)
            for name in op.inputs:
                self.pending[name] -= 1
        self.made.output = self.values[self.graph.ops[-1].output]
        return self.made

    # --- values ----------------------------------------------------------------------------------------

    def input(self, op: Op, index: int = 0) -> Value:
        """One of an operation's inputs."""
        return self.values[op.inputs[index]]

    def new(self, name: str, width: int, rows: str = TOKENS, stride: int = 0) -> Value:
        """A value of its own."""
        self.made.storages[name] = Storage(name, {"": ("f32", stride or width)})
        return Value(name, width, stride or width, 0, rows)

    def arrays(self, name: str, arrays: dict[str, tuple[str, int]], rows: OfCapacity | None = None) -> Args:
        """Several arrays that are made and read together, as operands of their names."""
        self.made.storages[name] = Storage(name, arrays, rows)
        return {array: Place(name, 0, array) for array in arrays}

    def last_use(self, op: Op, index: int = 0) -> bool:
        """Whether nobody but `op` reads any column of its input after now: then it may be written over."""
        name = op.inputs[index]
        mine = self.values[name]
        others = (self.values[n] for n in self.views[mine.storage] if n != name and self.pending[n] > 0)
        return self.pending[name] == op.inputs.count(name) == 1 and not any(mine.overlaps(v) for v in others)

    def writable(self, op: Op, index: int = 0) -> Value:
        """An operation's input to be changed in place: itself where this is its last use, else a copy."""
        value = self.input(op, index)
        return value if self.last_use(op, index) else self.copy(op.output, value, op)

    def copy(self, name: str, value: Value, op: Op) -> Value:
        """The same columns in memory of their own, row after row; of a Select the rows that it picks."""
        out = self.new(name, value.width, value.rows)
        rows = "logit_rows" if value.picked else "all_rows"
        args: Args = {
            "x": value.place, "out": out.place, "rows": Ref("step", rows), "stride": value.stride, "width": value.width,
        }  # fmt: skip
        self.tokens(f"{name}_copy", op, [KERNELS["activations.copy"].call(args, op.name)], [value], [out], value.rows)
        return out

    def dense(self, value: Value, op: Op, index: int = 0) -> Value:
        """An input where its rows lie one after another; a copy where they do not."""
        plain = value.stride == value.width and not value.picked
        return value if plain else self.copy(f"{op.name}_input_{index}", value, op)

    def units(self, capacity: int) -> int:
        """Units of attention of a step at most: a token each, or with few tokens a split of its context each."""
        return max(capacity, min(capacity, 8) * self.splits)

    # --- nodes -----------------------------------------------------------------------------------------

    def columns(
        self, name: str, calls: Sequence[NodeCall], reads: Sequence[Value], out: Value, moves: Moves, align: int = ROWS,
        units: int = 0,
    ) -> Node:  # fmt: skip
        """A node over the columns of `out`; `units` of them where padding is computed too."""
        per = "any_logits" if out.rows == LOGITS else ""
        units = units or out.width
        node = Node(
            name, list(calls), COLUMNS, units, per, [touch(v) for v in reads], [touch(out, units)], moves, align
        )
        node.first = Touch(out.storage, out.at, units)
        self.made.nodes.append(node)
        return node

    def tokens(
        self, name: str, op: Op, calls: Sequence[NodeCall], reads: Sequence[Value], outs: Sequence[Value], rows: str,
        moves: Moves = (), repeats: bool = False,
    ) -> Node:  # fmt: skip
        """A node over tokens, or over the rows that need logits."""
        touched = [touch(v) for v in reads], [touch(v) for v in outs]
        node = Node(name, list(calls), TOKENS, 1, rows, *touched, moves, 1, repeats)
        self.made.nodes.append(node)
        return node

    def moves(self, op: Op) -> Moves:
        """An operation's traffic, with packed weights."""
        found: tuple[Traffic, ...] = op.with_weights(self.weights).traffic()
        return tuple([(op.name, read) for read in found])

    def of_group(self, op: Attention | LatentAttention, name: str) -> Ref:
        """An array of the step that belongs to an attention's cache group."""
        return Ref("step", in_group(name, self.graph.group_of[op.cache.name]))


def _places(index: int, group: CacheGroup) -> Iterator[tuple[str, tuple[int, int, int]]]:
    each = group.block_bytes // len(group.caches)
    return ((cache.name, (index, group.block_bytes, i * each)) for i, cache in enumerate(group.caches))


def touch(value: Value, width: int = 0) -> Touch:
    """All columns of a value, with `width` of them where padding counts."""
    return Touch(value.storage, value.at, width or value.width)


def only(moves: Moves, *purposes: str) -> Moves:
    """Those of some purposes."""
    return tuple((op, read) for op, read in moves if read.purpose in purposes)


def weight_ref(weight: Weight) -> Ref:
    """A stored weight as an operand; an alias is the tensor whose bytes it shares, or some rows of it."""
    return Ref("weight", weight.alias or weight.name, offset_of(weight))


def multiple(op: Op, width: int, of: int) -> None:
    """UnsupportedError for a width that kernels cannot take."""
    if width % of:
        raise UnsupportedError(f"{op.name} has rows of {width}", f"a multiple of {of} on the CPU backend")


@singledispatch
def lower(op: Op, d: Default) -> Value:
    """Adds the nodes of `op`; returns where its output lies."""
    raise UnsupportedError(f"no kernel for {type(op).__name__} ({op.name})")


def lowered(kind: type[Op]) -> bool:
    """Whether operations of that kind have a default lowering."""
    return lower.dispatch(kind) is not lower.dispatch(object)


@lower.register
def _(op: Embed, d: Default) -> Value:
    w, out = op.weight, d.new(op.output, op.weight.columns)
    operands, codec = look_up(w)
    args: Args = {**looked_up(w), "x": out.place, "cols": w.columns, "scale": op.scale, **operands}
    calls = [KERNELS[f"embed.{kernel_of(w)}"].call(args, op.name, EMBEDDING, **codec)]
    d.tokens(op.name, op, calls, [], [out], TOKENS, d.moves(op))
    return out


@lower.register
def _(op: RMSNorm, d: Default) -> Value:
    if len(op.weight.shape) > 1:
        return _norm_groups(op, op.weight, op.weight.columns, d)
    return _norm_heads(op, d) if op.heads else _norm_rows(op, d)


def _norm_rows(op: RMSNorm, d: Default) -> Value:
    """Of whole rows; those that a Select picks are read where they lie."""
    width, x = op.weight.columns, d.input(op)
    out = d.new(op.output, width, x.rows)
    args: Args = {
        "x": x.place, "w": weight_ref(op.weight), "out": out.place, "width": width, "stride": x.stride, "eps": op.eps,
        "rows": _rows_of(x), "private": PrivateStride(out.storage), "offset": op.offset,
    }  # fmt: skip
    call = KERNELS["activations.rms_norm"].call(args, op.name, HEAD if op.head else WEIGHTS)
    d.tokens(op.name, op, [call], [x], [out], x.rows, d.moves(op), repeats=True)
    return out


def _rows_of(x: Value) -> Ref:
    """Which rows of a value count: those that a Select picked, or all."""
    return Ref("step", "logit_rows" if x.picked else "all_rows")


def _norm_groups(op: RMSNorm | UnitNorm, weight: Weight | None, group: int, d: Default) -> Value:
    """Of a whole row, or of groups that are a large part of it (Mamba-2's): by tokens, which every worker may do for
    itself."""
    x = d.input(op)
    x = d.dense(x, op) if x.picked else x
    out = d.new(op.output, op.width, x.rows)
    args: Args = {
        "x": x.place, "w": x.place if weight is None else weight_ref(weight), "out": out.place, "width": op.width,
        "group": group, "stride": x.stride, "eps": op.eps, "private_x": PrivateStride(x.storage),
        "private": PrivateStride(out.storage),
    }  # fmt: skip
    purpose = WEIGHTS if weight else ""
    call = KERNELS["activations.norm_groups"].call(args, op.name, purpose, WEIGHT=int(weight is not None))
    d.tokens(op.name, op, [call], [x], [out], x.rows, d.moves(op), repeats=True)
    return out


def _norm_heads(op: RMSNorm, d: Default) -> Value:
    dim = op.weight.columns
    y = d.writable(op)
    args: Args = {
        "y": y.place, "w": weight_ref(op.weight), "step": STEP, "count": count_of(y.rows), "stride": y.stride,
        "head_dim": dim, "eps": op.eps, "offset": op.offset,
    }  # fmt: skip
    call = KERNELS["elementwise.norm_heads"].call(args, op.name, WEIGHTS)
    d.columns(op.name, [call], [y], y, d.moves(op), dim)
    return y


@lower.register
def _(op: UnitNorm, d: Default) -> Value:
    if not op.heads:
        return _norm_groups(op, None, op.width, d)
    dim, y = op.width // op.heads, d.writable(op)
    args: Args = {
        "y": y.place, "step": STEP, "count": count_of(y.rows), "stride": y.stride, "head_dim": dim, "eps": op.eps,
    }  # fmt: skip
    d.columns(op.name, [KERNELS["elementwise.unit_norm"].call(args, op.name)], [y], y, d.moves(op), dim)
    return y


@lower.register
def _(op: Linear, d: Default) -> Value:
    """A matmul; bias, scale and softcap follow on the same rows."""
    x = d.input(op)
    x = d.dense(x, op) if x.picked else x
    purpose = HEAD if op.head else WEIGHTS
    y = d.new(op.output, op.weight.rows, x.rows, stride=op.weight.rows + d.weights[op.weight.name].padding)
    call, reads = matmul(op, d, op.weight, x, y, purpose)
    after = _after(op, y, count_of(x.rows), purpose)
    if y.stride == y.width:
        d.columns(op.name, [call, *after], reads, y, d.moves(op))
        return y
    d.columns(op.name, [call], reads, y, d.moves(op), units=y.stride)
    if after:  # a bias has no padding
        d.columns(f"{op.name}_after", after, [y], y, ())
    return y


def matmul(op: Op, d: Default, w: Weight, x: Value, y: Value, purpose: str) -> tuple[NodeCall, list[Value]]:
    """The call that multiplies an operation's first input, which lies at `x`, and what it reads."""
    args: Args = {"w": weight_ref(w), "y": y.place, "step": STEP, "count": count_of(x.rows), "cols": w.columns}
    args |= {"stride": y.stride, "add_to": 0, **matmul_operands(w)}
    kernel, reads = KERNELS[f"matmul.{kernel_of(w)}"], [x]
    if family(w) == "float":
        args |= {"x": x.place, "stride_x": x.stride, "private": PrivateStride(x.storage)}
    else:
        int8 = quantized(op, d, x)
        args |= {name: int8[name] for name in kernel.operands if name in int8}
        reads = [Value(f"{op.inputs[0]}.int8", 0, 0)]
    return kernel.call(args, op.name, purpose, CODEC=w.codec, TILE=tile_of(w)), reads


def _after(op: Linear, y: Value, count: int, purpose: str) -> list[NodeCall]:
    """Bias, scale and softcap, in place."""
    calls = []
    if op.bias is not None:
        args: Args = {"y": y.place, "bias": weight_ref(op.bias), "step": STEP, "count": count, "stride": y.stride}
        calls.append(KERNELS["elementwise.add_bias"].call(args, op.name, purpose))
    if op.scale != 1:
        calls.append(_in_place("scale", op, y, factor=op.scale))
    if op.softcap:
        calls.append(_in_place("softcap", op, y, cap=op.softcap))
    return calls


def _in_place(kernel: str, op: Op, y: Value, **more: NodeOperand) -> NodeCall:
    """An elementwise kernel of one value, over it."""
    return KERNELS[f"elementwise.{kernel}"].call(one(y, y) | more, op.name)


def one(x: Value, out: Value) -> Args:
    """Operands of an elementwise kernel of one input."""
    count = count_of(x.rows)
    return {"x": x.place, "out": out.place, "step": STEP, "count": count, "stride_x": x.stride, "stride": out.stride}


def quantized(op: Op, d: Default, x: Value) -> Args:
    """int8 of an operation's first input, which lies at `x`, made once for all matmuls that read it."""
    value = op.inputs[0]
    name = f"{value}.int8"
    if name not in d.int8:
        weights = [w for reader in d.readers[value] for w in multiplied(reader, value)]
        call, d.int8[name] = quantize(op, d, name, x, weights)
        d.tokens(f"{op.name}_input", op, [call], [x], [Value(name, 0, 0)], x.rows, repeats=True)
    return d.int8[name]


def multiplied(op: Op, value: str) -> tuple[Weight, ...]:
    """The matrices that an operation multiplies one of its inputs by."""
    if isinstance(op, Linear | Router):
        return (op.weight,)
    return op.inner if isinstance(op, Experts) and value == op.inputs[0] else ()


def quantize(
    op: Op, d: Default, name: str, x: Value, weights: Sequence[Weight], rows: OfCapacity | None = None
) -> tuple[NodeCall, Args]:
    """The call that makes int8 of `x`, in the storage `name`, with `rows`: a scale for each 256 columns where one of
    the matrices that it is made for is a K-quant, else for each 32. And the arrays that it makes."""
    block = 256 if any(wide(w) for w in weights) else 32
    multiple(op, x.width, block)
    per32 = x.width // 32
    made = d.arrays(name, {
        "aq": ("i8", x.width), "ad": ("f32", per32), "ao": ("i32", 3 * per32), "af": ("f32", per32),
        "am": ("i32", x.width // 64), "ap": ("i32", per32),
    }, rows)  # fmt: skip
    made["private"] = PrivateStride(name)
    args: Args = {"x": x.place, "width": x.width, "stride": x.stride, "private_in": PrivateStride(x.storage), **made}
    return KERNELS["activations.quantize"].call(args, op.name, BLOCK=block), made


@lower.register
def _(op: Rope, d: Default) -> Value:
    y = d.writable(op)
    args: Args = {
        "y": y.place, "cos": Ref("table", f"cos:{op.name}"), "sin": Ref("table", f"sin:{op.name}"), "step": STEP,
        "rope_at": Ref("step", "positions"), "count": count_of(y.rows), "stride": y.stride, "start": op.start,
        "head_dim": op.head_dim, "half": len(op.frequencies), "apart": op.apart or len(op.frequencies),
    }  # fmt: skip
    call = KERNELS["elementwise.rope"].call(args, op.name, SPLIT=int(op.style == HALF))
    d.columns(op.name, [call], [y], y, d.moves(op), op.head_dim)
    return y


@lower.register
def _(op: Glu, d: Default) -> Value:
    g, u = d.input(op, 0), d.input(op, 1)
    out = d.new(op.output, op.width)
    args: Args = {"g": g.place, "u": u.place, "out": out.place, "step": STEP, "count": count_of(g.rows)}
    args |= {"stride_g": g.stride, "stride_u": u.stride, "stride": op.width}
    d.columns(op.name, [KERNELS["elementwise.glu"].call(args, op.name, ACT=op.activation)], [g, u], out, d.moves(op))
    return out


@lower.register
def _(op: Add, d: Default) -> Value:
    """In place of the first input that nobody else reads."""
    return _pair(op, d, "add", op.width)


def _pair(op: Add | Multiply, d: Default, kernel: str, width: int) -> Value:
    a, b = d.input(op, 0), d.input(op, 1)
    if not d.last_use(op, 0) and d.last_use(op, 1):
        a, b = b, a
    out = a if d.last_use(op, 0) or d.last_use(op, 1) else d.new(op.output, width, a.rows)
    args: Args = {"a": a.place, "b": b.place, "out": out.place, "step": STEP, "count": count_of(a.rows)}
    args |= {"stride_a": a.stride, "stride_b": b.stride, "stride": out.stride}
    d.columns(op.name, [KERNELS[f"elementwise.{kernel}"].call(args, op.name)], [a, b], out, d.moves(op))
    return out


@lower.register
def _(op: Multiply, d: Default) -> Value:
    """In place of the first input that nobody else reads."""
    return _pair(op, d, "multiply", op.width)


@lower.register
def _(op: Scale, d: Default) -> Value:
    return each(op, d, "scale", factor=op.factor)


@lower.register
def _(op: Activation, d: Default) -> Value:
    return each(op, d, "activate", op.function)


def each(op: Scale | ScaleParts | Activation, d: Default, kernel: str, act: str = "", **more: NodeOperand) -> Value:
    """A function of each value, over the input where nobody else reads it."""
    x = d.input(op)
    x = d.dense(x, op) if x.picked else x
    out = x if d.last_use(op) else d.new(op.output, op.width, x.rows)
    call = KERNELS[f"elementwise.{kernel}"].call(one(x, out) | more, op.name, **({"ACT": act} if act else {}))
    d.columns(op.name, [call], [x], out, d.moves(op))
    return out


@lower.register
def _(op: LayerNorm, d: Default) -> Value:
    """Of whole rows, where those that a Select picks are read where they lie; or of heads."""
    x = d.input(op)
    x = d.dense(x, op) if op.groups > 1 and x.picked else x
    out = d.new(op.output, op.width, x.rows)
    args: Args = {
        "x": x.place, "w": weight_ref(op.weight), "bias": weight_ref(op.bias or op.weight), "out": out.place,
        "eps": op.eps,
    }  # fmt: skip
    purpose, moves, bias = HEAD if op.head else WEIGHTS, d.moves(op), int(op.bias is not None)
    if op.groups > 1:
        size = op.width // op.groups
        args |= {"step": STEP, "count": count_of(x.rows), "stride_x": x.stride, "stride": op.width, "head_dim": size}
        call = KERNELS["elementwise.layer_norm_heads"].call(args, op.name, purpose, BIAS=bias)
        d.columns(op.name, [call], [x], out, moves, size)
        return out
    args |= {"rows": _rows_of(x), "width": op.width, "stride": x.stride, "private": PrivateStride(out.storage)}
    call = KERNELS["activations.layer_norm"].call(args, op.name, purpose, BIAS=bias)
    d.tokens(op.name, op, [call], [x], [out], x.rows, moves, repeats=True)
    return out


@lower.register
def _(op: TokenGate, d: Default) -> Value:
    x, h = d.writable(op, 0), d.input(op, 1)
    args: Args = {"x": x.place, "h": h.place, "w": weight_ref(op.weight), "stride": x.stride, "width": op.width}
    args |= {"stride_h": h.stride, "inner": op.weight.columns}
    call = KERNELS["activations.token_gate"].call(args, op.name, WEIGHTS)
    d.tokens(op.name, op, [call], [x, h], [x], x.rows, d.moves(op))
    return x


@lower.register
def _(op: Select, d: Default) -> Value:
    """Nothing moves yet: a norm reads the rows where they lie."""
    x = d.input(op)
    return Value(x.storage, x.width, x.stride, x.at, LOGITS, picked=True)


@lower.register
def _(op: Slice, d: Default) -> Value:
    """A view; of several heads a copy."""
    x = d.input(op)
    if op.heads == 1:
        return x.part(op.start, op.width)
    out, head = d.new(op.output, op.width, x.rows), op.width // op.heads
    args = one(x, out) | {"start": op.start, "head_x": x.width // op.heads, "head": head}
    call = KERNELS["elementwise.part_of_heads"].call(args, op.name)
    d.columns(op.name, [call], [x], out, d.moves(op), head)
    return out
