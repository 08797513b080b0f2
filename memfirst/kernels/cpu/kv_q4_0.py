"""Keys and values as Q4_0: 32 values of a head share a scale, d = the largest / −8; value d · (q − 8).

Keys are packed as a Q4_0 matrix whose rows are positions; values lie as those of `kv_q8_0`, value i in the low and
value 16 + i in the high nibble of a byte: [block/2, 16, 2] bytes.
"""

import numpy as np

from memfirst.kernels.cpu.dots import nibbles32 as product
from memfirst.kernels.cpu.lang import inline
from memfirst.kernels.cpu.simd import bits, load_f16_of, load_w_of, minus, shr
from memfirst.kernels.cpu.simd16 import load_pairs_of, store_f16

__all__ = ["INT8", "OFFSET", "PER32", "columns", "pairs", "product", "scale", "store_key", "store_value"]

INT8 = 1
PER32 = 18
OFFSET = -8


@inline
def scale(cache, at, part, skip, used):
    """d of each position."""
    return load_f16_of(cache, at, part, skip, used)


@inline
def columns(cache, at, part, skip, used):
    """Values 4i..4i+3 of each position, for i = 0..7."""
    a, b = load_w_of(cache, at + 32, part, skip, used), load_w_of(cache, at + 96, part, skip, used)
    c, d = load_w_of(cache, at + 160, part, skip, used), load_w_of(cache, at + 224, part, skip, used)
    return bits(a, 15), bits(b, 15), bits(c, 15), bits(d, 15), shr(a, 4), shr(b, 4), shr(c, 4), shr(d, 4)


@inline
def pairs(cache, at, skip, used):
    """Values 0..15 and 16..31 of two positions as int16, the positions side by side."""
    both = load_pairs_of(cache, at, skip, used)
    return minus(bits(both, 15), 8), minus(shr(both, 4), 8)


@inline
def _steps(x, at):
    """The scale of 32 values, and its inverse: the largest in size becomes −8 steps."""
    largest = x[at]
    for i in range(at + 1, at + 32):
        largest = x[i] if abs(x[i]) > abs(largest) else largest
    d = largest / np.float32(-8)
    return d, np.float32(1.0) / d if d != np.float32(0.0) else np.float32(0.0)


@inline
def _nibbles(x, i, inverse):
    """x[i] and x[i + 16] in a byte."""
    low = min(int(np.rint(x[i] * inverse)) + 8, 15)
    return (low & 15) | (min(int(np.rint(x[i + 16] * inverse)) + 8, 15) & 15) << 4


@inline
def store_key(cache, at, lane, x, i):
    """32 values x[i:] of the position that is the `lane`th of 16."""
    d, inverse = _steps(x, i)
    store_f16(cache, at + 2 * lane, d)
    for c in range(16):
        cache[at + 32 + c // 4 * 64 + 4 * lane + c % 4] = _nibbles(x, i + c, inverse)


@inline
def store_value(cache, scale_at, at, x, i):
    """32 values x[i:] of one of a pair of positions: bytes at, at + 2, …"""
    d, inverse = _steps(x, i)
    store_f16(cache, scale_at, d)
    for c in range(16):
        cache[at + 2 * c] = _nibbles(x, i + c, inverse)
