"""Q8_0: 32 weights in 34 bytes, 8.5 bits each; weight = d * q.

    byte 0..1    d, f16
    byte 2..33   q, int8, one per column

Packed, 16 rows side by side, 544 bytes per 32 columns: 16 x d, then eight 64-byte vectors, vector i holding
columns 4i..4i+3 of each row.
"""

from __future__ import annotations

import numpy as np

from memfirst.codecs.base import F32, U8, Codec
from memfirst.codecs.block32 import BLOCK
from memfirst.codecs.blocks import f16_at, f16_bytes, inverse, quantize_blocks
from memfirst.codecs.interleave import Field, deinterleave, interleave

BLOCK_BYTES = 34
LAYOUT = (Field(at=0, width=2, unit=2), Field(at=2, width=32, unit=4))


def dequantize(blocks: U8) -> F32:
    """u8 [n, 34] -> f32 [n, 32]."""
    weights = np.ascontiguousarray(blocks[:, 2:]).view(np.int8).astype(np.float32)
    weights *= f16_at(blocks, 0)
    return weights


def quantize(weights: F32) -> U8:
    """f32 [n, 32] -> u8 [n, 34], halves away from zero; FormatError as for Q4_0."""
    return quantize_blocks(weights, BLOCK, BLOCK_BYTES, _quantize)


def _quantize(weights: F32) -> U8:
    scale = np.abs(weights).max(axis=1, keepdims=True) / np.float32(127)
    scaled = weights * inverse(scale)
    # floor(a) + floor(2 * (a - floor(a))) is exact where a + 0.5 would round up from just below a half.
    size = np.abs(scaled)
    whole = np.floor(size)
    whole += np.floor(np.float32(2) * (size - whole))
    codes = np.copysign(whole, scaled).astype(np.int8)
    return np.concatenate([f16_bytes(scale), codes.view(np.uint8)], axis=1)


def pack(blocks: U8, out: U8 | None = None) -> U8:
    """u8 [rows, blocks, 34] -> u8 [rows/16, blocks, 544]."""
    return interleave(LAYOUT, blocks, out)


def unpack(packed: U8) -> U8:
    """u8 [rows/16, blocks, 544] -> u8 [rows, blocks, 34]."""
    return deinterleave(LAYOUT, packed)


CODEC = Codec("q8_0", 8, BLOCK, BLOCK_BYTES, "block32", dequantize, quantize, pack, unpack)
