"""Q4_K: 256 weights in 144 bytes, 4.5 bits each; weight = d * scale[s] * q - dmin * min[s], s = column // 32.

    byte 0..1     d, f16
    byte 2..3     dmin, f16
    byte 4..15    eight 6-bit scales and eight 6-bit minimums (`k256.scales_and_mins`)
    byte 16..143  q: byte 16+32p+j holds column 64p+j in its low nibble and column 64p+32+j in its high nibble

Packed, 16 rows side by side, 2304 bytes per 256 columns: 16 x d, 16 x dmin, 128 bytes of low scale bits and
64 of high ones (`k256.scales_by_lane`; bytes 2j, 2j+1 of row r at 32j+2r), then 32 vectors of 64 bytes, vector i
holding nibble bytes 4i..4i+3 of each row.
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

BLOCK_BYTES = 144
LAYOUT = (
    Field(at=0, width=2, unit=2),
    Field(at=2, width=2, unit=2),
    Field(at=4, width=12, unit=2, encode=scales_by_lane, decode=scales_by_file),
    Field(at=16, width=128, unit=4),
)
OFFSETS = [-1 + step / 10 for step in range(21)]


def dequantize(blocks: U8) -> F32:
    """u8 [n, 144] -> f32 [n, 256]."""
    scales, mins = scales_and_mins(blocks[:, 4:16])
    weights = pair_nibbles(blocks[:, 16:]).astype(np.float32).reshape(-1, SUBS, BLOCK // SUBS)
    weights *= (f16_at(blocks, 0) * scales.astype(np.float32))[..., None]
    weights -= (f16_at(blocks, 2) * mins.astype(np.float32))[..., None]
    return weights.reshape(-1, BLOCK)


def quantize(weights: F32) -> U8:
    """f32 [n, 256] -> u8 [n, 144], by `affine_search`; FormatError as for Q4_0."""
    return quantize_blocks(weights, BLOCK, BLOCK_BYTES, _quantize)


def _quantize(weights: F32) -> U8:
    steps, scales, mins, codes = affine_quantize(weights, 16, OFFSETS, BLOCK // SUBS, 63)
    header = np.concatenate([steps, scale_bytes(scales, mins)], axis=1)
    return np.concatenate([header, pair_nibble_bytes(codes)], axis=1)


def pack(blocks: U8, out: U8 | None = None) -> U8:
    """u8 [rows, blocks, 144] -> u8 [rows/16, blocks, 2304]."""
    return interleave(LAYOUT, blocks, out)


def unpack(packed: U8) -> U8:
    """u8 [rows/16, blocks, 2304] -> u8 [rows, blocks, 144]."""
    return deinterleave(LAYOUT, packed)


CODEC = Codec("q4_k", 12, BLOCK, BLOCK_BYTES, "k256", dequantize, quantize, pack, unpack)
