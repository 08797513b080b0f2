"""Packed F16: for each column, the values of 8 rows side by side."""

from memfirst.kernels.cpu.lang import inline
from memfirst.kernels.cpu.simd import load_f16

STRIDE = 16


@inline
def value(w, p, gap):
    """One column of each row, as float32."""
    return load_f16(w, p, gap)
