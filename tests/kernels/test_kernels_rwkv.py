"""RWKV's kernels against NumPy in float64: mixes, blends, keys and bonuses of ranges of columns and rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.kernels.test_kernels import counts, random
from tests.support.kernel_calls import call, guarded, zeros

F32 = NDArray[np.float32]
TOKENS = 3


def wide(*given: F32) -> list[F32]:
    """Operands as columns of wider matrices, each of another width."""
    return [guarded(np.pad(x, ((0, 0), (0, 8 * i)))).reshape(len(x), -1) for i, x in enumerate(given, 1)]


@pytest.mark.parametrize("more", [0, 1])
@pytest.mark.parametrize(("width", "parts"), [(64, 1), (48, 3), (21, 2), (5, 1)])
def test_mixes_with_the_token_before(width: int, parts: int, more: int) -> None:
    """Rows 1 and 2, into the second worker's copy; the weight counts with the step's first row."""
    x, previous, extra = wide(random(TOKENS, width), random(TOKENS, width, seed=1),
                              random(TOKENS, parts * width, seed=2))  # fmt: skip
    w, out = random(parts, width, seed=3), zeros("f32", 2 * TOKENS, parts * width)
    operands: dict[str, Any] = {
        "x": x.reshape(-1), "previous": previous.reshape(-1), "w": w.reshape(-1), "more": extra.reshape(-1),
        "out": out.reshape(-1), "width": width, "parts": parts, "stride_x": x.shape[1],
        "stride_previous": previous.shape[1], "stride_more": extra.shape[1], "private_x": 0, "private_previous": 0,
        "private": TOKENS, "MORE": more,
    }  # fmt: skip
    assert call("rwkv.lerp", 1, 3, worker=1, **operands) == 0
    a, b = (v[:, None, :width].astype(np.float64) for v in (x, previous))
    share = w + more * extra[:, : parts * width].reshape(TOKENS, parts, width)
    expected = (a + (b - a) * share).reshape(TOKENS, -1)
    np.testing.assert_allclose(out[TOKENS + 1 :], expected[1:], rtol=1e-6, atol=1e-6)
    assert not out[: TOKENS + 1].any()
    assert call("rwkv.lerp", 0, 1, **operands) == parts * width * 4


@pytest.mark.parametrize(("lo", "hi"), [(0, 48), (16, 43), (32, 35)])
@pytest.mark.parametrize("in_place", [False, True])
def test_blends(lo: int, hi: int, in_place: bool) -> None:
    x, other, share = wide(*(random(TOKENS, 48, seed=i) for i in range(3)))
    before, out = x.copy(), x if in_place else zeros("f32", TOKENS, 56)
    call("rwkv.blend", lo, hi, x=x.reshape(-1), other=other.reshape(-1), share=share.reshape(-1), out=out.reshape(-1),
         step=counts(TOKENS), count=0, stride_x=56, stride_other=64, stride_share=72, stride=56)  # fmt: skip
    a, b, s = before.astype(np.float64), other[:, :56], share[:, :56]
    expected = (before if in_place else np.zeros_like(before)).astype(np.float64)
    expected[:, lo:hi] = (a + (b - a) * s)[:, lo:hi]
    np.testing.assert_allclose(out, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("lo", "hi"), [(0, 48), (16, 43), (32, 35)])
def test_scaled_keys(lo: int, hi: int) -> None:
    k, a = wide(random(TOKENS, 48), random(TOKENS, 48, seed=1))
    w, out = random(48, seed=2), zeros("f32", TOKENS, 48)
    read = call("rwkv.scaled_key", lo, hi, k=k.reshape(-1), a=a.reshape(-1), w=w, out=out.reshape(-1),
                step=counts(TOKENS), count=0, stride_k=56, stride_a=64, stride=48)  # fmt: skip
    expected = np.zeros((TOKENS, 48))
    expected[:, lo:hi] = (k[:, :48] * (1 + (a[:, :48].astype(np.float64) - 1) * w))[:, lo:hi]
    np.testing.assert_allclose(out, expected, rtol=1e-6, atol=1e-6)
    assert read == (hi - lo) * 4


@pytest.mark.parametrize("dim", [32, 24, 6])
def test_bonuses_of_heads(dim: int) -> None:
    """Of the middle two of four heads."""
    x, r, k, v = wide(*(random(TOKENS, 4 * dim, seed=i) for i in range(4)))
    w, out = random(4 * dim, seed=5), zeros("f32", TOKENS, 4 * dim)
    read = call("rwkv.head_bonus", dim, 3 * dim, x=x.reshape(-1), r=r.reshape(-1), k=k.reshape(-1), v=v.reshape(-1),
                w=w, out=out.reshape(-1), step=counts(TOKENS), count=0, stride_x=4 * dim + 8, stride_r=4 * dim + 16,
                stride_k=4 * dim + 24, stride_v=4 * dim + 32, stride=4 * dim, head_dim=dim)  # fmt: skip
    a, b, c, d = (m[:, : 4 * dim].reshape(TOKENS, 4, dim).astype(np.float64) for m in (x, r, k, v))
    expected = (a + (b * c * w.reshape(4, dim)).sum(2, keepdims=True) * d).reshape(TOKENS, -1)
    np.testing.assert_allclose(out[:, dim : 3 * dim], expected[:, dim : 3 * dim], rtol=1e-5, atol=1e-5)
    assert not out[:, :dim].any() and not out[:, 3 * dim :].any()
    assert read == 2 * dim * 4
