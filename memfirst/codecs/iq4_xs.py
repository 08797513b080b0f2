"""IQ4_XS: 256 weights in 136 bytes, 4.25 bits each; weight = d * (scale[s] - 32) * LEVELS[q], s = column // 32.

    byte 0..1    d, f16
    byte 2..3    high two bits of the eight 6-bit scales: bits 2s+1:2s
    byte 4..7    their low four bits: scale 2k in the low nibble of byte 4+k, 2k+1 in the high one
    byte 8..135  q: byte 8+16s+j holds column 32s+j in its low nibble and column 32s+16+j in its high nibble

The 16 levels are those of IQ4_NL. Packed, 16 rows side by side, 2176 bytes per 256 columns: 16 x d, 64 bytes of low
scale bits and 32 of high ones (`scales_by_lane`; bytes 2j, 2j+1 of row r at 32j+2r), then 32 vectors of 64 bytes,
vector i holding nibble bytes 4i..4i+3 of each row.
"""

from __future__ import annotations

import numpy as np

from memfirst.codecs.base import F32, U8, Codec
from memfirst.codecs.block32 import nibble_bytes, nibbles
from memfirst.codecs.blocks import f16_at, f16_bytes, f16_step, inverse, quantize_blocks
from memfirst.codecs.interleave import Field, deinterleave, interleave
from memfirst.codecs.iq4_nl import LEVELS, best_scale, nearest_level
from memfirst.codecs.k256 import BLOCK, SUBS
from memfirst.codecs.k256_search import power_of_two

BLOCK_BYTES = 136
SUB = BLOCK // SUBS
"""Weights that share a scale."""


def scales_by_lane(packed: U8) -> U8:
    """u8 [..., 6] as in the file -> u8 [..., 6] as the kernels read them.

    Byte k = 0..3: low four bits of scale k, and of scale k+4 above them. Byte 4+k, k = 0, 1: the high two bits of
    scales k, k+2, k+4 and k+6, from its low bits upwards.
    """
    scales = _scales(packed)
    low = scales[..., :4] & np.uint8(0x0F) | scales[..., 4:] << np.uint8(4)
    high = np.bitwise_or.reduce((scales >> np.uint8(4)).reshape(*scales.shape[:-1], 4, 2) << _PAIRS, axis=-2)
    return np.concatenate([low, high], axis=-1)


def scales_by_file(packed: U8) -> U8:
    """The inverse of `scales_by_lane`."""
    low = np.concatenate([packed[..., :4] & np.uint8(0x0F), packed[..., :4] >> np.uint8(4)], axis=-1)
    high = (packed[..., None, 4:] >> _PAIRS & np.uint8(3)).reshape(*low.shape)
    return _scale_bytes(low | high << np.uint8(4))


_PAIRS: U8 = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
LAYOUT = (
    Field(at=0, width=2, unit=2),
    Field(at=2, width=6, unit=2, encode=scales_by_lane, decode=scales_by_file),
    Field(at=8, width=128, unit=4),
)


def _scales(packed: U8) -> U8:
    """u8 [..., 6]: the high bits, then the low ones -> scales u8 [..., 8], 0..63."""
    high = (packed[..., :2, None] >> _PAIRS[:, 0] & np.uint8(3)).reshape(*packed.shape[:-1], SUBS)
    low = np.stack([packed[..., 2:] & np.uint8(0x0F), packed[..., 2:] >> np.uint8(4)], axis=-1).reshape(high.shape)
    scales: U8 = low | high << np.uint8(4)
    return scales


def _scale_bytes(scales: U8) -> U8:
    """Scales u8 [..., 8], 0..63 -> u8 [..., 6], the inverse of `_scales`."""
    four = (scales >> np.uint8(4)).reshape(*scales.shape[:-1], 2, 4) << _PAIRS[:, 0]
    low = scales[..., 0::2] & np.uint8(0x0F) | scales[..., 1::2] << np.uint8(4)
    return np.concatenate([np.bitwise_or.reduce(four, axis=-1), low], axis=-1)


def dequantize(blocks: U8) -> F32:
    """u8 [n, 136] -> f32 [n, 256]."""
    codes = nibbles(blocks[:, 8:].reshape(-1, SUB // 2)).reshape(-1, SUBS, SUB)
    scales = _scales(blocks[:, 2:8]).astype(np.float32) - np.float32(32)
    weights: F32 = (f16_at(blocks, 0) * scales)[..., None] * LEVELS.astype(np.float32)[codes]
    return weights.reshape(-1, BLOCK)


def quantize(weights: F32) -> U8:
    """f32 [n, 256] -> u8 [n, 136], by IQ4_NL's search for the scale of each 32 weights; FormatError as for Q4_0."""
    return quantize_blocks(weights, BLOCK, BLOCK_BYTES, _quantize)


def _quantize(weights: F32) -> U8:
    unit = power_of_two(weights)
    columns = (weights / unit).reshape(-1, SUB)
    peak = np.take_along_axis(columns, np.abs(columns).argmax(axis=1, keepdims=True), axis=1)
    found = (best_scale(columns * inverse(peak)) * peak).reshape(-1, SUBS)
    largest: F32 = np.take_along_axis(found, np.abs(found).argmax(axis=1, keepdims=True), axis=1)
    # The scale of largest magnitude becomes -32, whatever its sign: one more step than +31 would give.
    d: F32 = np.copysign(f16_step(np.abs(largest) * np.float32(1 / 32) * unit), -largest)
    scales = np.clip(np.rint(found * inverse(d / unit)), -32, 31)
    codes = nearest_level(columns * inverse((d / unit * scales).reshape(-1, 1)))
    header = _scale_bytes((scales + np.float32(32)).astype(np.uint8))
    return np.concatenate([f16_bytes(d), header, nibble_bytes(codes).reshape(-1, BLOCK // 2)], axis=1)


def pack(blocks: U8, out: U8 | None = None) -> U8:
    """u8 [rows, blocks, 136] -> u8 [rows/16, blocks, 2176]."""
    return interleave(LAYOUT, blocks, out)


def unpack(packed: U8) -> U8:
    """u8 [rows/16, blocks, 2176] -> u8 [rows, blocks, 136]."""
    return deinterleave(LAYOUT, packed)


CODEC = Codec("iq4_xs", 23, BLOCK, BLOCK_BYTES, "k256", dequantize, quantize, pack, unpack)
