"""Rotation of a head by a Hadamard matrix, which spreads outliers before it is quantized; it is its own inverse."""

import numpy as np

from memfirst.kernels.cpu.lang import inline
from memfirst.kernels.cpu.simd import add, mul, sub
from memfirst.kernels.cpu.simd16 import evens16, load16, odds16, splat16, store16


@inline
def _stage(x, at, y, to, n, factor):
    """Sums of neighbours in the first half of y, differences in the second, times `factor`: log2 n of these stages
    bring every value back to its place."""
    f = splat16(factor)
    for i in range(0, n // 2, 16):
        a, b = load16(x, at + 2 * i), load16(x, at + 2 * i + 16)
        even, odd = evens16(a, b), odds16(a, b)
        store16(y, to + i, mul(add(even, odd), f))
        store16(y, to + n // 2 + i, mul(sub(even, odd), f))


@inline
def rotate(x, at, dim, y, to):
    """y[to : to + dim] = x[at : at + dim], rotated
    in parts of the largest power of two that divides `dim` (32 or more).

    y[to + dim : to + 3 · dim] is working memory.
    """
    n = dim & -dim
    for part in range(0, dim, n):
        here, there = to + dim, to + dim + n
        _stage(x, at + part, y, here, n, np.float32(1.0))
        size = 4
        while size < n:
            _stage(y, here, y, there, n, np.float32(1.0))
            here, there = there, here
            size *= 2
        _stage(y, here, y, to + part, n, np.float32(1.0) / np.sqrt(np.float32(n)))
