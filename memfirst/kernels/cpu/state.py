"""Recurrent state: a slot holds that of all layers of a sequence, one after the other. What goes from slot to slot.

A step reads a sequence's state from one slot and writes another (or the same one). A scan does so with its first token,
and goes on in the slot that it writes; `clear` before it sees to new sequences. Where a kernel reads its state later
than it writes it (a convolution's tail), `carry` brings it from the first slot to the second, and it works in place.

    state             [slots, slot]
    slot, state_at    floats of a slot, and where the operation's state begins in it
    state_read, state_write, sequence_past  of each sequence
    sequences         where `step` holds their number
"""

from memfirst.kernels.cpu.lang import kernel
from memfirst.kernels.cpu.simd16 import load16, load16_first, splat16, store16, store16_first


@kernel
def carry(
    state: "f32", state_read: "i32", state_write: "i32", sequence_past: "i32", step: "i64", sequences: "int",
    slot: "int", state_at: "int", per: "int", worker, lo, hi,
):  # fmt: skip
    """Columns lo..hi of each sequence's state, from the slot that it reads to the one that it writes; zeros where the
    sequence has no past. `per`: floats of state for each column. Returns the bytes of those columns' state."""
    first, n = lo * per, (hi - lo) * per
    last = n // 16 * 16
    for s in range(step[sequences]):
        source = state_read[s] * slot + state_at + first
        target = state_write[s] * slot + state_at + first
        if sequence_past[s] == 0:
            for i in range(0, last, 16):
                store16(state, target + i, splat16(0.0))
            if last < n:
                store16_first(state, target + last, n - last, splat16(0.0))
        elif source != target:
            for i in range(0, last, 16):
                store16(state, target + i, load16(state, source + i))
            if last < n:
                store16_first(state, target + last, n - last, load16_first(state, source + last, n - last))
    return step[sequences] * n * 4


@kernel
def clear(
    state: "f32", state_write: "i32", sequence_past: "i32", step: "i64", sequences: "int", slot: "int",
    state_at: "int", per: "int", worker, lo, hi,
):  # fmt: skip
    """Zeros for columns lo..hi of the state that a sequence without a past writes. `per`: floats for each column.
    Returns the bytes of all sequences' state in those columns: what the scan behind it reads, from either slot."""
    n = (hi - lo) * per
    last = n // 16 * 16
    for s in range(step[sequences]):
        if sequence_past[s] == 0:
            target = state_write[s] * slot + state_at + lo * per
            for i in range(0, last, 16):
                store16(state, target + i, splat16(0.0))
            if last < n:
                store16_first(state, target + last, n - last, splat16(0.0))
    return step[sequences] * n * 4
