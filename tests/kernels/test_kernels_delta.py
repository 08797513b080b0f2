"""Kernels of gated delta nets against float64: convolutions, parts of heads, keys and gates, the delta rule itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.kernels.test_kernels import counts, random
from tests.kernels.test_kernels_state import AT, sequences
from tests.support.kernel_calls import call, guarded, intact, zeros

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

CHANNELS = 64


def convolved(x: F32, w: F32, bias: F32, state: F32, taps: int, lo: int = 16, hi: int = 48, **more: Any) -> F32:
    """Channels lo..hi of a wider matrix; `state` goes on."""
    packed = w.reshape(-1, 16, taps).swapaxes(1, 2).copy().view(np.uint8).reshape(-1)
    out = zeros("f32", len(x), CHANNELS + 8)
    operands: dict[str, Any] = {
        "x": guarded(x), "w": packed, "bias": bias, "out": out.reshape(-1), "state": state,
        "stride_x": x.shape[1], "stride": CHANNELS + 8, "KERNEL": taps, "slot": AT + (taps - 1) * CHANNELS, **more,
    }  # fmt: skip
    read = call("conv.convolve", lo, hi, **operands)
    wrote = call("conv.keep", lo, hi, **operands)
    assert (read, wrote) == ((hi - lo) * 4 * (taps + more["BIAS"]), more["step"][3] * (hi - lo) * 4 * (taps - 1))
    assert not out[:, :lo].any() and not out[:, hi:].any()
    found: F32 = out[:, lo:hi]
    return found


@pytest.mark.parametrize("act", ["silu", ""])
@pytest.mark.parametrize("bias", [0, 1])
@pytest.mark.parametrize("taps", [2, 3, 4])
def test_convolutions(taps: int, bias: int, act: str) -> None:
    """Sequences of 5 and 1 tokens behind others, in slots 2 and 0; token by token the same bits; tails go on."""
    x, w, shift = random(6, CHANNELS + 3), random(CHANNELS, taps, seed=1), random(CHANNELS, seed=2)
    begin = random(3, AT + (taps - 1) * CHANNELS, seed=3)
    state, how = guarded(begin), {"BIAS": bias, "ACT": act}
    found = convolved(x, w, shift, state, taps, **sequences((5, 9, 2, 2), (1, 9, 0, 0)), **how)
    single = guarded(begin)
    for t, slot in [(t, 2) for t in range(5)] + [(5, 0)]:
        one = convolved(x[t : t + 1], w, shift, single, taps, **sequences((1, 1, slot, slot)), **how)
        np.testing.assert_array_equal(one[0], found[t])
    np.testing.assert_array_equal(single, state)

    middle = np.s_[16:48]
    for part, slot in ((np.s_[:5], 2), (np.s_[5:], 0)):
        tail = begin[slot, AT:].reshape(-1, taps - 1, 16).swapaxes(0, 1).reshape(taps - 1, CHANNELS)
        line = np.concatenate([tail[:, middle], x[part, middle]]).astype(np.float64)
        sums = np.stack([(line[t : t + taps].T * w[middle]).sum(1) for t in range(len(line) - taps + 1)])
        sums = sums + (shift[middle] if bias else 0)
        np.testing.assert_allclose(found[part], sums / (1 + np.exp(-sums)) if act else sums, rtol=1e-5, atol=2e-6)
        kept = state.reshape(3, -1)[slot, AT:].reshape(-1, taps - 1, 16)[1:3].swapaxes(0, 1).reshape(taps - 1, -1)
        np.testing.assert_array_equal(kept, line[len(line) - taps + 1 :].astype(np.float32))
    np.testing.assert_array_equal(state.reshape(3, -1)[1], begin[1])


@pytest.mark.parametrize(("heads", "head", "start", "head_x"), [(4, 32, 32, 64), (4, 2, 3, 5), (2, 24, 0, 24)])
def test_parts_of_heads(heads: int, head: int, start: int, head_x: int) -> None:
    """Of all heads but the first."""
    x, out = random(3, heads * head_x + 5), zeros("f32", 3, heads * head)
    call("elementwise.part_of_heads", head, heads * head, x=x.reshape(-1), out=out.reshape(-1), step=counts(3),
         count=0, stride_x=x.shape[1], stride=heads * head, start=start, head_x=head_x, head=head)  # fmt: skip
    expected = x[:, : heads * head_x].reshape(3, heads, head_x)[:, :, start : start + head].reshape(3, -1)
    np.testing.assert_array_equal(out[:, head:], expected[:, head:])
    assert not out[:, :head].any()


@pytest.mark.parametrize(("lo", "hi"), [(0, 37), (16, 21)])
def test_decays(lo: int, hi: int) -> None:
    """Of any step: far below zero nothing decays, far above everything."""
    alpha, bias = random(3, 40) * np.float32(20), random(37, seed=1)
    alpha[0, :5] = (0, -87, 87, -1000, 1000)
    a, out = -np.exp(random(37, seed=2)), zeros("f32", 3, 40)
    read = call("delta.decays", lo, hi, alpha=alpha.reshape(-1), a=a, dt_bias=bias, out=out.reshape(-1),
                step=counts(3), count=0, stride_x=40, stride=40)  # fmt: skip
    expected = np.exp(a * np.logaddexp(0, alpha[:, :37].astype(np.float64) + bias))
    np.testing.assert_allclose(out[:, lo:hi], expected[:, lo:hi], rtol=3e-5, atol=2e-38)
    assert read == (hi - lo) * 8 and not out[:, :lo].any() and not out[:, hi:].any()


@pytest.mark.parametrize("dim", [32, 128])
def test_keys_have_length_1(dim: int) -> None:
    """Two heads of queries, two of keys, and values, which stay as they are; a head of zeros stays so."""
    y = random(3, 4 * dim + 24)
    y[1, dim : 2 * dim] = 0
    before, made = y.copy(), guarded(y)
    operands: dict[str, Any] = {
        "y": made, "step": counts(3), "count": 0, "stride": y.shape[1], "keys_width": 2 * dim, "eps": 1e-6, "K": dim,
    }  # fmt: skip
    for lo, hi in ((0, dim), (dim, 3 * dim), (3 * dim, y.shape[1])):
        assert call("delta.unit_keys", lo, hi, **operands) == 0
    heads = before[:, : 4 * dim].reshape(3, 4, dim).astype(np.float64)
    unit = heads / np.sqrt((heads**2).sum(2, keepdims=True) + 1e-6)
    unit[:, :2] /= dim**0.5
    found = made.reshape(3, -1)
    np.testing.assert_allclose(found[:, : 4 * dim], unit.reshape(3, -1), rtol=1e-6)
    np.testing.assert_array_equal(found[:, 4 * dim :], before[:, 4 * dim :])
    assert intact(made)


KEY_HEADS, HEADS = 2, 6


def delta(given: dict[str, F32], state: F32, tiled: int, k: int, v: int, **step: Any) -> F32:
    """Outputs of the middle four heads; `state` goes on."""
    tokens, lo, hi = len(given["qkv"]), v, 5 * v
    out = zeros("f32", tokens * HEADS * v)
    operands: dict[str, Any] = {
        **{name: guarded(x) for name, x in given.items()}, "state": state, "out": out,
        "key_heads": KEY_HEADS, "ratio": HEADS // KEY_HEADS, "keys_width": KEY_HEADS * k,
        "stride": given["qkv"].shape[1], "stride_decay": given["decay"].shape[1],
        "stride_share": given["share"].shape[1], "width": HEADS * v, "slot": AT + HEADS * k * v, "K": k, "V": v,
        "TILED": tiled, **step,
    }  # fmt: skip
    nbytes = int(step["step"][3]) * (hi - lo) * k * 4
    assert call("state.clear", lo, hi, **operands, per=k) == call("delta.scan", lo, hi, **operands) == nbytes
    found: F32 = out.reshape(tokens, -1)
    assert not found[:, :lo].any() and not found[:, hi:].any()
    return found[:, lo:hi]


def slow(x: dict[str, F64], state: F64, tiled: int, k: int, v: int) -> F64:
    """[tokens, heads, v]; state [heads, k, v] goes on."""
    keys = KEY_HEADS * k
    q, key = (x["qkv"][:, at : at + keys].reshape(-1, KEY_HEADS, k) for at in (0, keys))
    of = np.arange(HEADS) % KEY_HEADS if tiled else np.arange(HEADS) // (HEADS // KEY_HEADS)
    value = x["qkv"][:, 2 * keys : 2 * keys + HEADS * v].reshape(-1, HEADS, v)
    out = np.empty_like(value)
    for t in range(len(value)):
        state *= x["decay"][t, :HEADS, None, None]
        missing = value[t] - np.einsum("hij,hi->hj", state, key[t, of])
        state += key[t, of][:, :, None] * (x["share"][t, :HEADS, None] * missing)[:, None, :]
        out[t] = np.einsum("hij,hi->hj", state, q[t, of])
    return out


def columns(state: F32, k: int, v: int) -> F32:
    """As the kernel keeps it, sixteen values and all keys together, to [heads, k, v]."""
    found: F32 = state.reshape(HEADS, v // 16, k, 16).transpose(0, 2, 1, 3).reshape(HEADS, k, v)
    return found


@pytest.mark.parametrize(("k", "v"), [(32, 64), (16, 32), (64, 48)])
@pytest.mark.parametrize("tiled", [0, 1])
def test_the_delta_rule(tiled: int, k: int, v: int) -> None:
    """Sequences of 5, 3 and 2 tokens, the last new, from slots 1, 0 and 3 to 2, 0 and 3: outputs and states; token by
    token the same bits."""
    new, total = (5, 3, 2), 10
    given = {
        "qkv": random(total, 2 * KEY_HEADS * k + HEADS * v + 7) * np.float32(0.3),
        "decay": np.exp(-np.abs(random(total, HEADS + 2, seed=1))),
        "share": 1 / (1 + np.exp(-random(total, HEADS + 1, seed=2))),
    }  # fmt: skip
    begin = random(4, AT + HEADS * k * v, seed=3) * np.float32(0.3)
    state, slots = guarded(begin), ((1, 2), (0, 0), (3, 3))
    found = delta(given, state, tiled, k, v, **sequences((5, 1, 1, 2), (3, 1, 0, 0), (2, 0, 3, 3)))

    single, at = guarded(begin), 0
    for n, past, (read, write) in zip(new, (1, 1, 0), slots, strict=True):
        for i in range(n):
            row = {name: x[at : at + 1] for name, x in given.items()}
            one = delta(row, single, tiled, k, v, **sequences((1, past + i, write if i else read, write)))
            np.testing.assert_array_equal(one[0], found[at])
            at += 1
    np.testing.assert_array_equal(single, state)

    ends = np.cumsum((0, *new))
    for i, (read, write) in enumerate(slots):
        part = {name: x[ends[i] : ends[i + 1]].astype(np.float64) for name, x in given.items()}
        expected_state = columns(begin[read, AT:], k, v).astype(np.float64) * (i < 2)
        expected = slow(part, expected_state, tiled, k, v)[:, 1:5].reshape(new[i], -1)
        np.testing.assert_allclose(found[ends[i] : ends[i + 1]], expected, rtol=0, atol=1e-5 * np.abs(expected).max())
        kept = columns(state.reshape(4, -1)[write, AT:], k, v)
        np.testing.assert_allclose(kept[1:5], expected_state[1:5], rtol=0, atol=1e-5 * np.abs(kept).max())
        np.testing.assert_array_equal(kept[[0, 5]], columns(begin[write, AT:], k, v)[[0, 5]])
