"""What every quantizer does around its arithmetic: checks, slices that stay in cache, scales as f16."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from memfirst.codecs.base import F32, U8
from memfirst.errors import FormatError

CHUNK_WEIGHTS = 1 << 16
"""Weights quantized at a time: 256 KiB of float32, so that a dozen passes read them from L2."""


def quantize_blocks(weights: F32, block: int, block_bytes: int, kernel: Callable[[F32], U8]) -> U8:
    """f32 [n, block] -> u8 [n, block_bytes], by `kernel`, a slice of blocks at a time.

    Raises FormatError where a weight is NaN or infinite (no integer code means that), or where the
    kernel finds a scale beyond f16.
    """
    if weights.ndim != 2 or weights.shape[1] != block:
        raise ValueError(f"weights are {weights.shape}; expected [n, {block}]")
    weights = np.ascontiguousarray(weights, dtype=np.float32)
    out = np.empty((len(weights), block_bytes), np.uint8)
    step = CHUNK_WEIGHTS // block
    for start in range(0, len(weights), step):
        part = weights[start : start + step]
        require_finite(part)
        out[start : start + step] = kernel(part)
    return out


def require_finite(weights: F32) -> None:
    """Raises FormatError where a weight is NaN or infinite, and says how many are."""
    finite = np.isfinite(weights)
    if not finite.all():
        bad = int(finite.size - finite.sum())
        raise FormatError(
            f"{bad} of {finite.size} weights are NaN or infinite",
            "finite weights",
            "keep this tensor as f32, or repair the checkpoint",
        )


def f16_bytes(scales: F32) -> U8:
    """f32 [..., 1] -> u8 [..., 2]; FormatError where a scale would read as infinite."""
    with np.errstate(over="ignore"):
        halves = scales.astype(np.float16)
    if not np.isfinite(halves).all():
        raise FormatError(
            f"weights need a block scale or minimum of {np.abs(scales).max():g}",
            "at most 65504, the largest f16",
            "keep this tensor as f32 or bf16",
        )
    return halves.view(np.uint8)


def f16_at(blocks: U8, at: int) -> F32:
    """The f16 in bytes `at` and `at`+1 of each block, as f32 [n, 1]."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view(np.float16).astype(np.float32)


def inverse(scales: F32) -> F32:
    """1/scale, and 0 where the scale is 0 or so small (below 3e-39) that its inverse overflows."""
    with np.errstate(divide="ignore", over="ignore"):
        inverted = np.float32(1) / scales
    return np.where(np.isfinite(inverted), inverted, np.float32(0))
