"""Sketches of output heads: what is packed is near the head, and its bounds hold, as close as f16 lets them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from memfirst.codecs import q8_0, sketch
from memfirst.codecs.base import ROWS
from tests.support.kernel_calls import call, guarded, zeros

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]


def head(rows: int, cols: int, seed: int = 0, size: float = 0.1) -> U8:
    """Q8_0 blocks [rows, cols/32, 34] of weights with a few columns that are larger."""
    random = np.random.default_rng(seed)
    weights = random.standard_normal((rows, cols)).astype(np.float32) * np.float32(size)
    weights[:, ::29] *= 6
    return q8_0.quantize(weights.reshape(-1, 32)).reshape(rows, cols // 32, 34)


def packed(raw: U8) -> U8:
    """As kernels read it, zeros for the rows that the last group lacks."""
    rows = np.concatenate([raw, np.zeros((-len(raw) % ROWS, *raw.shape[1:]), np.uint8)])
    return guarded(q8_0.pack(rows).reshape(-1))


def sketched(raw: U8, omega: F32) -> U8:
    cols = 32 * raw.shape[1]
    out = zeros("u8", sketch.matrix_bytes(len(raw), cols))
    slack = sketch.slack(cols) * 1.0001
    floats = zeros("f32", 23 * ROWS)
    operands = {"w": packed(raw), "omega": omega, "out": out, "floats": floats, "cols": cols, "slack": slack}
    call("pack_sketch.pack", 0, -(-len(raw) // ROWS), **operands)
    return out


def values(raw: U8) -> F32:
    return q8_0.dequantize(raw.reshape(-1, 34)).reshape(len(raw), -1)


@pytest.mark.parametrize(("rows", "cols", "size"), [(16, 32, 0.1), (40, 96, 0.1), (37, 576, 3.0), (16, 64, 1e-4)])
def test_a_sketch_is_near_and_its_bounds_hold(rows: int, cols: int, size: float) -> None:
    raw = head(rows, cols, size=size)
    omega = np.random.default_rng(1).uniform(0.3, 4, cols).astype(np.float32)
    found, bounds = sketch.unpack(sketched(raw, omega), cols)
    weights = values(raw)
    largest = np.abs(weights.reshape(rows, -1, 16)).max(axis=2)
    # Half a step of a sixteenth of what lies between −largest and largest, and what the scale is rounded up by.
    step = (largest + largest.max(axis=1, keepdims=True) / 255) / 7.5 * 1.001
    assert (np.abs(weights - found[:rows]).reshape(rows, -1, 16) <= 0.501 * step[..., None]).all()
    least = sketch.bound(weights, found[:rows], omega)
    assert (bounds[:rows] >= least).all() and (bounds[:rows] <= least * 1.002 + 1e-7).all()
    assert not found[rows:].any() and not bounds[rows:].any()


def test_rows_of_zeros_and_rows_that_are_no_numbers() -> None:
    raw = head(16, 64)
    raw[3] = 0
    raw[5, 1, :2] = np.array([np.inf], np.float16).view(np.uint8)
    raw[6, 0, :2] = np.array([np.nan], np.float16).view(np.uint8)
    found, bounds = sketch.unpack(sketched(raw, np.ones(64, np.float32)), 64)
    assert not found[[3, 5, 6]].any() and bounds[3] == 0
    assert np.isinf(bounds[[5, 6]]).all() and np.isfinite(np.delete(bounds, [5, 6])).all()


def test_a_sketch_has_four_and_a_half_bits_a_weight() -> None:
    assert sketch.matrix_bytes(49_152, 576) == 49_152 * 576 * 4.5 / 8 + 49_152 * 4
    assert sketch.matrix_bytes(17, 32) == sketch.matrix_bytes(32, 32) == 2 * (288 + 64)
