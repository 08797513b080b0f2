"""The likeliest token without most of the output head: its sketch in 4.5 bits says which rows must be read in full.

`memfirst.codecs.sketch` has the bytes of a sketch S of a head W, and the proof. For activations x (int8 and their
scales, the very ones that the head is multiplied by) a row's logit is at most u = z + N |x / ω|, with z = S·x. The tile
with the largest z is computed in full; of the others only those with a u that is not below its largest logit.
"""

import numpy as np

from memfirst.kernels.cpu.lang import inline, kernel, lanes, static
from memfirst.kernels.cpu.simd import (
    PACK,
    add,
    bits,
    dup4,
    fma,
    load_f16,
    load_pairs,
    load_w,
    mul,
    prefetch_in_place,
    shl,
    shr,
    splat,
    splat_at,
    splat_i,
    splat_i_at,
    store_rows,
    sub,
    to_float,
)
from memfirst.kernels.cpu.simd16 import load16, load16_i8, max16, splat16, splat16_at, store16, sum16
from memfirst.kernels.cpu.simd_dot import dot, dot_start, pair_dot, weigh
from memfirst.kernels.cpu.tiles import DISTANCE, LANES, PARTS, block32_tile

STRIDE, TAIL = 288, 64
"""Bytes of 16 rows × 32 columns, and of what 16 rows have besides."""
AHEAD = DISTANCE or 2304
LEAST, MOST = np.float32(1e-15), np.float32(1e20)
"""Of activations beyond these a bound may under- or overflow: then everything is read."""
MARGIN = np.float32(1.0001)
"""More than the root of a sum of 16,384 squares is rounded by."""


@inline
def _weighed16(q0, q1, q2, q3, aq, a, scales, h):
    """16 columns of q < 16, a register for each four, times scales[2r + h]; all steps fit."""
    s = dot(dot(dot_start(splat_i(0)), q0, dup4(aq, a)), q1, dup4(aq, a + 4))
    return weigh(dot(dot(s, q2, dup4(aq, a + 8)), q3, dup4(aq, a + 12)), scales, h)


@kernel
def reach(aq: "i8", ad: "f32", sums: "i32", inverse: "f32", reach: "f32", cols: "int", worker, lo, hi):
    """reach[0] = |x / ω|, rounded up, of a step's one row of logits.

    aq, ad   as of `activations.quantize`, shared by all workers
    sums     becomes the sums of 16 columns, two int16 in a word [cols/32]
    inverse  1 / ω [cols]
    """
    total = splat16(0.0)
    for b in range(cols // 32):
        first, second = 0, 0
        for i in range(16):
            first += np.int64(aq[32 * b + i])
            second += np.int64(aq[32 * b + 16 + i])
        sums[b] = (second << 16) | (first & 0xFFFF)
        scale = splat16_at(ad, b)
        for half in static(2):
            at = 32 * b + 16 * half
            v = mul(mul(load16_i8(aq, at), scale), load16(inverse, at))
            total = fma(v, v, total)
    reach[0] = np.sqrt(sum16(total)) * MARGIN
    return 0


@kernel
def rows(
    w: "u8", aq: "i8", ad: "f32", sums: "i32", reach: "f32", y: "f32", tops: "f32", cols: "int", tiles: "int",
    worker, lo, hi,
):  # fmt: skip
    """The largest z and the largest u of each tile of rows lo..hi; their logits become −inf. Returns the bytes read.

    w     the sketch [tiles, cols/32 · STRIDE + TAIL]
    tops  largest z of each tile, then largest u [2, tiles]
    """
    blocks = cols // 32
    group = blocks * STRIDE + TAIL
    for r in range(lo, hi, PACK):
        p = r // PACK * group
        acc = lanes(PARTS)
        for i in static(PARTS):
            acc[i] = splat(0.0)
        for b in range(blocks):
            for i in static((STRIDE + 63) // 64):
                prefetch_in_place(w, p + AHEAD + 64 * i)
            a = 32 * b
            for i in static(PARTS):
                scales = load_pairs(w, p, i)
                q0, q1 = load_w(w, p + 32, i), load_w(w, p + 96, i)
                q2, q3 = load_w(w, p + 160, i), load_w(w, p + 224, i)
                low = _weighed16(bits(q0, 15), bits(q1, 15), bits(q2, 15), bits(q3, 15), aq, a, scales, 0)
                high = _weighed16(shr(q0, 4), shr(q1, 4), shr(q2, 4), shr(q3, 4), aq, a + 16, scales, 1)
                s = add(low, high)
                m = pair_dot(scales, splat_i_at(sums, b))
                # 2 q − 15: whole numbers below 2^24, so that their float32 is exact
                s = sub(shl(s, 1), sub(shl(m, 4), m))
                acc[i] = fma(to_float(s), splat_at(ad, b), acc[i])
            p += STRIDE
        for i in static(PARTS):
            z = mul(acc[i], mul(load_f16(w, p, i), splat(1 / 512)))
            u = add(fma(load_f16(w, p + 32, i), splat_at(reach, 0), z), splat(1e-30))
            store_rows(y, r + LANES * i, z)
            acc[i] = u
        top = load16(y, r)
        tops[r // PACK] = max16(top)
        for i in static(PARTS):
            store_rows(y, r + LANES * i, acc[i])
        top = load16(y, r)
        tops[tiles + r // PACK] = max16(top)
        store16(y, r, splat16(-np.inf))
    return (hi - lo) // PACK * group


@kernel
def choose(
    w: "u8", aq: "i8", ad: "f32", ao: "i32", af: "f32", reach: "f32", y: "f32", tops: "f32", step: "i64",
    cols: "int", tiles: "int", vocab: "int", count: "int", listed: "int", worker, lo, hi, *, CODEC,
):  # fmt: skip
    """Computes the tile with the largest z in full, and lists all others that may hold a larger logit, ascending.

    w       the head; `vocab` of its rows are tokens
    step    its word `count` becomes how many tiles are listed, and those from `listed` on their numbers
    Returns the bytes of the tile that it computed.
    """
    best = 0
    for t in range(1, tiles):
        if tops[t] > tops[best]:
            best = t
    at = lanes(1)
    to = lanes(1)
    at[0], to[0] = 0, 0
    first = best * PACK
    block32_tile(w, 0, first, first + PACK, aq, ad, ao, af, at, cols, y, to, 1, at, 0, CODEC, 1, 0)
    least = y[first]
    for r in range(first + 1, min(first + PACK, vocab)):
        least = max(least, y[r])
    bounded = LEAST < reach[0] < MOST
    n = 0
    for t in range(tiles):
        if t != best and not (bounded and tops[tiles + t] < least):
            step[listed + n] = t
            n += 1
    step[count] = n
    return cols // 32 * CODEC.STRIDE
