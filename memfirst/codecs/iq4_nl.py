"""IQ4_NL: 32 weights in 18 bytes, 4.5 bits each; weight = d * LEVELS[q].

    byte 0..1    d, f16
    byte 2..17   q: byte 2+j holds column j in its low nibble and column 16+j in its high nibble

The 16 levels lie closer together near zero, where most weights are. Packed exactly as Q4_0: 288 bytes
per 16 rows x 32 columns.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from memfirst.codecs.base import F32, U8, Codec
from memfirst.codecs.block32 import BLOCK, nibble_bytes, nibbles
from memfirst.codecs.blocks import f16_at, f16_bytes, inverse, quantize_blocks
from memfirst.codecs.interleave import Field, deinterleave, interleave

BLOCK_BYTES = 18
LAYOUT = (Field(at=0, width=2, unit=2), Field(at=2, width=16, unit=4))
LEVELS = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)

# Midpoints between levels are multiples of 1/2, so floor(2x) decides the nearest level of x. Entry i of this
# table is the code of x in [(i - 256)/2, (i - 255)/2).
_NEAREST: U8 = np.searchsorted(
    LEVELS[:-1].astype(np.float64) + np.diff(LEVELS.astype(np.float64)) / 2,
    (np.arange(512) - 256) / 2,
    side="right",
).astype(np.uint8)

# Scales tried: the weight of largest magnitude lands on -127 +- 7 (or, its sign turned, on 113 +- 14).
_TARGETS = np.array([*range(-134, -119), *range(99, 128, 2)], np.float32)


def dequantize(blocks: U8) -> F32:
    """u8 [n, 18] -> f32 [n, 32]."""
    weights = LEVELS.astype(np.float32)[nibbles(blocks[:, 2:])]
    weights *= f16_at(blocks, 0)
    return weights


def quantize(weights: F32) -> U8:
    """f32 [n, 32] -> u8 [n, 18], by least squares over 30 scales; FormatError as for Q4_0."""
    return quantize_blocks(weights, BLOCK, BLOCK_BYTES, _quantize)


def _quantize(weights: F32) -> U8:
    largest = np.take_along_axis(weights, np.abs(weights).argmax(axis=1, keepdims=True), axis=1)
    unit = weights * inverse(largest)
    scale = f16_bytes(best_scale(unit) * largest)
    codes = nearest_level(weights * inverse(scale.view(np.float16).astype(np.float32)))
    return np.concatenate([scale, nibble_bytes(codes)], axis=1)


def best_scale(unit: F32) -> F32:
    """f32 [n, 32] within [-1, 1] -> scale f32 [n, 1] of least squared error among the targets' fits.

    For given codes the best scale is sum(x*level) / sum(level^2), and leaves sum(x^2) less
    sum(x*level)^2 / sum(level^2): the search maximizes the latter.
    """
    columns = np.ascontiguousarray(unit.T)
    scale = np.zeros(columns.shape[1], np.float32)
    explained = np.zeros(columns.shape[1], np.float32)
    levels = LEVELS.astype(np.float32)
    for target in _TARGETS:
        level = levels[nearest_level(columns * target)]
        fit, norm = (columns * level).sum(axis=0), (level * level).sum(axis=0)
        better = fit * fit > explained * norm
        scale = np.where(better, fit / norm, scale)
        explained = np.where(better, fit * fit / norm, explained)
    return scale[:, None]


def nearest_level(scaled: NDArray[np.float32]) -> U8:
    """The code of the level nearest to each number."""
    index = np.floor(scaled * np.float32(2)) + np.float32(256)
    codes: U8 = _NEAREST[np.clip(index, 0, 511).astype(np.int16)]
    return codes


def pack(blocks: U8, out: U8 | None = None) -> U8:
    """u8 [rows, blocks, 18] -> u8 [rows/16, blocks, 288]."""
    return interleave(LAYOUT, blocks, out)


def unpack(packed: U8) -> U8:
    """u8 [rows/16, blocks, 288] -> u8 [rows, blocks, 18]."""
    return deinterleave(LAYOUT, packed)


CODEC = Codec("iq4_nl", 20, BLOCK, BLOCK_BYTES, "block32", dequantize, quantize, pack, unpack)
