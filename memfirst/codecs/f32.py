"""F32: one weight in 4 bytes, IEEE 754 single precision, little-endian. Nothing is lost.

Packed, 16 rows side by side, 64 bytes per column: the 16 rows' values of that column.
"""

from __future__ import annotations

import numpy as np

from memfirst.codecs.base import F32, U8, Codec
from memfirst.codecs.interleave import Field, deinterleave, interleave

LAYOUT = (Field(at=0, width=4, unit=4),)


def dequantize(blocks: U8) -> F32:
    """u8 [n, 4] -> f32 [n, 1], a view where the bytes are contiguous."""
    return np.ascontiguousarray(blocks).view(np.float32)


def quantize(weights: F32) -> U8:
    """f32 [n, 1] -> u8 [n, 4]; NaN and infinities are kept."""
    return np.ascontiguousarray(weights, dtype=np.float32).view(np.uint8)


def pack(blocks: U8, out: U8 | None = None) -> U8:
    """u8 [rows, columns, 4] -> u8 [rows/16, columns, 64]."""
    return interleave(LAYOUT, blocks, out)


def unpack(packed: U8) -> U8:
    """u8 [rows/16, columns, 64] -> u8 [rows, columns, 4]."""
    return deinterleave(LAYOUT, packed)


CODEC = Codec("f32", 0, 1, 4, "float", dequantize, quantize, pack, unpack)
