"""Activations as int8, slowly: the twin of `activations.quantize`, rounding for rounding."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
TOPS = (127, 126, 125)


def int8(x: F32, block: int) -> tuple[F32, F32]:
    """f32 [..., width] -> whole numbers of the same shape, and the scale of each block [..., width / block]."""
    blocks = x.reshape(-1, block)
    top = np.abs(blocks).max(1, keepdims=True)
    tried = [_rounded(blocks, top, np.float32(most)) for most in TOPS]
    best = np.argmin([error for _, _, error in tried], axis=0)  # the first of equals
    q, scale = (np.choose(best[:, None], [one[i] for one in tried]) for i in (0, 1))
    return q.reshape(x.shape), scale.reshape(*x.shape[:-1], -1)


def rotated(x: F32) -> F32:
    """f32 [..., dim] -> the same, rotated by Hadamard matrices: the twin of `hadamard.rotate`, sum for sum."""
    dim = x.shape[-1]
    n = dim & -dim
    parts = x.reshape(-1, n)
    for _ in range(n.bit_length() - 1):
        even, odd = parts[:, ::2], parts[:, 1::2]
        parts = np.concatenate([even + odd, even - odd], axis=1)
    out: F32 = (parts * (np.float32(1) / np.sqrt(np.float32(n)))).reshape(x.shape)
    return out


def _rounded(blocks: F32, top: F32, most: np.float32) -> tuple[F32, F32, F32]:
    """Whole numbers, scale and squared error where the largest becomes `most`."""
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = np.where(top > 0, np.float32(1) / top, np.float32(0)) * most
    v = blocks * steps
    total = np.zeros((len(blocks), 16), np.float32)
    for i in range(0, blocks.shape[1], 16):
        off = v[:, i : i + 16] - np.rint(v[:, i : i + 16])
        total = (off.astype(np.float64) ** 2 + total).astype(np.float32)
    while total.shape[1] > 1:
        total = total[:, : total.shape[1] // 2] + total[:, total.shape[1] // 2 :]
    return np.rint(v), top / most, total[:, 0] * np.float32(1 / float(most) ** 2)
