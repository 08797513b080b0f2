"""MXFP4: 32 weights in 17 bytes, 4.25 bits each; weight = 2^(e − 128) * LEVELS[q].

    byte 0       e, a power of two: the OCP microscaling format's E8M0, of which half is taken
    byte 1..16   q: byte 1+j holds column j in its low nibble and column 16+j in its high nibble

The levels are E2M1's numbers, doubled so that they are integers (OCP Microscaling Formats 1.0, section
5.3.3). Packed: 16 exponents, then 4 vectors of nibbles, 272 bytes per 16 rows x 32 columns.
"""

from __future__ import annotations

import numpy as np

from memfirst.codecs.base import F32, U8, Codec
from memfirst.codecs.block32 import BLOCK, nibble_bytes, nibbles
from memfirst.codecs.blocks import quantize_blocks
from memfirst.codecs.interleave import Field, deinterleave, interleave

BLOCK_BYTES = 17
LAYOUT = (Field(at=0, width=1, unit=1), Field(at=1, width=16, unit=4))
LEVELS = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.int8)

# Midpoints between the levels 0..12; at one of them the smaller level is taken.
_MIDPOINTS = np.array([0.5, 1.5, 2.5, 3.5, 5, 7, 10], np.float32)


def scales(exponents: U8) -> F32:
    """u8 -> f32 2^(e − 128) of the same shape; e = 0 and 1 are subnormal floats."""
    e = exponents.astype(np.uint32)
    tiny = np.uint32(0x00200000) << np.minimum(e, np.uint32(1))
    bits = np.where(e < 2, tiny, (np.maximum(e, np.uint32(1)) - np.uint32(1)) << np.uint32(23))
    return bits.astype(np.uint32).view(np.float32)


def dequantize(blocks: U8) -> F32:
    """u8 [n, 17] -> f32 [n, 32]."""
    levels = LEVELS[nibbles(blocks[:, 1:])].astype(np.float32)
    return scales(np.ascontiguousarray(blocks[:, :1])) * levels


def quantize(weights: F32) -> U8:
    """f32 [n, 32] -> u8 [n, 17]; FormatError where a weight is NaN or infinite."""
    return quantize_blocks(weights, BLOCK, BLOCK_BYTES, _quantize)


def _quantize(weights: F32) -> U8:
    """The scale that brings the largest magnitude to 8 … 16 (2^2 · 2), then the nearest level of each."""
    largest = np.abs(weights).max(axis=1, keepdims=True)
    with np.errstate(divide="ignore"):  # the logarithm of 0 is no exponent; 0 is the least
        exponents = np.maximum(np.floor(np.log2(largest)) - 2 + 127, 0).astype(np.uint8)
    unit = np.abs(weights) / scales(exponents)
    codes = np.searchsorted(_MIDPOINTS, unit, side="left").astype(np.uint8)
    negative = (weights < 0) & (codes > 0)
    return np.concatenate([exponents, nibble_bytes(codes | negative.astype(np.uint8) << np.uint8(3))], axis=1)


def pack(blocks: U8, out: U8 | None = None) -> U8:
    """u8 [rows, blocks, 17] -> u8 [rows/16, blocks, 272]."""
    return interleave(LAYOUT, blocks, out)


def unpack(packed: U8) -> U8:
    """u8 [rows/16, blocks, 272] -> u8 [rows, blocks, 17]."""
    return deinterleave(LAYOUT, packed)


CODEC = Codec("mxfp4", 39, BLOCK, BLOCK_BYTES, "block32", dequantize, quantize, pack, unpack)
