"""A sketch of an output head: 4.5 bits a weight, and for each row how far a logit may be from what it gives.

Per 16 rows × 32 columns, 288 bytes: for each row the scales of columns 0..15 and 16..31, 0 to 255; then four times 64
bytes, of which byte 4 r + j of the i-th holds column 4 i + j of row r in its low bits, and column 16 + 4 i + j in its
high ones. Behind the last columns, 64 bytes: for each row 256 · R as f16, and N as f16. A weight is
S = R · scale · (q − 7.5).

**The bound.** Of activations x and any ω > 0, |W·x − S·x| ≤ |ω (W − S)| · |x / ω|, by Cauchy and Schwarz. ω only makes
it tight: best is the square root of what a column's activations are like. Kernels sum in float32, u = 2^-24: n products
that were rounded once, summed in any order, are off by less than (n + 3) u Σ |terms|, and Σ |W x| ≤ |ω W| · |x / ω|. A
head of Q8_0 has n = cols/32 terms, as sums within 32 columns are whole numbers below 2^24; so has a sketch, whose R is
multiplied last. N covers both, and the rounding of z + N |x / ω|, with twice as much:

    N ≥ |ω (W − S)| + 2 (cols/32 + 8) u (|ω W| + |ω S|)

A row with a weight that is no number has N = ∞: it is always read.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from memfirst.codecs.base import F32, ROWS, U8

PACK = "sketch"
"""How `graph.Weight` says that it is one."""
BLOCK = 32
"""Columns are a multiple of it."""
GROUP_BYTES, TAIL_BYTES = 288, 64
BIAS = 7.5
FACTOR = 256
"""Of R, so that its f16 is a normal number."""


def matrix_bytes(rows: int, columns: int) -> int:
    """Bytes of the sketch of a matrix."""
    return -(-rows // ROWS) * (columns // BLOCK * GROUP_BYTES + TAIL_BYTES)


def unpack(packed: U8, columns: int) -> tuple[F32, F32]:
    """S f32 [rows, columns] and N f32 [rows] of a packed sketch, whose last rows may be padding."""
    tiles = packed.reshape(-1, columns // BLOCK * GROUP_BYTES + TAIL_BYTES)
    tail = tiles[:, -TAIL_BYTES:].copy().view(np.float16).astype(np.float32).reshape(-1, 2, ROWS)
    groups = tiles[:, :-TAIL_BYTES].reshape(len(tiles), -1, GROUP_BYTES)
    scales = groups[..., :32].reshape(len(tiles), -1, ROWS, 2).transpose(0, 2, 1, 3)
    nibbles = groups[..., 32:].reshape(len(tiles), -1, 4, ROWS, 4).transpose(0, 3, 1, 2, 4)
    q = np.stack([nibbles & 15, nibbles >> 4], axis=3).reshape(len(tiles), ROWS, -1, 2, 16)
    s = (tail[:, 0] / FACTOR)[..., None, None, None] * scales[..., None] * (q - np.float32(BIAS))
    return s.reshape(-1, columns).astype(np.float32), tail[:, 1].reshape(-1)


def slack(columns: int) -> float:
    """What of |ω W| + |ω S| rounding may add to a bound."""
    return 2 * (columns // BLOCK + 8) * 2.0**-24


def bound(weights: F32, sketched: F32, omega: F32) -> NDArray[np.float64]:
    """The least N that is right [rows]: the formula above."""
    w, s, o = (a.astype(np.float64) for a in (weights, sketched, omega))
    norms = [np.sqrt(((v * o) ** 2).sum(axis=1)) for v in (w - s, w, s)]
    return np.asarray(norms[0] + slack(weights.shape[1]) * (norms[1] + norms[2]))
