"""Q5_0: 32 weights in 22 bytes, 5.5 bits each; weight = d * (q - 16).

    byte 0..1    d, f16
    byte 2..5    fifth bits, a little-endian u32: bit c is bit 4 of column c's code
    byte 6..21   low four bits: byte 6+j holds column j in its low nibble and column 16+j in its high nibble

Packed, 16 rows side by side, 352 bytes per 32 columns: 16 x d, one 64-byte vector of fifth bits (bit i of
byte 4r+k is that of row r, column 4i+k), then four 64-byte vectors of nibble bytes, as in Q4_0.
"""

from __future__ import annotations

import numpy as np

from memfirst.codecs.base import F32, U8, Codec
from memfirst.codecs.block32 import (
    BLOCK,
    fifth_bit_bytes,
    fifth_bits,
    fifth_bits_by_column,
    fifth_bits_by_lane,
    nibble_bytes,
    nibbles,
    symmetric_codes,
)
from memfirst.codecs.blocks import f16_at, f16_bytes, quantize_blocks
from memfirst.codecs.interleave import Field, deinterleave, interleave

BLOCK_BYTES = 22
LAYOUT = (
    Field(at=0, width=2, unit=2),
    Field(at=2, width=4, unit=4, encode=fifth_bits_by_lane, decode=fifth_bits_by_column),
    Field(at=6, width=16, unit=4),
)


def dequantize(blocks: U8) -> F32:
    """u8 [n, 22] -> f32 [n, 32]."""
    weights = (nibbles(blocks[:, 6:]) | fifth_bits(blocks[:, 2:6])).astype(np.float32)
    weights -= np.float32(16)
    weights *= f16_at(blocks, 0)
    return weights


def quantize(weights: F32) -> U8:
    """f32 [n, 32] -> u8 [n, 22], rounded to nearest; FormatError for NaN, infinity or a scale beyond f16."""
    return quantize_blocks(weights, BLOCK, BLOCK_BYTES, _quantize)


def _quantize(weights: F32) -> U8:
    scale, codes = symmetric_codes(weights, levels=32)
    return np.concatenate([f16_bytes(scale), fifth_bit_bytes(codes), nibble_bytes(codes)], axis=1)


def pack(blocks: U8, out: U8 | None = None) -> U8:
    """u8 [rows, blocks, 22] -> u8 [rows/16, blocks, 352]."""
    return interleave(LAYOUT, blocks, out)


def unpack(packed: U8) -> U8:
    """u8 [rows/16, blocks, 352] -> u8 [rows, blocks, 22]."""
    return deinterleave(LAYOUT, packed)


CODEC = Codec("q5_0", 6, BLOCK, BLOCK_BYTES, "block32", dequantize, quantize, pack, unpack)
