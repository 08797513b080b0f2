"""F16: one weight in 2 bytes, IEEE 754 half precision, little-endian.

    bit 15       sign
    bit 14..10   exponent, bias 15
    bit 9..0     fraction

Packed, 16 rows side by side, 32 bytes per column: the 16 rows' values of that column.
"""

from __future__ import annotations

import numpy as np

from memfirst.codecs.base import F32, U8, Codec
from memfirst.codecs.interleave import Field, deinterleave, interleave
from memfirst.errors import FormatError

LAYOUT = (Field(at=0, width=2, unit=2),)


def dequantize(blocks: U8) -> F32:
    """u8 [n, 2] -> f32 [n, 1]."""
    return np.ascontiguousarray(blocks).view(np.float16).astype(np.float32)


def quantize(weights: F32) -> U8:
    """f32 [n, 1] -> u8 [n, 2], to nearest, ties to even; NaN and infinities are kept.

    Raises FormatError where a finite weight would become infinite (from 65520 on).
    """
    with np.errstate(over="ignore"):
        halves = np.ascontiguousarray(weights, dtype=np.float32).astype(np.float16)
    lost = np.isinf(halves) & np.isfinite(weights)
    if lost.any():
        raise FormatError(
            f"{int(lost.sum())} weights reach {np.abs(weights[lost]).max():g}",
            "magnitudes up to 65504, the largest f16",
            "keep this tensor as f32 or bf16",
        )
    return halves.view(np.uint8)


def pack(blocks: U8, out: U8 | None = None) -> U8:
    """u8 [rows, columns, 2] -> u8 [rows/16, columns, 32]."""
    return interleave(LAYOUT, blocks, out)


def unpack(packed: U8) -> U8:
    """u8 [rows/16, columns, 32] -> u8 [rows, columns, 2]."""
    return deinterleave(LAYOUT, packed)


CODEC = Codec("f16", 1, 1, 2, "float", dequantize, quantize, pack, unpack)
