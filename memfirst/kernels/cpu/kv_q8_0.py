"""Keys and values as Q8_0: 32 values of a head share a scale, d = the largest / 127; value d · q.

Keys are packed as a Q8_0 matrix whose rows are positions: [block/16, dim/32], 16 scales and then 32 × 16 int8. Values
lie as [dim/32], a scale for each position of the block and then pairs of positions: [block/2, 32, 2] int8.

Rows (of latents, which are both) lie as [block, dim/32] scales and then [block, dim] int8.
"""

import numpy as np

from memfirst.kernels.cpu.activations import largest_of
from memfirst.kernels.cpu.dots import signed32 as product
from memfirst.kernels.cpu.lang import inline
from memfirst.kernels.cpu.simd import load_f16_of, load_w_of
from memfirst.kernels.cpu.simd16 import load16_i8 as load_row
from memfirst.kernels.cpu.simd16 import load_signed_pairs_of, store_f16

__all__ = [
    "INT8", "OFFSET", "PER32", "columns", "load_row", "pairs", "product", "scale", "store_key", "store_row",
    "store_value",
]  # fmt: skip

INT8 = 1
PER32 = 34
OFFSET = -128  # of a query's sum: what `product` starts from


@inline
def scale(cache, at, part, skip, used):
    """d of each position."""
    return load_f16_of(cache, at, part, skip, used)


@inline
def columns(cache, at, part, skip, used):
    """Values 4i..4i+3 of each position, for i = 0..7."""
    a, b = load_w_of(cache, at + 32, part, skip, used), load_w_of(cache, at + 96, part, skip, used)
    c, d = load_w_of(cache, at + 160, part, skip, used), load_w_of(cache, at + 224, part, skip, used)
    e, f = load_w_of(cache, at + 288, part, skip, used), load_w_of(cache, at + 352, part, skip, used)
    g, h = load_w_of(cache, at + 416, part, skip, used), load_w_of(cache, at + 480, part, skip, used)
    return a, b, c, d, e, f, g, h


@inline
def pairs(cache, at, skip, used):
    """Values 0..15 and 16..31 of two positions as int16, the positions side by side."""
    return load_signed_pairs_of(cache, at, skip, used), load_signed_pairs_of(cache, at + 32, skip, used)


@inline
def _steps(x, at):
    """The scale of 32 values, and its inverse."""
    largest = largest_of(x, at, 32)
    d = largest / np.float32(127)
    return d, np.float32(1.0) / d if d > np.float32(0.0) else np.float32(0.0)


@inline
def store_key(cache, at, lane, x, i):
    """32 values x[i:] of the position that is the `lane`th of 16."""
    d, inverse = _steps(x, i)
    store_f16(cache, at + 2 * lane, d)
    for c in range(32):
        cache[at + 32 + c // 4 * 64 + 4 * lane + c % 4] = int(np.rint(x[i + c] * inverse)) & 255


@inline
def store_value(cache, scale_at, at, x, i):
    """32 values x[i:] of one of a pair of positions: bytes at, at + 2, …"""
    d, inverse = _steps(x, i)
    store_f16(cache, scale_at, d)
    for c in range(32):
        cache[at + 2 * c] = int(np.rint(x[i + c] * inverse)) & 255


@inline
def store_row(cache, scale_at, at, x, i):
    """32 values x[i:] of a row: bytes at, at + 1, …"""
    d, inverse = _steps(x, i)
    store_f16(cache, scale_at, d)
    for c in range(32):
        cache[at + c] = int(np.rint(x[i + c] * inverse)) & 255
