"""Kernels of state-space scans against float64, whole and token by token: inputs of channels and heads, the scans of
Mamba and Mamba-2, norms of groups."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from memfirst.kernels.cpu.ssm import WIDE
from tests.kernels.test_kernels import counts, random
from tests.kernels.test_kernels_state import AT, from_slot_to_slot, sequences
from tests.support.kernel_calls import call, guarded, zeros

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

CHANNELS = 64
STEPS = ((5, 1, 2, 2), (3, 1, 0, 0))
"""Two sequences in one step, in slots 2 and 0."""


def test_inputs_of_channels() -> None:
    """Far below zero nothing is added, far above all of dt; columns beside them stay."""
    x, dt, d = random(3, CHANNELS + 5), random(3, CHANNELS + 3, seed=1) * np.float32(20), random(CHANNELS, seed=2)
    dt[0, 16:20] = (0, -1000, 1000, -87)
    delta, out = zeros("f32", 3, CHANNELS + 3), zeros("f32", 3, CHANNELS)
    read = call("ssm.channel_inputs", 16, 48, x=x.reshape(-1), dt=dt.reshape(-1), d=d, delta=delta.reshape(-1),
                out=out.reshape(-1), step=counts(3), count=0, stride_x=x.shape[1], stride_dt=dt.shape[1],
                stride_delta=delta.shape[1], width=CHANNELS)  # fmt: skip
    part = np.s_[:, 16:48]
    expected = np.logaddexp(0, dt[part].astype(np.float64))
    np.testing.assert_allclose(delta[part], expected, rtol=5e-7, atol=2e-38)
    np.testing.assert_array_equal(out[part], (d * x[:, :CHANNELS])[part])
    assert read == 32 * 4 and not delta[:, :16].any() and not delta[:, 48:].any()
    assert not out[:, :16].any() and not out[:, 48:].any()


@pytest.mark.parametrize("heads", [24, 37])
def test_inputs_of_heads(heads: int) -> None:
    """All but the first sixteen, over dt itself."""
    dt, bias = random(3, heads + 4) * np.float32(9), random(heads, seed=1)
    a, decay, before = -np.exp(random(heads, seed=2)), zeros("f32", 3, heads + 1), dt.copy()
    read = call("ssm.head_inputs", 16, heads, dt=dt.reshape(-1), a=a, dt_bias=bias, delta=dt.reshape(-1),
                decay=decay.reshape(-1), step=counts(3), count=0, stride_dt=heads + 4, stride_delta=heads + 4,
                stride_decay=heads + 1)  # fmt: skip
    delta = np.logaddexp(0, before[:, 16:heads].astype(np.float64) + bias[16:])
    np.testing.assert_allclose(dt[:, 16:heads], delta, rtol=2e-6)
    np.testing.assert_allclose(decay[:, 16:heads], np.exp(a[16:] * delta), rtol=3e-5, atol=2e-38)
    np.testing.assert_array_equal(dt[:, heads:], before[:, heads:])
    assert read == (heads - 16) * 8 and not decay[:, :16].any() and not decay[:, heads:].any()


def channels(given: dict[str, F32], a: F32, state: F32, **step: Any) -> F32:
    """Outputs of the middle channels; `state` goes on. Keys are the second worker's own."""
    tokens, n, lo, hi = len(given["x"]), a.shape[1], 16, 48
    packed = a.reshape(-1, 16, n).swapaxes(1, 2).copy().view(np.uint8).reshape(-1)
    copied, out = zeros("f32", 2, CHANNELS * n), zeros("f32", tokens, CHANNELS)
    assert call("ssm.rates", lo, hi, worker=1, a=packed, copied=copied.reshape(-1), width=CHANNELS, STATE=n) == 128 * n
    keys = np.concatenate([np.full_like(given["keys"], np.nan), given["keys"]])
    out[:, lo:hi] = given["out"][:, lo:hi]
    wrote = call(
        "ssm.channels", lo, hi, worker=1, x=guarded(given["x"]), delta=guarded(given["delta"]), a=copied.reshape(-1),
        keys=guarded(keys), queries=guarded(given["queries"]), out=out.reshape(-1), state=state,
        stride_x=given["x"].shape[1], stride_delta=given["delta"].shape[1], stride_keys=keys.shape[1],
        stride_queries=given["queries"].shape[1], private_keys=tokens, private_queries=0, width=CHANNELS,
        slot=AT + CHANNELS * n, STATE=n, **step,
    )  # fmt: skip
    assert wrote == int(step["step"][3]) * 32 * n * 4
    assert not out[:, :lo].any() and not out[:, hi:].any() and not copied[0].any()
    found: F32 = out[:, lo:hi]
    return found


@pytest.mark.parametrize("n", [16, 5])
def test_the_scan_of_channels(n: int) -> None:
    given = {
        "x": random(8, CHANNELS + 1), "delta": np.abs(random(8, CHANNELS + 2, seed=1)),
        "keys": random(8, n + 3, seed=2), "queries": random(8, n + 1, seed=3), "out": random(8, CHANNELS, seed=4),
    }  # fmt: skip
    a, begin = -np.exp(random(CHANNELS, n, seed=5)), random(3, AT + CHANNELS * n, seed=6)
    state, single = guarded(begin), guarded(begin)
    found = channels(given, a, state, **sequences(*STEPS))
    for t, slot in [(t, 2) for t in range(5)] + [(t, 0) for t in range(5, 8)]:
        one = channels({k: v[t : t + 1] for k, v in given.items()}, a, single, **sequences((1, 1, slot, slot)))
        np.testing.assert_array_equal(one[0], found[t])
    np.testing.assert_array_equal(single, state)
    apart = guarded(begin)
    again = channels({k: v[:5] for k, v in given.items()}, a, apart, **sequences((5, 1, 2, 1)))
    np.testing.assert_array_equal(again, found[:5])
    from_slot_to_slot(begin, state, apart, CHANNELS // 16)

    for part, slot in ((range(5), 2), (range(5, 8), 0)):
        old = begin[slot, AT:].reshape(-1, n, 16).swapaxes(1, 2).reshape(CHANNELS, n)
        s, expected = old.astype(np.float64), []
        for t in part:
            delta, x, key, query = (given[k][t].astype(np.float64) for k in ("delta", "x", "keys", "queries"))
            delta, x = delta[:CHANNELS, None], x[:CHANNELS, None]
            s = np.exp(a * delta) * s + delta * x * key[:n]
            expected.append(given["out"][t] + s @ query[:n])
        np.testing.assert_allclose(found[list(part)], np.stack(expected)[:, 16:48], rtol=0, atol=2e-5)
        kept = state.reshape(3, -1)[slot, AT:].reshape(-1, n, 16).swapaxes(1, 2).reshape(CHANNELS, n)
        np.testing.assert_allclose(kept[16:48], s[16:48], rtol=0, atol=1e-5)
        np.testing.assert_array_equal(kept[:16], old[:16])
        np.testing.assert_array_equal(kept[48:], old[48:])


HEADS, GROUPS = 4, 2


def heads(given: dict[str, F32], d: F32, state: F32, head: int, n: int, **step: Any) -> F32:
    """Outputs of the middle heads; `state` goes on. Queries are the second worker's own."""
    tokens, width, lo, hi = len(given["x"]), HEADS * head, head, 3 * head
    out = zeros("f32", tokens, width)
    queries = np.concatenate([np.full_like(given["queries"], np.nan), given["queries"]])
    operands: dict[str, Any] = {
        **{k: guarded(v) for k, v in given.items()}, "queries": guarded(queries), "out": out.reshape(-1),
        **{f"stride_{k}": v.shape[1] for k, v in given.items()}, "private_keys": 0, "private_queries": tokens,
        "ratio": HEADS // GROUPS, "width": width, "state": state, "slot": AT + width * n, "HEAD": head, "STATE": n,
        **step, "d": d,
    }  # fmt: skip
    wrote = call("ssm.heads", lo, hi, worker=1, **operands)
    assert (wrote, call("ssm.skip", lo, hi, **operands)) == (int(step["step"][3]) * 2 * head * n * 4, 8)
    assert not out[:, :lo].any() and not out[:, hi:].any()
    found: F32 = out[:, lo:hi]
    return found


@pytest.mark.parametrize(("head", "n"), [(64, 128), (32, 16), (48, 5)])
def test_the_scan_of_heads(head: int, n: int) -> None:
    width = HEADS * head
    given = {
        "x": random(8, width + 1), "keys": random(8, GROUPS * n + 3, seed=1), "queries": random(8, GROUPS * n, seed=2),
        "delta": np.abs(random(8, HEADS + 2, seed=3)), "decay": np.exp(-np.abs(random(8, HEADS, seed=4))),
    }  # fmt: skip
    d, begin = random(HEADS, seed=5), random(3, AT + width * n, seed=6)
    state, single = guarded(begin), guarded(begin)
    found = heads(given, d, state, head, n, **sequences(*STEPS))
    for t, slot in [(t, 2) for t in range(5)] + [(t, 0) for t in range(5, 8)]:
        one = heads({k: v[t : t + 1] for k, v in given.items()}, d, single, head, n, **sequences((1, 1, slot, slot)))
        np.testing.assert_array_equal(one[0], found[t])
    np.testing.assert_array_equal(single, state)
    apart = guarded(begin)
    again = heads({k: v[:5] for k, v in given.items()}, d, apart, head, n, **sequences((5, 1, 2, 1)))
    np.testing.assert_array_equal(again, found[:5])
    from_slot_to_slot(begin, state, apart, HEADS)

    of = np.arange(HEADS) // (HEADS // GROUPS)
    more = ordered(head, n)
    for part, slot in ((range(5), 2), (range(5, 8), 0)):
        s, expected = begin[slot, AT:][more].reshape(HEADS, head, n).astype(np.float64), []
        for t in part:
            x, delta, decay = (given[k][t].astype(np.float64) for k in ("x", "delta", "decay"))
            key, query = (given[k][t, : GROUPS * n].reshape(GROUPS, n)[of] for k in ("keys", "queries"))
            x, delta = x[:width].reshape(HEADS, head), delta[:HEADS, None]
            s = decay[:HEADS, None, None] * s + (delta * x)[:, :, None] * key[:, None, :]
            expected.append(np.einsum("hpn,hn->hp", s, query) + d[:, None] * x)
        middle = np.stack(expected)[:, 1:3].reshape(len(part), -1)
        np.testing.assert_allclose(found[list(part)], middle, rtol=0, atol=2e-5 * np.abs(middle).max())
        kept = state.reshape(3, -1)[slot, AT:][more].reshape(HEADS, head, n)
        np.testing.assert_allclose(kept[1:3], s[1:3], rtol=0, atol=1e-5 * np.abs(kept).max())
        np.testing.assert_array_equal(kept[[0, 3]], begin[slot, AT:][more].reshape(s.shape)[[0, 3]])


def ordered(head: int, n: int) -> NDArray[np.int64]:
    """Where the kernel keeps each of [heads, head, n]."""
    more = WIDE if head % (16 * WIDE) == 0 else 1
    places = np.arange(HEADS * head * n).reshape(-1, n, 16 * more)
    found: NDArray[np.int64] = places.swapaxes(1, 2).reshape(-1)
    return found


@pytest.mark.parametrize("weight", [0, 1])
@pytest.mark.parametrize(("width", "group"), [(96, 32), (42, 21), (48, 48)])
def test_norms_of_groups(width: int, group: int, weight: int) -> None:
    """Of rows 1 and 2, from the second worker's own to its own."""
    x, w = random(6, width + 3), random(width, seed=1)
    out = zeros("f32", 8, width)
    read = call("activations.norm_groups", 1, 3, worker=1, x=x.reshape(-1), w=w, out=out.reshape(-1), width=width,
                group=group, stride=width + 3, eps=1e-5, private_x=3, private=4, WEIGHT=weight)  # fmt: skip
    parts = x[4:6, :width].reshape(2, -1, group).astype(np.float64)
    normed = (parts / np.sqrt((parts**2).mean(2, keepdims=True) + 1e-5)).reshape(2, -1)
    np.testing.assert_allclose(out[5:7], normed * w if weight else normed, rtol=2e-6, atol=1e-7)
    assert read == 0 and not out[:5].any() and not out[7:].any()
    assert call("activations.norm_groups", 0, 1, x=x.reshape(-1), w=w, out=out.reshape(-1), width=width, group=group,
                stride=width + 3, eps=1e-5, private_x=0, private=0, WEIGHT=weight) == width * 4 * weight  # fmt: skip
