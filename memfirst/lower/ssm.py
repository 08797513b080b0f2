"""The default lowering of state-space scans, by channels (Mamba) and by heads (Mamba-2), and of factors by column."""

from __future__ import annotations

from memfirst.errors import UnsupportedError
from memfirst.graph.ops.channel_scan import ChannelScan
from memfirst.graph.ops.scale import ScaleParts
from memfirst.graph.ops.scan import SelectiveScan
from memfirst.graph.traffic import ACTIVATIONS, STATE_READ, STATE_WRITE, WEIGHTS
from memfirst.lower.default import STEP, Args, Default, each, lower, multiple, only, touch, weight_ref
from memfirst.lower.nodes import ROWS, Moves, PrivateStride, Scratch, Value
from memfirst.lower.program import Ref
from memfirst.lower.specs import KERNELS
from memfirst.lower.state import clear, state_call, state_touch
from memfirst.lower.step_fields import count_of


@lower.register
def _(op: ChannelScan, d: Default) -> Value:
    """softplus(dt) and d · x, then the scan from the slot that is read to the one that is written."""
    multiple(op, op.width, ROWS)
    x, dt, keys, queries = (d.input(op, i) for i in range(4))
    delta = dt if d.last_use(op, 1) else d.new(f"{op.name}_delta", op.width, dt.rows)
    out, states = d.new(op.output, op.width, x.rows), op.a.columns
    inputs: Args = {
        "x": x.place, "dt": dt.place, "d": weight_ref(op.d), "delta": delta.place, "out": out.place, "step": STEP,
        "count": count_of(x.rows), "stride_x": x.stride, "stride_dt": dt.stride, "stride_delta": delta.stride,
        "width": op.width,
    }  # fmt: skip
    copied = Scratch("rates", "f32", op.width * states)
    rates: Args = {"a": weight_ref(op.a), "copied": copied, "width": op.width}
    scan: Args = {
        "x": x.place, "delta": delta.place, "a": copied, "out": out.place, "stride_x": x.stride,
        "stride_delta": delta.stride, "width": op.width, **_keys_and_queries(keys, queries),
    }  # fmt: skip
    calls = [
        KERNELS["ssm.channel_inputs"].call(inputs, op.name, WEIGHTS),
        KERNELS["ssm.rates"].call(rates, op.name, WEIGHTS, STATE=states),
        clear(op, op.cache, d, states),
        state_call("ssm.channels", scan, op, op.cache, d, STATE_WRITE, STATE=states),
    ]
    node, state = d.columns(op.name, calls, [x, dt, keys, queries], out, d.moves(op)), state_touch(op.cache)
    node.reads.append(state)
    node.writes += [touch(delta), state]
    return out


def _keys_and_queries(keys: Value, queries: Value) -> Args:
    """B and C, of which each worker may have its own."""
    return {
        "keys": keys.place, "queries": queries.place, "stride_keys": keys.stride, "stride_queries": queries.stride,
        "private_keys": PrivateStride(keys.storage), "private_queries": PrivateStride(queries.storage),
    }  # fmt: skip


@lower.register
def _(op: SelectiveScan, d: Default) -> Value:
    """What belongs to heads, then the state of each head, and d · x added."""
    multiple(op, op.head_dim, ROWS)
    if op.heads % op.groups:
        raise UnsupportedError(f"{op.name} has {op.heads} heads in {op.groups} groups", "as many in each")
    moves = d.moves(op)
    x, keys, queries = (d.input(op, i) for i in range(3))
    delta, decay = _head_inputs(op, d, only(moves, WEIGHTS))
    out = d.new(op.output, op.width, x.rows)
    args: Args = {
        "x": x.place, "delta": delta.place, "decay": decay.place, "out": out.place, "stride_x": x.stride,
        "stride_delta": delta.stride, "stride_decay": decay.stride, "ratio": op.heads // op.groups, "width": op.width,
        **_keys_and_queries(keys, queries),
    }  # fmt: skip
    skip: Args = {
        "x": x.place, "d": weight_ref(op.d), "out": out.place, "step": STEP, "count": count_of(x.rows),
        "stride_x": x.stride, "width": op.width,
    }  # fmt: skip
    calls = [
        clear(op, op.cache, d, op.state),
        state_call("ssm.heads", args, op, op.cache, d, STATE_WRITE, HEAD=op.head_dim, STATE=op.state),
        KERNELS["ssm.skip"].call(skip, op.name, WEIGHTS, HEAD=op.head_dim),
    ]
    reads, moves = [x, keys, queries, delta, decay], only(moves, STATE_READ, STATE_WRITE, ACTIVATIONS)
    node, state = d.columns(op.name, calls, reads, out, moves, op.head_dim), state_touch(op.cache)
    node.reads.append(state)
    node.writes.append(state)
    return out


def _head_inputs(op: SelectiveScan, d: Default, moves: Moves) -> tuple[Value, Value]:
    """softplus(dt + dt_bias), over dt where nobody else reads it, and the decay that follows from it."""
    dt = d.input(op, 3)
    delta = dt if d.last_use(op, 3) else d.new(f"{op.name}_delta", op.heads, dt.rows)
    decay = d.new(f"{op.name}_decay", op.heads, dt.rows)
    args: Args = {
        "dt": dt.place, "a": weight_ref(op.a), "dt_bias": weight_ref(op.dt_bias), "delta": delta.place,
        "decay": decay.place, "step": STEP, "count": count_of(dt.rows), "stride_dt": dt.stride,
        "stride_delta": delta.stride, "stride_decay": decay.stride,
    }  # fmt: skip
    call = KERNELS["ssm.head_inputs"].call(args, op.name, WEIGHTS)
    node = d.columns(f"{op.name}_steps", [call], [dt], delta, moves)
    node.writes.append(touch(decay))
    return delta, decay


@lower.register
def _(op: ScaleParts, d: Default) -> Value:
    return each(op, d, "scale_columns", factors=Ref("table", f"factors:{op.name}"))
