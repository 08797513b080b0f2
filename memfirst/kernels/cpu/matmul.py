"""Products of packed weights and activations: y[t, r] = Σ_c W[r, c] · x[t, c], PACK rows at a time.

A tile is LANES rows × TILE tokens: packed bytes are read and unpacked once for all tokens of the tile. Each
(row, token) is summed block by block in the same order whatever the tile, so results do not depend on the batch.
"""

from memfirst.kernels.cpu.lang import kernel, lanes, static
from memfirst.kernels.cpu.simd import (
    LANES,
    PACK,
    add,
    dot,
    dot_end,
    dot_start,
    dup4,
    fma,
    load_y,
    mul,
    prefetch,
    sdot,
    sdot_start,
    splat,
    splat_at,
    splat_i,
    splat_i_at,
    store_rows,
    sub,
    to_float,
)

NEAR, FAR = 4608, 9216
"""Bytes between what is read and what is asked for: from memory, 32-column codecs then run as fast as a plain read
(0.90-0.94 of it without), K-quants too (0.4-0.5 without: their scales break the hardware's streams)."""


@kernel
def block32(
    w: "u8", aq: "i8", ad: "f32", ao: "i32", af: "f32", y: "f32", step: "i64",
    count: "int", cols: "int", stride: "int", private: "int", add_to: "int", worker, lo, hi, *, CODEC, TILE,
):  # fmt: skip
    """Rows lo..hi for codecs with a scale for each 32 columns; returns the bytes of those rows.

    w        packed weights [rows/16, cols/32, CODEC.STRIDE]; lo and hi are multiples of 16
    aq       int8 activations [tokens, cols]
    ad, af   their scales, and scale · sum [tokens, cols/32]
    ao       their sums times the offsets that codecs have [tokens, 4, cols/32]
    y        [tokens, stride]; what is there is added to where `add_to` is 1
    count    where `step` holds the number of tokens
    private  token rows between workers' own activations (0: shared)
    """
    blocks = cols // 32
    group = blocks * CODEC.STRIDE
    tokens = step[count]
    zero = splat_i(0)
    for t0 in range(0, tokens, TILE):
        at = lanes(TILE)
        for t in static(TILE):
            at[t] = (worker * private + min(t0 + t, tokens - 1)) * blocks
        for r in range(lo, hi, PACK):
            for part in range(PACK // LANES):
                p = r // PACK * group
                acc = lanes(TILE)
                for t in static(TILE):
                    acc[t] = splat(0.0)
                for b in range(blocks):
                    for i in static((CODEC.STRIDE + 63) // 64):
                        prefetch(w, p + NEAR + 64 * i)
                    q = CODEC.columns(w, p, part)
                    d = CODEC.scale(w, p, part)
                    if CODEC.HAS_MIN:
                        m = CODEC.minimum(w, p, part)
                    for t in static(TILE):
                        a = (at[t] + b) * 32
                        o = zero
                        if CODEC.PLANE:
                            o = splat_i_at(ao, 4 * at[t] + CODEC.PLANE * blocks + b)
                        if CODEC.SIGNED:
                            s = sdot_start(o)
                            for i in static(8):
                                s = sdot(s, q[i], dup4(aq, a + 4 * i))
                        else:
                            k = dot_start(o)
                            for i in static(CODEC.STEPS):
                                k = dot(k, q[i], dup4(aq, a + 4 * i))
                            s = dot_end(k, o)
                            if CODEC.STEPS < 8:
                                k = dot_start(zero)
                                for i in static(8 - CODEC.STEPS):
                                    k = dot(k, q[CODEC.STEPS + i], dup4(aq, a + 4 * (CODEC.STEPS + i)))
                                s = add(s, dot_end(k, zero))
                        acc[t] = fma(to_float(s), mul(d, splat_at(ad, at[t] + b)), acc[t])
                        if CODEC.HAS_MIN:
                            acc[t] = fma(m, splat_at(af, at[t] + b), acc[t])
                    p += CODEC.STRIDE
                for t in static(TILE):
                    if t0 + t < tokens:
                        out = (t0 + t) * stride + r + LANES * part
                        if add_to:
                            acc[t] = add(acc[t], load_y(y, out))
                        store_rows(y, out, acc[t])
    return (hi - lo) // PACK * group


@kernel
def k256(
    w: "u8", aq: "i8", ad: "f32", ao: "i32", y: "f32", step: "i64",
    count: "int", cols: "int", stride: "int", private: "int", add_to: "int", worker, lo, hi, *, CODEC, TILE,
):  # fmt: skip
    """As `block32` for Q4_K and Q5_K: integer sums over 256 columns, weighted by 6-bit scales and minimums.

    Activations have one scale for each 256 columns: ad repeats it for each 32.
    """
    blocks = cols // 256
    group = blocks * CODEC.STRIDE
    tokens = step[count]
    zero = splat_i(0)
    for t0 in range(0, tokens, TILE):
        at = lanes(TILE)
        for t in static(TILE):
            at[t] = (worker * private + min(t0 + t, tokens - 1)) * blocks * 8
        for r in range(lo, hi, PACK):
            for part in range(PACK // LANES):
                p = r // PACK * group
                acc = lanes(TILE)
                for t in static(TILE):
                    acc[t] = splat(0.0)
                for b in range(blocks):
                    sums = lanes(TILE)
                    mins = lanes(TILE)
                    for t in static(TILE):
                        sums[t] = splat_i(0)
                        mins[t] = splat_i(0)
                    for j in range(4):  # sub-blocks 2j and 2j + 1 share their bytes
                        for i in static(CODEC.STRIDE // 256):
                            prefetch(w, p + FAR + j * (CODEC.STRIDE // 4) + 64 * i)
                        for h in static(2):
                            q = CODEC.columns(w, p, part, 2 * j + h)
                            sc = CODEC.sub_scale(w, p, part, 2 * j + h)
                            mn = CODEC.sub_minimum(w, p, part, 2 * j + h)
                            for t in static(TILE):
                                here = b * 8 + 2 * j + h
                                a = (at[t] + here) * 32
                                k = dot_start(zero)
                                for i in static(CODEC.STEPS):
                                    k = dot(k, q[i], dup4(aq, a + 4 * i))
                                s = dot_end(k, zero)
                                if CODEC.STEPS < 8:
                                    k = dot_start(zero)
                                    for i in static(8 - CODEC.STEPS):
                                        k = dot(k, q[CODEC.STEPS + i], dup4(aq, a + 4 * (CODEC.STEPS + i)))
                                    s = add(s, dot_end(k, zero))
                                sums[t] = add(sums[t], mul(s, sc))
                                mins[t] = add(mins[t], mul(mn, splat_i_at(ao, 4 * at[t] + here)))
                    d = CODEC.scale(w, p, part)
                    m = sub(splat(0.0), CODEC.minimum(w, p, part))
                    for t in static(TILE):
                        scale = splat_at(ad, at[t] + b * 8)
                        acc[t] = fma(to_float(sums[t]), mul(d, scale), acc[t])
                        acc[t] = fma(to_float(mins[t]), mul(m, scale), acc[t])
                    p += CODEC.STRIDE
                for t in static(TILE):
                    if t0 + t < tokens:
                        out = (t0 + t) * stride + r + LANES * part
                        if add_to:
                            acc[t] = add(acc[t], load_y(y, out))
                        store_rows(y, out, acc[t])
    return (hi - lo) // PACK * group


@kernel
def q6_k(
    w: "u8", aq: "i8", ad: "f32", ah: "i32", y: "f32", step: "i64",
    count: "int", cols: "int", stride: "int", private: "int", add_to: "int", worker, lo, hi, *, CODEC, TILE,
):  # fmt: skip
    """As `block32` for Q6_K: 16 sub-blocks of 16 columns with int8 scales; `ah` holds −32 times their sums."""
    blocks = cols // 256
    group = blocks * CODEC.STRIDE
    tokens = step[count]
    zero = splat_i(0)
    for t0 in range(0, tokens, TILE):
        at = lanes(TILE)
        for t in static(TILE):
            at[t] = (worker * private + min(t0 + t, tokens - 1)) * blocks * 16
        for r in range(lo, hi, PACK):
            for part in range(PACK // LANES):
                p = r // PACK * group
                acc = lanes(TILE)
                for t in static(TILE):
                    acc[t] = splat(0.0)
                for b in range(blocks):
                    sums = lanes(TILE)
                    for t in static(TILE):
                        sums[t] = splat_i(0)
                    for j in range(8):
                        for i in static(7):
                            prefetch(w, p + FAR + j * 420 + 64 * i)
                        for h in static(2):
                            q = CODEC.columns(w, p, part, 2 * j + h)
                            sc = CODEC.sub_scale(w, p, part, 2 * j + h)
                            for t in static(TILE):
                                here = at[t] + b * 16 + 2 * j + h
                                o = splat_i_at(ah, here)
                                k = dot(dot_start(o), q[0], dup4(aq, here * 16))
                                k = dot(k, q[1], dup4(aq, here * 16 + 4))
                                s = dot_end(k, o)  # two steps fit 16 bits: 2 · 2 · 63 · 127 = 32,004
                                k = dot(dot_start(zero), q[2], dup4(aq, here * 16 + 8))
                                k = dot(k, q[3], dup4(aq, here * 16 + 12))
                                sums[t] = add(sums[t], mul(add(s, dot_end(k, zero)), sc))
                    d = CODEC.scale(w, p, part)
                    for t in static(TILE):
                        scale = splat_at(ad, at[t] // 2 + b * 8)
                        acc[t] = fma(to_float(sums[t]), mul(d, scale), acc[t])
                    p += CODEC.STRIDE
                for t in static(TILE):
                    if t0 + t < tokens:
                        out = (t0 + t) * stride + r + LANES * part
                        if add_to:
                            acc[t] = add(acc[t], load_y(y, out))
                        store_rows(y, out, acc[t])
    return (hi - lo) // PACK * group


@kernel
def floats(
    w: "u8", x: "f32", y: "f32", step: "i64",
    count: "int", cols: "int", stride: "int", private: "int", add_to: "int", worker, lo, hi, *, CODEC, TILE,
):  # fmt: skip
    """As `block32` for F32, F16 and BF16, with float activations; four sums, over columns 4i, 4i + 1, …"""
    group = cols * CODEC.STRIDE
    tokens = step[count]
    for r in range(lo, hi, PACK):
        for t0 in range(0, tokens, TILE):  # inside: a group's rows, 64 kB and more, come from memory once
            at = lanes(TILE)
            for t in static(TILE):
                at[t] = (worker * private + min(t0 + t, tokens - 1)) * cols
            for part in range(PACK // LANES):
                p = r // PACK * group
                acc = lanes(4 * TILE)
                for t in static(4 * TILE):
                    acc[t] = splat(0.0)
                for c in range(0, cols, 4):
                    for k in static(CODEC.STRIDE // 16):  # 4 columns are CODEC.STRIDE / 16 lines
                        prefetch(w, p + FAR + 64 * k)
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
