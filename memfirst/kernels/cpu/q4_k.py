"""Packed Q4_K: per 16 rows × 256 columns, 16 f16 d, 16 f16 dmin, 192 bytes of 6-bit scales, 2,048 of nibbles.

Value d · scale · q − dmin · minimum, a scale and a minimum for each 32 columns (a sub-block).
"""

from memfirst.kernels.cpu.dots import weighed_nibbles32 as product
from memfirst.kernels.cpu.lang import inline
from memfirst.kernels.cpu.simd import bits, join, load_f16, load_pairs, load_w, shl, shr

__all__ = [
    "AHEAD", "HAS_MIN", "SIGNED", "STRIDE", "columns", "minimum", "nibbles", "product", "scale", "sub_minimums",
    "sub_scales",
]  # fmt: skip

STRIDE = 2304
AHEAD = 18432
HAS_MIN = 1
SIGNED = 0


@inline
def scale(w, p, part):
    """d of each row."""
    return load_f16(w, p, part)


@inline
def minimum(w, p, part):
    """dmin of each row."""
    return load_f16(w, p + 32, part)


@inline
def sub_scales(w, p, part, j):
    """6-bit scales of sub-blocks 2j and 2j + 1 of each row, side by side."""
    low, high = load_pairs(w, p + 64 + 32 * j, part), load_pairs(w, p + 192 + 32 * (j % 2), part)
    return join(bits(low, 15), shl(bits(shr(high, 2 * (j // 2)), 3), 4))


@inline
def sub_minimums(w, p, part, j):
    """6-bit minimums of sub-blocks 2j and 2j + 1 of each row, side by side."""
    low, high = load_pairs(w, p + 64 + 32 * j, part), load_pairs(w, p + 192 + 32 * (j % 2), part)
    return join(shr(low, 4), shl(bits(shr(high, 4 + 2 * (j // 2)), 3), 4))


@inline
def nibbles(w, at, part, h):
    """Columns 4i..4i+3 of each row for i = 0..7, from 512 bytes at `at`: low nibbles (h = 0) or high ones."""
    up = 4 * h
    a, b = bits(shr(load_w(w, at, part), up), 15), bits(shr(load_w(w, at + 64, part), up), 15)
    c, d = bits(shr(load_w(w, at + 128, part), up), 15), bits(shr(load_w(w, at + 192, part), up), 15)
    e, f = bits(shr(load_w(w, at + 256, part), up), 15), bits(shr(load_w(w, at + 320, part), up), 15)
    g, i = bits(shr(load_w(w, at + 384, part), up), 15), bits(shr(load_w(w, at + 448, part), up), 15)
    return a, b, c, d, e, f, g, i


@inline
def columns(w, p, part, j, h):
    """Columns 4i..4i+3 of sub-block 2j + h of each row, for i = 0..7."""
    return nibbles(w, p + 256 + 512 * j, part, h)
