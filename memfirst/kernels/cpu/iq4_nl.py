"""Packed IQ4_NL: as Q4_0, but the nibble is an index into 16 levels. Value d · level."""

import numpy as np

from memfirst.kernels.cpu.dots import signed32 as product
from memfirst.kernels.cpu.lang import inline
from memfirst.kernels.cpu.simd import bits, load_f16, load_w, shr, table16

__all__ = [
    "AHEAD", "HAS_MIN", "OFFSET", "PLANE", "SIGNED", "STRIDE", "VALUES", "columns", "product", "scale",
]  # fmt: skip

VALUES = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)
"""Levels, denser around zero (ggml's kvalues_iq4nl)."""
STRIDE = 288
AHEAD = 2304
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
    return (
        table16(bits(a, 15), VALUES),
        table16(bits(b, 15), VALUES),
        table16(bits(c, 15), VALUES),
        table16(bits(d, 15), VALUES),
        table16(shr(a, 4), VALUES),
        table16(shr(b, 4), VALUES),
        table16(shr(c, 4), VALUES),
        table16(shr(d, 4), VALUES),
    )
