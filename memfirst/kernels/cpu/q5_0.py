"""Packed Q5_0: per 16 rows × 32 columns, 16 f16 scales, 64 bytes of fifth bits, 256 of nibbles.

Value d · (q − 16).
"""

from memfirst.kernels.cpu.dots import five_bits32 as product
from memfirst.kernels.cpu.lang import inline
from memfirst.kernels.cpu.simd import bits, join, load_f16, load_w, shl, shr

__all__ = ["AHEAD", "HAS_MIN", "OFFSET", "PLANE", "SIGNED", "STRIDE", "columns", "product", "scale"]

STRIDE = 352
AHEAD = 2304
OFFSET = 16
PLANE = 2  # of `ao`: −16 · sum
HAS_MIN = 0
SIGNED = 0


@inline
def scale(w, p, part):
    """d of each row."""
    return load_f16(w, p, part)


@inline
def columns(w, p, part):
    """Columns 4i..4i+3 of each row, for i = 0..7."""
    h = load_w(w, p + 32, part)  # bit i of byte 4r + k: fifth bit of column 4i + k of row r
    a, b = load_w(w, p + 96, part), load_w(w, p + 160, part)
    c, d = load_w(w, p + 224, part), load_w(w, p + 288, part)
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
