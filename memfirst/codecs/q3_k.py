"""Q3_K: 256 weights in 110 bytes, 3.4375 bits each; weight = d * (scale[column // 16] - 32) * (q - 4).

    byte 0..31     qh, the third bit: bit t of byte j (j = 0..31) belongs to column 32t+j
    byte 32..95    ql, low two bits: bits 2t+1:2t of byte 32+32h+j (h = 0, 1; j = 0..31) belong to column 128h+32t+j
    byte 96..107   sixteen 6-bit scales: byte 96+k (k = 0..7) has the low four bits of scale k in its low nibble and of
                   scale 8+k in its high nibble; bits 2t+1:2t of byte 104+k (k = 0..3) are the high two of scale 4t+k
    byte 108..109  d, f16

Packed, 16 rows side by side, 1760 bytes per 256 columns: 16 x d, 192 bytes of scales (of 2j and 2j+1 the low bits at
32(j mod 4)+2r and the high ones at 128+32(j mod 2)+2r), 8 vectors of 64 bytes of third bits, then 16 of low bits.
"""

from __future__ import annotations

import numpy as np

from memfirst.codecs.base import F32, U8, Codec
from memfirst.codecs.blocks import f16_at, f16_bytes, f16_step, inverse, quantize_blocks
from memfirst.codecs.interleave import Field, deinterleave, interleave
from memfirst.codecs.k256 import BLOCK, four_quarters, quarters
from memfirst.codecs.k256_search import power_of_two, symmetric_search

BLOCK_BYTES = 110
SUB = 16
"""Weights that share a scale."""
LAYOUT = (
    Field(at=108, width=2, unit=2),
    Field(at=96, width=12, unit=2),
    Field(at=0, width=32, unit=4),
    Field(at=32, width=64, unit=4),
)
OFFSETS = [step / 10 for step in range(-9, 10)]

_EIGHT: U8 = np.arange(8, dtype=np.uint8)[:, None]
_PAIRS: U8 = np.arange(0, 8, 2, dtype=np.uint8)[:, None]


def dequantize(blocks: U8) -> F32:
    """u8 [n, 110] -> f32 [n, 256]."""
    high = (blocks[:, None, :32] >> _EIGHT & np.uint8(1)).reshape(-1, BLOCK)
    weights = (quarters(blocks[:, 32:96]) | high << np.uint8(2)).astype(np.float32).reshape(-1, BLOCK // SUB, SUB)
    weights -= np.float32(4)
    scales = _scales(blocks[:, 96:108]).astype(np.float32) - np.float32(32)
    weights *= (f16_at(blocks, 108) * scales)[..., None]
    return weights.reshape(-1, BLOCK)


def quantize(weights: F32) -> U8:
    """f32 [n, 256] -> u8 [n, 110], by `symmetric_search`; FormatError as for Q4_0."""
    return quantize_blocks(weights, BLOCK, BLOCK_BYTES, _quantize)


def _quantize(weights: F32) -> U8:
    unit = power_of_two(weights)
    columns = np.ascontiguousarray((weights / unit).reshape(-1, SUB).T)
    weight = np.abs(columns) + np.sqrt(np.mean(columns * columns, axis=0))  # by x^2, as Q6_K: 5 % more error
    found = symmetric_search(columns, 4, OFFSETS, weight).reshape(-1, BLOCK // SUB)
    largest: F32 = np.take_along_axis(found, np.abs(found).argmax(axis=1, keepdims=True), axis=1)
    # The scale of largest magnitude becomes -32, whatever its sign: one more step than +31 would give.
    d: F32 = np.copysign(f16_step(np.abs(largest) * np.float32(1 / 32) * unit), -largest)
    scales = np.clip(np.rint(found * inverse(d / unit)), -32, 31)
    codes = np.clip(np.rint(columns * inverse((d / unit * scales).reshape(-1))), -4, 3) + np.float32(4)
    packed = codes.astype(np.uint8).T.reshape(-1, BLOCK)
    high = np.bitwise_or.reduce((packed >> np.uint8(2)).reshape(-1, 8, 32) << _EIGHT, axis=1)
    low = four_quarters(packed & np.uint8(3))
    return np.concatenate([high, low, _scale_bytes((scales + np.float32(32)).astype(np.uint8)), f16_bytes(d)], axis=1)


def _scales(packed: U8) -> U8:
    """u8 [n, 12] -> scales u8 [n, 16], 0..63."""
    low = np.concatenate([packed[:, :8] & np.uint8(0x0F), packed[:, :8] >> np.uint8(4)], axis=1)
    high = (packed[:, None, 8:] >> _PAIRS & np.uint8(3)).reshape(-1, 16)
    scales: U8 = low | high << np.uint8(4)
    return scales


def _scale_bytes(scales: U8) -> U8:
    """Scales u8 [n, 16], 0..63 -> u8 [n, 12], the inverse of `_scales`."""
    low = scales[:, :8] & np.uint8(0x0F) | scales[:, 8:] << np.uint8(4)
    high = np.bitwise_or.reduce((scales >> np.uint8(4)).reshape(-1, 4, 4) << _PAIRS, axis=1)
    return np.concatenate([low, high], axis=1)


def pack(blocks: U8, out: U8 | None = None) -> U8:
    """u8 [rows, blocks, 110] -> u8 [rows/16, blocks, 1760]."""
    return interleave(LAYOUT, blocks, out)


def unpack(packed: U8) -> U8:
    """u8 [rows/16, blocks, 1760] -> u8 [rows, blocks, 110]."""
    return deinterleave(LAYOUT, packed)


CODEC = Codec("q3_k", 11, BLOCK, BLOCK_BYTES, "k256_16", dequantize, quantize, pack, unpack)
