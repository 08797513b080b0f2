"""RWKV's recurrences: a matrix of state a head, which each token decays and adds to.

A head's outputs lie in lanes, so that no sum goes across a register: the state of RWKV-7 too is [key, value] here,
which its paper writes the other way round. Sums over keys go from the first to the last, token after token, so that a
prompt gives the bits of its tokens one by one. A head's state (16 kB at 64) stays in the first level of cache.

Operands of all sequences, heads and tokens:

    r, k, v, …   [tokens, width], a head after the other
    state        [slots, slot], the operation's from `state_at` on; a sequence's first token in the step reads the slot
                 `state_read` (of a sequence without a past: `state_write`, cleared), the others what the last one wrote
    sequence_at, sequence_new  a sequence's first token in the step, and how many it has
"""

import numpy as np

from memfirst.kernels.cpu.activations import sum_squares
from memfirst.kernels.cpu.functions import exp16, sigmoid16
from memfirst.kernels.cpu.lang import kernel, lanes, static
from memfirst.kernels.cpu.simd import LANES, fma, mul, sub
from memfirst.kernels.cpu.simd16 import load16, splat16, splat16_at, store16, sum16

WIDE = 4 if LANES == 16 else 1
"""Registers of 16 outputs at once, where a head has as many: four times as many values are kept beside them."""


@kernel
def wkv6_inputs(
    r: "f32", k: "f32", w: "f32", first: "f32", decay: "f32", own: "f32", step: "i64", count: "int", width: "int",
    worker, lo, hi, *, HEAD,
):  # fmt: skip
    """decay = e^(−e^w) of columns lo..hi, which may be `w` itself; own[t, head] = Σ r · first · k, what a token's own
    value gets in place of a decay. Returns the bytes of first[lo:hi]."""
    heads = width // HEAD
    for t in range(step[count]):
        for h in range(lo, hi, HEAD):
            at, total = t * width + h, splat16(0.0)
            for i in range(0, HEAD, 16):
                total = fma(mul(load16(r, at + i), load16(k, at + i)), load16(first, h + i), total)
                store16(decay, at + i, exp16(sub(splat16(0.0), exp16(load16(w, at + i)))))
            own[t * heads + h // HEAD] = sum16(total)
    return (hi - lo) * 4


@kernel
def wkv6(
    r: "f32", k: "f32", v: "f32", decay: "f32", own: "f32", out: "f32", state: "f32", sequence_at: "i32",
    sequence_new: "i32", sequence_past: "i32", state_read: "i32", state_write: "i32", step: "i64", sequences: "int",
    slot: "int", state_at: "int", width: "int",
    worker, lo, hi, *, HEAD,
):  # fmt: skip
    """For heads in columns lo..hi: out = r · S + own · v, then S = decay ⊙ S + k ⊗ v. Returns the bytes of S."""
    MORE = WIDE if HEAD % (16 * WIDE) == 0 else 1
    heads = width // HEAD
    for s in range(step[sequences]):
        for h in range(lo, hi, HEAD):
            for b in range(0, HEAD, 16 * MORE):
                base = state_write[s] * slot + state_at + h * HEAD + b
                source = (state_read[s] if sequence_past[s] else state_write[s]) * slot + state_at + h * HEAD + b
                for t in range(sequence_at[s], sequence_at[s] + sequence_new[s]):
                    row = t * width + h
                    value = lanes(MORE)
                    given = lanes(MORE)
                    share = splat16_at(own, t * heads + h // HEAD)
                    for i in static(MORE):
                        value[i] = load16(v, row + b + 16 * i)
                        given[i] = mul(share, value[i])
                    for j in range(HEAD):
                        rj, kj, dj = splat16_at(r, row + j), splat16_at(k, row + j), splat16_at(decay, row + j)
                        for i in static(MORE):
                            x = load16(state, source + j * HEAD + 16 * i)
                            given[i] = fma(x, rj, given[i])
                            store16(state, base + j * HEAD + 16 * i, fma(value[i], kj, mul(x, dj)))
                    for i in static(MORE):
                        store16(out, row + b + 16 * i, given[i])
                    source = base
    return step[sequences] * (hi - lo) * HEAD * 4


@kernel
def wkv7_inputs(
    w: "f32", k: "f32", a: "f32", removal: "f32", decay: "f32", key: "f32", removed: "f32", step: "i64", count: "int",
    width: "int", worker, lo, hi, *, HEAD,
):  # fmt: skip
    """Of columns lo..hi: decay = e^(−e^−½ · sigmoid(w)); key = k · removal, each head scaled to length 1 (none divided
    by less than 1e-12); removed = −key · a. They may be w, k and a themselves. Returns the bytes of removal[lo:hi]."""
    for t in range(step[count]):
        for h in range(lo, hi, HEAD):
            at = t * width + h
            for i in range(0, HEAD, 16):
                store16(decay, at + i, exp16(mul(splat16(-0.6065306597126334), sigmoid16(load16(w, at + i)))))
                store16(key, at + i, mul(load16(k, at + i), load16(removal, h + i)))
            length = np.sqrt(sum_squares(key, at, HEAD))
            inverse = splat16(np.float32(1.0) / max(length, np.float32(1e-12)))
            for i in range(0, HEAD, 16):
                unit = mul(load16(key, at + i), inverse)
                store16(key, at + i, unit)
                store16(removed, at + i, sub(splat16(0.0), mul(unit, load16(a, at + i))))
    return (hi - lo) * 4


@kernel
def wkv7(
    r: "f32", k: "f32", v: "f32", decay: "f32", key: "f32", removed: "f32", out: "f32", state: "f32",
    sequence_at: "i32", sequence_new: "i32", sequence_past: "i32", state_read: "i32", state_write: "i32", step: "i64",
    sequences: "int", slot: "int", state_at: "int", width: "int", worker, lo, hi, *, HEAD,
):  # fmt: skip
    """For heads in columns lo..hi: S = S ⊙ decay + (S · key) ⊗ removed + v ⊗ k, where the decay goes by keys, then
    out = S · r. What S holds for the next token's key is summed while S is written. Returns the bytes of S."""
    MORE = WIDE if HEAD % (16 * WIDE) == 0 else 1
    for s in range(step[sequences]):
        last = sequence_at[s] + sequence_new[s] - 1
        for h in range(lo, hi, HEAD):
            for b in range(0, HEAD, 16 * MORE):
                base = state_write[s] * slot + state_at + h * HEAD + b
                source = (state_read[s] if sequence_past[s] else state_write[s]) * slot + state_at + h * HEAD + b
                held = lanes(MORE)
                for i in static(MORE):
                    held[i] = splat16(0.0)
                for j in range(HEAD):
                    coming = splat16_at(key, sequence_at[s] * width + h + j)
                    for i in static(MORE):
                        held[i] = fma(load16(state, source + j * HEAD + 16 * i), coming, held[i])
                for t in range(sequence_at[s], last + 1):
                    row, after = t * width + h, min(t + 1, last) * width + h
                    value = lanes(MORE)
                    given = lanes(MORE)
                    next_held = lanes(MORE)
                    for i in static(MORE):
                        value[i] = load16(v, row + b + 16 * i)
                        given[i] = splat16(0.0)
                        next_held[i] = splat16(0.0)
                    for j in range(HEAD):
                        dj, oj, kj = splat16_at(decay, row + j), splat16_at(removed, row + j), splat16_at(k, row + j)
                        rj, coming = splat16_at(r, row + j), splat16_at(key, after + j)
                        for i in static(MORE):
                            x = mul(load16(state, source + j * HEAD + 16 * i), dj)
                            x = fma(held[i], oj, fma(value[i], kj, x))
                            store16(state, base + j * HEAD + 16 * i, x)
                            given[i] = fma(x, rj, given[i])
                            next_held[i] = fma(x, coming, next_held[i])
                    for i in static(MORE):
                        store16(out, row + b + 16 * i, given[i])
                        held[i] = next_held[i]
                    source = base
    return step[sequences] * (hi - lo) * HEAD * 4
