"""Packed Q4_1: per 16 rows × 32 columns, 16 f16 scales, 16 f16 minimums, 256 bytes of nibbles. Value d · q + m."""

from memfirst.kernels.cpu.dots import nibbles32 as product
from memfirst.kernels.cpu.lang import inline
from memfirst.kernels.cpu.simd import bits, load_f16, load_w, shr

__all__ = ["AHEAD", "HAS_MIN", "OFFSET", "PLANE", "SIGNED", "STRIDE", "columns", "minimum", "product", "scale"]

STRIDE = 320
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
    a, b = load_w(w, p + 64, part), load_w(w, p + 128, part)
    c, d = load_w(w, p + 192, part), load_w(w, p + 256, part)
    low = bits(a, 15), bits(b, 15), bits(c, 15), bits(d, 15)
    return *low, shr(a, 4), shr(b, 4), shr(c, 4), shr(d, 4)
