"""Packed Q4_K: per 16 rows × 256 columns, 16 f16 d, 16 f16 dmin, 192 bytes of 6-bit scales, 2,048 of nibbles.

Value d · scale · q − dmin · minimum, a scale and a minimum for each 32 columns (a sub-block).
"""

from memfirst.kernels.cpu.lang import inline
from memfirst.kernels.cpu.simd import bits, join, load_f16, load_u8, load_w, shl, shr

STRIDE = 2304
STEPS = 8  # dot products that fit 16 bits: 8 · 2 · 15 · 127 = 30,480


@inline
def scale(w, p, part):
    """d of each row."""
    return load_f16(w, p, part)


@inline
def minimum(w, p, part):
    """dmin of each row."""
    return load_f16(w, p + 32, part)


@inline
def sub_scale(w, p, part, s):
    """6-bit scale of sub-block s of each row."""
    low, high = load_u8(w, p + 64 + 16 * s, part), load_u8(w, p + 192 + 16 * (s % 4), part)
    return join(bits(low, 15), shl(bits(shr(high, 2 * (s // 4)), 3), 4))


@inline
def sub_minimum(w, p, part, s):
    """6-bit minimum of sub-block s of each row."""
    low, high = load_u8(w, p + 64 + 16 * s, part), load_u8(w, p + 192 + 16 * (s % 4), part)
    return join(shr(low, 4), shl(bits(shr(high, 4 + 2 * (s // 4)), 3), 4))


@inline
def nibbles(w, p, part, s):
    """Low 4 bits of sub-block s, columns 4i..4i+3 of each row for i = 0..7: even sub-blocks are low nibbles."""
    at, up = p + 256 + 512 * (s // 2), 4 * (s % 2)
    a, b = bits(shr(load_w(w, at, part), up), 15), bits(shr(load_w(w, at + 64, part), up), 15)
    c, d = bits(shr(load_w(w, at + 128, part), up), 15), bits(shr(load_w(w, at + 192, part), up), 15)
    e, f = bits(shr(load_w(w, at + 256, part), up), 15), bits(shr(load_w(w, at + 320, part), up), 15)
    g, h = bits(shr(load_w(w, at + 384, part), up), 15), bits(shr(load_w(w, at + 448, part), up), 15)
    return a, b, c, d, e, f, g, h


@inline
def columns(w, p, part, s):
    """Columns 4i..4i+3 of sub-block s of each row, for i = 0..7."""
    return nibbles(w, p, part, s)
