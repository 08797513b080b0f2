"""What every quantizer does around its arithmetic: checks, slices that stay in cache, scales as f16."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from memfirst.codecs.base import F32, U8
from memfirst.errors import FormatError

CHUNK_WEIGHTS = 1 << 16
"""Weights quantized at a time: 256 KiB of float32, so that a dozen passes read them from L2."""

MUCH_TOO_LARGE = np.float32(1e30)
"""A weight that no f16 scale reaches (the largest, q6_k's, ends at 65504 * 128 * 32), far below overflow."""

SMALLEST_NORMAL_F16 = np.float32(2**-14)


def quantize_blocks(weights: F32, block: int, block_bytes: int, kernel: Callable[[F32], U8]) -> U8:
    """f32 [n, block] -> u8 [n, block_bytes], by `kernel`, a slice of blocks at a time.

    Raises FormatError where a weight is NaN or infinite (no integer code means that), or needs a scale
    beyond f16.
    """
    if weights.ndim != 2 or weights.shape[1] != block:
        raise ValueError(f"weights are {weights.shape}; expected [n, {block}]")
    weights = np.ascontiguousarray(weights, dtype=np.float32)
    out = np.empty((len(weights), block_bytes), np.uint8)
    step = CHUNK_WEIGHTS // block
    for start in range(0, len(weights), step):
        part = weights[start : start + step]
        _require_finite(part)
        out[start : start + step] = kernel(part)
    return out


def _require_finite(weights: F32) -> None:
    """Raises FormatError where a weight is NaN or infinite, or so large that arithmetic on it overflows."""
    largest = np.abs(weights).max()
    if largest < MUCH_TOO_LARGE:
        return
    bad = int(weights.size - np.isfinite(weights).sum())
    if bad:
        raise FormatError(
            f"{bad} of {weights.size} weights are NaN or infinite",
            "finite weights",
            "keep this tensor as f32, or repair the checkpoint",
        )
    raise _beyond_f16(largest)


def _beyond_f16(largest: np.float32) -> FormatError:
    return FormatError(
        f"a block of weights needs a scale or minimum beyond f16, of {largest:g}",
        "at most 65504",
        "keep this tensor as f32 or bf16",
    )


def f16_bytes(scales: F32) -> U8:
    """f32 [..., 1] -> u8 [..., 2]; FormatError where a scale would read as infinite."""
    with np.errstate(over="ignore"):
        halves = scales.astype(np.float16)
    if not np.isfinite(halves).all():
        raise _beyond_f16(np.abs(scales).max())
    return halves.view(np.uint8)


def f16_step(steps: F32) -> F32:
    """The f16 that stands for a positive step over integer codes: the nearest, but never below a tiny one.

    Below 2^-14 an f16 has fewer than 11 bits, in steps of 6e-8: rounded down, the largest code would
    no longer reach the largest value.
    """
    halves = f16_bytes(steps).view(np.float16)
    low = (halves.astype(np.float32) < steps) & (steps < SMALLEST_NORMAL_F16)
    return np.where(low, np.nextafter(halves, np.float16(1)), halves).astype(np.float32)


def f16_at(blocks: U8, at: int) -> F32:
    """The f16 in bytes `at` and `at`+1 of each block, as f32 [n, 1]."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view(np.float16).astype(np.float32)


def inverse(scales: F32) -> F32:
    """1/scale, and 0 where the scale is 0 or below 1e-36, so that a few hundred times it stays finite."""
    usable = np.abs(scales) >= np.float32(1e-36)
    return np.where(usable, np.float32(1) / np.where(usable, scales, np.float32(1)), np.float32(0))
