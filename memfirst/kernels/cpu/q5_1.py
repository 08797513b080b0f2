"""Packed Q5_1: per 16 rows × 32 columns, 16 f16 scales, 16 f16 minimums, 64 bytes of fifth bits, 256 of nibbles.

Value d · q + m.
"""

from memfirst.kernels.cpu.dots import five_bits32 as product
from memfirst.kernels.cpu.lang import inline
from memfirst.kernels.cpu.simd import bits, join, load_f16, load_w, shl, shr

__all__ = ["AHEAD", "HAS_MIN", "OFFSET", "PLANE", "SIGNED", "STRIDE", "columns", "minimum", "product", "scale"]

STRIDE = 384
AHEAD = 2304
OFFSET = 0
PLANE = 0  # no offset
HAS_MIN = 1
SIGNED = 0


@inline
def scale(w, p, part):
    """d of each row."""
    return load_f16(w, p, part)


@inline
def minimum(w, p, part):
    """m of each row."""
    return load_f16(w, p + 32, part)


@inline
def columns(w, p, part):
    """Columns 4i..4i+3 of each row, for i = 0..7."""
    h = load_w(w, p + 64, part)  # bit i of byte 4r + k: fifth bit of column 4i + k of row r
    a, b = load_w(w, p + 128, part), load_w(w, p + 192, part)
    c, d = load_w(w, p + 256, part), load_w(w, p + 320, part)
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
