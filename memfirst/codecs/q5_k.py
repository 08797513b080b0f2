"""Q5_K: 256 weights in 176 bytes, 5.5 bits each; weight = d * scale[s] * q - dmin * min[s], s = column // 32.

    byte 0..1     d, f16
    byte 2..3     dmin, f16
    byte 4..15    eight 6-bit scales and eight 6-bit minimums (`k256.scales_and_mins`)
    byte 16..47   fifth bits: bit s of byte 16+j is bit 4 of the code of column 32s+j
    byte 48..175  low four bits: byte 48+32p+j holds column 64p+j low and column 64p+32+j high

Packed, 16 rows side by side, 2816 bytes per 256 columns: the 256 bytes of scales of Q4_K, then vectors of
64 bytes with four bytes of each row: 8 of fifth bits and 32 of nibble bytes.
"""

from __future__ import annotations

import numpy as np

from memfirst.codecs.base import F32, U8, Codec
from memfirst.codecs.blocks import f16_at, quantize_blocks
from memfirst.codecs.interleave import Field, deinterleave, interleave
from memfirst.codecs.k256 import (
    BLOCK,
    SUBS,
    pair_nibble_bytes,
    pair_nibbles,
    scale_bytes,
    scales_and_mins,
    scales_by_file,
    scales_by_lane,
)
from memfirst.codecs.k256_search import affine_quantize

BLOCK_BYTES = 176
LAYOUT = (
    Field(at=0, width=2, unit=2),
    Field(at=2, width=2, unit=2),
    Field(at=4, width=12, unit=2, encode=scales_by_lane, decode=scales_by_file),
    Field(at=16, width=32, unit=4),
    Field(at=48, width=128, unit=4),
)
OFFSETS = [-0.5 + step / 10 for step in range(16)]

_BITS: U8 = np.arange(8, dtype=np.uint8)[:, None]


def dequantize(blocks: U8) -> F32:
    """u8 [n, 176] -> f32 [n, 256]."""
    scales, mins = scales_and_mins(blocks[:, 4:16])
    fifth = (blocks[:, None, 16:48] >> _BITS & np.uint8(1)) << np.uint8(4)
    codes = pair_nibbles(blocks[:, 48:]).reshape(-1, SUBS, BLOCK // SUBS) | fifth
    weights = codes.astype(np.float32)
    weights *= (f16_at(blocks, 0) * scales.astype(np.float32))[..., None]
    weights -= (f16_at(blocks, 2) * mins.astype(np.float32))[..., None]
    return weights.reshape(-1, BLOCK)


def quantize(weights: F32) -> U8:
    """f32 [n, 256] -> u8 [n, 176], by `affine_search`; FormatError as for Q4_0."""
    return quantize_blocks(weights, BLOCK, BLOCK_BYTES, _quantize)


def _quantize(weights: F32) -> U8:
    steps, scales, mins, codes = affine_quantize(weights, 32, OFFSETS, BLOCK // SUBS, 63)
    header = np.concatenate([steps, scale_bytes(scales, mins)], axis=1)
    fifth = codes.reshape(-1, SUBS, BLOCK // SUBS) >> np.uint8(4) << _BITS
    return np.concatenate([header, np.bitwise_or.reduce(fifth, axis=1), pair_nibble_bytes(codes)], axis=1)


def pack(blocks: U8, out: U8 | None = None) -> U8:
    """u8 [rows, blocks, 176] -> u8 [rows/16, blocks, 2816]."""
    return interleave(LAYOUT, blocks, out)


def unpack(packed: U8) -> U8:
    """u8 [rows/16, blocks, 2816] -> u8 [rows, blocks, 176]."""
    return deinterleave(LAYOUT, packed)


CODEC = Codec("q5_k", 13, BLOCK, BLOCK_BYTES, "k256", dequantize, quantize, pack, unpack)
