"""The default lowering of gated delta nets: the convolution before them, by channels, and the delta rule, by heads."""

from __future__ import annotations

from memfirst.errors import UnsupportedError
from memfirst.graph.ops.conv import CausalConv1d
from memfirst.graph.ops.gated_delta import EPS, GatedDelta
from memfirst.graph.traffic import ACTIVATIONS, STATE_READ, STATE_WRITE, WEIGHTS
from memfirst.lower.default import STEP, Args, Default, lower, multiple, one, only, weight_ref
from memfirst.lower.nodes import ROWS, Moves, Value
from memfirst.lower.specs import KERNELS
from memfirst.lower.state import carry, clear, state_call, state_touch
from memfirst.lower.step_fields import count_of


@lower.register
def _(op: CausalConv1d, d: Default) -> Value:
    """The tail to the slot that is written, the convolution, the new tail."""
    x, taps = d.input(op), op.weight.columns
    multiple(op, op.width, ROWS)
    out = d.new(op.output, op.width, x.rows)
    args: Args = {
        "x": x.place, "w": weight_ref(op.weight), "bias": weight_ref(op.bias) if op.bias else x.place, "out": out.place,
        "stride_x": x.stride, "stride": out.stride,
    }  # fmt: skip
    convolve = state_call(
        "conv.convolve", args, op, op.cache, d, WEIGHTS, KERNEL=taps, BIAS=int(op.bias is not None), ACT=op.activation
    )
    keep = state_call("conv.keep", {"x": x.place, "stride_x": x.stride}, op, op.cache, d, STATE_WRITE, KERNEL=taps)
    calls = [carry(op, op.cache, d, taps - 1), convolve, keep]
    node, state = d.columns(op.name, calls, [x], out, d.moves(op)), state_touch(op.cache)
    node.reads.append(state)
    node.writes.append(state)
    return out


@lower.register
def _(op: GatedDelta, d: Default) -> Value:
    """Keys of length 1 in place, gates of heads, then the state of each head."""
    for width in (op.k_dim, op.v_dim):
        multiple(op, width, ROWS)
    if op.heads % op.key_heads:
        raise UnsupportedError(f"{op.name} has {op.heads} heads over {op.key_heads} of keys", "as many for each")
    moves = d.moves(op)
    qkv = _unit_keys(op, d)
    decay, share = _decays(op, d, only(moves, WEIGHTS)), _shares(op, d)
    out = d.new(op.output, op.width, qkv.rows)
    args: Args = {
        "qkv": qkv.place, "decay": decay.place, "share": share.place, "out": out.place, "key_heads": op.key_heads,
        "ratio": op.heads // op.key_heads, "keys_width": op.keys_width, "stride": qkv.stride,
        "stride_decay": decay.stride, "stride_share": share.stride, "width": op.width,
    }  # fmt: skip
    statics = {"K": op.k_dim, "V": op.v_dim, "TILED": int(op.tiled)}
    scan = state_call("delta.scan", args, op, op.cache, d, STATE_WRITE, **statics)
    moves = only(moves, STATE_READ, STATE_WRITE, ACTIVATIONS)
    calls = [clear(op, op.cache, d, op.k_dim), scan]
    node, state = d.columns(op.name, calls, [qkv, decay, share], out, moves, op.v_dim), state_touch(op.cache)
    node.reads.append(state)
    node.writes.append(state)
    return out


def _unit_keys(op: GatedDelta, d: Default) -> Value:
    """Queries and keys of length 1, in place of those that were convolved; values beside them stay."""
    y = d.writable(op)
    args: Args = {
        "y": y.place, "step": STEP, "count": count_of(y.rows), "stride": y.stride, "keys_width": op.keys_width,
        "eps": EPS,
    }  # fmt: skip
    d.columns(f"{op.name}_keys", [KERNELS["delta.unit_keys"].call(args, op.name, K=op.k_dim)], [y], y, (), op.k_dim)
    return y


def _decays(op: GatedDelta, d: Default, moves: Moves) -> Value:
    """e^(a · softplus(alpha + dt_bias)), over alpha where nobody else reads it."""
    alpha = d.input(op, 1)
    out = alpha if d.last_use(op, 1) else d.new(f"{op.name}_decay", op.heads, alpha.rows)
    args: Args = {
        "alpha": alpha.place, "a": weight_ref(op.a), "dt_bias": weight_ref(op.dt_bias), "out": out.place,
        "step": STEP, "count": count_of(alpha.rows), "stride_x": alpha.stride, "stride": out.stride,
    }  # fmt: skip
    d.columns(f"{op.name}_decay", [KERNELS["delta.decays"].call(args, op.name, WEIGHTS)], [alpha], out, moves)
    return out


def _shares(op: GatedDelta, d: Default) -> Value:
    """sigmoid(beta), over beta where nobody else reads it."""
    beta = d.input(op, 2)
    out = beta if d.last_use(op, 2) else d.new(f"{op.name}_share", op.heads, beta.rows)
    call = KERNELS["elementwise.activate"].call(one(beta, out), op.name, ACT="sigmoid")
    d.columns(f"{op.name}_share", [call], [beta], out, ())
    return out
