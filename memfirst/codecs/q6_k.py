"""Q6_K: 256 weights in 210 bytes, 6.5625 bits each; weight = d * scale[column // 16] * (q - 32).

    byte 0..127    ql, low four bits: byte 64h+j (h = 0, 1; j = 0..63) holds column 128h+j in its low nibble
                   and column 128h+64+j in its high nibble
    byte 128..191  qh, high two bits: bits 2t+1:2t of byte 128+32h+j (j = 0..31) belong to column 128h+32t+j
    byte 192..207  scale, int8, one per 16 columns
    byte 208..209  d, f16

Packed, 16 rows side by side, 3360 bytes per 256 columns: 16 x d, 256 bytes of scales (2j and 2j+1 of row r
at 32j+2r), then vectors of 64 bytes with four bytes of each row: for each 64 columns that share bytes of qh 4 of these,
then the 8 of ql, so that a kernel reads one stream. With ql and qh apart the hardware prefetcher falls behind:
a Zen 4 read 11 GB/s a thread, and reads 27 so.
"""

from __future__ import annotations

import numpy as np

from memfirst.codecs.base import F32, U8, Codec
from memfirst.codecs.blocks import f16_at, f16_bytes, f16_step, inverse, quantize_blocks
from memfirst.codecs.interleave import Field, deinterleave, interleave
from memfirst.codecs.k256 import BLOCK
from memfirst.codecs.k256_search import power_of_two, symmetric_search

BLOCK_BYTES = 210
SUB = 16
"""Weights that share a scale."""
LAYOUT = (
    Field(at=208, width=2, unit=2),
    Field(at=192, width=16, unit=2),
    *(
        Field(at=at, width=16, unit=4)
        for half in (0, 1)
        for part in (0, 16)
        for at in (128 + 32 * half + part, 64 * half + part, 64 * half + 32 + part)
    ),
)
OFFSETS = [step / 10 for step in range(-9, 10)]

_PAIRS: U8 = np.arange(0, 8, 2, dtype=np.uint8)[:, None]


def dequantize(blocks: U8) -> F32:
    """u8 [n, 210] -> f32 [n, 256]."""
    low = blocks[:, :128].reshape(-1, 2, 1, 64)
    low = np.concatenate([low & np.uint8(0x0F), low >> np.uint8(4)], axis=2).reshape(-1, 2, 4, 32)
    high = blocks[:, 128:192].reshape(-1, 2, 1, 32) >> _PAIRS & np.uint8(3)
    weights = (low | high << np.uint8(4)).astype(np.float32).reshape(-1, BLOCK // SUB, SUB)
    weights -= np.float32(32)
    scales = np.ascontiguousarray(blocks[:, 192:208]).view(np.int8).astype(np.float32)
    weights *= (f16_at(blocks, 208) * scales)[..., None]
    return weights.reshape(-1, BLOCK)


def quantize(weights: F32) -> U8:
    """f32 [n, 256] -> u8 [n, 210], by `symmetric_search`; FormatError as for Q4_0."""
    return quantize_blocks(weights, BLOCK, BLOCK_BYTES, _quantize)


def _quantize(weights: F32) -> U8:
    unit = power_of_two(weights)
    columns = np.ascontiguousarray((weights / unit).reshape(-1, SUB).T)
    found = symmetric_search(columns, 32, OFFSETS, columns * columns).reshape(-1, BLOCK // SUB)
    largest: F32 = np.take_along_axis(found, np.abs(found).argmax(axis=1, keepdims=True), axis=1)
    # The scale of largest magnitude becomes -128, whatever its sign: one more step than +127 would give.
    d: F32 = np.copysign(f16_step(np.abs(largest) * np.float32(1 / 128) * unit), -largest)
    scales = np.clip(np.rint(found * inverse(d / unit)), -128, 127)
    codes = np.clip(np.rint(columns * inverse((d / unit * scales).reshape(-1))), -32, 31) + np.float32(32)
    packed = _code_bytes(codes.astype(np.uint8).T.reshape(-1, 2, 4, 32))
    return np.concatenate([packed, scales.astype(np.int8).view(np.uint8), f16_bytes(d)], axis=1)


def _code_bytes(codes: U8) -> U8:
    """u8 [n, 2, 4, 32] of 0..63 -> u8 [n, 192]: ql, then qh."""
    halves = (codes & np.uint8(0x0F)).reshape(-1, 2, 2, 64)
    low = halves[:, :, 0] | halves[:, :, 1] << np.uint8(4)
    high = np.bitwise_or.reduce(codes >> np.uint8(4) << _PAIRS, axis=2)
    return np.concatenate([low.reshape(-1, 128), high.reshape(-1, 64)], axis=1)


def pack(blocks: U8, out: U8 | None = None) -> U8:
    """u8 [rows, blocks, 210] -> u8 [rows/16, blocks, 3360]."""
    return interleave(LAYOUT, blocks, out)


def unpack(packed: U8) -> U8:
    """u8 [rows/16, blocks, 3360] -> u8 [rows, blocks, 210]."""
    return deinterleave(LAYOUT, packed)


CODEC = Codec("q6_k", 14, BLOCK, BLOCK_BYTES, "k256_16", dequantize, quantize, pack, unpack)
