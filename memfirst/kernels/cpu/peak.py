"""Multiplying in registers as fast as it goes: the ceiling that a matmul of many tokens stands beside."""

from memfirst.kernels.cpu.lang import kernel, lanes, static
from memfirst.kernels.cpu.simd import (
    LANES,
    add,
    dup4,
    fma,
    load_f32,
    load_w,
    splat,
    splat_at,
    splat_i,
    store_rows,
    to_float,
)
from memfirst.kernels.cpu.simd_dot import dot, dot_end, dot_start

ROWS_HELD, TOKENS_HELD = (4, 6) if LANES == 16 else (2, 6)
"""Registers of weights and of tokens: each pair has a sum of its own, as many as 32 or 16 registers hold."""
ROUND = 63
"""Tokens' values are of this many places less one, so that no product is the one of the round before."""


@kernel
def multiply_int8(w: "u8", a: "i8", y: "f32", worker, lo, hi):
    """hi − lo rounds of integer dot products, in registers but for the tokens' values; returns multiply-adds."""
    rows = lanes(ROWS_HELD)
    sums = lanes(ROWS_HELD * TOKENS_HELD)
    for i in static(ROWS_HELD):
        rows[i] = load_w(w, i * 4 * LANES, 0)
    for i in static(ROWS_HELD * TOKENS_HELD):
        sums[i] = dot_start(splat_i(0))
    for n in range(lo, hi):
        for j in static(TOKENS_HELD):
            token = dup4(a, 4 * ((n & ROUND) + j))
            for i in static(ROWS_HELD):
                sums[j * ROWS_HELD + i] = dot(sums[j * ROWS_HELD + i], rows[i], token)
    total = splat_i(0)
    for i in static(ROWS_HELD * TOKENS_HELD):
        total = add(total, dot_end(sums[i], splat_i(0)))
    store_rows(y, 16 * worker, to_float(total))
    return (hi - lo) * (ROWS_HELD * TOKENS_HELD * LANES * 4)


@kernel
def multiply_f32(w: "u8", a: "f32", y: "f32", worker, lo, hi):
    """The same with float32: fused multiply-adds."""
    rows = lanes(ROWS_HELD)
    sums = lanes(ROWS_HELD * TOKENS_HELD)
    for i in static(ROWS_HELD):
        rows[i] = load_f32(w, i * 4 * LANES, 0)
    for i in static(ROWS_HELD * TOKENS_HELD):
        sums[i] = splat(0.0)
    for n in range(lo, hi):
        for j in static(TOKENS_HELD):
            token = splat_at(a, (n & ROUND) + j)
            for i in static(ROWS_HELD):
                sums[j * ROWS_HELD + i] = fma(rows[i], token, sums[j * ROWS_HELD + i])
    total = splat(0.0)
    for i in static(ROWS_HELD * TOKENS_HELD):
        total = add(total, sums[i])
    store_rows(y, 16 * worker, total)
    return (hi - lo) * (ROWS_HELD * TOKENS_HELD * LANES)
