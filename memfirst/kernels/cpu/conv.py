"""Convolution over time, channel by channel, whose last inputs are state.

Sixteen channels lie in lanes. Their taps lie side by side, as packed rows do, and so does their tail: the last
KERNEL − 1 inputs, oldest first. Taps are added from the oldest input to the newest, so that a prompt gives the bits of
its tokens one by one.

    x, out       [tokens, channels], rows `stride_x` and `stride` apart
    w            f32 [channels / 16, KERNEL, 16]
    state        [slots, slot], the operation's [channels / 16, KERNEL − 1, 16] from `state_at` on; each sequence's in
                 the slot that it writes, to which `state.carry` has brought it
    sequence_at, sequence_new  a sequence's first token in the step, and how many it has
"""

from memfirst.kernels.cpu.functions import silu16
from memfirst.kernels.cpu.lang import kernel, lanes, static
from memfirst.kernels.cpu.simd import fma
from memfirst.kernels.cpu.simd16 import load16, load16_f32, splat16, store16


@kernel
def convolve(
    x: "f32", w: "u8", bias: "f32", out: "f32", state: "f32", sequence_at: "i32", sequence_new: "i32",
    state_write: "i32", step: "i64", sequences: "int", slot: "int", state_at: "int", stride_x: "int", stride: "int",
    worker, lo, hi, *, KERNEL, BIAS, ACT,
):  # fmt: skip
    """out[t, lo:hi] = f(Σ w · the last KERNEL inputs + bias); BIAS 0: without; ACT "silu", or "" for no function.
    Returns the bytes of w and bias."""
    for s in range(step[sequences]):
        first = sequence_at[s]
        for c in range(lo, hi, 16):
            taps = lanes(KERNEL)
            for j in static(KERNEL):
                taps[j] = load16_f32(w, (c * KERNEL + 16 * j) * 4)
            start = load16(bias, c) if BIAS else splat16(0.0)
            tail = state_write[s] * slot + state_at + c * (KERNEL - 1)
            for t in range(sequence_new[s]):
                total = start
                for j in static(KERNEL):
                    before = t + j - (KERNEL - 1)
                    at = (first + before) * stride_x + c
                    v = load16(x, at) if before >= 0 else load16(state, tail + 16 * (before + KERNEL - 1))
                    total = fma(v, taps[j], total)
                store16(out, (first + t) * stride + c, silu16(total) if ACT == "silu" else total)
    return (hi - lo) * 4 * (KERNEL + BIAS)


@kernel
def keep(
    x: "f32", state: "f32", sequence_at: "i32", sequence_new: "i32", state_write: "i32", step: "i64",
    sequences: "int", slot: "int", state_at: "int", stride_x: "int", worker, lo, hi, *, KERNEL,
):  # fmt: skip
    """The tail of channels lo..hi behind the step's tokens; returns its bytes."""
    for s in range(step[sequences]):
        new = sequence_new[s]
        end = sequence_at[s] + new - (KERNEL - 1)
        for c in range(lo, hi, 16):
            tail = state_write[s] * slot + state_at + c * (KERNEL - 1)
            for j in static(KERNEL - 1):
                if new + j >= KERNEL - 1:
                    v = load16(x, (end + j) * stride_x + c)
                else:
                    v = load16(state, tail + 16 * (new + j))
                store16(state, tail + 16 * j, v)
    return step[sequences] * (hi - lo) * (KERNEL - 1) * 4
