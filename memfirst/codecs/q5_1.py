"""Q5_1: 32 weights in 24 bytes, 6 bits each; weight = d * q + m.

    byte 0..1    d, f16
    byte 2..3    m, f16
    byte 4..7    fifth bits, a little-endian u32: bit c is bit 4 of column c's code
    byte 8..23   low four bits: byte 8+j holds column j in its low nibble and column 16+j in its high nibble

Packed, 16 rows side by side, 384 bytes per 32 columns: 16 x d, 16 x m, one 64-byte vector of fifth bits,
then four 64-byte vectors of nibble bytes, as in Q5_0.
"""

from __future__ import annotations

import numpy as np

from memfirst.codecs.base import F32, U8, Codec
from memfirst.codecs.block32 import (
    BLOCK,
    affine_codes,
    fifth_bit_bytes,
    fifth_bits,
    fifth_bits_by_column,
    fifth_bits_by_lane,
    nibble_bytes,
    nibbles,
)
from memfirst.codecs.blocks import f16_at, f16_bytes, quantize_blocks
from memfirst.codecs.interleave import Field, deinterleave, interleave

BLOCK_BYTES = 24
LAYOUT = (
    Field(at=0, width=2, unit=2),
    Field(at=2, width=2, unit=2),
    Field(at=4, width=4, unit=4, encode=fifth_bits_by_lane, decode=fifth_bits_by_column),
    Field(at=8, width=16, unit=4),
)


def dequantize(blocks: U8) -> F32:
    """u8 [n, 24] -> f32 [n, 32]."""
    weights = (nibbles(blocks[:, 8:]) | fifth_bits(blocks[:, 4:8])).astype(np.float32)
    weights *= f16_at(blocks, 0)
    weights += f16_at(blocks, 2)
    return weights


def quantize(weights: F32) -> U8:
    """f32 [n, 32] -> u8 [n, 24], rounded to nearest; FormatError for NaN, infinity or a scale beyond f16."""
    return quantize_blocks(weights, BLOCK, BLOCK_BYTES, _quantize)


def _quantize(weights: F32) -> U8:
    scale, lowest, codes = affine_codes(weights, levels=32)
    return np.concatenate([f16_bytes(scale), f16_bytes(lowest), fifth_bit_bytes(codes), nibble_bytes(codes)], axis=1)


def pack(blocks: U8, out: U8 | None = None) -> U8:
    """u8 [rows, blocks, 24] -> u8 [rows/16, blocks, 384]."""
    return interleave(LAYOUT, blocks, out)


def unpack(packed: U8) -> U8:
    """u8 [rows/16, blocks, 384] -> u8 [rows, blocks, 24]."""
    return deinterleave(LAYOUT, packed)


CODEC = Codec("q5_1", 7, BLOCK, BLOCK_BYTES, "block32", dequantize, quantize, pack, unpack)
