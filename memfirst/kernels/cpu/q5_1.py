"""Packed Q5_1: per 8 rows × 32 columns, 8 f16 scales, 8 f16 minimums, 32 bytes of fifth bits, 128 of nibbles.

Value d · q + m.
"""

from memfirst.kernels.cpu.lang import inline
from memfirst.kernels.cpu.simd import bits, join, load_f16, load_w, shl, shr

STRIDE = 192
OFFSET = 0
HAS_MIN = 1
SIGNED = 0
STEPS = 4  # dot products that fit 16 bits: 4 · 2 · 31 · 127 = 31,496


@inline
def scale(w, p, gap):
    """d of each row."""
    return load_f16(w, p, gap)


@inline
def minimum(w, p, gap):
    """m of each row."""
    return load_f16(w, p + 16, gap)


@inline
def columns(w, p, gap):
    """Columns 4i..4i+3 of each row, for i = 0..7."""
    h = load_w(w, p + 32, gap)  # bit i of byte 4r + k: fifth bit of column 4i + k of row r
    a, b = load_w(w, p + 64, gap), load_w(w, p + 96, gap)
    c, d = load_w(w, p + 128, gap), load_w(w, p + 160, gap)
    return (
        join(bits(a, 15), bits(shl(h, 4), 16)),
        join(bits(b, 15), bits(shl(h, 3), 16)),
        join(bits(c, 15), bits(shl(h, 2), 16)),
        join(bits(d, 15), bits(shl(h, 1), 16)),
        join(shr(a, 4), bits(h, 16)),
        join(shr(b, 4), bits(shr(h, 1), 16)),
        join(shr(c, 4), bits(shr(h, 2), 16)),
        join(shr(d, 4), bits(shr(h, 3), 16)),
    )
