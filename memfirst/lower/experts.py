"""The default lowering of routed experts: logits, each token's experts, each expert's tokens, their matmuls.

A router's value is no matrix here but the `k` experts of each token, and their weights. One kernel groups these pairs
by expert and writes the number of active experts into the step's header; behind its barrier the matmuls have their
ranges from there. A pair's row in what lies between the matmuls is token · k + rank: k rows a token.

Where an expert's matrix lies in its tensor's bytes is in a table of its own (`tables.experts`), which the kernels read
at each step: whoever keeps some of the experts elsewhere changes the table, and nothing here.
"""

from __future__ import annotations

from memfirst.errors import UnsupportedError
from memfirst.graph import Weight
from memfirst.graph.ops.experts import Experts, Router
from memfirst.graph.traffic import EXPERTS as ROUTED
from memfirst.graph.traffic import WEIGHTS, ExpertTraffic
from memfirst.lower.default import STEP, Args, Default, lower, matmul, quantize, quantized, touch, weight_ref
from memfirst.lower.nodes import (
    EXPERTS,
    TOKENS,
    UNITS,
    Moves,
    Node,
    NodeCall,
    NodeStatic,
    Place,
    PrivateStride,
    Scratch,
    Storage,
    Touch,
    Value,
)
from memfirst.lower.packing import family, kernel_of, routed_float_tile, routed_tile
from memfirst.lower.program import Ref
from memfirst.lower.specs import KERNELS
from memfirst.lower.step_fields import active_experts, count_of


@lower.register
def _(op: Router, d: Default) -> Value:
    """Logits, then each token's experts."""
    readers = d.readers.get(op.output, ())
    if not all(isinstance(r, Experts) and r.inputs[1] == op.output for r in readers):
        raise UnsupportedError(f"{op.name} is read by more than routed experts")
    x, count = d.dense(d.input(op), op), op.weight.rows
    logits = d.new(f"{op.output}.logits", count, stride=count + d.weights[op.weight.name].padding)
    call, reads = matmul(op, d, op.weight, x, logits, WEIGHTS)
    d.columns(op.name, [call], reads, logits, d.moves(op), units=logits.stride)
    args: Args = d.arrays(op.output, {"expert": ("i32", op.k), "weight": ("f32", op.k)})
    args |= {
        "logits": logits.place, "logit_bias": _or(op.logit_bias, logits), "bias": _or(op.bias, logits),
        "scales": _or(op.expert_scale, logits),
        "floats": Scratch("router", "f32", 4 * count), "experts": count, "stride": logits.stride, "k": op.k,
        "groups": op.groups, "groups_used": op.groups_used, "scale": op.scale, "private": PrivateStride(op.output),
    }  # fmt: skip
    vectors = {"LOGIT_BIAS": op.logit_bias, "BIAS": op.bias, "SCALES": op.expert_scale}
    there = {name: int(vector is not None) for name, vector in vectors.items()}
    pick = KERNELS["experts.pick"].call(
        args, op.name, WEIGHTS if any(there.values()) else "", SIGMOID=int(op.scoring == "sigmoid"),
        NORMALIZE=int(op.normalize), **there,
    )  # fmt: skip
    picked = Value(op.output, 0, 0)
    d.tokens(f"{op.name}_pick", op, [pick], [logits], [picked], TOKENS, repeats=True)
    return picked


def _or(weight: Weight | None, other: Value) -> Ref | Place:
    """A weight as an operand; where there is none, something that is not read."""
    return other.place if weight is None else weight_ref(weight)


@lower.register
def _(op: Experts, d: Default) -> Value:
    """Pairs grouped by expert, gate and up, the gated unit, down."""
    return _Routed(op, d).lower()


class _Routed:
    """One operation's nodes in the making."""

    def __init__(self, op: Experts, d: Default) -> None:
        self.op, self.d = op, d
        routed = [o for o in d.graph.ops if isinstance(o, Experts)]
        index = next(i for i, o in enumerate(routed) if o.name == op.name)
        self.counts_at = sum(o.up.shape[0] for o in routed[:index])
        """Where this operation's counts of tokens begin among those of all."""
        self.experts, self.active = op.up.shape[0], active_experts(index)
        self.lists = Value(f"{op.name}.pairs", 0, 0), Value(f"{op.name}.active", 0, 0)
        self.args: Args = d.arrays(self.lists[0].storage, {"pairs": ("i32", op.k), "weights": ("f32", op.k)})
        self.args |= d.arrays(
            self.lists[1].storage, {"active": ("i32", self.experts), "first": ("i32", self.experts + 1)}, _one
        )
        self.shares: Args = {"weights": Ref("table", f"ones:{op.k}")} if op.weigh_input else {}
        """Of what experts give: a weight that was put on what they got is not put on it again."""
        self.args |= {"step": STEP, "count": count_of(self.active), "tokens": count_of(TOKENS), "k": op.k}

    def lower(self) -> Value:
        """All of them."""
        op, d = self.op, self.d
        self._group()
        x = d.dense(d.input(op), op)
        if op.gate is None:
            up = self._projection("up", op.up, op.up_b, x)
            args: Args = {"g": up.place, "rows": up.stride, "stride": up.stride}
            self._node("act", [self._call("experts.activate", args, ACT=op.activation)], [up], up, ())
            return self._down(up)
        gate, up = self._projection("gate", op.gate, op.gate_b, x), self._projection("up", op.up, op.up_b, x)
        args = {"g": gate.place, "u": up.place, "rows": gate.stride, "stride": gate.stride}
        self._node("glu", [self._call("experts.glu", args, ACT=op.activation)], [gate, up], gate, ())
        return self._down(gate)

    def _group(self) -> None:
        """Pairs by expert, and the step's count of active experts."""
        picked = self.d.input(self.op, 1)
        args: Args = {array: Place(picked.storage, 0, array) for array in ("expert", "weight")}
        args |= {
            "counts": Ref("step", "routing", self.counts_at), "ints": Scratch("grouped", "i32", self.experts),
            "experts": self.experts, "private": PrivateStride(picked.storage),
        }  # fmt: skip
        call = self._call("experts.group", args)
        made = [touch(v) for v in self.lists]
        self.d.made.nodes.append(Node(f"{self.op.name}_group", [call], UNITS, 1, "", [touch(picked)], made, (), 1))

    def _projection(self, part: str, w: Weight, bias: Weight | None, x: Value) -> Value:
        """Gate or up of all pairs, with its bias."""
        op, rows = self.op, w.rows + self.d.weights[w.name].padding
        y = Value(f"{op.name}.{part}", w.rows, rows)
        self.d.made.storages[y.storage] = Storage(y.storage, {"": ("f32", rows)}, self._pairs)
        reads, source = [x], self._floats(x)
        if family(w) != "float":
            reads, source = [Value(f"{op.inputs[0]}.int8", 0, 0)], quantized(op, self.d, x)
        calls = [self._matmul(w, source, y, 0)]
        if op.weigh_input:  # the product of a weighed input is the weighed product
            calls.append(self._call("experts.weigh", {"y": y.place, "rows": rows, "stride": rows}))
        if bias is not None:
            args: Args = {"y": y.place, "bias": weight_ref(bias), "rows": rows, "width": w.rows, "stride": rows}
            calls.append(self._call("experts.add_bias", args, ROUTED))
        self._node(part, calls, reads, y, self._moves(w, bias))
        return y

    def _down(self, h: Value) -> Value:
        """The weighed sum of all experts' products, by columns."""
        op, d, w, bias = self.op, self.d, self.op.down, self.op.down_b
        rows = w.rows + d.weights[w.name].padding
        y = d.new(op.output, w.rows, stride=rows)
        reads, source = [h], self._floats(h)
        if family(w) != "float":
            int8 = Value(f"{op.name}.pairs.int8", 0, 0)
            call, source = quantize(op, d, int8.storage, h, [w], self._pairs)
            node = d.tokens(f"{op.name}_inner", op, [call], [h], [int8], TOKENS, repeats=True)
            node.units, reads = op.k, [int8]
        calls = [self._matmul(w, source | self.shares, y, 1)]
        if bias is not None:
            args: Args = {"y": y.place, "bias": weight_ref(bias), "width": w.rows, "stride": rows, **self.shares}
            calls.append(self._call("experts.add_weighed_bias", args, ROUTED))
        moves = tuple(m for m in d.moves(op) if not isinstance(m[1], ExpertTraffic))
        d.columns(op.name, calls, [*reads, *self.lists], y, self._moves(w, bias) + moves, units=rows)
        return y

    # --- parts of them

    def _pairs(self, capacity: int) -> int:
        """Experts of all tokens together."""
        return capacity * self.op.k

    def _most(self, capacity: int) -> int:
        """Active experts at most."""
        return min(self.experts, self._pairs(capacity))

    def _call(self, kernel: str, args: Args, purpose: str = "", **statics: NodeStatic) -> NodeCall:
        """A call with these operands, and those of the operation that the kernel has."""
        spec = KERNELS[kernel]
        own = {name: operand for name, operand in (self.args | args).items() if name in spec.operands}
        return spec.call(own, self.op.name, purpose, **statics)

    def _floats(self, x: Value) -> Args:
        return {"x": x.place, "width": x.stride, "private": PrivateStride(x.storage)}

    def _matmul(self, w: Weight, source: Args, y: Value, summed: int) -> NodeCall:
        args = source | {"w": weight_ref(w), "places": Ref("table", f"experts:{w.alias or w.name}")}
        args |= {"y": y.place, "rows": y.stride, "cols": w.columns, "stride": y.stride}
        if family(w) == "float":
            return self._call("routed.floats", args, ROUTED, CODEC=w.codec, TILE=routed_float_tile, SUM=summed)
        kind = kernel_of(w)
        return self._call("routed.int8", args, ROUTED, CODEC=w.codec, FAMILY=kind, TILE=routed_tile, SUM=summed)

    def _moves(self, *weights: Weight | None) -> Moves:
        """What is read of some of the experts' tensors."""
        names = {w.name for w in weights if w is not None}
        moves = self.d.moves(self.op)
        return tuple((op, m) for op, m in moves if isinstance(m, ExpertTraffic) and m.weight.name in names)

    def _node(self, part: str, calls: list[NodeCall], reads: list[Value], out: Value, moves: Moves) -> None:
        """A node over active experts × rows."""
        touched = [touch(v) for v in (*reads, *self.lists)]
        node = Node(f"{self.op.name}_{part}", calls, EXPERTS, out.stride, self.active, touched, [], moves)
        node.first, node.times = Touch(out.storage, 0, out.stride), self._most
        node.writes = [node.first]
        self.d.made.nodes.append(node)


def _one(capacity: int) -> int:
    return 1
