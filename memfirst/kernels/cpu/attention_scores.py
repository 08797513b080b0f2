"""Scores of a block's positions for the queries of a KV head: of one token's group, or of several tokens' together.

ROWS queries share each key that is loaded, in pieces of as many as registers take. A query's score is one chain of
multiply-adds over the head's values, whatever else is computed beside it.
"""

from memfirst.kernels.cpu.activations import block_scale, quantize16
from memfirst.kernels.cpu.hadamard import rotate
from memfirst.kernels.cpu.lang import lanes, macro, static
from memfirst.kernels.cpu.simd import LANES, PACK, fma, mul, prefetch, splat, splat_at, splat_i_at, store_rows, to_float
from memfirst.kernels.cpu.simd16 import splat16, splat16_at, store16
from memfirst.lower.step_fields import SCORES as ROW

MOST = 16 if LANES == 16 else 4
"""Queries at once: more are done in pieces, which read their keys and values again from cache."""

MOST_INT8 = 12 if LANES == 16 else 4
"""The same of int8 keys and values, which take more registers themselves."""

SUMS = 24 if LANES == 16 else 4
"""Accumulators of 16 floats at once; more leave the registers, and took twice the time on a Zen 3 (16 of 8 lanes)."""

PARTS = PACK // LANES
"""Registers of keys that 16 positions take."""


@macro
def queries(q, query, floats, fq, turned, ints, ia, q8, at8, GROUP, DIM, OFFSET, ROTATE):
    """int8 of GROUP queries: a scale for each 32 values at fq, OFFSET times their sum at ia. `turned`: room for a
    rotation."""
    for g in range(GROUP):
        if ROTATE:
            rotate(q, query + g * DIM, DIM, floats, turned)
        for b in range(DIM // 32):
            if ROTATE:
                d, inverse = block_scale(floats, turned + b * 32, 32)
                total = quantize16(floats, turned + b * 32, splat16(inverse), q8, at8 + g * DIM + b * 32)
                total += quantize16(floats, turned + b * 32 + 16, splat16(inverse), q8, at8 + g * DIM + b * 32 + 16)
            else:
                d, inverse = block_scale(q, query + g * DIM + b * 32, 32)
                total = quantize16(q, query + g * DIM + b * 32, splat16(inverse), q8, at8 + g * DIM + b * 32)
                total += quantize16(q, query + g * DIM + b * 32 + 16, splat16(inverse), q8, at8 + g * DIM + b * 32 + 16)
            floats[fq + g * (DIM // 32) + b] = d
            ints[ia + g * (DIM // 32) + b] = total * OFFSET


@macro
def float_scores(
    q, at, cache, here, ahead, p, end, first, last, scores, row, scale, ROWS, PIECES, EACH, WIDE, DIM, CODEC
):
    """Scores of positions p..p + 16 · WIDE by float keys, of queries at[0..ROWS] of q; row r's go to row + r · ROW."""
    LINES = (WIDE * CODEC.SIZE + 3) // 4  # of WIDE · 16 keys' one dimension
    STEP = 64 if WIDE * CODEC.SIZE > 2 else 32
    n = lanes(WIDE)
    for i in static(WIDE):
        n[i] = p + 16 * i if p + 16 * i < end else p
    for piece in static(PIECES):
        COUNT = EACH if piece * EACH + EACH <= ROWS else ROWS - piece * EACH
        acc = lanes(COUNT * WIDE)
        for i in static(COUNT * WIDE):
            acc[i] = splat16(0.0)
        for d in range(DIM):
            for i in static(LINES if piece == 0 else 0):
                prefetch(cache, ahead + (i * DIM + d) * STEP)
            k = lanes(WIDE)
            for i in static(WIDE):
                skip, used = max(first - n[i], 0), min(last - n[i], 16)
                k[i] = CODEC.load_of(cache, here + (n[i] * DIM + d * 16) * CODEC.SIZE, skip, used)
            for g in static(COUNT):
                e = splat16_at(q, at[piece * EACH + g] + d)
                for i in static(WIDE):
                    acc[g * WIDE + i] = fma(e, k[i], acc[g * WIDE + i])
        for g in static(COUNT):
            for i in static(WIDE):
                store16(scores, row + (piece * EACH + g) * ROW + 16 * i, mul(acc[g * WIDE + i], splat16(scale)))


@macro
def int8_scores(
    floats, fq, ints, ia, q8, at8, at, cache, here, ahead, p, first, last, scores, row, scale,
    ROWS, PIECES, EACH, DIM, CODEC,
):  # fmt: skip
    """Scores of positions p..p + 16 by int8 keys, a packed matrix of 16 rows, of queries at[0..ROWS] in int8."""
    BYTES = 16 * CODEC.PER32  # of 32 columns
    skip, used = max(first - p, 0), min(last - p, 16)
    for piece in static(PIECES):
        COUNT = EACH if piece * EACH + EACH <= ROWS else ROWS - piece * EACH
        for part in static(PARTS):
            acc = lanes(COUNT)
            for g in static(COUNT):
                acc[g] = splat(0.0)
            for b in range(DIM // 32):
                for i in static((BYTES + 63) // 64 if piece + part == 0 else 0):
                    prefetch(cache, ahead + b * BYTES + 64 * i)
                w = CODEC.columns(cache, here + b * BYTES, part, skip, used)
                d = CODEC.scale(cache, here + b * BYTES, part, skip, used)
                for g in static(COUNT):
                    n = at[piece * EACH + g] * (DIM // 32) + b
                    s = CODEC.product(w, q8, at8 + 32 * n, splat_i_at(ints, ia + n))
                    acc[g] = fma(to_float(s), mul(d, splat_at(floats, fq + n)), acc[g])
            for g in static(COUNT):
                store_rows(scores, row + (piece * EACH + g) * ROW + LANES * part, mul(acc[g], splat(scale)))
