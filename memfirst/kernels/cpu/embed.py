"""Looking up rows of a packed embedding table, dequantized as the codec's definition does, rounding for rounding.

A row lies among the 15 it is packed with, on the same cache lines: a look-up reads all 16, and says so.
"""

from memfirst.kernels.cpu.bf12 import (
    ASIDE,
    BLOCK_BYTES,
    BYTES,
    aside_bytes,
    coded_bytes,
    low_bytes,
    table_at,
    unpacked_columns,
)
from memfirst.kernels.cpu.lang import kernel, lanes, static
from memfirst.kernels.cpu.simd import LANES, PACK, add, brought, column, mul, signed_column, splat_i, sub, to_float
from memfirst.kernels.cpu.simd16 import lane, load_u32
from memfirst.kernels.cpu.simd_dot import half_pair
from memfirst.kernels.cpu.tiles import PARTS


@kernel
def block32(w: "u8", tokens: "i32", x: "f32", cols: "int", scale: "float", worker, lo, hi, *, CODEC):
    """x[t] = row tokens[t] of w, times `scale`, for tokens lo..hi; returns bytes read.

    w  [rows/16, cols/32, CODEC.STRIDE]
    """
    blocks = cols // 32
    for t in range(lo, hi):
        p, k = tokens[t] // PACK * blocks * CODEC.STRIDE, tokens[t] % LANES
        part = tokens[t] % PACK // LANES
        for b in range(blocks):
            brought(w, p, CODEC.STRIDE)
            q = CODEC.columns(w, p, part)
            d = CODEC.scale(w, p, part)
            for i in static(8):
                for c in static(4):
                    code = signed_column(q[i], c) if CODEC.SIGNED else column(q[i], c)
                    v = mul(to_float(sub(code, splat_i(CODEC.OFFSET))), d)
                    if CODEC.HAS_MIN:
                        v = add(v, CODEC.minimum(w, p, part))
                    x[t * cols + b * 32 + 4 * i + c] = lane(v, k) * scale
            p += CODEC.STRIDE
    return (hi - lo) * blocks * CODEC.STRIDE


@kernel
def k256(w: "u8", tokens: "i32", x: "f32", cols: "int", scale: "float", worker, lo, hi, *, CODEC):
    """As `block32` for K-quants with a scale for each 32 columns: (d · scale) · q − dmin · minimum."""
    blocks = cols // 256
    for t in range(lo, hi):
        p, k = tokens[t] // PACK * blocks * CODEC.STRIDE, tokens[t] % LANES
        part = tokens[t] % PACK // LANES
        for b in range(blocks):
            brought(w, p, CODEC.STRIDE)
            for j in range(4):
                for h in static(2):
                    d = mul(CODEC.scale(w, p, part), to_float(half_pair(CODEC.sub_scales(w, p, part, j), h)))
                    if CODEC.HAS_MIN:
                        m = mul(CODEC.minimum(w, p, part), to_float(half_pair(CODEC.sub_minimums(w, p, part, j), h)))
                    q = CODEC.columns(w, p, part, j, h)
                    for i in static(8):
                        for c in static(4):
                            code = signed_column(q[i], c) if CODEC.SIGNED else column(q[i], c)
                            v = mul(d, to_float(code))
                            if CODEC.HAS_MIN:
                                v = sub(v, m)
                            x[t * cols + b * 256 + (2 * j + h) * 32 + 4 * i + c] = lane(v, k) * scale
            p += CODEC.STRIDE
    return (hi - lo) * blocks * CODEC.STRIDE


@kernel
def k256_16(w: "u8", tokens: "i32", x: "f32", cols: "int", scale: "float", worker, lo, hi, *, CODEC):
    """As `block32` for K-quants of 16 columns a scale: (d · scale) · (q − offset), or q and less dmin · minimum."""
    blocks = cols // 256
    for t in range(lo, hi):
        p, k = tokens[t] // PACK * blocks * CODEC.STRIDE, tokens[t] % LANES
        part = tokens[t] % PACK // LANES
        for b in range(blocks):
            brought(w, p, CODEC.STRIDE)
            for j in range(8):
                for h in static(2):
                    scales = CODEC.sub_scales(w, p, part, j // 4, j % 4)
                    d = mul(CODEC.scale(w, p, part), to_float(half_pair(scales, h)))
                    q = CODEC.columns(w, p, part, j // 4, j % 4, h)
                    if CODEC.HAS_MIN:
                        mins = CODEC.sub_minimums(w, p, part, j // 4, j % 4)
                        m = mul(CODEC.minimum(w, p, part), to_float(half_pair(mins, h)))
                    for i in static(4):
                        for c in static(4):
                            if CODEC.HAS_MIN:
                                v = sub(mul(d, to_float(column(q[i], c))), m)
                            else:
                                v = mul(d, to_float(sub(column(q[i], c), splat_i(1 << CODEC.OFFSET_BITS))))
                            x[t * cols + b * 256 + (2 * j + h) * 16 + 4 * i + c] = lane(v, k) * scale
            p += CODEC.STRIDE
    return (hi - lo) * blocks * CODEC.STRIDE


@kernel
def floats(w: "u8", tokens: "i32", x: "f32", cols: "int", scale: "float", worker, lo, hi, *, CODEC):
    """As `block32` for F32, F16 and BF16."""
    for t in range(lo, hi):
        p, k = tokens[t] // PACK * cols * CODEC.STRIDE, tokens[t] % LANES
        part = tokens[t] % PACK // LANES
        for c in range(cols):
            brought(w, p + c * CODEC.STRIDE, CODEC.STRIDE)
            x[t * cols + c] = lane(CODEC.value(w, p + c * CODEC.STRIDE, part), k) * scale
    return (hi - lo) * cols * CODEC.STRIDE


@kernel
def bf12(w: "u8", tokens: "i32", x: "f32", cols: "int", groups: "int", scale: "float", worker, lo, hi):
    """As `block32` for BF16 in 12 bits: what lies aside of the 16 rows is read, too.

    w  `groups` of 16 rows, as in `memfirst.codecs.bf12`
    """
    read = (hi - lo) * (cols + 1) * BYTES
    low = lanes(PARTS)
    high = lanes(PARTS)
    v = lanes(4 * PARTS)
    for t in range(lo, hi):
        group, k, part = tokens[t] // PACK, tokens[t] % LANES, tokens[t] % PACK // LANES
        p, head = group * cols * BYTES, (groups * cols + group) * BYTES
        records, table = groups * (cols + 1) * BYTES, table_at(w, head)
        n, last = load_u32(w, head + 16), load_u32(w, head + 20)
        read += (last - n) * ASIDE
        for c in range(0, cols, 4):
            low_bytes(w, p, low)
            if n < last and load_u32(w, records + n * ASIDE + 64) == c:
                aside_bytes(w, records + n * ASIDE, p, high)
                n += 1
            else:
                coded_bytes(w, p, table, high)
            unpacked_columns(low, high, v)
            for i in static(4 * PARTS):
                if part == i % PARTS:
                    x[t * cols + c + i // PARTS] = lane(v[i], k) * scale
            p += BLOCK_BYTES
    return read
