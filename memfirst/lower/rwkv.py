"""The default lowering of RWKV's operations: mixes by rows, which matmuls read; what belongs to heads by columns."""

from __future__ import annotations

from memfirst.errors import UnsupportedError
from memfirst.graph.ops.blend import Blend
from memfirst.graph.ops.stacked_linear import StackedLinear
from memfirst.graph.ops.token_lerp import TokenLerp
from memfirst.graph.ops.token_shift import TokenShift
from memfirst.graph.ops.wkv6 import Wkv6
from memfirst.graph.ops.wkv7 import HeadBonus, ScaledKey, Wkv7
from memfirst.graph.traffic import ACTIVATIONS, STATE_READ, STATE_WRITE, WEIGHTS
from memfirst.lower.default import STEP, Args, Default, lower, matmul, multiple, only, touch, weight_ref
from memfirst.lower.nodes import ROWS, SEQUENCES, NodeCall, PrivateStride, Value
from memfirst.lower.packing import family, rows16_bytes
from memfirst.lower.specs import KERNELS
from memfirst.lower.state import clear, state_call, state_touch
from memfirst.lower.step_fields import count_of


@lower.register
def _(op: TokenShift, d: Default) -> Value:
    """Each token's row before it. What the next step will read is first put aside: others may still be reading the
    state, in the slot that is written too."""
    x, moved, state = d.input(op), d.moves(op), state_touch(op.cache)
    out, last = d.new(op.output, op.width, x.rows), d.new(f"{op.name}_last", op.width, x.rows)
    read: Args = {"x": x.place, "width": op.width, "stride_x": x.stride, "private_x": PrivateStride(x.storage)}
    args: Args = {**read, "out": out.place, "private": PrivateStride(out.storage)}
    call = state_call("rwkv.shift", args, op, op.cache, d, STATE_READ)
    node = d.tokens(op.name, op, [call], [x], [out], x.rows, only(moved, STATE_READ, ACTIVATIONS), repeats=True)
    node.reads.append(state)
    node.other_rows = True
    call = state_call("rwkv.last_rows", {**read, "out": last.place}, op, op.cache, d, "")
    d.tokens(f"{op.name}_last", op, [call], [x], [last], SEQUENCES)
    call = state_call("rwkv.keep", {"x": last.place, "width": op.width}, op, op.cache, d, STATE_WRITE)
    d.tokens(f"{op.name}_keep", op, [call], [last], [], SEQUENCES, only(moved, STATE_WRITE)).writes.append(state)
    return out


@lower.register
def _(op: TokenLerp, d: Default) -> Value:
    x, previous, *more = (d.input(op, i) for i in range(len(op.inputs)))
    out, extra = d.new(op.output, op.width, x.rows), more[0] if more else x
    args: Args = {
        "x": x.place, "previous": previous.place, "w": weight_ref(op.weight), "more": extra.place, "out": out.place,
        "width": op.weight.columns, "parts": op.parts, "stride_x": x.stride, "stride_previous": previous.stride,
        "stride_more": extra.stride, "private_x": PrivateStride(x.storage),
        "private_previous": PrivateStride(previous.storage), "private": PrivateStride(out.storage),
    }  # fmt: skip
    call = KERNELS["rwkv.lerp"].call(args, op.name, WEIGHTS, MORE=len(more))
    d.tokens(op.name, op, [call], [x, previous, *more], [out], x.rows, d.moves(op), repeats=True)
    return out


@lower.register
def _(op: StackedLinear, d: Default) -> Value:
    """A matmul for each part of a row; they do not wait for each other."""
    w, x = op.weight, d.input(op)
    if family(w) != "float":
        raise UnsupportedError(f"{op.name} has weights of {w.codec}", "f32, f16 or bf16 on the CPU backend")
    multiple(op, w.rows, ROWS)
    out, moves = d.new(op.output, op.width, x.rows), d.moves(op)
    for p in range(w.matrices):
        part, y = x.part(p * w.columns, w.columns), out.part(p * w.rows, w.rows)
        call, reads = matmul(op, d, w, part, y, WEIGHTS)
        args = dict(call.args)
        args["w"] = weight_ref(w)._replace(offset=p * w.rows // ROWS * rows16_bytes(w))
        name = f"{op.name}_{p}" if p else op.name
        d.columns(name, [call._replace(args=tuple(args.items()))], reads, y, () if p else moves)
    return out


@lower.register
def _(op: Blend, d: Default) -> Value:
    """In place of `x` where nobody else reads it."""
    x, other, share = (d.input(op, i) for i in range(3))
    out = x if d.last_use(op) else d.new(op.output, op.width, x.rows)
    args: Args = {
        "x": x.place, "other": other.place, "share": share.place, "out": out.place, "step": STEP,
        "count": count_of(x.rows), "stride_x": x.stride, "stride_other": other.stride, "stride_share": share.stride,
        "stride": out.stride,
    }  # fmt: skip
    d.columns(op.name, [KERNELS["rwkv.blend"].call(args, op.name)], [x, other, share], out, d.moves(op))
    return out


@lower.register
def _(op: ScaledKey, d: Default) -> Value:
    k, a = d.input(op, 0), d.input(op, 1)
    out = k if d.last_use(op) else d.new(op.output, op.width, k.rows)
    args: Args = {
        "k": k.place, "a": a.place, "w": weight_ref(op.weight), "out": out.place, "step": STEP,
        "count": count_of(k.rows), "stride_k": k.stride, "stride_a": a.stride, "stride": out.stride,
    }  # fmt: skip
    d.columns(op.name, [KERNELS["rwkv.scaled_key"].call(args, op.name, WEIGHTS)], [k, a], out, d.moves(op))
    return out


@lower.register
def _(op: HeadBonus, d: Default) -> Value:
    """In place of `x` where nobody else reads it."""
    x, r, k, v = (d.input(op, i) for i in range(4))
    out = x if d.last_use(op) else d.new(op.output, op.width, x.rows)
    args: Args = {
        "x": x.place, "r": r.place, "k": k.place, "v": v.place, "w": weight_ref(op.weight), "out": out.place,
        "step": STEP, "count": count_of(x.rows), "stride_x": x.stride, "stride_r": r.stride, "stride_k": k.stride,
        "stride_v": v.stride, "stride": out.stride, "head_dim": op.head_dim,
    }  # fmt: skip
    call = KERNELS["rwkv.head_bonus"].call(args, op.name, WEIGHTS)
    d.columns(op.name, [call], [x, r, k, v], out, d.moves(op), op.head_dim)
    return out


@lower.register
def _(op: Wkv6, d: Default) -> Value:
    r, k, v, w = (d.dense(d.input(op, i), op, i) for i in range(4))
    head = op.first.columns
    decay = w if d.last_use(op, 3) else d.new(f"{op.name}_decay", op.width, w.rows)
    own = d.new(f"{op.name}_own", op.first.rows, w.rows)
    args: Args = {"r": r.place, "k": k.place, "w": w.place, "decay": decay.place, "own": own.place}
    args |= {"first": weight_ref(op.first), "step": STEP, "count": count_of(w.rows), "width": op.width}
    inputs = KERNELS["wkv.wkv6_inputs"].call(args, op.name, WEIGHTS, HEAD=head)
    named = {"r": r, "k": k, "v": v, "decay": decay, "own": own}
    return _scan(op, d, inputs, "wkv.wkv6", named, [r, k, v, w], [decay, own], head)


@lower.register
def _(op: Wkv7, d: Default) -> Value:
    r, w, k, scaled, v, a = (d.dense(d.input(op, i), op, i) for i in range(6))
    decay, key, removed = (
        x if d.last_use(op, i) else d.new(f"{op.name}_{name}", op.width, x.rows)
        for x, i, name in ((w, 1, "decay"), (k, 2, "key"), (a, 5, "removed"))
    )
    args: Args = {"w": w.place, "k": k.place, "a": a.place, "removal": weight_ref(op.removal), "decay": decay.place}
    args |= {"key": key.place, "removed": removed.place, "step": STEP, "count": count_of(w.rows), "width": op.width}
    inputs = KERNELS["wkv.wkv7_inputs"].call(args, op.name, WEIGHTS, HEAD=op.head_dim)
    named = {"r": r, "k": scaled, "v": v, "decay": decay, "key": key, "removed": removed}
    return _scan(op, d, inputs, "wkv.wkv7", named, [r, w, k, scaled, v, a], [decay, key, removed], op.head_dim)


def _scan(
    op: Wkv6 | Wkv7, d: Default, inputs: NodeCall, kernel: str, named: dict[str, Value], reads: list[Value],
    made: list[Value], head: int,
) -> Value:  # fmt: skip
    """A node over heads: the recurrence's inputs, the state into the slot that is written, the recurrence in place."""
    multiple(op, head, ROWS)
    out = d.new(op.output, op.width, reads[0].rows)
    args: Args = {**{name: value.place for name, value in named.items()}, "out": out.place, "width": op.width}
    scan = state_call(kernel, args, op, op.cache, d, STATE_WRITE, HEAD=head)
    node = d.columns(op.name, [inputs, clear(op, op.cache, d, head), scan], reads, out, d.moves(op), head)
    state = state_touch(op.cache)
    node.reads.append(state)
    node.writes += [*map(touch, made), state]
    return out
