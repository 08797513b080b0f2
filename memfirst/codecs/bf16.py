"""BF16: one weight in 2 bytes, little-endian: the upper half of a float32.

    bit 15       sign
    bit 14..7    exponent, bias 127
    bit 6..0     fraction

Packed, 16 rows side by side, 32 bytes per column: the 16 rows' values of that column.
"""

from __future__ import annotations

import numpy as np

from memfirst.codecs.base import F32, U8, Codec
from memfirst.codecs.interleave import Field, deinterleave, interleave
from memfirst.errors import FormatError

LAYOUT = (Field(at=0, width=2, unit=2),)

_INFINITY = np.uint32(0x7F800000)
_MAGNITUDE = np.uint32(0x7FFFFFFF)
_QUIET = np.uint32(0x00400000)


def dequantize(blocks: U8) -> F32:
    """u8 [n, 2] -> f32 [n, 1]."""
    bits = np.ascontiguousarray(blocks).view(np.uint16).astype(np.uint32)
    return (bits << np.uint32(16)).view(np.float32)


def quantize(weights: F32) -> U8:
    """f32 [n, 1] -> u8 [n, 2], to nearest, ties to even; infinities are kept, NaN becomes a quiet NaN.

    Raises FormatError where a finite weight would become infinite (from 3.3953e38 on).
    """
    bits = np.ascontiguousarray(weights, dtype=np.float32).view(np.uint32)
    magnitude = bits & _MAGNITUDE
    # Adding 0x7FFF plus the last kept bit carries into that bit exactly when rounding to even goes up.
    rounded = bits + (np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1)))
    if ((magnitude < _INFINITY) & (rounded & _MAGNITUDE >= _INFINITY)).any():
        raise FormatError(
            f"finite weights reach {np.abs(weights[np.isfinite(weights)]).max():g}, which rounds to infinity",
            "magnitudes below 3.3953e38",
            "keep this tensor as f32",
        )
    kept = np.where(magnitude > _INFINITY, bits | _QUIET, rounded)
    return (kept >> np.uint32(16)).astype(np.uint16).view(np.uint8)


def pack(blocks: U8, out: U8 | None = None) -> U8:
    """u8 [rows, columns, 2] -> u8 [rows/16, columns, 32]."""
    return interleave(LAYOUT, blocks, out)


def unpack(packed: U8) -> U8:
    """u8 [rows/16, columns, 32] -> u8 [rows, columns, 2]."""
    return deinterleave(LAYOUT, packed)


CODEC = Codec("bf16", 30, 1, 2, "float", dequantize, quantize, pack, unpack)
