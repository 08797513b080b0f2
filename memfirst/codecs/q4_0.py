"""Q4_0: 32 weights in 18 bytes, 4.5 bits each; weight = d * (q - 8).

    byte 0..1    d, f16
    byte 2..17   q: byte 2+j holds column j in its low nibble and column 16+j in its high nibble

Packed, 16 rows side by side, 288 bytes per 32 columns: 16 x d, then four 64-byte vectors of nibble bytes,
vector i holding bytes 4i..4i+3 of each row (columns 4i..4i+3 low, 16+4i..16+4i+3 high).
"""

from __future__ import annotations

import numpy as np

from memfirst.codecs.base import F32, U8, Codec
from memfirst.codecs.block32 import BLOCK, nibble_bytes, nibbles, symmetric_codes
from memfirst.codecs.blocks import f16_at, f16_bytes, quantize_blocks
from memfirst.codecs.interleave import Field, deinterleave, interleave

BLOCK_BYTES = 18
LAYOUT = (Field(at=0, width=2, unit=2), Field(at=2, width=16, unit=4))


def dequantize(blocks: U8) -> F32:
    """u8 [n, 18] -> f32 [n, 32]."""
    weights = nibbles(blocks[:, 2:]).astype(np.float32)
    weights -= np.float32(8)
    weights *= f16_at(blocks, 0)
    return weights


def quantize(weights: F32) -> U8:
    """f32 [n, 32] -> u8 [n, 18], rounded to nearest; FormatError for NaN, infinity or a scale beyond f16."""
    return quantize_blocks(weights, BLOCK, BLOCK_BYTES, _quantize)


def _quantize(weights: F32) -> U8:
    scale, codes = symmetric_codes(weights, levels=16)
    return np.concatenate([f16_bytes(scale), nibble_bytes(codes)], axis=1)


def pack(blocks: U8, out: U8 | None = None) -> U8:
    """u8 [rows, blocks, 18] -> u8 [rows/16, blocks, 288]."""
    return interleave(LAYOUT, blocks, out)


def unpack(packed: U8) -> U8:
    """u8 [rows/16, blocks, 288] -> u8 [rows, blocks, 18]."""
    return deinterleave(LAYOUT, packed)


CODEC = Codec("q4_0", 2, BLOCK, BLOCK_BYTES, "block32", dequantize, quantize, pack, unpack)
