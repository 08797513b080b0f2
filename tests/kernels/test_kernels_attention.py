"""Flash-decoding against softmax in float64: contexts around pages, splits and registers; groups; windows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from memfirst.kernels.cpu.attention import PAGE, ROW, SPLIT
from tests.support.kernel_calls import call, zeros

CONTEXTS = (1, 15, 16, 17, 63, 64, 65, 511, 512, 513, 1300)
HEADS, PAGES = 2, 24
Array = NDArray[Any]


def filled(dim: int) -> tuple[dict[str, Any], Array, Array]:
    """A cache of two layers, the second filled on scattered pages: operands, k, v [1300, heads, dim]."""
    rng = np.random.default_rng(7)
    k, v = (rng.standard_normal((max(CONTEXTS), HEADS, dim), np.float32) for _ in range(2))
    tables = rng.permutation(PAGES).astype(np.int32)
    positions = np.arange(max(CONTEXTS))
    layer = 2 * PAGE * HEADS * dim
    made: dict[str, Any] = {
        "cache": zeros("u16", PAGES * 2 * layer), "page_items": 2 * layer, "keys_at": layer, "heads": HEADS,
        "values_at": layer + layer // 2, "tables": tables,
        "slots": (tables[positions // PAGE] * PAGE + positions % PAGE).astype(np.int32),
        "step": np.array([len(positions)] + [0] * 7, np.int64), "count": 0,
    }  # fmt: skip
    made["cache"][:] = 0x7E00  # NaN: whatever was not written must not count
    wrote = [call(f"attention.write_{what}", dim * h, dim * h + dim, k=k.reshape(-1), v=v.reshape(-1), DIM=dim, **made)
             for what in ("keys", "values") for h in range(HEADS)]  # fmt: skip
    assert wrote == [len(positions) * dim * 2] * 4
    return made, k, v


def attention(group: int, dim: int, window: int, by_split: bool = False) -> tuple[Array, Array, int, int]:
    """What the kernels give for a query at the end of each context, what softmax gives, bytes counted and due."""
    made, k, v = filled(dim)
    n = len(CONTEXTS)
    q = np.random.default_rng(8).standard_normal((n, HEADS * group, dim), np.float32) * np.float32(2)
    ends = np.array(CONTEXTS, np.int32)
    starts = np.maximum(ends - window, 0).astype(np.int32) if window else np.zeros(n, np.int32)
    made |= items(starts, ends, by_split)
    units = len(made["item_token"]) * HEADS
    made |= {
        "q": q.reshape(-1), "scores": zeros("f32", 2 * group * ROW), "top": zeros("f32", units * group),
        "total": zeros("f32", units * group), "part": zeros("f32", units * group * dim), "starts": starts,
        "ends": ends, "charged": ends, "table_at": np.zeros(n, np.int32), "scale": dim**-0.5,
        "DIM": dim, "GROUP": group, "AHEAD": int(by_split),
    }  # fmt: skip
    half = units // 2
    read = call("attention.attend", 0, half, worker=1, **made) + call("attention.attend", half, units, **made)
    out = zeros("f32", n, HEADS * group * dim)
    call("attention.merge", 0, n, out=out.reshape(-1), private=0, **made)
    expected = softmax(q, *(x.astype(np.float16).astype(np.float64) for x in (k, v)), starts, ends)
    return out, expected.reshape(n, -1), read, int((ends - starts).sum()) * HEADS * dim * 4


def items(starts: Array, ends: Array, by_split: bool) -> dict[str, Array]:
    """Units of work: a token each, or a split of its context each."""
    spans = [(t, s // SPLIT, (e - 1) // SPLIT) for t, (s, e) in enumerate(zip(starts, ends, strict=True))]
    if by_split:
        spans = [(t, i, i) for t, first, last in spans for i in range(first, last + 1)]
    token, first, last = np.array(spans, np.int32).T.copy()
    at = np.searchsorted(token, np.arange(len(starts) + 1)).astype(np.int32)
    return {"item_token": token, "item_split": first, "item_last": last, "first_item": at}


def softmax(q: Array, k: Array, v: Array, starts: Array, ends: Array) -> Array:
    group = q.shape[1] // HEADS
    out = np.empty(q.shape)
    for t, (start, end) in enumerate(zip(starts, ends, strict=True)):
        for h in range(q.shape[1]):
            scores = k[start:end, h // group] @ q[t, h].astype(np.float64) * q.shape[2] ** -0.5
            weights = np.exp(scores - scores.max())
            out[t, h] = weights @ v[start:end, h // group] / weights.sum()
    return out


@pytest.mark.parametrize("window", [0, 1, 40, 600])
@pytest.mark.parametrize(("group", "dim"), [(1, 32), (2, 32), (3, 64), (4, 64), (7, 32), (8, 128)])
def test_attention(group: int, dim: int, window: int) -> None:
    found, expected, read, due = attention(group, dim, window)
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-6)
    assert read == due


@pytest.mark.parametrize("window", [0, 600])
@pytest.mark.parametrize(("group", "dim"), [(1, 32), (3, 64), (7, 32)])
def test_splits_by_different_workers_give_the_same_bits(group: int, dim: int, window: int) -> None:
    np.testing.assert_array_equal(attention(group, dim, window, by_split=True)[0], attention(group, dim, window)[0])
