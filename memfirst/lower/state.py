"""Recurrent state in a lowering: where an operation's lies in a slot, and what brings it from slot to slot.

A slot holds the state of all layers of one sequence. A scan over columns (heads, channels) reads one slot and writes
the other; its node begins with `clear`, for new sequences. Where a kernel works in place in the slot that is written,
the node begins with `carry`. Either counts the bytes that are read, and the kernel behind it those that it writes.
"""

from __future__ import annotations

from memfirst.errors import UnsupportedError
from memfirst.graph import Op, StateCache
from memfirst.graph.traffic import STATE_READ
from memfirst.lower.default import STEP, Args, Default
from memfirst.lower.nodes import NodeCall, Touch
from memfirst.lower.program import Ref
from memfirst.lower.specs import KERNELS
from memfirst.lower.step_fields import count_of

BY_SEQUENCE = ("sequence_at", "sequence_new", "sequence_past", "state_read", "state_write")
"""Arrays of the step with a value for each sequence."""


def state_call(
    kernel: str, args: Args, op: Op, cache: StateCache, d: Default, purpose: str, **statics: int | str
) -> NodeCall:
    """A call of a kernel that works on an operation's state: of the operands below those that it has are added."""
    if cache.codec != "f32":
        raise UnsupportedError(f"{op.name} has a state of {cache.codec}", "f32 on the CPU backend")
    spec = KERNELS[kernel]
    own: Args = {"state": Ref("cache", "state"), "slot": d.slot, "state_at": d.state_at[cache.name], "step": STEP}
    own |= {"sequences": count_of("sequences"), **{name: Ref("step", name) for name in BY_SEQUENCE}}
    own = {name: operand for name, operand in own.items() if name in spec.operands}
    return spec.call({**own, **args}, op.name, purpose, **statics)


def carry(op: Op, cache: StateCache, d: Default, per: int) -> NodeCall:
    """Brings the state of a node's columns, `per` floats each, to the slot that is written."""
    return state_call("state.carry", {"per": per}, op, cache, d, STATE_READ)


def clear(op: Op, cache: StateCache, d: Default, per: int) -> NodeCall:
    """Clears the state of a node's columns, `per` floats each, of new sequences."""
    return state_call("state.clear", {"per": per}, op, cache, d, STATE_READ)


def state_touch(cache: StateCache) -> Touch:
    """What a node that reads or writes a state touches."""
    return Touch(f"state:{cache.name}")
