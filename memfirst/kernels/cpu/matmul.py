"""Matmuls of packed weights and activations: y[t, r] = Σ_c W[r, c] · x[t, c], PACK rows at a time.

A tile is LANES rows × TILE tokens: packed bytes are read and unpacked once for all tokens of the tile. Each
(row, token) is summed block by block in the same order whatever the tile, so results do not depend on the batch.
"""

from memfirst.kernels.cpu.lang import kernel, lanes, macro, static
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
from memfirst.kernels.cpu.simd_dot import pair_dot

PARTS = PACK // LANES
"""Registers that hold one value of each of the PACK rows."""

DISTANCE = 9216 if LANES == 16 else 0
"""Prefetch distance in bytes with 512-bit registers, for every codec; with narrower ones each has its own (AHEAD).
At half and at twice the distance one thread reads 0.75 to 0.92 as fast on a Zen 5."""


@macro
def _rows_of_tile(at, worker, private, t0, tokens, size, TILE):
    """Where the activations of a tile's tokens begin; tokens that a tile lacks are the last one again."""
    for t in static(TILE):
        at[t] = (worker * private + min(t0 + t, tokens - 1)) * size


@macro
def _prefetch(w, at, TILE):
    """Prefetches a line, with one token exactly where it is written, between dot products (10 % faster on a Zen 5).
    With more tokens, which are bound by arithmetic, a fixed order costs 2 to 4 %: LLVM schedules them."""
    if TILE == 1:
        prefetch_in_place(w, at)
    else:
        prefetch(w, at)


@macro
def _store_tile(acc, y, t0, tokens, stride, r, first, add_to, TILE, SIDE):
    """The accumulators of parts first..first + SIDE of 16 rows, by token, added to what is there or not."""
    for t in static(TILE):
        if t0 + t < tokens:
            for side in static(SIDE):
                out = (t0 + t) * stride + r + LANES * (first + side)
                if add_to:
                    acc[SIDE * t + side] = add(acc[SIDE * t + side], load_y(y, out))
                store_rows(y, out, acc[SIDE * t + side])


@kernel
def block32(
    w: "u8", aq: "i8", ad: "f32", ao: "i32", af: "f32", y: "f32", step: "i64",
    count: "int", cols: "int", stride: "int", private: "int", add_to: "int", worker, lo, hi, *, CODEC, TILE,
):  # fmt: skip
    """Rows lo..hi for codecs with a scale for each 32 columns; returns the bytes of those rows.

    w        packed weights [rows/16, cols/32, CODEC.STRIDE]; lo and hi are multiples of 16
    aq       int8 activations [tokens, cols]
    ad, af   their scales, and scale · sum [tokens, cols/32]
    ao       their sums times the offsets that codecs have [tokens, 3, cols/32]
    y        [tokens, stride]; what is there is added to where `add_to` is 1
    count    where `step` holds the number of tokens
    private  token rows between workers' own activations (0: shared)
    """
    blocks = cols // 32
    group = blocks * CODEC.STRIDE
    tokens = step[count]
    zero = splat_i(0)
    AHEAD = DISTANCE or CODEC.AHEAD
    SIDE = PARTS if TILE == 1 else 1  # parts of a group in one pass: of eight tokens, only one leaves registers
    for t0 in range(0, tokens, TILE):
        at = lanes(TILE)
        _rows_of_tile(at, worker, private, t0, tokens, blocks, TILE)
        for r in range(lo, hi, PACK):
            for first in range(0, PARTS, SIDE):
                p = r // PACK * group
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
                _store_tile(acc, y, t0, tokens, stride, r, first, add_to, TILE, SIDE)
    return (hi - lo) // PACK * group


@kernel
def k256(
    w: "u8", aq: "i8", ad: "f32", am: "i32", y: "f32", step: "i64",
    count: "int", cols: "int", stride: "int", private: "int", add_to: "int", worker, lo, hi, *, CODEC, TILE,
):  # fmt: skip
    """As `block32` for Q4_K and Q5_K: integer sums over 256 columns, weighted by 6-bit scales and minimums.

    ad  one scale for each 256 columns, repeated for each 32
    am  sums of 32 columns, two int16 in a word [tokens, cols/64]
    Prefetches come a few at a time, between dot products, not all nine of 64 columns in a row.
    With 256-bit registers a whole group of rows is prefetched: without, memory's speed was 0.65 on a Zen 3.
    """
    blocks = cols // 256
    group = blocks * CODEC.STRIDE
    tokens = step[count]
    zero = splat_i(0)
    AHEAD = DISTANCE or CODEC.AHEAD
    SIDE = PARTS if TILE == 1 else 1  # as in `block32`
    for t0 in range(0, tokens, TILE):
        at = lanes(TILE)
        _rows_of_tile(at, worker, private, t0, tokens, blocks, TILE)
        for r in range(lo, hi, PACK):
            for first in range(0, PARTS, SIDE):
                p = r // PACK * group
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
                            mn = CODEC.sub_minimums(w, p, part, j)
                            for t in static(TILE):
                                s = pair_dot(mn, splat_i_at(am, (at[t] + b) * 4 + j))
                                mins[SIDE * t + side] = add(mins[SIDE * t + side], s)
                            sc = CODEC.sub_scales(w, p, part, j)
                            for h in static(2):
                                FROM = h * CODEC.STRIDE // 512
                                TO = (h + 1) * CODEC.STRIDE // 512
                                for i in static(TO - FROM if side == 0 else 0):
                                    _prefetch(w, ahead + 64 * (FROM + i), TILE)
                                q = CODEC.columns(w, p, part, j, h)
                                for t in static(TILE):
                                    a = ((at[t] + b) * 8 + 2 * j + h) * 32
                                    s = CODEC.product(q, aq, a, sc, h)
                                    sums[SIDE * t + side] = add(sums[SIDE * t + side], s)
                    for side in static(SIDE):
                        m = sub(splat(0.0), CODEC.minimum(w, p, first + side))
                        d = CODEC.scale(w, p, first + side)
                        for t in static(TILE):
                            x = splat_at(ad, (at[t] + b) * 8)
                            acc[SIDE * t + side] = fma(to_float(mins[SIDE * t + side]), mul(m, x), acc[SIDE * t + side])
                            acc[SIDE * t + side] = fma(to_float(sums[SIDE * t + side]), mul(d, x), acc[SIDE * t + side])
                    p += CODEC.STRIDE
                _store_tile(acc, y, t0, tokens, stride, r, first, add_to, TILE, SIDE)
    return (hi - lo) // PACK * group


@kernel
def q6_k(
    w: "u8", aq: "i8", ad: "f32", ap: "i32", y: "f32", step: "i64",
    count: "int", cols: "int", stride: "int", private: "int", add_to: "int", worker, lo, hi, *, CODEC, TILE,
):  # fmt: skip
    """As `k256` for Q6_K: 16 sub-blocks of 16 columns with int8 scales, and 32 taken from each weight.

    ap  sums of 16 columns, two int16 in a word [tokens, cols/32]
    """
    blocks = cols // 256
    group = blocks * CODEC.STRIDE
    tokens = step[count]
    zero = splat_i(0)
    AHEAD = DISTANCE or CODEC.AHEAD
    SIDE = PARTS if TILE == 1 else 1  # parts of a group in one pass: of eight tokens, only one leaves registers
    for t0 in range(0, tokens, TILE):
        at = lanes(TILE)
        _rows_of_tile(at, worker, private, t0, tokens, blocks, TILE)
        for r in range(lo, hi, PACK):
            for first in range(0, PARTS, SIDE):
                p = r // PACK * group
                acc = lanes(SIDE * TILE)
                for i in static(SIDE * TILE):
                    acc[i] = splat(0.0)
                for b in range(blocks):
                    sums = lanes(SIDE * TILE)
                    for i in static(SIDE * TILE):
                        sums[i] = zero
                    for j in static(8):
                        for side in static(SIDE):
                            sc = CODEC.sub_scales(w, p, first + side, j)
                            for t in static(TILE):
                                s = pair_dot(sc, splat_i_at(ap, (at[t] + b) * 8 + j))
                                sums[SIDE * t + side] = sub(sums[SIDE * t + side], s)
                    for i in static(SIDE * TILE):
                        sums[i] = shl(sums[i], 5)
                    for half in range(2):
                        ahead = p + AHEAD + half * (CODEC.STRIDE // 2)
                        for quarter in static(4):  # unrolled: shifts by a variable number are several instructions
                            j = 4 * half + quarter
                            for side in static(SIDE):
                                sc = CODEC.sub_scales(w, p, first + side, j)
                                for h in static(2):
                                    FROM = (2 * quarter + h) * CODEC.STRIDE // 1024
                                    TO = (2 * quarter + h + 1) * CODEC.STRIDE // 1024
                                    for i in static(TO - FROM if side == 0 else 0):
                                        _prefetch(w, ahead + 64 * (FROM + i), TILE)
                                    q = CODEC.columns(w, p, first + side, half, quarter, h)
                                    for t in static(TILE):
                                        a = ((at[t] + b) * 16 + 2 * j + h) * 16
                                        s = CODEC.product(q, aq, a, sc, h)
                                        sums[SIDE * t + side] = add(sums[SIDE * t + side], s)
                    for side in static(SIDE):
                        d = CODEC.scale(w, p, first + side)
                        for t in static(TILE):
                            scale = mul(d, splat_at(ad, (at[t] + b) * 8))
                            acc[SIDE * t + side] = fma(to_float(sums[SIDE * t + side]), scale, acc[SIDE * t + side])
                    p += CODEC.STRIDE
                _store_tile(acc, y, t0, tokens, stride, r, first, add_to, TILE, SIDE)
    return (hi - lo) // PACK * group


@kernel
def floats(
    w: "u8", x: "f32", y: "f32", step: "i64",
    count: "int", cols: "int", stride: "int", private: "int", add_to: "int", worker, lo, hi, *, CODEC, TILE,
):  # fmt: skip
    """As `block32` for F32, F16 and BF16, with float activations; four sums, over columns 4i, 4i + 1, …"""
    group = cols * CODEC.STRIDE
    tokens = step[count]
    AHEAD = DISTANCE or CODEC.AHEAD
    for r in range(lo, hi, PACK):
        for t0 in range(0, tokens, TILE):  # inside: a group's rows, 64 kB and more, come from memory once
            at = lanes(TILE)
            _rows_of_tile(at, worker, private, t0, tokens, cols, TILE)
            for part in range(PACK // LANES):
                p = r // PACK * group
                acc = lanes(4 * TILE)
                for t in static(4 * TILE):
                    acc[t] = splat(0.0)
                for c in range(0, cols, 4):
                    for k in static(CODEC.STRIDE // 16):  # 4 columns are CODEC.STRIDE / 16 lines
                        prefetch(w, p + AHEAD + 64 * k)
                    for k in static(4):
                        v = CODEC.value(w, p + k * CODEC.STRIDE, part)
                        for t in static(TILE):
                            acc[4 * t + k] = fma(v, splat_at(x, at[t] + c + k), acc[4 * t + k])
                    p += 4 * CODEC.STRIDE
                for t in static(TILE):
                    if t0 + t < tokens:
                        out = (t0 + t) * stride + r + LANES * part
                        total = add(add(acc[4 * t], acc[4 * t + 1]), add(acc[4 * t + 2], acc[4 * t + 3]))
                        if add_to:
                            total = add(total, load_y(y, out))
                        store_rows(y, out, total)
    return (hi - lo) // PACK * group
