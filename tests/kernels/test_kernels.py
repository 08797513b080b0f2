"""Compiled kernels against NumPy: products of every codec, what makes their inputs, and what follows them."""

from __future__ import annotations

from math import erf
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from memfirst import codecs
from memfirst.codecs.base import ROWS
from tests.support.kernel_calls import call, guarded, key_of, library, zeros
from tests.support.slow_int8 import int8
from tests.support.tiny_models import CODECS

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
STEP_TOKENS = 0


def counts(tokens: int) -> NDArray[np.int64]:
    return np.array([tokens] + [0] * 7, np.int64)


def random(*shape: int, seed: int = 0) -> F32:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """All products and look-ups, compiled together: in as many processes as there are cores."""
    library().load(
        key_of(f"{part}.{kernel_of(codec)}", {"CODEC": codec, "TILE": tile})
        for codec in CODECS for tile in (1, 4, 8) for part in ("matmul", "embed")
        if tile < 8 or kernel_of(codec) != "floats"
    )  # fmt: skip


# --- inputs of products ------------------------------------------------------------------------------------


def quantize(x: F32, block: int) -> dict[str, Any]:
    tokens, width = x.shape
    made = {
        "aq": zeros("i8", tokens, width), "ad": zeros("f32", tokens, width // 32),
        "ao": zeros("i32", tokens, 3, width // 32), "af": zeros("f32", tokens, width // 32),
        "am": zeros("i32", tokens, width // 64), "ap": zeros("i32", tokens, width // 32),
    }  # fmt: skip
    flat = {name: array.reshape(-1) for name, array in made.items()}
    call(
        "activations.quantize", 0, tokens, x=x, width=width, stride=width, private_in=0, private=0, BLOCK=block, **flat
    )
    return made


def dequantized(made: dict[str, Any]) -> F64:
    """The activations that a product sees."""
    scales = np.repeat(made["ad"].astype(np.float64), 32, axis=1)
    out: F64 = made["aq"] * scales
    return out


@pytest.mark.parametrize("block", [32, 256])
def test_quantized_activations(block: int) -> None:
    x = random(3, 512) * np.float32([[1], [1e-6], [1e6]])
    x[0, :256] = 0  # a block of zeros has scale 0, and no NaN
    made = quantize(x, block)
    expected, scales = int8(x, block)
    np.testing.assert_array_equal(made["ad"], np.repeat(scales, block // 32, axis=1))
    np.testing.assert_array_equal(made["aq"], expected)
    assert {125, 126, 127} >= set(np.abs(made["aq"].astype(int)).reshape(3, -1, block).max(2).reshape(-1)) - {0}
    left = np.square(dequantized(made) - x).sum(1)
    plain = np.abs(x).reshape(3, -1, block).max(2, keepdims=True) / np.float32(127)
    with np.errstate(invalid="ignore"):
        coarse = np.nan_to_num(np.rint(x.reshape(plain.shape[0], -1, block) / plain)) * plain
    assert (left < np.square(coarse.reshape(x.shape) - x).sum(1)).all(), "better than the largest at 127"
    sums = expected.reshape(3, -1, 32).sum(2).astype(np.int32)
    np.testing.assert_array_equal(made["ao"], np.stack([sums * k for k in (-8, -16, -128)], axis=1))
    if block == 256:
        np.testing.assert_array_equal(made["am"].view(np.int16), sums)
        np.testing.assert_array_equal(made["ap"].view(np.int16), expected.reshape(3, -1, 16).sum(2))
    np.testing.assert_array_equal(made["af"], made["ad"] * sums.astype(np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3.4e38, 1e-45])
def test_odd_values_end_in_numbers_or_nan_and_not_in_a_crash(value: float) -> None:
    x = random(1, 64)
    x[0, 5] = value
    made = quantize(x, 32)
    assert np.isfinite(made["ad"][0, 1]), "the other block is untouched"
    w, _ = matrix("q8_0", ROWS, 64)
    y = zeros("f32", 1, ROWS)
    call("matmul.block32", 0, ROWS, w=w, y=y.reshape(-1), step=counts(1), count=0, cols=64, stride=ROWS, private=0,
         add_to=0, CODEC="q8_0", TILE=1, **{n: a.reshape(-1) for n, a in made.items()})  # fmt: skip
    assert y.shape == (1, ROWS)


@pytest.mark.parametrize("width", [96, 8, 40])
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_rms_norm_of_chosen_rows_of_a_wider_matrix(offset: float, width: int) -> None:
    x, w = random(4, width + 24), random(width, seed=1)
    rows, out = np.array([3, 0, 3], np.int32), zeros("f32", 3, width)
    read = call("activations.rms_norm", 0, 3, x=x.reshape(-1)[8:], w=w, out=out.reshape(-1), rows=rows, width=width,
                stride=width + 24, eps=1e-5, offset=offset, private=0)  # fmt: skip
    wide = x[rows, 8 : 8 + width].astype(np.float64)
    expected = wide / np.sqrt((wide**2).mean(1, keepdims=True) + 1e-5) * (w + offset)
    np.testing.assert_allclose(out, expected, rtol=3e-6, atol=1e-7)
    assert read == width * 4


@pytest.mark.parametrize("width", [64, 56, 7])
def test_layer_norm(width: int) -> None:
    x, w, bias = random(3, width + 8) + np.float32(3), random(width, seed=1), random(width, seed=2)
    rows, out = np.array([2, 0], np.int32), zeros("f32", 2, width)
    read = call("activations.layer_norm", 0, 2, x=x.reshape(-1), w=w, bias=bias, out=out.reshape(-1), rows=rows,
                width=width, stride=width + 8, eps=1e-5, private=0, BIAS=1)  # fmt: skip
    np.testing.assert_allclose(out, normalized(x[rows, :width]) * w + bias, rtol=1e-5, atol=2e-6)
    assert read == width * 8


def normalized(x: F32) -> F64:
    wide = x.astype(np.float64)
    out: F64 = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-5)
    return out


@pytest.mark.parametrize("bias", [0, 1])
@pytest.mark.parametrize("dim", [48, 40])
def test_layer_norm_of_heads(dim: int, bias: int) -> None:
    """Of the middle heads of a wider matrix, each with its own part of the weight."""
    x, w, b = random(2, 4 * dim) + np.float32(3), random(4 * dim, seed=1), random(4 * dim, seed=2)
    out = zeros("f32", 2, 4 * dim)
    read = call("elementwise.layer_norm_heads", dim, 3 * dim, x=x.reshape(-1), w=w, bias=b, out=out.reshape(-1),
                step=counts(2), count=0, stride_x=4 * dim, stride=4 * dim, head_dim=dim, eps=1e-5,
                BIAS=bias)  # fmt: skip
    expected = normalized(x.reshape(2, 4, dim)).reshape(2, -1) * w + bias * b
    np.testing.assert_allclose(out[:, dim : 3 * dim], expected[:, dim : 3 * dim], rtol=1e-5, atol=2e-6)
    assert not out[:, :dim].any() and not out[:, 3 * dim :].any()
    assert read == 2 * dim * 4 * (1 + bias)


@pytest.mark.parametrize("width", [1, 16, 40])
def test_rows_that_are_picked(width: int) -> None:
    x, rows, out = random(3, 50), np.array([2, 0, 2, 1], np.int32), zeros("f32", 4, width)
    call("activations.copy", 1, 4, x=x.reshape(-1)[5:], out=out.reshape(-1), rows=rows, stride=50, width=width)
    np.testing.assert_array_equal(out[1:], x[rows[1:], 5 : 5 + width])
    assert not out[0].any()


def test_workers_fill_copies_of_their_own() -> None:
    x, w, out = random(2, 32), random(32, seed=1), zeros("f32", 6, 32)
    rows = np.arange(2, dtype=np.int32)
    call("activations.rms_norm", 0, 2, worker=1, x=x, w=w, out=out.reshape(-1), rows=rows, width=32, stride=32,
         eps=1e-5, offset=0.0, private=4)  # fmt: skip
    assert not out[:4].any()
    assert out[4:].all()


# --- products ----------------------------------------------------------------------------------------------


def matrix(codec_name: str, rows: int, cols: int, seed: int = 2) -> tuple[NDArray[np.uint8], F64]:
    """Packed bytes, and the weights they stand for [rows, cols]."""
    codec = codecs.get(codec_name)
    blocks = codec.quantize((random(rows, cols, seed=seed) * np.float32(cols**-0.5)).reshape(-1, codec.block))
    packed = codec.pack(blocks.reshape(rows, -1, codec.block_bytes))
    return packed.reshape(-1), codec.dequantize(blocks).reshape(rows, cols).astype(np.float64)


def kernel_of(codec_name: str) -> str:
    family = codecs.get(codec_name).family
    return "floats" if family == "float" else family


def product(codec_name: str, tile: int, tokens: int, rows: int, cols: int, block: int, add_to: int) -> None:
    wide, floats = random(tokens, cols + 5, seed=3), kernel_of(codec_name) == "floats"
    x = wide[:, :cols].copy()
    w, weights = matrix(codec_name, rows, cols)
    made = {} if floats else quantize(x, block)
    seen = x.astype(np.float64) if floats else dequantized(made)
    before = random(tokens, rows, seed=4)
    y = guarded(before).reshape(tokens, rows)
    lo, hi = ROWS, rows - ROWS  # the first and last pack are another chunk's
    read = call(f"matmul.{kernel_of(codec_name)}", lo, hi, w=w, x=wide, y=y.reshape(-1), step=counts(tokens),
                count=0, cols=cols, stride_x=cols + 5, stride=rows, private=0, add_to=add_to, CODEC=codec_name,
                TILE=tile,
                **{name: array.reshape(-1) for name, array in made.items()})  # fmt: skip
    expected = seen @ weights.T + add_to * before
    error = np.abs(y - expected)[:, lo:hi].max()
    assert error < 1e-5 * np.abs(expected).max(), error
    np.testing.assert_array_equal(y[:, :lo], before[:, :lo])
    np.testing.assert_array_equal(y[:, hi:], before[:, hi:])
    assert read == (hi - lo) * w.size // rows


@pytest.mark.parametrize(("tile", "tokens"), [(1, 1), (1, 3), (4, 3), (4, 4), (8, 5), (8, 8), (8, 19)])
@pytest.mark.parametrize("codec_name", CODECS)
def test_products(codec_name: str, tile: int, tokens: int) -> None:
    tile = min(tile, 4) if kernel_of(codec_name) == "floats" else tile
    wide = codecs.get(codec_name).block == 256
    product(codec_name, tile, tokens, 5 * ROWS, 768 if wide else 160, 256 if wide else 32, tokens % 2)


@pytest.mark.parametrize("cols", [1, 10, 163])
@pytest.mark.parametrize("codec_name", ["f32", "f16", "bf16"])
def test_products_of_thin_matrices(codec_name: str, cols: int) -> None:
    """Columns that are no multiple of the four that are summed apart."""
    product(codec_name, 1, 2, 3 * ROWS, cols, 32, 0)
    product(codec_name, 4, 3, 3 * ROWS, cols, 32, 1)


@pytest.mark.parametrize("codec_name", ["q4_0", "q5_1", "q8_0", "iq4_nl"])
def test_products_of_activations_in_blocks_of_256(codec_name: str) -> None:
    """Where another product of the same input is a K-quant's."""
    product(codec_name, 4, 2, 3 * ROWS, 512, 256, 0)


@pytest.mark.parametrize("codec_name", CODECS)
def test_the_largest_weights_and_activations_fit_the_sums(codec_name: str) -> None:
    """Every quant at its largest, every activation at ±127: no partial sum overflows its 16 or 32 bits."""
    codec, cols = codecs.get(codec_name), 512
    sign = np.where(random(ROWS * 3, cols, seed=5) > 0, np.float32(1), np.float32(-1))
    for w in (np.ones((3 * ROWS, cols), np.float32), -np.ones((3 * ROWS, cols), np.float32), sign):
        blocks = codec.quantize(w.reshape(-1, codec.block))
        packed = codec.pack(blocks.reshape(3 * ROWS, -1, codec.block_bytes)).reshape(-1)
        weights = codec.dequantize(blocks).reshape(3 * ROWS, cols).astype(np.float64)
        for x in (np.ones((1, cols), np.float32), -np.ones((1, cols), np.float32), sign[:1]):
            made, y = quantize(x, 256), zeros("f32", 1, 3 * ROWS)
            call(f"matmul.{kernel_of(codec_name)}", 0, 3 * ROWS, w=packed, x=x, y=y.reshape(-1), step=counts(1),
                 count=0, cols=cols, stride_x=cols, stride=3 * ROWS, private=0, add_to=0, CODEC=codec_name, TILE=1,
                 **{name: array.reshape(-1) for name, array in made.items()})  # fmt: skip
            expected = dequantized(made) @ weights.T
            np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5 * cols**0.5)


@pytest.mark.parametrize("codec_name", CODECS)
def test_look_ups_are_the_definition_bit_for_bit(codec_name: str) -> None:
    cols, rows, scale = 512, 3 * ROWS, np.float32(22.627417)
    w, weights = matrix(codec_name, rows, cols)
    tokens = np.array([0, ROWS - 1, ROWS, rows - 1, 5], np.int32)
    x = zeros("f32", len(tokens), cols)
    read = call(f"embed.{kernel_of(codec_name)}", 1, 5, w=w, tokens=tokens, x=x.reshape(-1), cols=cols,
                scale=scale, CODEC=codec_name)  # fmt: skip
    np.testing.assert_array_equal(x[1:], weights.astype(np.float32)[tokens[1:]] * scale)
    assert not x[0].any()
    assert read == 4 * ROWS * w.size // rows


# --- what follows a product --------------------------------------------------------------------------------


@pytest.mark.parametrize(("lo", "hi"), [(16, 32), (0, 48), (16, 43), (32, 35)])
def test_bias(lo: int, hi: int) -> None:
    y, bias = guarded(random(3, 48)).reshape(3, 48), random(48, seed=1)
    expected = y.copy()
    expected[:, lo:hi] += bias[lo:hi]
    read = call("elementwise.add_bias", lo, hi, y=y.reshape(-1), bias=bias, step=counts(3), count=0, stride=48)
    assert read == (hi - lo) * 4
    np.testing.assert_array_equal(y, expected)


def columns(kernel: str, *given: F32, out: int = -1, **operands: Any) -> F32:
    """A kernel on columns 16..43 of 3 rows, operands in matrices of their own widths; `out`: which one it is put into
    (-1: a new one). Returns those columns, and checks the others."""
    names = {1: ("x",), 2: ("g", "u") if kernel.endswith("glu") else ("a", "b")}[len(given)]
    width, lo, hi = given[0].shape[1], 16, 43
    wide = {
        n: guarded(np.pad(x, ((0, 0), (0, 8 * (i + 1))))) for i, (n, x) in enumerate(zip(names, given, strict=True))
    }
    target = wide[names[out]] if out >= 0 else zeros("f32", 3, width + 32).reshape(-1)
    before = target.copy()
    strides: dict[str, Any] = {f"stride_{n}": width + 8 * (i + 1) for i, n in enumerate(names)}
    stride = len(target) // 3
    call(f"elementwise.{kernel}", lo, hi, **wide, **strides, out=target, stride=stride, step=counts(3), count=0,
         **operands)  # fmt: skip
    found, before = target.reshape(3, stride), before.reshape(3, stride)
    np.testing.assert_array_equal(np.delete(found, np.s_[lo:hi], 1), np.delete(before, np.s_[lo:hi], 1))
    result: F32 = found[:, lo:hi]
    return result


@pytest.mark.parametrize("out", [-1, 0, 1])
def test_sums_and_products_of_columns(out: int) -> None:
    a, b = random(3, 48), random(3, 48, seed=1)
    np.testing.assert_array_equal(columns("add", a, b, out=out), (a + b)[:, 16:43])
    np.testing.assert_array_equal(columns("multiply", a, b, out=out), (a * b)[:, 16:43])


@pytest.mark.parametrize("out", [-1, 0])
def test_scaled_and_capped_columns(out: int) -> None:
    x = random(3, 48) * np.float32(30)
    np.testing.assert_array_equal(columns("scale", x, factor=0.3, out=out), (x * np.float32(0.3))[:, 16:43])
    factors = random(48, seed=2)
    np.testing.assert_array_equal(columns("scale_columns", x, factors=factors, out=out), (x * factors)[:, 16:43])
    capped = 30 * np.tanh(x.astype(np.float64) / 30)
    np.testing.assert_allclose(columns("softcap", x, cap=30.0, out=out), capped[:, 16:43], rtol=1e-6)


def test_scaled_rows() -> None:
    """A factor by the row's position, in some columns only."""
    before, factors, rows = random(3, 48), random(9, seed=2), np.array([8, 0, 3], np.int32)
    y = guarded(before).reshape(3, 48)
    call(
        "elementwise.scale_rows",
        16,
        43,
        y=y.reshape(-1),
        factors=factors,
        rows=rows,
        step=counts(3),
        count=0,
        stride=48,
    )
    expected = before.copy()
    expected[:, 16:43] *= factors[rows][:, None]
    np.testing.assert_array_equal(y, expected)


def test_softcap_of_everything() -> None:
    """Small values as they were, large ones at the cap; a NaN is one still."""
    x = np.float32([0, 1e-30, -1e-6, 1e-3, 4, -60, 400, 3e38, np.inf, -np.inf, np.nan])
    out = zeros("f32", len(x))
    call("elementwise.softcap", 0, len(x), x=x, out=out, step=counts(1), count=0, stride_x=0, stride=0, cap=50.0)
    np.testing.assert_allclose(out, 50 * np.tanh(x.astype(np.float64) / 50), rtol=1e-6)


FUNCTIONS: dict[str, Any] = {
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: x / 2 * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))),
    "gelu_erf": lambda x: x / 2 * (1 + np.vectorize(erf)(x / 2**0.5)),
    "relu": lambda x: np.maximum(x, 0),
    "relu2": lambda x: np.maximum(x, 0) ** 2,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_activations(name: str) -> None:
    x = np.concatenate([np.linspace(-12, 12, 4700), [0, -0.0, 1e-30]]).astype(np.float32)
    out = zeros("f32", len(x))
    call("elementwise.activate", 0, len(x), x=x, out=out, step=counts(1), count=0, stride_x=0, stride=0, ACT=name)
    expected = FUNCTIONS[name](x.astype(np.float64))
    # where 1 + tanh x cancels, what is left is as exact as 1 was
    np.testing.assert_allclose(out, expected, rtol=1e-6, atol=3e-6 if name.startswith("gelu") else 1e-37)
    y = columns("activate", random(3, 48), out=0, ACT=name)
    np.testing.assert_allclose(y, FUNCTIONS[name](random(3, 48).astype(np.float64))[:, 16:43], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("out", [-1, 0, 1])
@pytest.mark.parametrize("name", ["silu", "gelu", "gelu_erf", "relu", "sigmoid", "swiglu_clamped"])
def test_gated_units(name: str, out: int) -> None:
    """Gate and up as columns of wider matrices; gpt-oss's unit holds its inputs within ±7."""
    g, u = random(3, 48) * np.float32(5), random(3, 48, seed=1) * np.float32(5)
    found = columns("glu", g, u, out=out, ACT=name)
    g, u = g[:, 16:43].astype(np.float64), u[:, 16:43].astype(np.float64)
    if name == "swiglu_clamped":
        gate = np.minimum(g, 7)
        expected = gate / (1 + np.exp(-1.702 * gate)) * (np.clip(u, -7, 7) + 1)
    else:
        expected = FUNCTIONS[name](g) * u
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-5 if name.startswith("gelu") else 1e-6)


@pytest.mark.parametrize("dim", [64, 8, 24, 80])
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_norm_of_heads(offset: float, dim: int) -> None:
    """Of the middle columns of a wider matrix, as those of k in a fused q, k and v."""
    whole, w = guarded(random(2, 4 * dim)).reshape(2, 4 * dim), random(dim, seed=1)
    heads = whole.astype(np.float64).reshape(2, 4, dim)
    expected = heads.copy()
    expected[:, 1:] = heads[:, 1:] / np.sqrt((heads[:, 1:] ** 2).mean(2, keepdims=True) + 1e-6) * (w + offset)
    read = [
        call("elementwise.norm_heads", lo, hi, y=whole.reshape(-1)[dim:], w=w, step=counts(2), count=0, stride=4 * dim,
             head_dim=dim, eps=1e-6, offset=offset) for lo, hi in ((0, dim), (dim, 3 * dim))
    ]  # fmt: skip
    np.testing.assert_allclose(whole, expected.reshape(2, -1), rtol=3e-6, atol=1e-7)
    assert read == [dim * 4, 0], "the weight counts once a step"


@pytest.mark.parametrize(("width", "inner"), [(64, 48), (40, 21), (5, 300)])
def test_a_gate_of_one_number_a_token(width: int, inner: int) -> None:
    """In place, of rows of wider matrices, of the middle tokens."""
    x, h, w = guarded(random(4, width + 3)).reshape(4, -1), random(4, inner + 5, seed=1), random(inner, seed=2)
    expected = x.copy().astype(np.float64)
    gate = 1 / (1 + np.exp(-(h[:, :inner].astype(np.float64) @ w)))
    expected[1:3, :width] *= gate[1:3, None]
    how = {"stride": width + 3, "width": width, "stride_h": inner + 5, "inner": inner}
    read = [call("activations.token_gate", lo, hi, x=x.reshape(-1), h=h.reshape(-1), w=w, **how)
            for lo, hi in ((1, 2), (2, 3), (0, 0))]  # fmt: skip
    np.testing.assert_allclose(x, expected, rtol=3e-6, atol=1e-6)
    assert read == [0, 0, 4 * inner], "the weight counts once a step"


@pytest.mark.parametrize("dim", [64, 8, 24, 80])
def test_norm_of_heads_without_a_weight(dim: int) -> None:
    whole = guarded(random(2, 4 * dim)).reshape(2, 4 * dim)
    heads = whole.astype(np.float64).reshape(2, 4, dim)
    expected = heads.copy()
    expected[:, 1:3] = heads[:, 1:3] / np.sqrt((heads[:, 1:3] ** 2).mean(2, keepdims=True) + 1e-6)
    read = call("elementwise.unit_norm", dim, 3 * dim, y=whole.reshape(-1), step=counts(2), count=0, stride=4 * dim,
                head_dim=dim, eps=1e-6)  # fmt: skip
    np.testing.assert_allclose(whole, expected.reshape(2, -1), rtol=3e-6, atol=1e-7)
    assert read == 0


@pytest.mark.parametrize(
    ("dim", "start", "half", "apart"),
    [(64, 0, 8, 8), (64, 0, 16, 16), (64, 0, 20, 20), (64, 0, 32, 32), (72, 8, 5, 5), (80, 48, 16, 16), (8, 0, 1, 1),
     (80, 0, 10, 40), (96, 0, 17, 48)],
)  # fmt: skip
@pytest.mark.parametrize("split", [0, 1])
def test_rope(split: int, dim: int, start: int, half: int, apart: int) -> None:
    """`half` pairs of each head from `start` on, in the middle heads only; rows of the tables as they are given."""
    angles = np.outer(np.arange(50), 10000.0 ** (-np.arange(half) / half))
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    before, rows = random(2, 4 * dim), np.array([49, 3], np.int32)
    y = guarded(before).reshape(2, 4 * dim)
    call("elementwise.rope", dim, 3 * dim, y=y.reshape(-1), cos=cos.reshape(-1), sin=sin.reshape(-1), rope_at=rows,
         step=counts(2), count=0, stride=4 * dim, head_dim=dim, start=start, half=half, apart=apart,
         SPLIT=split)  # fmt: skip
    expected = before.astype(np.float64).reshape(2, 4, dim)
    end = start + 2 * half
    a, b = (np.s_[start : start + half], np.s_[start + apart : start + apart + half])
    if not split:
        a, b = np.s_[start:end:2], np.s_[start + 1 : end : 2]
    rotated = expected.copy()
    c, s = cos[rows][:, None], sin[rows][:, None]
    rotated[..., a] = expected[..., a] * c - expected[..., b] * s
    rotated[..., b] = expected[..., a] * s + expected[..., b] * c
    expected[:, 1:3] = rotated[:, 1:3]
    np.testing.assert_allclose(y, expected.reshape(2, -1), rtol=0, atol=1e-6)


def test_glu_and_its_exp() -> None:
    """silu(g) = g / (1 + e^-g): e^x is right to 3e-7 over all normal results, the rest rounds three times more."""
    g = np.concatenate([np.linspace(-87.3, 87.3, 20_000), [0, -0.0, 1e-30]]).astype(np.float32)
    found, wide = silu(g), g.astype(np.float64)
    np.testing.assert_allclose(found, wide / (1 + np.exp(-wide)), rtol=3e-7 + 3 * 2**-24)
    far = np.float32([100, 1e30, 3.4e38, -100, -1000])  # e^x is held between 2^-126 and 2^126
    np.testing.assert_allclose(silu(far), [*far[:3], 0, 0], rtol=1e-6, atol=1e-34)


def silu(g: F32) -> F32:
    padded = np.concatenate([g, np.zeros(-len(g) % 16, np.float32)])
    out = zeros("f32", len(padded))
    call("elementwise.glu", 0, len(padded), g=padded, u=np.ones_like(padded), out=out, step=counts(1), count=0,
         stride_g=0, stride_u=0, stride=0, ACT="silu")  # fmt: skip
    found: F32 = out[: len(g)]
    return found
