"""Q2_K: 256 weights in 84 bytes, 2.625 bits each; weight = d * scale[s] * q - dmin * min[s], s = column // 16.

    byte 0..15   scale s in the low nibble, minimum s in the high one
    byte 16..79  q: bits 2t+1:2t of byte 16+32h+j (h = 0, 1; j = 0..31) belong to column 128h+32t+j
    byte 80..81  d, f16
    byte 82..83  dmin, f16

Packed, 16 rows side by side, 1344 bytes per 256 columns: 16 x d, 16 x dmin, 256 bytes of scales and minimums (2j and
2j+1 of row r at 32j+2r), then 16 vectors of 64 bytes, vector i holding bytes 4i..4i+3 of q of each row.
"""

from __future__ import annotations

import numpy as np

from memfirst.codecs.base import F32, U8, Codec
from memfirst.codecs.blocks import f16_at, quantize_blocks
from memfirst.codecs.interleave import Field, deinterleave, interleave
from memfirst.codecs.k256 import BLOCK, four_quarters, quarters
from memfirst.codecs.k256_search import affine_quantize

BLOCK_BYTES = 84
SUB = 16
"""Weights that share a scale and a minimum."""
LAYOUT = (
    Field(at=80, width=2, unit=2),
    Field(at=82, width=2, unit=2),
    Field(at=0, width=16, unit=2),
    Field(at=16, width=64, unit=4),
)
OFFSETS = [-0.5 + step / 10 for step in range(16)]


def dequantize(blocks: U8) -> F32:
    """u8 [n, 84] -> f32 [n, 256]."""
    scales, mins = blocks[:, :16] & np.uint8(0x0F), blocks[:, :16] >> np.uint8(4)
    weights = quarters(blocks[:, 16:80]).astype(np.float32).reshape(-1, BLOCK // SUB, SUB)
    weights *= (f16_at(blocks, 80) * scales.astype(np.float32))[..., None]
    weights -= (f16_at(blocks, 82) * mins.astype(np.float32))[..., None]
    return weights.reshape(-1, BLOCK)


def quantize(weights: F32) -> U8:
    """f32 [n, 256] -> u8 [n, 84], by `affine_search`; FormatError as for Q4_0."""
    return quantize_blocks(weights, BLOCK, BLOCK_BYTES, _quantize)


def _quantize(weights: F32) -> U8:
    steps, scales, mins, codes = affine_quantize(weights, 4, OFFSETS, SUB, 15)
    return np.concatenate([scales | mins << np.uint8(4), four_quarters(codes), steps], axis=1)


def pack(blocks: U8, out: U8 | None = None) -> U8:
    """u8 [rows, blocks, 84] -> u8 [rows/16, blocks, 1344]."""
    return interleave(LAYOUT, blocks, out)


def unpack(packed: U8) -> U8:
    """u8 [rows/16, blocks, 1344] -> u8 [rows, blocks, 84]."""
    return deinterleave(LAYOUT, packed)


CODEC = Codec("q2_k", 10, BLOCK, BLOCK_BYTES, "k256_16", dequantize, quantize, pack, unpack)
