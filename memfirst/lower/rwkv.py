"""The default lowering of RWKV's operations: mixes by rows, which matmuls read; what belongs to heads by columns."""

from __future__ import annotations

from memfirst.errors import UnsupportedError
from memfirst.graph.ops.blend import Blend
from memfirst.graph.ops.stacked_linear import StackedLinear
from memfirst.graph.ops.token_lerp import TokenLerp
from memfirst.graph.ops.wkv7 import HeadBonus, ScaledKey
from memfirst.graph.traffic import WEIGHTS
from memfirst.lower.default import STEP, Args, Default, lower, matmul, multiple, weight_ref
from memfirst.lower.nodes import ROWS, PrivateStride, Value
from memfirst.lower.packing import family, rows16_bytes
from memfirst.lower.specs import KERNELS
from memfirst.lower.step_fields import count_of


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
