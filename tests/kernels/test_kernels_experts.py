"""Kernels of routed experts against NumPy: who is picked, pairs by expert, and what an expert does for its tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from memfirst import codecs
from memfirst.codecs.base import F32, ROWS
from memfirst.graph import Weight
from memfirst.graph.ops.activation import FUNCTIONS
from memfirst.graph.ops.experts import Router
from memfirst.graph.ops.glu import gated
from memfirst.graph.runtime import Runtime
from tests.kernels.test_kernels import dequantized, kernel_of, quantize, random
from tests.support.kernel_calls import call, guarded, key_of, library, zeros
from tests.support.tiny_models import CODECS

I32 = NDArray[np.int32]
STEP_TOKENS, ACTIVE = 0, 1
EXPERTS, K = 6, 2


def flags(codec: str, tile: int, summed: int) -> dict[str, Any]:
    return {"CODEC": codec, "FAMILY": kernel_of(codec), "TILE": tile, "SUM": summed}


def matmul_of(codec: str) -> str:
    return "routed.floats" if codecs.get(codec).family == "float" else "routed.int8"


def most(codec: str) -> int:
    """The largest tile; its kernel has the smaller ones in it, for the pairs that are left."""
    return 4 if kernel_of(codec) == "floats" else 8


FAMILIES = ("f32", "mxfp4", "q4_k", "q6_k", "q2_k", "iq4_xs")
"""A codec of each way to multiply: both tiles with and without sums. Of the others one each way, in turn."""
OTHERS = tuple(codec for codec in CODECS if codec not in FAMILIES)
BOTH = [(codec, tile, summed) for codec in FAMILIES for tile in (1, most(codec)) for summed in (0, 1)]
KERNELS = BOTH + [(c, tile, (i + (tile > 1)) % 2) for i, c in enumerate(OTHERS) for tile in (1, most(c))]


def calls(summed: int, together: tuple[int, ...]) -> list[tuple[str, int, int]]:
    """(codec, tile, tokens) with or without sums: few tokens in tiles of one, more in larger ones."""
    return [(codec, tile, tokens) for codec, tile, kind in KERNELS if kind == summed
            for tokens in ((1, 5) if tile == 1 else together)]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """All matmuls, compiled together: in as many processes as there are cores."""
    library().load(key_of(matmul_of(codec), flags(codec, tile, summed)) for codec, tile, summed in KERNELS)


def test_every_codec_is_multiplied_in_every_way() -> None:
    """In pairs: with and without sums, in tiles of one and in the largest; each family in all combinations."""
    assert {c for c, _, _ in KERNELS} == set(CODECS)
    for codec in CODECS:
        assert {s for c, _, s in KERNELS if c == codec} == {0, 1}
        assert {tile for c, tile, _ in KERNELS if c == codec} == {1, most(codec)}
    found = {(codecs.get(c).family, kernel_of(c), tile, s) for c, tile, s in KERNELS}
    kinds = {(codecs.get(c).family, kernel_of(c), most(c)) for c in CODECS}
    assert found == {(family, kernel, tile, s) for family, kernel, top in kinds for tile in (1, top) for s in (0, 1)}


# --- picking -----------------------------------------------------------------------------------------------


class Weights(Runtime):
    """The identity for the router's matrix, so that inputs are logits; biases by name."""

    def __init__(self, **weights: F32) -> None:
        self.weights = weights

    def weight(self, weight: Weight) -> F32:
        return self.weights[weight.name]


def router(experts: int, **options: Any) -> Router:
    return Router("r", ("x",), "r", Weight("w", (experts, experts), "f32"), **options)


def pick(made: Router, logits: F32, private: int = 0, worker: int = 0, **biases: F32) -> tuple[I32, F32, int]:
    """Experts and weights of each token, and the bytes read."""
    tokens, experts = logits.shape
    stride = -(-experts // ROWS) * ROWS
    wide = np.full((tokens, stride), 7e9, np.float32)  # what pads a row counts for nothing
    wide[:, :experts] = logits
    rows = tokens + worker * private
    expert, weight = zeros("i32", rows * made.k), zeros("f32", rows * made.k)
    nothing = np.zeros(0, np.float32)
    read = call(
        "experts.pick", 0, tokens, worker=worker, logits=wide.reshape(-1), logit_bias=biases.get("logit", nothing),
        scales=biases.get("scale", nothing), bias=biases.get("bias", nothing), expert=expert, weight=weight,
        floats=zeros("f32", (worker + 1) * 4 * experts), experts=experts, stride=stride, k=made.k,
        groups=made.groups, groups_used=made.groups_used, scale=made.scale,
        private=private, SIGMOID=int(made.scoring == "sigmoid"), LOGIT_BIAS=int("logit" in biases),
        BIAS=int("bias" in biases), SCALES=int("scale" in biases), NORMALIZE=int(made.normalize),
    )  # fmt: skip
    own = slice(worker * private * made.k, None)
    return expert[own].reshape(tokens, made.k), weight[own].reshape(tokens, made.k), read


OPTIONS: dict[str, dict[str, Any]] = {
    "qwen3": {"k": 8},
    "olmoe": {"k": 8, "normalize": False},
    "one": {"k": 1},
    "scaled": {"k": 3, "scale": 2.5},
    "all": {"k": 32},
    "sigmoid": {"k": 4, "scoring": "sigmoid"},
    "groups": {"k": 6, "groups": 8, "groups_used": 3, "normalize": False, "scale": 16.0},
    "deepseek v3": {"k": 8, "scoring": "sigmoid", "groups": 8, "groups_used": 4, "scale": 2.5, "bias": True},
    "gpt-oss": {"k": 4, "logit_bias": True},
    "gemma 4": {"k": 8, "expert_scale": True},
}


@pytest.mark.parametrize("case", OPTIONS)
def test_experts_are_picked_as_the_operation_says(case: str) -> None:
    options = dict(OPTIONS[case])
    logits, experts = random(40, 32), 32
    given: dict[str, F32] = {}
    for name, flag in (("bias", "bias"), ("logit", "logit_bias"), ("scale", "expert_scale")):
        if options.pop(flag, False):
            options[flag] = Weight(name, (experts,), "f32")
            given[name] = random(experts, seed=len(name)) * np.float32(0.3)
    made = router(experts, **options)
    expected = made.reference(Weights(w=np.eye(experts, dtype=np.float32), **given), [logits])
    expert, weight, read = pick(made, logits, **given)
    for row, (numbers, weights) in enumerate(zip(expert, weight, strict=True)):
        assert numbers.tolist() == np.flatnonzero(expected[row]).tolist()
        np.testing.assert_allclose(weights, expected[row][numbers], rtol=2e-6)
    assert read == 4 * experts * len(given)


@pytest.mark.parametrize("scoring", ["softmax", "sigmoid"])
def test_of_equals_the_first_are_picked_and_no_number_is_last(scoring: str) -> None:
    logits = np.array([[1, 3, 3, 3, 0, 3, 2], [5, 5, 5, 5, 5, 5, 5], [-np.inf, 0, 0, -np.inf, 1, -np.inf, -np.inf]])
    made = router(7, k=3, scoring=scoring)
    assert pick(made, logits.astype(np.float32))[0].tolist() == [[1, 2, 3], [0, 1, 2], [1, 2, 4]]
    nan = np.array([[np.nan, 1, 0, np.nan, 2, -1, np.nan]], np.float32)
    expert, weight, _ = pick(made, nan)
    assert expert.tolist() == ([[0, 1, 2]] if scoring == "softmax" else [[1, 2, 4]])  # a softmax has no number left
    assert np.isnan(weight).all() == (scoring == "softmax")
    grouped = router(8, k=2, scoring=scoring, groups=4, groups_used=2)
    one = np.array([[np.nan, 9, 1, 0, 1, 0, 1, 0]], np.float32)
    assert pick(grouped, one)[0].tolist() == ([[4, 5]] if scoring == "softmax" else [[2, 4]])  # −inf is before NaN


def test_workers_pick_for_themselves() -> None:
    made, logits = router(20, k=2), random(2, 20)
    alone, own = pick(made, logits), pick(made, logits, private=4, worker=1)
    np.testing.assert_array_equal(alone[0], own[0])
    np.testing.assert_array_equal(alone[1], own[1])


# --- grouping ----------------------------------------------------------------------------------------------


def grouped(expert: I32, weight: F32, experts: int = EXPERTS) -> dict[str, Any]:
    """A step's pairs by expert, as operands of the kernels that follow."""
    tokens, k = expert.shape
    made = {
        "active": zeros("i32", experts), "first": zeros("i32", experts + 1), "pairs": zeros("i32", tokens * k),
        "weights": zeros("f32", tokens * k), "counts": zeros("i32", experts),
        "step": np.array([tokens, 0, 99], np.int64),
    }  # fmt: skip
    call(
        "experts.group", 0, 1, expert=expert.reshape(-1).copy(), weight=weight.reshape(-1).copy(),
        ints=zeros("i32", experts), count=ACTIVE, tokens=STEP_TOKENS, experts=experts, k=k, private=0, **made,
    )  # fmt: skip
    return {**made, "count": ACTIVE, "tokens": STEP_TOKENS, "k": k}


def picks(tokens: int, skewed: bool = False) -> tuple[I32, F32]:
    """K of EXPERTS for each token, by number; skewed: few of them."""
    draw = np.random.default_rng(tokens)
    among = 3 if skewed else EXPERTS
    rows = [np.sort(draw.choice(among, K, replace=False)) for _ in range(tokens)]
    return np.array(rows, np.int32).reshape(tokens, K), draw.random((tokens, K), np.float32)


@pytest.mark.parametrize("tokens", [1, 7, 60])
def test_pairs_are_grouped_by_expert_and_token(tokens: int) -> None:
    expert, weight = picks(tokens, skewed=True)
    found = grouped(expert, weight)
    flat = expert.reshape(-1)
    order = np.argsort(flat, kind="stable")
    numbers, counts = np.unique(flat, return_counts=True)
    active = int(found["step"][ACTIVE])
    assert found["step"].tolist() == [tokens, len(numbers), 99]
    assert found["active"][:active].tolist() == numbers.tolist()
    assert found["first"][: active + 1].tolist() == [0, *np.cumsum(counts)]
    np.testing.assert_array_equal(found["pairs"], order)
    np.testing.assert_array_equal(found["weights"], weight.reshape(-1)[order])
    assert found["counts"].tolist() == np.bincount(flat, minlength=EXPERTS).tolist()


# --- matmuls -----------------------------------------------------------------------------------------------


def stacked(codec_name: str, rows: int, cols: int) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.float64]]:
    """Packed bytes, where each expert's begin (in no order), and the weights [experts, rows, cols]."""
    codec = codecs.get(codec_name)
    values = random(EXPERTS * rows, cols, seed=2) * np.float32(cols**-0.5)
    blocks = codec.quantize(values.reshape(-1, codec.block))
    weights = codec.dequantize(blocks).reshape(EXPERTS, rows, cols).astype(np.float64)
    packed = codec.pack(blocks.reshape(EXPERTS * rows, -1, codec.block_bytes)).reshape(EXPERTS, -1)
    order = np.random.default_rng(1).permutation(EXPERTS)
    places = np.empty(EXPERTS, np.int64)
    places[order] = np.arange(EXPERTS) * packed.shape[1]
    return packed[order].reshape(-1), places, weights


def inputs(codec_name: str, x: F32) -> tuple[dict[str, Any], NDArray[np.float64]]:
    """Activations as operands, and as the matmul sees them."""
    if kernel_of(codec_name) == "floats":
        return {"x": x.reshape(-1), "width": x.shape[1]}, x.astype(np.float64)
    made = quantize(x, 256 if codecs.get(codec_name).block == 256 else 32)
    return {name: array.reshape(-1) for name, array in made.items()}, dequantized(made)


@pytest.mark.parametrize(("codec_name", "tile", "tokens"), calls(0, (1, 5, 41)))
def test_gate_and_up(codec_name: str, tile: int, tokens: int) -> None:
    """Every pair's row, in ranges that end within experts; where experts lie in memory is said by a table."""
    rows, cols = 3 * ROWS, 512 if codecs.get(codec_name).block == 256 else 160
    w, places, weights = stacked(codec_name, rows, cols)
    expert, weight = picks(tokens)
    groups = grouped(expert, weight)
    made, seen = inputs(codec_name, random(tokens, cols, seed=3))
    y = zeros("f32", tokens * K * rows)
    units, read = int(groups["step"][ACTIVE]) * rows, 0
    for lo in range(0, units, 2 * ROWS):
        read += call(
            matmul_of(codec_name), lo, min(lo + 2 * ROWS, units), w=w, places=places, y=y, rows=rows, cols=cols,
            stride=rows, private=0, **groups, **made, **flags(codec_name, tile, 0),
        )  # fmt: skip
    expected = np.stack([weights[e] @ seen[t] for t in range(tokens) for e in expert[t]])
    assert np.abs(y.reshape(expected.shape) - expected).max() < 1e-5 * np.abs(expected).max()
    assert read == groups["step"][ACTIVE] * w.size // EXPERTS


@pytest.mark.parametrize(("codec_name", "tile", "tokens"), calls(1, (1, 3, 41)))
def test_down(codec_name: str, tile: int, tokens: int) -> None:
    """The weighed sum, in ranges of rows: nothing is left of what was there, and columns of others are not touched."""
    rows, cols = 4 * ROWS, 512 if codecs.get(codec_name).block == 256 else 160
    w, places, weights = stacked(codec_name, rows, cols)
    expert, weight = picks(tokens)
    groups = grouped(expert, weight)
    made, seen = inputs(codec_name, random(tokens * K, cols, seed=3))
    before = random(tokens, rows, seed=4)
    y, read = guarded(before), 0
    for lo, hi in ((ROWS, 2 * ROWS), (2 * ROWS, 3 * ROWS)):
        read += call(
            matmul_of(codec_name), lo, hi, w=w, places=places, y=y, rows=rows, cols=cols, stride=rows, private=0,
            **groups, **made, **flags(codec_name, tile, 1),
        )  # fmt: skip
    products = np.stack([weights[e] @ seen[t * K + j] for t in range(tokens) for j, e in enumerate(expert[t])])
    expected = (products.reshape(tokens, K, rows) * weight[:, :, None]).sum(1)
    inside, found = slice(ROWS, 3 * ROWS), y.reshape(tokens, rows)
    assert np.abs(found - expected)[:, inside].max() < 1e-5 * np.abs(expected).max()
    np.testing.assert_array_equal(np.delete(found, np.r_[inside], 1), np.delete(before, np.r_[inside], 1))
    assert read == groups["step"][ACTIVE] * w.size // EXPERTS // 2


@pytest.mark.parametrize("codec_name", ["q4_k", "mxfp4", "f32"])
def test_a_tokens_bits_do_not_depend_on_the_others(codec_name: str) -> None:
    """Alone in tiles of one, and among 40 in the largest."""
    rows, cols = 2 * ROWS, 256
    w, places, _ = stacked(codec_name, rows, cols)
    expert, weight = picks(40)
    x = random(40 * K, cols, seed=3)

    def down(which: slice, tile: int) -> F32:
        groups = grouped(expert[which], weight[which])
        made, _ = inputs(codec_name, x.reshape(40, -1)[which].reshape(-1, cols))
        y = zeros("f32", len(expert[which]) * rows)
        call(
            matmul_of(codec_name), 0, rows, w=w, places=places, y=y, rows=rows, cols=cols, stride=rows, private=0,
            **groups, **made, **flags(codec_name, tile, 1),
        )  # fmt: skip
        return y.reshape(-1, rows)

    together = down(slice(None), most(codec_name))
    for t in (0, 17, 39):
        assert down(slice(t, t + 1), 1).tobytes() == together[t].tobytes()


# --- what follows on the same rows -------------------------------------------------------------------------


def test_biases_of_experts() -> None:
    """Only the columns that there are; rows are padded to 32."""
    rows, width, tokens = 32, 27, 5
    expert, weight = picks(tokens)
    groups = grouped(expert, weight)
    bias, active = random(EXPERTS, width, seed=5), int(groups["step"][ACTIVE])
    before = random(tokens * K, rows, seed=6)
    y, read = guarded(before), 0
    for lo in range(0, active * rows, ROWS):
        read += call(
            "experts.add_bias", lo, lo + ROWS, y=y, bias=bias.reshape(-1), rows=rows, width=width, stride=rows, **groups
        )
    expected = before.copy()
    expected[:, :width] += bias[expert.reshape(-1)]
    np.testing.assert_array_equal(y.reshape(-1, rows), expected)
    assert read == active * width * 4

    before = random(tokens, rows, seed=7)
    y = guarded(before)
    read = sum(
        call("experts.add_weighed_bias", lo, lo + ROWS, y=y, bias=bias.reshape(-1), width=width, stride=rows, **groups)
        for lo in (0, ROWS)
    )
    expected = before.astype(np.float64)
    expected[:, :width] += (bias[expert] * weight[:, :, None]).sum(1)
    np.testing.assert_allclose(y.reshape(-1, rows), expected, atol=1e-6)
    assert read == active * width * 4


def test_pairs_are_weighed() -> None:
    """Each pair's row by its own weight, in ranges that end within experts."""
    rows, tokens = 48, 5
    expert, weight = picks(tokens)
    groups = grouped(expert, weight)
    before = random(tokens * K, rows, seed=6)
    y, units = guarded(before), int(groups["step"][ACTIVE]) * rows
    for lo in range(0, units, 2 * ROWS):
        assert call("experts.weigh", lo, min(lo + 2 * ROWS, units), y=y, rows=rows, stride=rows, **groups) == 0
    np.testing.assert_array_equal(y.reshape(-1, rows), before * weight.reshape(-1, 1))


@pytest.mark.parametrize("activation", ["silu", "gelu", "swiglu_clamped"])
def test_gated_units_of_pairs(activation: str) -> None:
    rows, tokens = 32, 5
    groups = grouped(*picks(tokens))
    g, u = random(tokens * K, rows, seed=8) * np.float32(6), random(tokens * K, rows, seed=9) * np.float32(6)
    out = guarded(g)
    for lo in range(0, int(groups["step"][ACTIVE]) * rows, ROWS):
        call("experts.glu", lo, lo + ROWS, g=out, u=u.reshape(-1), rows=rows, stride=rows, ACT=activation, **groups)
    expected = gated(activation, *(x.astype(np.float64) for x in (g, u)))
    error = np.abs(out.reshape(g.shape) - expected)
    assert (error <= 1e-6 * (1 + np.abs(g)) * (1 + np.abs(u))).all()  # of tanh and exp, times both inputs


@pytest.mark.parametrize("activation", ["relu2", "tanh"])
def test_units_of_pairs_without_a_gate(activation: str) -> None:
    rows, tokens = 32, 5
    groups = grouped(*picks(tokens))
    g = random(tokens * K, rows, seed=8) * np.float32(3)
    out = guarded(g)
    for lo in range(0, int(groups["step"][ACTIVE]) * rows, ROWS):
        call("experts.activate", lo, lo + ROWS, g=out, rows=rows, stride=rows, ACT=activation, **groups)
    np.testing.assert_allclose(out.reshape(g.shape), FUNCTIONS[activation](g), rtol=1e-6)
