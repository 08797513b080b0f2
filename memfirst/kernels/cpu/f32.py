"""Packed F32: for each column, the values of 8 rows side by side."""

from memfirst.kernels.cpu.lang import inline
from memfirst.kernels.cpu.simd import load_f32

STRIDE = 32


@inline
def value(w, p, gap):
    """One column of each row, as float32."""
    return load_f32(w, p, gap)
