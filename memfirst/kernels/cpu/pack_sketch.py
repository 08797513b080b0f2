"""Sketches of output heads when a model is loaded: `memfirst.codecs.sketch`. No part of a step.

16 rows at once, column by column. Whatever is rounded on the way, N is made of the sketch as it is packed: its weights
are products of at most 24 bits, exact in float32, as those of Q8_0 are.
"""

import numpy as np

from memfirst.kernels.cpu.lang import inline, kernel, lanes, macro, static
from memfirst.kernels.cpu.simd import (
    PACK,
    fma,
    load_f16,
    load_w,
    load_y,
    maximum,
    mul,
    signed_column,
    splat,
    splat_at,
    store_rows,
    sub,
    to_float,
)
from memfirst.kernels.cpu.simd16 import (
    absolute,
    div,
    larger,
    load_f16_at,
    load_u16,
    rint,
    smaller,
    store_f16,
    store_u8,
    store_u16,
)
from memfirst.kernels.cpu.tiles import LANES, PARTS

GROUP_BYTES, TAIL_BYTES = 288, 64
HEAD_BYTES = 544
"""Bytes of 16 rows × 32 columns of a packed head in Q8_0."""
ROOM = 5 * PACK
"""Floats besides those of a group's columns: R, 1 / (7.5 R), and of each row three sums of squares."""
SMALL = 1e-30
"""Less than any scale: weights are below 10^7 where they are numbers, so that nothing overflows."""


@inline
def _f16_above(out, at, value):
    """The least f16 that is not below a value ≥ 0, at a byte offset; infinity where it is none."""
    if not value <= np.float64(65504.0):
        store_u16(out, at, 0x7C00)
        return
    store_f16(out, at, np.float32(value))
    if np.float64(load_f16_at(out, at)) < value:
        store_u16(out, at, load_u16(out, at) + 1)


@macro
def _largest_of_rows(w, group, blocks, floats):
    """floats[:PACK] = the largest |w| of each row of a group; not finite where a scale is not."""
    for i in static(PARTS):
        most = splat(0.0)
        for b in range(blocks):
            p = (group * blocks + b) * HEAD_BYTES
            q = splat(0.0)
            for k in static(8):
                v = load_w(w, p + 32 + 64 * k, i)
                for j in static(4):
                    q = larger(absolute(to_float(signed_column(v, j))), q)
            most = maximum(most, mul(absolute(load_f16(w, p, i)), q))
        store_rows(floats, LANES * i, most)


@macro
def _half(w, p, half, omega, column, floats, i, sums, codes, scale):
    """Codes (0..15, as floats) and scales of 16 columns of the rows of part `i`; adds to their sums of squares."""
    d = load_f16(w, p, i)
    values = lanes(16)
    most = splat(0.0)
    for k in static(4):
        v = load_w(w, p + 32 + 64 * (4 * half + k), i)
        for j in static(4):
            values[4 * k + j] = mul(to_float(signed_column(v, j)), d)
            most = larger(absolute(values[4 * k + j]), most)
    scale[half] = smaller(rint(fma(most, load_y(floats, PACK + LANES * i), splat(0.5))), splat(255.0))
    unit = mul(load_y(floats, LANES * i), scale[half])
    inverse = div(splat(1.0), larger(unit, splat(SMALL)))
    for c in static(16):
        q = rint(fma(values[c], inverse, splat(7.5)))
        q = smaller(larger(q, splat(0.0)), splat(15.0))
        there, o = mul(unit, sub(q, splat(7.5))), splat_at(omega, column + c)
        e, whole, sketched = mul(sub(values[c], there), o), mul(values[c], o), mul(there, o)
        sums[0] = fma(e, e, sums[0])
        sums[1] = fma(whole, whole, sums[1])
        sums[2] = fma(sketched, sketched, sums[2])
        codes[16 * half + c] = q


@kernel
def pack(w: "u8", omega: "f32", out: "u8", floats: "f32", cols: "int", slack: "float", worker, lo, hi):
    """Sketches of groups lo..hi of 16 rows of a packed head in Q8_0; returns 0.

    omega   ω [cols]; slack: `codecs.sketch.slack`
    floats  this thread's own, for `ROOM` and 18 columns of 16 rows
    """
    blocks = cols // 32
    size = blocks * GROUP_BYTES + TAIL_BYTES
    margin = 1.0 + (cols + 64) * 2.0**-24  # of sums of squares in float32, and of what is done below
    for g in range(lo, hi):
        tail = (g + 1) * size - TAIL_BYTES
        _largest_of_rows(w, g, blocks, floats)
        for r in range(PACK):
            most = np.float64(floats[r])
            finite = most < 1e30
            _f16_above(out, tail + 2 * r, most * 256.0 / (7.5 * 255.0) if finite else 0.0)
            step = load_f16_at(out, tail + 2 * r) * np.float32(1 / 256)
            store_u16(out, tail + 32 + 2 * r, 0 if finite else 0x7C00)
            floats[r] = step
            floats[PACK + r] = np.float32(1.0) / (np.float32(7.5) * step) if step > 0 else np.float32(0.0)
        for i in static(PARTS):
            sums = lanes(3)
            for k in static(3):
                sums[k] = splat(0.0)
            for b in range(blocks):
                p, to = (g * blocks + b) * HEAD_BYTES, g * size + b * GROUP_BYTES
                codes = lanes(32)
                scale = lanes(2)
                _half(w, p, 0, omega, 32 * b, floats, i, sums, codes, scale)
                _half(w, p, 1, omega, 32 * b + 16, floats, i, sums, codes, scale)
                for half in static(2):
                    store_rows(floats, ROOM + LANES * half, scale[half])
                for c in static(16):
                    store_rows(floats, ROOM + 2 * PACK + LANES * c, fma(codes[16 + c], splat(16.0), codes[c]))
                for r in range(LANES):
                    row = LANES * i + r
                    store_u8(out, to + 2 * row, np.int64(floats[ROOM + r]))
                    store_u8(out, to + 2 * row + 1, np.int64(floats[ROOM + LANES + r]))
                    for c in range(16):
                        at = to + 32 + 64 * (c // 4) + 4 * row + c % 4
                        store_u8(out, at, np.int64(floats[ROOM + 2 * PACK + LANES * c + r]))
            for k in static(3):
                store_rows(floats, (2 + k) * PACK + LANES * i, sums[k])
        for r in range(PACK):
            if load_u16(out, tail + 32 + 2 * r) == 0:
                error, whole = np.float64(floats[2 * PACK + r]), np.float64(floats[3 * PACK + r])
                n = np.sqrt(error) + slack * (np.sqrt(whole) + np.sqrt(np.float64(floats[4 * PACK + r])))
                _f16_above(out, tail + 32 + 2 * r, n * margin)
    return 0
