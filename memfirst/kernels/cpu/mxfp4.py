"""Packed MXFP4: per 16 rows × 32 columns, 16 exponents, then 4 vectors of nibbles. Value 2^(e − 128) · level.

The table holds each level + 16, so that bytes are unsigned and below 32: `OFFSET` takes the 16 away again.
"""

import numpy as np

from memfirst.kernels.cpu.dots import five_bits32 as product
from memfirst.kernels.cpu.lang import inline
from memfirst.kernels.cpu.simd import bits, load_e8m0, load_w, shr, table16

__all__ = [
    "AHEAD", "HAS_MIN", "OFFSET", "PLANE", "SIGNED", "STRIDE", "VALUES", "columns", "product", "scale",
]  # fmt: skip

VALUES = np.array([16, 17, 18, 19, 20, 22, 24, 28, 16, 15, 14, 13, 12, 10, 8, 4], np.int8)
"""16 + E2M1's numbers, doubled (OCP Microscaling Formats 1.0, section 5.3.3)."""
STRIDE = 272
AHEAD = 2176
OFFSET = 16
PLANE = 2  # of `ao`: −16 · sum
HAS_MIN = 0
SIGNED = 0


@inline
def scale(w, p, part):
    """2^(e − 128) of each row."""
    return load_e8m0(w, p, part)


@inline
def columns(w, p, part):
    """Columns 4i..4i+3 of each row, for i = 0..7."""
    a, b = load_w(w, p + 16, part), load_w(w, p + 80, part)
    c, d = load_w(w, p + 144, part), load_w(w, p + 208, part)
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
