"""What the 32-weight formats share: nibbles, fifth bits, and scales from the largest weight or the range."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from memfirst.codecs.base import F32, U8
from memfirst.codecs.blocks import inverse

BLOCK = 32

# A 32-bit word whose bit c is column c = 4*i + k has index bits (i2 i1 i0 k1 k0). The kernels want bit i of
# byte k: index bits (k1 k0 i2 i1 i0). Four swaps of two index bits (a, b) each turn one into the other.
_SWAPS = ((4, 1), (3, 0), (2, 1), (1, 0))


def nibbles(packed: U8) -> U8:
    """u8 [n, 16] -> u8 [n, 32]: low nibbles are columns 0..15, high nibbles columns 16..31."""
    return np.concatenate([packed & np.uint8(0x0F), packed >> np.uint8(4)], axis=1)


def nibble_bytes(codes: U8) -> U8:
    """u8 [n, 32] (their low four bits) -> u8 [n, 16], the inverse of `nibbles`."""
    return (codes[:, :16] & np.uint8(0x0F)) | (codes[:, 16:] << np.uint8(4))


def fifth_bits(packed: U8) -> U8:
    """u8 [n, 4] (bit c of the little-endian word is column c) -> u8 [n, 32] of 0 or 16."""
    return np.unpackbits(packed, axis=1, bitorder="little") << np.uint8(4)


def fifth_bit_bytes(codes: U8) -> U8:
    """u8 [n, 32] (five-bit codes) -> u8 [n, 4], the inverse of `fifth_bits`."""
    return np.packbits(codes >> np.uint8(4), axis=1, bitorder="little")


def fifth_bits_by_lane(packed: U8) -> U8:
    """u8 [..., 4] as in the file -> u8 [..., 4]: bit i of byte k is the fifth bit of column 4*i + k."""
    words = np.ascontiguousarray(packed).view(np.uint32)
    for high, low in _SWAPS:
        words = _swap_index_bits(words, high, low)
    return words.view(np.uint8)


def fifth_bits_by_column(packed: U8) -> U8:
    """The inverse of `fifth_bits_by_lane`."""
    words = np.ascontiguousarray(packed).view(np.uint32)
    for high, low in reversed(_SWAPS):
        words = _swap_index_bits(words, high, low)
    return words.view(np.uint8)


def _swap_index_bits(words: NDArray[np.uint32], high: int, low: int) -> NDArray[np.uint32]:
    """Move each bit whose index has bit `low` set and `high` clear to where they are the other way round."""
    shift = np.uint32((1 << high) - (1 << low))
    chosen = np.uint32(sum(1 << p for p in range(32) if p >> low & 1 and not p >> high & 1))
    moved = (words ^ (words >> shift)) & chosen
    swapped: NDArray[np.uint32] = words ^ moved ^ (moved << shift)
    return swapped


def symmetric_codes(weights: F32, levels: int) -> tuple[F32, U8]:
    """Scale f32 [n, 1] and codes u8 [n, 32] of `weight = scale * (code - levels/2)`.

    The weight of largest magnitude becomes code 0, whatever its sign, so the scale may be negative.
    """
    half = levels // 2
    largest = np.take_along_axis(weights, np.abs(weights).argmax(axis=1, keepdims=True), axis=1)
    scale = largest / np.float32(-half)
    codes = weights * inverse(scale)
    codes += np.float32(half + 0.5)
    return scale, np.minimum(codes.astype(np.uint8), np.uint8(levels - 1))


def affine_codes(weights: F32, levels: int) -> tuple[F32, F32, U8]:
    """Scale f32 [n, 1], minimum f32 [n, 1] and codes u8 [n, 32] of `weight = scale * code + minimum`."""
    lowest = weights.min(axis=1, keepdims=True)
    scale = (weights.max(axis=1, keepdims=True) - lowest) / np.float32(levels - 1)
    codes = (weights - lowest) * inverse(scale)
    codes += np.float32(0.5)
    return scale, lowest, np.minimum(codes.astype(np.uint8), np.uint8(levels - 1))
