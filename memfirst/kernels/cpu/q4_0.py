"""Packed Q4_0: per 16 rows × 32 columns, 16 f16 scales, then 256 bytes of nibbles. Value d · (q − 8)."""

from memfirst.kernels.cpu.dots import nibbles32 as product
from memfirst.kernels.cpu.lang import inline
from memfirst.kernels.cpu.simd import bits, load_f16, load_w, shr

__all__ = ["AHEAD", "HAS_MIN", "OFFSET", "PLANE", "SIGNED", "STRIDE", "columns", "product", "scale"]

STRIDE = 288
AHEAD = 2304
OFFSET = 8
PLANE = 1  # of `ao`: −8 · sum
HAS_MIN = 0
SIGNED = 0


@inline
def scale(w, p, part):
    """d of each row."""
    return load_f16(w, p, part)


@inline
def columns(w, p, part):
    """Columns 4i..4i+3 of each row, for i = 0..7."""
    a, b = load_w(w, p + 32, part), load_w(w, p + 96, part)
    c, d = load_w(w, p + 160, part), load_w(w, p + 224, part)
    low = bits(a, 15), bits(b, 15), bits(c, 15), bits(d, 15)
    return *low, shr(a, 4), shr(b, 4), shr(c, 4), shr(d, 4)
