"""Kernels that keep state: token shift and RWKV's recurrences against float64, whole and token by token."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.kernels.test_kernels import counts, random
from tests.support.kernel_calls import call, guarded, zeros

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
HEADS = 4
AT = 5
"""Where the operation's state begins in a slot: behind another's."""


def sequences(*rows: tuple[int, int, int, int]) -> dict[str, Any]:
    """(new tokens, past, slot to read, slot to write) of each, as a step's arrays."""
    new, past, read, write = (np.array(column, np.int32) for column in zip(*rows, strict=True))
    at = np.concatenate([[0], np.cumsum(new)[:-1]]).astype(np.int32)
    header = counts(int(new.sum()))
    header[3] = len(rows)
    return {"sequence_at": at, "sequence_new": new, "sequence_past": past, "state_read": read, "state_write": write,
            "step": header, "count": 0, "sequences": 3, "state_at": AT}  # fmt: skip


@pytest.mark.parametrize(("per", "lo", "hi"), [(64, 1, 3), (3, 0, 7), (1, 5, 6)])
def test_state_is_carried_to_the_slot_that_is_written(per: int, lo: int, hi: int) -> None:
    """From slot 0 to 3; of a new sequence cleared; where both are one slot left alone. Nothing else is touched."""
    slot = AT + 8 * per + 2
    before = random(4, slot)
    state = guarded(before)
    read = call("state.carry", lo, hi, state=state, slot=slot, per=per, **sequences((2, 9, 0, 3), (1, 0, 2, 2),
                                                                                      (1, 4, 1, 1)))  # fmt: skip
    part = np.s_[AT + lo * per : AT + hi * per]
    before[3, part], before[2, part] = before[0, part], 0
    np.testing.assert_array_equal(state.reshape(4, slot), before)
    assert read == 3 * (hi - lo) * per * 4


@pytest.mark.parametrize(("per", "lo", "hi"), [(64, 1, 3), (3, 0, 7), (1, 5, 6)])
def test_state_of_new_sequences_is_cleared(per: int, lo: int, hi: int) -> None:
    """That of others, and what they read, stays."""
    slot = AT + 8 * per + 2
    before = random(4, slot)
    state = guarded(before)
    read = call("state.clear", lo, hi, state=state, slot=slot, per=per, **sequences((2, 9, 0, 3), (1, 0, 2, 1)))
    before[1, AT + lo * per : AT + hi * per] = 0
    np.testing.assert_array_equal(state.reshape(4, slot), before)
    assert read == 2 * (hi - lo) * per * 4


def from_slot_to_slot(begin: F32, end: F32, apart: F32, parts: int) -> None:
    """A scan in `apart` that read slot 2 and wrote slot 1 left there what one in place leaves in slot 2 of `end`, of
    the middle two of `parts`; all else is as it began."""
    kept = apart.reshape(begin.shape)
    np.testing.assert_array_equal(kept[[0, 2]], begin[[0, 2]])
    expected = begin[1].copy()
    expected[AT:].reshape(parts, -1)[1:3] = end.reshape(begin.shape)[2, AT:].reshape(parts, -1)[1:3]
    np.testing.assert_array_equal(kept[1], expected)


@pytest.mark.parametrize("width", [32, 21])
def test_token_shift(width: int) -> None:
    """Three sequences of 3, 1 and 2 tokens, the last two new or not; rows 0..4, then 4..6, into a worker's own copy."""
    x, state = random(6, width + 3), random(4, AT + width)
    step = sequences((3, 7, 1, 0), (1, 0, 2, 2), (2, 1, 3, 1))
    out = zeros("f32", 12, width)
    operands: dict[str, Any] = {
        "x": x.reshape(-1), "out": out.reshape(-1), "state": state.reshape(-1), "slot": AT + width, "width": width,
        "stride_x": width + 3, "private_x": 0, "private": 6, **step,
    }  # fmt: skip
    read = [call("rwkv.shift", lo, hi, worker=1, **operands) for lo, hi in ((0, 4), (4, 6))]
    rows = x[:, :width]
    before = [state[1, AT:], rows[0], rows[1], 0 * rows[0], state[3, AT:], rows[4]]
    np.testing.assert_array_equal(out[6:], np.stack(before))
    assert not out[:6].any() and read == [2 * width * 4, width * 4]


@pytest.mark.parametrize("width", [32, 21])
def test_the_last_rows_are_kept(width: int) -> None:
    x, before, last = random(6, width + 3), random(4, AT + width + 2), zeros("f32", 3, width)
    state, step = guarded(before), sequences((3, 7, 1, 0), (1, 0, 2, 2), (2, 1, 3, 1))
    call("rwkv.last_rows", 0, 3, x=x.reshape(-1), out=last.reshape(-1), width=width, stride_x=width + 3, private_x=0,
         **step)  # fmt: skip
    np.testing.assert_array_equal(last, x[[2, 3, 5], :width])
    wrote = call("rwkv.keep", 1, 3, x=last.reshape(-1), state=state, slot=AT + width + 2, width=width, **step)
    before[[2, 1], AT : AT + width] = last[1:]
    np.testing.assert_array_equal(state.reshape(before.shape), before)
    assert wrote == 2 * width * 4


def recurrence(kernel: str, head: int, given: dict[str, F32], w: F32, state: F32, **step: Any) -> F32:
    """Outputs of the middle heads; `state` goes on."""
    width, tokens = HEADS * head, len(given["r"])
    flat = {name: guarded(x) for name, x in given.items()}
    made = {name: zeros("f32", tokens * width) for name in ("decay", "key", "removed", "own", "out")}
    own: dict[str, Any] = {"HEAD": head, "width": width, **step}
    lo, hi = head, 3 * head
    inputs = {"r": flat["r"], "w": flat["w"], "first": w, "removal": w, **made}
    inputs |= {"k": flat["k"]} | ({"a": flat["a"]} if kernel == "wkv7" else {})
    assert call(f"wkv.{kernel}_inputs", lo, hi, **inputs, **own) == 2 * head * 4
    scan = {"r": flat["r"], "k": flat.get("scaled", flat["k"]), "v": flat["v"], **made, "state": state}
    wrote = call(f"wkv.{kernel}", lo, hi, **scan, slot=state.size // 3, **own)
    assert wrote == int(step["step"][3]) * 2 * head * head * 4
    out: F32 = made["out"].reshape(tokens, width)
    assert not out[:, :lo].any() and not out[:, hi:].any()
    return out[:, lo:hi]


def slow6(x: dict[str, F64], u: F64, state: F64) -> F64:
    out = []
    for t in range(len(x["r"])):
        added = x["k"][t][:, :, None] * x["v"][t][:, None, :]
        out.append(np.einsum("hi,hij->hj", x["r"][t], state + u[:, :, None] * added))
        state[:] = np.exp(-np.exp(x["w"][t]))[:, :, None] * state + added
    return np.stack(out)


def slow7(x: dict[str, F64], removal: F64, state: F64) -> F64:
    """The state as the kernel keeps it, [key, value]."""
    out = []
    for t in range(len(x["r"])):
        key = x["k"][t] * removal
        key /= np.maximum(np.linalg.norm(key, axis=1, keepdims=True), 1e-12)
        decay = np.exp(-np.exp(-0.5) / (1 + np.exp(-x["w"][t])))
        held = np.einsum("hji,hj->hi", state, key)
        state[:] = state * decay[:, :, None] - (key * x["a"][t])[:, :, None] * held[:, None, :]
        state += x["scaled"][t][:, :, None] * x["v"][t][:, None, :]
        out.append(np.einsum("hji,hj->hi", state, x["r"][t]))
    return np.stack(out)


@pytest.mark.parametrize("head", [64, 32, 48])
@pytest.mark.parametrize(("kernel", "slow"), [("wkv6", slow6), ("wkv7", slow7)])
def test_recurrences(kernel: str, slow: Any, head: int) -> None:
    """Two sequences in one step, in slots 2 and 0: outputs and states; token by token the same bits."""
    width, new = HEADS * head, (5, 3)
    names = ("r", "k", "v", "w", "a", "scaled") if kernel == "wkv7" else ("r", "k", "v", "w")
    given = {name: random(sum(new), width, seed=i) * np.float32(0.5) for i, name in enumerate(names)}
    w, begin = random(width, seed=9), random(3, AT + width * head, seed=10) * np.float32(0.3)
    state = guarded(begin)
    found = recurrence(kernel, head, given, w, state, **sequences((new[0], 1, 2, 2), (new[1], 1, 0, 0)))

    single = guarded(begin)
    for part, slot in ((range(5), 2), (range(5, 8), 0)):
        for t in part:
            one = recurrence(kernel, head, {n: x[t : t + 1] for n, x in given.items()}, w, single,
                             **sequences((1, 1, slot, slot)))  # fmt: skip
            np.testing.assert_array_equal(one[0], found[t])
    np.testing.assert_array_equal(single, state)

    apart, first = guarded(begin), {n: x[:5] for n, x in given.items()}
    again = recurrence(kernel, head, first, w, apart, **sequences((5, 1, 2, 1)))
    np.testing.assert_array_equal(again, found[:5])
    from_slot_to_slot(begin, state, apart, HEADS)

    for part, slot in ((np.s_[:5], 2), (np.s_[5:], 0)):
        wide = {n: x[part].astype(np.float64).reshape(-1, HEADS, head) for n, x in given.items()}
        expected_state = begin[slot, AT:].reshape(HEADS, head, head).astype(np.float64)
        expected = slow(wide, w.astype(np.float64).reshape(HEADS, head), expected_state)
        middle = expected[:, 1:3].reshape(len(expected), -1)
        np.testing.assert_allclose(found[part], middle, rtol=0, atol=2e-5 * np.abs(middle).max())
        kept = state.reshape(3, -1)[slot, AT:].reshape(HEADS, head, head)
        np.testing.assert_allclose(kept[1:3], expected_state[1:3], rtol=0, atol=1e-5 * np.abs(kept).max())
        np.testing.assert_array_equal(kept[[0, 3]], begin[slot, AT:].reshape(HEADS, head, head)[[0, 3]])
