"""What the 256-weight formats share: 6-bit scale codes, paired nibbles, and four columns' two bits in a byte."""

from __future__ import annotations

import numpy as np

from memfirst.codecs.base import U8

BLOCK = 256
SUBS = 8
"""Sub-blocks of 32 weights in a Q4_K or Q5_K block, each with a 6-bit scale and a 6-bit minimum."""


def scales_and_mins(packed: U8) -> tuple[U8, U8]:
    """u8 [n, 12] -> scales u8 [n, 8] and minimums u8 [n, 8], 0..63.

    Bytes 0..3 hold scales 0..3 in bits 5:0, bytes 4..7 minimums 0..3; bytes 8..11 hold the low four bits of
    scale 4+k (low nibble) and minimum 4+k (high nibble), whose high two bits are bits 7:6 of bytes k and 4+k.
    """
    first, second, third = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate([first & 0x3F, (third & 0x0F) | ((first >> 2) & 0x30)], axis=1)
    mins = np.concatenate([second & 0x3F, (third >> 4) | ((second >> 2) & 0x30)], axis=1)
    return scales, mins


def scale_bytes(scales: U8, mins: U8) -> U8:
    """Scales u8 [n, 8] and minimums u8 [n, 8], 0..63 -> u8 [n, 12], the inverse of `scales_and_mins`."""
    first = scales[:, :4] | ((scales[:, 4:] & 0x30) << 2)
    second = mins[:, :4] | ((mins[:, 4:] & 0x30) << 2)
    third = (scales[:, 4:] & 0x0F) | ((mins[:, 4:] & 0x0F) << 4)
    return np.concatenate([first, second, third], axis=1)


def scales_by_lane(packed: U8) -> U8:
    """u8 [..., 12] as in the file -> u8 [..., 12] as the kernels read them.

    Byte s = 0..7: low four bits of scale s, and of minimum s above them. Byte 8+k, k = 0..3: the high two
    bits of scale k (bits 1:0), scale k+4 (3:2), minimum k (5:4) and minimum k+4 (7:6).
    """
    first, second, third = packed[..., 0:4], packed[..., 4:8], packed[..., 8:12]
    low = (first & 0x0F) | (second << 4)
    high = (first >> 4) | (second & 0xF0)
    return np.concatenate([low, third, high], axis=-1)


def scales_by_file(packed: U8) -> U8:
    """The inverse of `scales_by_lane`."""
    low, third, high = packed[..., 0:4], packed[..., 4:8], packed[..., 8:12]
    first = (low & 0x0F) | (high << 4)
    second = (low >> 4) | (high & 0xF0)
    return np.concatenate([first, second, third], axis=-1)


def pair_nibbles(packed: U8) -> U8:
    """u8 [n, 128] -> u8 [n, 256]: byte 32p+j holds column 64p+j (low nibble) and column 64p+32+j (high)."""
    pairs = packed.reshape(-1, 4, 1, 32)
    return np.concatenate([pairs & np.uint8(0x0F), pairs >> np.uint8(4)], axis=2).reshape(-1, BLOCK)


def pair_nibble_bytes(codes: U8) -> U8:
    """u8 [n, 256] (their low four bits) -> u8 [n, 128], the inverse of `pair_nibbles`."""
    pairs = codes.reshape(-1, 4, 2, 32)
    return ((pairs[:, :, 0] & np.uint8(0x0F)) | (pairs[:, :, 1] << np.uint8(4))).reshape(-1, BLOCK // 2)


_PAIRS: U8 = np.arange(0, 8, 2, dtype=np.uint8)[:, None]


def quarters(packed: U8) -> U8:
    """u8 [n, 64] -> u8 [n, 256]: bits 2t+1:2t of byte 32h+j (h = 0, 1; j = 0..31) belong to column 128h+32t+j."""
    return (packed.reshape(-1, 2, 1, 32) >> _PAIRS & np.uint8(3)).reshape(-1, BLOCK)


def four_quarters(codes: U8) -> U8:
    """u8 [n, 256] of 0..3 -> u8 [n, 64], the inverse of `quarters`."""
    packed: U8 = np.bitwise_or.reduce(codes.reshape(-1, 2, 4, 32) << _PAIRS, axis=2)
    return packed.reshape(-1, BLOCK // 4)
