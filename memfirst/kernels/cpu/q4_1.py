"""Packed Q4_1: per 8 rows × 32 columns, 8 f16 scales, 8 f16 minimums, 128 bytes of nibbles. Value d · q + m."""

from memfirst.kernels.cpu.lang import inline
from memfirst.kernels.cpu.simd import bits, load_f16, load_w, shr

STRIDE = 160
OFFSET = 0
HAS_MIN = 1
SIGNED = 0
STEPS = 8  # dot products that fit 16 bits: 8 · 2 · 15 · 127 = 30,480


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
    a, b = load_w(w, p + 32, gap), load_w(w, p + 64, gap)
    c, d = load_w(w, p + 96, gap), load_w(w, p + 128, gap)
    low = bits(a, 15), bits(b, 15), bits(c, 15), bits(d, 15)
    return *low, shr(a, 4), shr(b, 4), shr(c, 4), shr(d, 4)
