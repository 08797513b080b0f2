"""Packed Q8_0: per 8 rows × 32 columns, 8 f16 scales, then 256 int8. Value d · q."""

from memfirst.kernels.cpu.lang import inline
from memfirst.kernels.cpu.simd import load_f16, load_w

STRIDE = 272
OFFSET = 0
HAS_MIN = 0
SIGNED = 1
STEPS = 8  # unused: signed weights are summed in 32 bits


@inline
def scale(w, p, gap):
    """d of each row."""
    return load_f16(w, p, gap)


@inline
def minimum(w, p, gap):
    """Not read: HAS_MIN is 0."""
    return load_f16(w, p + 0, gap)


@inline
def columns(w, p, gap):
    """Columns 4i..4i+3 of each row, for i = 0..7."""
    a, b = load_w(w, p + 16, gap), load_w(w, p + 48, gap)
    c, d = load_w(w, p + 80, gap), load_w(w, p + 112, gap)
    e, f = load_w(w, p + 144, gap), load_w(w, p + 176, gap)
    return a, b, c, d, e, f, load_w(w, p + 208, gap), load_w(w, p + 240, gap)
