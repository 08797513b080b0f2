"""Q4_1: 32 weights in 20 bytes, 5 bits each; weight = d * q + m.

    byte 0..1    d, f16
    byte 2..3    m, f16
    byte 4..19   q: byte 4+j holds column j in its low nibble and column 16+j in its high nibble

Packed, 16 rows side by side, 320 bytes per 32 columns: 16 x d, 16 x m, then four 64-byte vectors of nibble
bytes, as in Q4_0.
"""

from __future__ import annotations

import numpy as np

from memfirst.codecs.base import F32, U8, Codec
from memfirst.codecs.block32 import BLOCK, affine_codes, nibble_bytes, nibbles
from memfirst.codecs.blocks import f16_at, f16_bytes, quantize_blocks
from memfirst.codecs.interleave import Field, deinterleave, interleave

BLOCK_BYTES = 20
LAYOUT = (Field(at=0, width=2, unit=2), Field(at=2, width=2, unit=2), Field(at=4, width=16, unit=4))


def dequantize(blocks: U8) -> F32:
    """u8 [n, 20] -> f32 [n, 32]."""
    weights = nibbles(blocks[:, 4:]).astype(np.float32)
    weights *= f16_at(blocks, 0)
    weights += f16_at(blocks, 2)
    return weights


def quantize(weights: F32) -> U8:
    """f32 [n, 32] -> u8 [n, 20], rounded to nearest; FormatError for NaN, infinity or a scale beyond f16."""
    return quantize_blocks(weights, BLOCK, BLOCK_BYTES, _quantize)


def _quantize(weights: F32) -> U8:
    scale, lowest, codes = affine_codes(weights, levels=16)
    return np.concatenate([f16_bytes(scale), f16_bytes(lowest), nibble_bytes(codes)], axis=1)


def pack(blocks: U8, out: U8 | None = None) -> U8:
    """u8 [rows, blocks, 20] -> u8 [rows/16, blocks, 320]."""
    return interleave(LAYOUT, blocks, out)


def unpack(packed: U8) -> U8:
    """u8 [rows/16, blocks, 320] -> u8 [rows, blocks, 20]."""
    return deinterleave(LAYOUT, packed)


CODEC = Codec("q4_1", 3, BLOCK, BLOCK_BYTES, "block32", dequantize, quantize, pack, unpack)
