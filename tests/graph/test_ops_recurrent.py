"""Operations of recurrent models against slow twins in plain loops and float64; their prices by hand."""

from __future__ import annotations

from math import exp, log, sqrt, tanh
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from memfirst.graph import Op, StateCache, Step, decode, prefill
from memfirst.graph.ops.activation import Activation
from memfirst.graph.ops.blend import Blend
from memfirst.graph.ops.channel_scan import ChannelScan
from memfirst.graph.ops.layer_norm import LayerNorm
from memfirst.graph.ops.multiply import Multiply
from memfirst.graph.ops.scale import Scale, ScaleParts
from memfirst.graph.ops.stacked_linear import StackedLinear
from memfirst.graph.ops.token_gate import TokenGate
from memfirst.graph.ops.token_lerp import TokenLerp
from memfirst.graph.ops.token_shift import TokenShift
from memfirst.graph.ops.unit_norm import UnitNorm
from memfirst.graph.ops.wkv6 import Wkv6
from memfirst.graph.ops.wkv7 import HeadBonus, ScaledKey, Wkv7
from memfirst.graph.traffic import ACTIVATIONS
from tests.graph.test_ops import Bench, close, draw, weight
from tests.support.toy import one

N, CUT = 7, 3
"""Tokens, and where they are cut into two steps."""


def in_two(bench: Bench, *values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Both steps' rows."""
    return np.concatenate([bench(one(a, b - a), *(v[a:b] for v in values)) for a, b in ((0, CUT), (CUT, N))])


def sigmoid(x: float) -> float:
    return 1 / (1 + exp(-x))


def test_channel_scan() -> None:
    """5 channels of 3 states; the state goes on from the first step."""
    channels, state = 5, 3
    arrays = {"a": -np.abs(draw(channels, state)), "d": draw(channels)}
    op = ChannelScan(
        "s",
        ("x", "dt", "b", "c"),
        "y",
        StateCache("c", channels * state),
        weight("a", channels, state),
        weight("d", channels),
    )
    x, dt, b, c = draw(N, channels), draw(N, channels), draw(N, state), draw(N, state)
    expected = np.zeros((N, channels))
    for i in range(channels):
        s = [0.0] * state
        for t in range(N):
            delta = log(1 + exp(float(dt[t, i])))
            s = [exp(arrays["a"][i, k] * delta) * s[k] + delta * x[t, i] * b[t, k] for k in range(state)]
            expected[t, i] = sum(s[k] * c[t, k] for k in range(state)) + arrays["d"][i] * x[t, i]
    close(in_two(Bench(op, (op.cache,), **arrays), x, dt, b, c), expected, atol=1e-5)


def test_wkv6() -> None:
    """2 heads of 3: the own token by u, the past by decays of each row."""
    heads, size = 2, 3
    first = draw(heads, size)
    op = Wkv6("s", ("r", "k", "v", "w"), "y", StateCache("c", heads * size * size), weight("u", heads, size))
    r, k, v, w = (draw(N, heads * size) for _ in range(4))
    expected = np.zeros((N, heads * size))
    for h in range(heads):
        s = np.zeros((size, size))
        at = range(h * size, (h + 1) * size)
        for t in range(N):
            for j, col in enumerate(at):
                expected[t, col] = sum(
                    r[t, row] * (s[i, j] + first[h, i] * k[t, row] * v[t, col]) for i, row in enumerate(at)
                )
            for i, row in enumerate(at):
                for j, col in enumerate(at):
                    s[i, j] = exp(-exp(w[t, row])) * s[i, j] + k[t, row] * v[t, col]
    close(in_two(Bench(op, (op.cache,), u=first), r, k, v, w), expected, atol=1e-5)


def test_wkv7() -> None:
    """2 heads of 3: decay by columns, removal along the key's direction, then the new value."""
    heads, size = 2, 3
    removal = draw(heads * size)
    op = Wkv7("s", tuple("rwksva"), "y", StateCache("c", heads * size * size), weight("kk", heads * size), size)
    r, w, k, scaled, v = (draw(N, heads * size) for _ in range(5))
    a = np.abs(draw(N, heads * size)) % 1
    expected = np.zeros((N, heads * size))
    for h in range(heads):
        s, at = np.zeros((size, size)), range(h * size, (h + 1) * size)
        for t in range(N):
            raw = [float(k[t, i] * removal[i]) for i in at]
            kappa = [x / sqrt(sum(y * y for y in raw)) for x in raw]
            held = [sum(s[i, j] * kappa[j] for j in range(size)) for i in range(size)]
            for i, row in enumerate(at):
                for j, col in enumerate(at):
                    kept = s[i, j] * exp(-exp(-0.5) * sigmoid(w[t, col]))
                    s[i, j] = kept - held[i] * kappa[j] * a[t, col] + v[t, row] * scaled[t, col]
                expected[t, row] = sum(s[i, j] * r[t, col] for j, col in enumerate(at))
    close(in_two(Bench(op, (op.cache,), kk=removal), r, w, k, scaled, v, a), expected, atol=1e-5)


def test_a_key_of_zeros_removes_nothing() -> None:
    """No division by its length: the state stays finite."""
    op = Wkv7("s", tuple("rwksva"), "y", StateCache("c", 4), weight("kk", 2), 2)
    values = [draw(3, 2) for _ in range(6)]
    values[2] = np.zeros((3, 2), np.float32)
    assert np.isfinite(Bench(op, (op.cache,), kk=draw(2))(one(0, 3), *values)).all()


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_layer_norm(groups: int) -> None:
    """By rows, or by parts of them; weight and bias are the row's."""
    x, w, b = draw(2, 6), draw(6), draw(6)
    expected = np.zeros((2, 6))
    for n in range(2):
        for g in range(groups):
            at = range(g * 6 // groups, (g + 1) * 6 // groups)
            mean = sum(float(x[n, i]) for i in at) / len(at)
            variance = sum((x[n, i] - mean) ** 2 for i in at) / len(at)
            for i in at:
                expected[n, i] = (x[n, i] - mean) / sqrt(variance + 1e-2) * w[i] + b[i]
    op = LayerNorm("n", ("x",), "y", weight("w", 6), weight("b", 6), 1e-2, groups)
    close(Bench(op, w=w, b=b)(one(0, 2), x), expected)


def test_a_gate_of_one_number_a_token() -> None:
    """x · sigmoid(h · w), whatever the widths of x and h."""
    x, h, w = draw(3, 5), draw(3, 4), draw(4)
    bench = Bench(TokenGate("g", ("x", "h"), "y", 5, weight("w", 4)), w=w)
    close(bench(one(0, 3), x, h), x / (1 + np.exp(-(h @ w)))[:, None])


def test_unit_norm_of_heads() -> None:
    x = np.float32([[3, 4, 0, 2]])
    close(Bench(UnitNorm("n", ("x",), "y", 4, 0.0, 2))(one(0, 1), x), x / np.repeat(np.sqrt([[12.5, 2.0]]), 2, axis=1))


def test_unit_norm() -> None:
    """Each row's mean square becomes 1 (less eps)."""
    x = draw(2, 5)
    expected = [[float(v) / sqrt(sum(float(u) ** 2 for u in row) / 5 + 1e-2) for v in row] for row in x]
    close(Bench(UnitNorm("n", ("x",), "y", 5, 1e-2))(one(0, 2), x), expected)


def test_token_shift_and_lerp() -> None:
    """Zeros before the first token, the last of the first step before the second; each part by its own weights."""
    x, shares, more = draw(N, 4), draw(3, 1, 1, 4), draw(N, 12)
    shift = TokenShift("s", ("x",), "y", StateCache("c", 4))
    shifted = in_two(Bench(shift, (shift.cache,)), x)
    close(shifted, np.concatenate([np.zeros((1, 4)), x[:-1]]))
    weights = weight("w", 3, 1, 1, 4)
    assert (weights.nbytes, weights.matrices) == (48, 3)
    for inputs in ((x, shifted), (x, shifted, more)):
        op = TokenLerp("l", tuple("xpm"[: len(inputs)]), "y", weights)
        expected = np.zeros((N, 12))
        for t in range(N):
            for p in range(3):
                for i in range(4):
                    share = shares[p, 0, 0, i] + (more[t, 4 * p + i] if len(inputs) > 2 else 0)
                    expected[t, 4 * p + i] = x[t, i] + (shifted[t, i] - x[t, i]) * share
        close(Bench(op, w=shares)(one(0, N), *inputs), expected)


def test_stacked_linear() -> None:
    """Each part of a row by its own matrix."""
    x, w = draw(2, 6), draw(3, 4, 2)
    expected = [
        [sum(x[n, 2 * p + c] * w[p, r, c] for c in range(2)) for p in range(3) for r in range(4)] for n in (0, 1)
    ]
    close(Bench(StackedLinear("l", ("x",), "y", weight("w", 3, 4, 2)), w=w)(one(0, 2), x), expected)


def test_values_one_by_one() -> None:
    """Functions (also far out), products, blends, scales, RWKV-7's key and bonus."""
    x, y, z, w = draw(2, 4), draw(2, 4), draw(2, 4), draw(4)
    far = np.array([[-200, -1, 0, 200]], np.float32)
    slow = {"tanh": tanh, "sigmoid": lambda v: 0.0 if v < -88 else sigmoid(v), "relu2": lambda v: max(v, 0.0) ** 2}
    for name, function in slow.items():
        found = Bench(Activation("a", ("x",), "y", 4, name))(one(0, 1), far)
        close(found, [[function(float(v)) for v in far[0]]])
    close(Bench(Multiply("m", ("x", "y"), "o", 4))(one(0, 2), x, y), x * y)
    close(Bench(Blend("b", ("x", "y", "z"), "o", 4))(one(0, 2), x, y, z), x * (1 - z) + y * z, atol=1e-5)
    close(Bench(Scale("s", ("x",), "o", 4, 0.22))(one(0, 2), x), 0.22 * x.astype(np.float64))
    parts = Bench(ScaleParts("s", ("x",), "o", ((1, 0.5), (2, -3.0), (1, 1.0))))
    close(parts(one(0, 2), x), x * np.array([0.5, -3, -3, 1], np.float64))
    close(Bench(ScaledKey("k", ("x", "y"), "o", weight("w", 4)), w=w)(one(0, 2), x, y), x * (1 - w + w * y), atol=1e-5)
    bonus = Bench(HeadBonus("b", tuple("xrkv"), "o", weight("w", 4), 2), w=w)(one(0, 2), x, y, z, x)
    expected = x.astype(np.float64).copy()
    for n in range(2):
        for i in range(4):
            head = range(i // 2 * 2, i // 2 * 2 + 2)
            expected[n, i] += x[n, i] * sum(float(y[n, j] * z[n, j] * w[j]) for j in head)
    close(bonus, expected, atol=1e-5)


STATE = StateCache("c", 12)
PRICES: list[tuple[Op, int, int, int]] = [
    (ChannelScan("s", tuple("xdbc"), "y", STATE, weight("a", 4, 3), weight("d", 4)), 64, 96, 4 * (7 * 3 + 3)),
    (Wkv6("s", tuple("rkvw"), "y", STATE, weight("u", 2, 3)), 24, 96, 6 * (5 * 3 + 6)),
    (Wkv7("s", tuple("rwksva"), "y", STATE, weight("k", 6), 3), 24, 96, 6 * (9 * 3 + 10)),
    (TokenShift("s", ("x",), "y", STATE), 0, 96, 0),
    (TokenLerp("l", ("x", "p"), "y", weight("w", 5, 1, 1, 4)), 80, 0, 4 + 2 * 20),
    (TokenLerp("l", ("x", "p", "m"), "y", weight("w", 5, 1, 1, 4)), 80, 0, 4 + 3 * 20),
    (StackedLinear("l", ("x",), "y", weight("w", 5, 4, 2)), 160, 0, 2 * 40),
    (LayerNorm("n", ("x",), "y", weight("w", 4), weight("b", 4), 1e-5), 32, 0, 28),
    (UnitNorm("n", ("x",), "y", 4, 1e-5), 0, 0, 12),
    (TokenGate("g", ("x", "h"), "y", 5, weight("w", 4)), 16, 0, 8 + 4 + 5),
    (HeadBonus("b", tuple("xrkv"), "y", weight("w", 4), 2), 16, 0, 20),
    (ScaledKey("k", ("k", "a"), "y", weight("w", 4)), 16, 0, 16),
    (Scale("s", ("x",), "y", 4, 2.0), 0, 0, 4),
    (ScaleParts("s", ("x",), "y", ((1, 2.0), (3, 0.5))), 0, 0, 4),
]


@pytest.mark.parametrize(("op", "weights", "state", "flops"), PRICES, ids=lambda v: getattr(v, "name", ""))
def test_prices(op: Op, weights: int, state: int, flops: int) -> None:
    """Bytes of weights and of state (read and written) of a step; arithmetic by token. A chunk moves the same bytes."""

    def moved(step: Step, kind: str) -> int:
        return sum(r.amount(step).low for r in op.traffic() if r.purpose.startswith(kind))

    for step in (decode(5), prefill(9, past=3)):
        assert (moved(step, "weights"), moved(step, "state")) == (weights, state)
        assert op.flops(step) == flops * step.tokens
        assert moved(step, ACTIVATIONS) == moved(decode(0), ACTIVATIONS) * step.tokens > 0


def test_what_precedes_the_head_counts_with_it() -> None:
    """A final layer norm is read only where logits are asked for."""
    norm: Any = LayerNorm("n", ("x",), "y", weight("w", 4), weight("b", 4), 1e-5, head=True)
    silent = Step((one(0, 3, logits=()).sequences[0],))
    assert {r.purpose: r.amount(decode(1)).low for r in norm.traffic()} == {"head": 16, ACTIVATIONS: 32}
    assert sum(r.amount(silent).low for r in norm.traffic()) == norm.flops(silent) == 0
    scale = Scale("s", ("x",), "y", 4, 2.0, head=True)
    assert scale.flops(silent) == 0 and scale.flops(decode(1, batch=3)) == 12
