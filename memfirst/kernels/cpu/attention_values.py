"""Weighted values of a block's positions, for rows of weights over a KV head: one token's heads, or several tokens'.

A row's sum is one chain of multiply-adds over its positions, in order, and never takes in one that its token does not
attend: a weight of 0 would do for numbers, but not for NaN.
"""

import numpy as np

from memfirst.kernels.cpu.lang import inline, lanes, macro, static
from memfirst.kernels.cpu.simd import fma, maximum, mul, prefetch
from memfirst.kernels.cpu.simd16 import (
    as_float16,
    lane,
    load16,
    load16_f16_of,
    magnitude16,
    max16_i,
    pair_sum,
    rint,
    splat16,
    splat16_at,
    splat16_i,
    splat16_i_at,
    store16,
    store16_pairs,
    to_float16,
    to_int16,
    within16,
)
from memfirst.lower.step_fields import BLOCK as PAGE
from memfirst.lower.step_fields import SCORES as ROW


@macro
def float_values(
    cache, here, ahead, start, end, scores, row, floats, sums, fresh, d, skip,
    ROWS, PIECES, EACH, WIDE, DIM, CODEC, HALF,
):  # fmt: skip
    """Weighted values d..d + 16 · WIDE of each row (HALF: the last 8) of a block's positions start..end, added to
    `sums` [ROWS, ROW] unless `fresh`. Meanwhile as many bytes of what is read next are prefetched."""
    BYTES = 16 * WIDE * CODEC.SIZE
    LINES = (BYTES + 63) // 64
    for piece in static(PIECES):
        COUNT = EACH if piece * EACH + EACH <= ROWS else ROWS - piece * EACH
        out = lanes(COUNT * WIDE)
        for g in static(COUNT):
            for i in static(WIDE):
                if fresh:
                    out[g * WIDE + i] = splat16(0.0)
                else:
                    out[g * WIDE + i] = load16(floats, sums + (piece * EACH + g) * ROW + d + 16 * i)
        for p in range(start, end):
            for i in static(LINES if piece == 0 else 0):
                prefetch(cache, ahead + (skip + p % PAGE) * BYTES + 64 * i)
            v = lanes(WIDE)
            for i in static(WIDE):
                if HALF:
                    v[i] = CODEC.load_half(cache, here + (p * DIM + d) * CODEC.SIZE)
                else:
                    v[i] = CODEC.load(cache, here + (p * DIM + d + 16 * i) * CODEC.SIZE)
            for g in static(COUNT):
                e = splat16_at(scores, row + (piece * EACH + g) * ROW + p)
                for i in static(WIDE):
                    out[g * WIDE + i] = fma(e, v[i], out[g * WIDE + i])
        for g in static(COUNT):
            for i in static(WIDE):
                store16(floats, sums + (piece * EACH + g) * ROW + d + 16 * i, out[g * WIDE + i])


@macro
def float_edge(cache, tables, pages, block_bytes, values, start, end, scores, row, floats, sums, DIM, CODEC):
    """Weighted values of positions start..end, which not all rows of a tile attend, added to one row's sums."""
    for p in range(start, end):
        e = splat16_at(scores, row + p)
        here = tables[pages + p // PAGE] * block_bytes + values + p % PAGE * DIM * CODEC.SIZE
        for d in range(0, DIM // 16 * 16, 16):
            store16(floats, sums + d, fma(e, CODEC.load(cache, here + d * CODEC.SIZE), load16(floats, sums + d)))
        if DIM % 16:
            v = CODEC.load_half(cache, here + DIM // 16 * 16 * CODEC.SIZE)
            store16(floats, sums + DIM // 16 * 16, fma(e, v, load16(floats, sums + DIM // 16 * 16)))


@inline
def _pairs_of_weights(floats, at, ints, to, count, bits):
    """`count` weights at `at` as pairs of int16, the largest of which in size becomes 32767; returns what 1 is.

    bits  the largest's, as an integer: NaN is above all numbers, and stays one
    """
    top = lane(as_float16(splat16_i(bits)), 0)
    inverse = np.float32(32767) / top if top > np.float32(0.0) else np.float32(0.0)
    steps = splat16(inverse)
    for i in range(0, count, 16):
        store16_pairs(ints, to + i // 2, to_int16(rint(mul(load16(floats, at + i), steps))))
    return top / np.float32(32767)


@macro
def int8_values(
    cache, tables, pages, block_bytes, values, behind, first, last, starts, ends, a, b, scores, row, floats, fw, ints,
    iw, sums, ROWS, GROUP, PIECES, EACH, CODEC,
):  # fmt: skip
    """32 weighted values of each row, of tokens a..b, to `sums` [ROWS, ROW]: weights times the values' scales as int16,
    two positions in one multiplication; 512 · 32767 · 127 fits 32 bits."""
    BYTES = 2 * (CODEC.PER32 - 2)  # of 32 values of two positions
    base = first // 16 * 16
    for piece in static(PIECES):
        COUNT = EACH if piece * EACH + EACH <= ROWS else ROWS - piece * EACH
        top = lanes(COUNT)
        lo = lanes(COUNT)
        hi = lanes(COUNT)
        for g in static(COUNT):
            top[g] = splat16_i(0)
            t = a + (piece * EACH + g) // GROUP
            lo[g], hi[g] = max(first, starts[min(t, b)]), min(last, ends[t] if t <= b else first)
        for index in range(first // PAGE, (last + PAGE - 1) // PAGE):
            here = tables[pages + index] * block_bytes + values - index * PAGE * 2
            for p in range(max(base, index * PAGE), min(last, index * PAGE + PAGE), 16):
                scale = load16_f16_of(cache, here + 2 * p, max(first - p, 0), min(last - p, 16))
                for g in static(COUNT):
                    skip, used = max(min(lo[g] - p, 16), 0), max(min(hi[g] - p, 16), 0)
                    w = within16(mul(load16(scores, row + (piece * EACH + g) * ROW + p), scale), skip, used)
                    top[g] = maximum(top[g], magnitude16(w))
                    store16(floats, fw + (piece * EACH + g) * ROW + p - base, w)
        unit = lanes(COUNT)
        acc = lanes(2 * COUNT)
        for g in static(COUNT):
            count = (last - base + 15) // 16 * 16
            unit[g] = _pairs_of_weights(
                floats, fw + (piece * EACH + g) * ROW, ints, iw + g * (ROW // 2), count, max16_i(top[g])
            )
            acc[2 * g] = splat16_i(0)
            acc[2 * g + 1] = splat16_i(0)
        for index in range(first // PAGE, (last + PAGE - 1) // PAGE):
            start, end = max(first // 2 * 2, index * PAGE), min(last, index * PAGE + PAGE)
            here = tables[pages + index] * block_bytes + values + 2 * PAGE
            ahead = behind
            if end < last:
                ahead = tables[pages + index + 1] * block_bytes + values + 2 * PAGE
            for p in range(start, end, 2):
                offset = (p - index * PAGE) // 2 * BYTES
                if piece == 0:
                    prefetch(cache, ahead + offset)
                low, high = CODEC.pairs(cache, here + offset, max(first - p, 0), min(last - p, 2))
                for g in static(COUNT):
                    e = splat16_i_at(ints, iw + g * (ROW // 2) + (p - base) // 2)
                    acc[2 * g] = pair_sum(acc[2 * g], low, e)
                    acc[2 * g + 1] = pair_sum(acc[2 * g + 1], high, e)
        for g in static(COUNT):
            for i in static(2):
                found = mul(to_float16(acc[2 * g + i]), splat16(unit[g]))
                store16(floats, sums + (piece * EACH + g) * ROW + 16 * i, found)
