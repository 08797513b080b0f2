"""Packed Q8_0: per 16 rows × 32 columns, 16 f16 scales, then 512 int8. Value d · q."""

from memfirst.kernels.cpu.dots import signed32 as product
from memfirst.kernels.cpu.lang import inline
from memfirst.kernels.cpu.simd import load_f16, load_w

__all__ = ["AHEAD", "HAS_MIN", "OFFSET", "PLANE", "SIGNED", "STRIDE", "columns", "product", "scale"]

STRIDE = 544
AHEAD = 0  # one plain stream: hardware follows it, and asking cost 17 to 20 % on a Zen 3
OFFSET = 0
PLANE = 3  # of `ao`: −128 · sum, for w + 128 unsigned
HAS_MIN = 0
SIGNED = 1


@inline
def scale(w, p, part):
    """d of each row."""
    return load_f16(w, p, part)


@inline
def columns(w, p, part):
    """Columns 4i..4i+3 of each row, for i = 0..7."""
    a, b = load_w(w, p + 32, part), load_w(w, p + 96, part)
    c, d = load_w(w, p + 160, part), load_w(w, p + 224, part)
    e, f = load_w(w, p + 288, part), load_w(w, p + 352, part)
    return a, b, c, d, e, f, load_w(w, p + 416, part), load_w(w, p + 480, part)
