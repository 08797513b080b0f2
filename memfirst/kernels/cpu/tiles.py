"""Tiles of matmuls: LANES rows of a packed matrix × TILE tokens, for each family of codecs.

Packed bytes are read and unpacked once for all tokens of a tile. Each (row, token) is summed block by block in the same
order whatever the tile, so results do not depend on the batch. A matrix may lie anywhere in `w`, and a tile's tokens
anywhere: `matmul` walks one matrix and all tokens, `routed` experts and the tokens that each of them got.

Operands that all tiles have:

    w, base   packed bytes, and where the matrix begins in them
    lo, hi    its rows, multiples of PACK
    at        where each token's activations begin, in blocks (floats: in columns)
    y, to     outputs, and where each token's row begins in them
    left      tokens that are left: a tile may have more
    add_to    0: y = the sums; 1: they are added to it
    share     where SUM is set: y += share · the sums, a register for each token
"""

from memfirst.kernels.cpu.lang import lanes, macro, static
from memfirst.kernels.cpu.simd import (
    LANES,
    PACK,
    add,
    fma,
    load_y,
    mul,
    prefetch,
    prefetch_in_place,
    shl,
    splat,
    splat_at,
    splat_i,
    splat_i_at,
    store_rows,
    sub,
    to_float,
)
from memfirst.kernels.cpu.simd_dot import pair_dot, signed_offset

PARTS = PACK // LANES
"""Registers that hold one value of each of the PACK rows."""

DISTANCE = 9216 if LANES == 16 else 0
"""Prefetch distance in bytes with 512-bit registers, for every codec; with narrower ones each has its own (AHEAD).
At half and at twice the distance one thread reads 0.75 to 0.92 as fast on a Zen 5."""


@macro
def _prefetch(w, at, TILE):
    """Prefetches a line, with one token exactly where it is written, between dot products (10 % faster on a Zen 5).
    With more tokens, which are bound by arithmetic, a fixed order costs 2 to 4 %: LLVM schedules them."""
    if TILE == 1:
        prefetch_in_place(w, at)
    else:
        prefetch(w, at)


@macro
def store_tile(acc, y, to, left, share, r, first, add_to, TILE, SIDE, SUM):
    """The accumulators of parts first..first + SIDE of 16 rows, by token."""
    for t in static(TILE):
        if t < left:
            for side in static(SIDE):
                out = to[t] + r + LANES * (first + side)
                if SUM:
                    acc[SIDE * t + side] = fma(acc[SIDE * t + side], share[t], load_y(y, out))
                elif add_to:
                    acc[SIDE * t + side] = add(acc[SIDE * t + side], load_y(y, out))
                store_rows(y, out, acc[SIDE * t + side])


@macro
def block32_tile(w, base, lo, hi, aq, ad, ao, af, at, cols, y, to, left, share, add_to, CODEC, TILE, SUM):
    """For codecs with a scale for each 32 columns.

    aq       int8 activations [tokens, cols]
    ad, af   their scales, and scale · sum [tokens, cols/32]
    ao       their sums times the offsets that codecs have [tokens, 3, cols/32]
    """
    blocks = cols // 32
    group = blocks * CODEC.STRIDE
    zero = splat_i(0)
    AHEAD = DISTANCE or CODEC.AHEAD
    SIDE = PARTS if TILE == 1 else 1  # parts of a group in one pass: of eight tokens, only one leaves registers
    for r in range(lo, hi, PACK):
        for first in range(0, PARTS, SIDE):
            p = base + r // PACK * group
            acc = lanes(SIDE * TILE)
            for i in static(SIDE * TILE):
                acc[i] = splat(0.0)
            for b in range(blocks):
                for i in static((CODEC.STRIDE + 63) // 64 if CODEC.AHEAD else 0):
                    _prefetch(w, p + AHEAD + 64 * i, TILE)
                for side in static(SIDE):
                    part = first + side
                    q = CODEC.columns(w, p, part)
                    d = CODEC.scale(w, p, part)
                    if CODEC.HAS_MIN:
                        m = CODEC.minimum(w, p, part)
                    for t in static(TILE):
                        a = (at[t] + b) * 32
                        o = zero
                        if CODEC.PLANE:
                            o = splat_i_at(ao, 3 * at[t] + (CODEC.PLANE - 1) * blocks + b)
                        s = CODEC.product(q, aq, a, o)
                        total = fma(to_float(s), mul(d, splat_at(ad, at[t] + b)), acc[SIDE * t + side])
                        if CODEC.HAS_MIN:
                            total = fma(m, splat_at(af, at[t] + b), total)
                        acc[SIDE * t + side] = total
                p += CODEC.STRIDE
            store_tile(acc, y, to, left, share, r, first, add_to, TILE, SIDE, SUM)


@macro
def k256_tile(w, base, lo, hi, aq, ad, am, at, cols, y, to, left, share, add_to, CODEC, TILE, SUM):
    """For K-quants of 32 columns a scale (Q4_K, Q5_K, IQ4_XS): integer sums over 256 columns, weighted by 6-bit scales
    and, where they have them, minimums.

    ad  one scale for each 256 columns, repeated for each 32
    am  sums of 32 columns, two int16 in a word [tokens, cols/64]
    Prefetches come a few at a time, between dot products, not all nine of 64 columns in a row.
    With 256-bit registers a whole group of rows is prefetched: without, memory's speed was 0.65 on a Zen 3.
    """
    blocks = cols // 256
    group = blocks * CODEC.STRIDE
    zero = splat_i(0)
    AHEAD = DISTANCE or CODEC.AHEAD
    SIDE = PARTS if TILE == 1 else 1  # parts of a group in one pass: of eight tokens, only one leaves registers
    for r in range(lo, hi, PACK):
        for first in range(0, PARTS, SIDE):
            p = base + r // PACK * group
            acc = lanes(SIDE * TILE)
            for i in static(SIDE * TILE):
                acc[i] = splat(0.0)
            for b in range(blocks):
                sums = lanes(SIDE * TILE)
                mins = lanes(SIDE * TILE)
                for i in static(SIDE * TILE):
                    sums[i] = zero
                    mins[i] = zero
                for j in range(4):
                    ahead = p + AHEAD + j * (CODEC.STRIDE // 4)
                    for side in static(SIDE):
                        part = first + side
                        if CODEC.HAS_MIN:
                            mn = CODEC.sub_minimums(w, p, part, j)
                            for t in static(TILE):
                                s = pair_dot(mn, splat_i_at(am, (at[t] + b) * 4 + j))
                                mins[SIDE * t + side] = add(mins[SIDE * t + side], s)
                        sc = CODEC.sub_scales(w, p, part, j)
                        for h in static(2):
                            FROM = h * CODEC.STRIDE // 512
                            TO = ((h + 1) * CODEC.STRIDE + 511 * h) // 512
                            for i in static(TO - FROM if side == 0 else 0):
                                _prefetch(w, ahead + 64 * (FROM + i), TILE)
                            q = CODEC.columns(w, p, part, j, h)
                            for t in static(TILE):
                                a = ((at[t] + b) * 8 + 2 * j + h) * 32
                                o = zero
                                if CODEC.SIGNED:
                                    o = signed_offset(splat_i_at(am, (at[t] + b) * 4 + j), h)
                                s = CODEC.product(q, aq, a, sc, h, o)
                                sums[SIDE * t + side] = add(sums[SIDE * t + side], s)
                for side in static(SIDE):
                    d = CODEC.scale(w, p, first + side)
                    if CODEC.HAS_MIN:
                        m = sub(splat(0.0), CODEC.minimum(w, p, first + side))
                    for t in static(TILE):
                        x = splat_at(ad, (at[t] + b) * 8)
                        if CODEC.HAS_MIN:
                            acc[SIDE * t + side] = fma(to_float(mins[SIDE * t + side]), mul(m, x), acc[SIDE * t + side])
                        acc[SIDE * t + side] = fma(to_float(sums[SIDE * t + side]), mul(d, x), acc[SIDE * t + side])
                p += CODEC.STRIDE
            store_tile(acc, y, to, left, share, r, first, add_to, TILE, SIDE, SUM)


@macro
def k256_16_tile(w, base, lo, hi, aq, ad, ap, at, cols, y, to, left, share, add_to, CODEC, TILE, SUM):
    """For K-quants of 16 columns a scale: 2^OFFSET_BITS is taken from each weight (Q6_K, Q3_K), or a minimum of each
    sub-block (Q2_K).

    ap  sums of 16 columns, two int16 in a word [tokens, cols/32]
    Weights are one plain stream for the hardware prefetcher: software prefetch cost 8 to 33 % on a Zen 4.
    """
    blocks = cols // 256
    group = blocks * CODEC.STRIDE
    zero = splat_i(0)
    SIDE = PARTS if TILE == 1 else 1  # parts of a group in one pass: of eight tokens, only one leaves registers
    for r in range(lo, hi, PACK):
        for first in range(0, PARTS, SIDE):
            p = base + r // PACK * group
            acc = lanes(SIDE * TILE)
            for i in static(SIDE * TILE):
                acc[i] = splat(0.0)
            for b in range(blocks):
                sums = lanes(SIDE * TILE)
                for i in static(SIDE * TILE):
                    sums[i] = zero
                for j in static(8):
                    for side in static(SIDE):
                        if CODEC.HAS_MIN:
                            taken = CODEC.sub_minimums(w, p, first + side, j // 4, j % 4)
                        else:
                            taken = CODEC.sub_scales(w, p, first + side, j // 4, j % 4)
                        for t in static(TILE):
                            s = pair_dot(taken, splat_i_at(ap, (at[t] + b) * 8 + j))
                            sums[SIDE * t + side] = sub(sums[SIDE * t + side], s)
                if CODEC.HAS_MIN:
                    for side in static(SIDE):
                        m = CODEC.minimum(w, p, first + side)
                        for t in static(TILE):
                            scale = mul(m, splat_at(ad, (at[t] + b) * 8))
                            acc[SIDE * t + side] = fma(to_float(sums[SIDE * t + side]), scale, acc[SIDE * t + side])
                            sums[SIDE * t + side] = zero
                else:
                    for i in static(SIDE * TILE):
                        sums[i] = shl(sums[i], CODEC.OFFSET_BITS)
                for n in range(4):  # half n // 2, part n % 2: the order of the bytes
                    for i in static(4):  # unrolled: shifts by a variable number are several instructions
                        QUARTER = i // 2 + 2 * (i % 2)
                        j = n // 2 * 4 + QUARTER
                        for side in static(SIDE):
                            sc = CODEC.sub_scales(w, p, first + side, n // 2, QUARTER)
                            q = CODEC.columns(w, p, first + side, n // 2, QUARTER, n % 2)
                            for t in static(TILE):
                                a = ((at[t] + b) * 16 + 2 * j + n % 2) * 16
                                s = CODEC.product(q, aq, a, sc, n % 2)
                                sums[SIDE * t + side] = add(sums[SIDE * t + side], s)
                for side in static(SIDE):
                    d = CODEC.scale(w, p, first + side)
                    for t in static(TILE):
                        scale = mul(d, splat_at(ad, (at[t] + b) * 8))
                        acc[SIDE * t + side] = fma(to_float(sums[SIDE * t + side]), scale, acc[SIDE * t + side])
                p += CODEC.STRIDE
            store_tile(acc, y, to, left, share, r, first, add_to, TILE, SIDE, SUM)


@macro
def floats_tile(w, base, lo, hi, x, at, cols, y, to, left, share, add_to, CODEC, TILE, SUM):
    """For F32, F16 and BF16, with float activations; four sums, over columns 4i, 4i + 1, …

    With one token all 16 rows are taken in one pass: 1.4 to 1.5 times as fast, from memory, as one for each half, as
    a group of 2,048 columns is 64 kB, more than the first level of cache. With more, the sums of 8 rows fill registers.
    """
    group = cols * CODEC.STRIDE
    AHEAD = DISTANCE or (CODEC.AHEAD_ONE if TILE == 1 else CODEC.AHEAD)
    SIDE = PARTS if TILE == 1 else 1
    for r in range(lo, hi, PACK):
        for first in range(0, PARTS, SIDE):
            p = base + r // PACK * group
            acc = lanes(4 * SIDE * TILE)
            for i in static(4 * SIDE * TILE):
                acc[i] = splat(0.0)
            whole = cols // 4 * 4
            for c in range(0, whole, 4):
                for k in static(CODEC.STRIDE // 16 if AHEAD else 0):  # 4 columns are CODEC.STRIDE / 16 lines
                    _prefetch(w, p + AHEAD + 64 * k, TILE)
                for k in static(4):
                    for side in static(SIDE):
                        v = CODEC.value(w, p + k * CODEC.STRIDE, first + side)
                        for t in static(TILE):
                            AT = 4 * (SIDE * t + side) + k
                            acc[AT] = fma(v, splat_at(x, at[t] + c + k), acc[AT])
                p += 4 * CODEC.STRIDE
            for k in static(3):
                if whole + k < cols:
                    for side in static(SIDE):
                        v = CODEC.value(w, p + k * CODEC.STRIDE, first + side)
                        for t in static(TILE):
                            AT = 4 * (SIDE * t + side) + k
                            acc[AT] = fma(v, splat_at(x, at[t] + whole + k), acc[AT])
            sums = lanes(SIDE * TILE)
            for i in static(SIDE * TILE):
                sums[i] = add(add(acc[4 * i], acc[4 * i + 1]), add(acc[4 * i + 2], acc[4 * i + 3]))
            store_tile(sums, y, to, left, share, r, first, add_to, TILE, SIDE, SUM)
