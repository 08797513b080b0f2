"""Codecs against gguf's own, and at the edges of their range."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import quants
from hypothesis import given, settings
from hypothesis import strategies as st

from memfirst.codecs import BLOCK_TYPES, CODECS, Codec, block_type, get
from memfirst.errors import FormatError, UnsupportedError

ALL = list(CODECS.values())
SEARCHED = ("q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs")  # gguf has no quantizer of these
BY_GGUF = [codec for codec in ALL if codec.name not in SEARCHED]
BLOCKS = [codec for codec in ALL if codec.block > 1]
F16_SCALES = [codec for codec in BLOCKS if codec.name != "mxfp4"]  # whose scales are powers of two up to 2^127
# Where each block keeps its f16 numbers: random bytes seldom make them NaN, infinite, zero or subnormal.
F16_AT = {
    "f16": [0], "q4_0": [0], "q4_1": [0, 2], "q5_0": [0], "q5_1": [0, 2], "q8_0": [0],
    "q2_k": [80, 82], "q3_k": [108], "q4_k": [0, 2], "q5_k": [0, 2], "q6_k": [208], "iq4_nl": [0], "iq4_xs": [0],
}  # fmt: skip
F16_BITS = [0x0000, 0x8000, 0x0001, 0x83FF, 0x3C00, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E01, 0xFD55]


def by_name(codec: Codec) -> str:
    return codec.name


def random_blocks(codec: Codec, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, codec.block_bytes), dtype=np.uint8)


def gguf_type(codec: Codec) -> gguf.GGMLQuantizationType:
    return gguf.GGMLQuantizationType(codec.ggml_type)


# --- reading


@pytest.mark.parametrize("codec", ALL, ids=by_name)
def test_dequantize_is_ggufs_bit_for_bit(codec: Codec) -> None:
    blocks = random_blocks(codec, 4000)
    for at in F16_AT.get(codec.name, []):
        special = np.random.default_rng(at).choice(np.array(F16_BITS, np.uint16), 2000)
        blocks[:2000, at : at + 2] = special[:, None].view(np.uint8)
    with np.errstate(all="ignore"):
        got, expected = codec.dequantize(blocks), quants.dequantize(blocks, gguf_type(codec))
    assert got.shape == (4000, codec.block) and got.dtype == np.float32
    np.testing.assert_array_equal(got.view(np.uint32), expected.reshape(got.shape).view(np.uint32))


@pytest.mark.parametrize("codec", ALL, ids=by_name)
def test_dequantize_reads_slices_and_read_only_bytes_and_leaves_them_alone(codec: Codec) -> None:
    blocks = random_blocks(codec, 12)
    blocks.flags.writeable = False
    before = blocks.copy()
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(codec.dequantize(blocks[::3]), codec.dequantize(blocks)[::3])
    np.testing.assert_array_equal(blocks, before)
    assert codec.dequantize(blocks[:0]).shape == (0, codec.block)


# --- writing


def samples(codec: Codec) -> np.ndarray:
    """f32 [n, block]: usual, outliers, wide and tiny ranges, one-sided, constant, sparse, ties, zero."""
    rng = np.random.default_rng(7)
    shape = (600, codec.block)
    usual = rng.standard_normal(shape)
    # Scales of exactly 1 in q8_0, and low halves of 0x8000 in bf16, where only ties remain to be decided.
    halves = np.concatenate([np.full((600, 1), 127), rng.integers(-254, 255, shape)[:, 1:] / 2], axis=1)
    midway = (rng.integers(0x3000, 0x4000, shape, dtype=np.uint32) << 16 | 0x8000).view(np.float32)
    kinds = [
        usual * 0.02,
        rng.standard_t(2, shape),
        usual * 10.0 ** rng.uniform(-30, 3, (600, 1)),
        np.abs(usual),
        -np.abs(usual),
        np.broadcast_to(rng.standard_normal((600, 1)), shape),
        usual * (rng.random(shape) < 0.05),
        rng.integers(-16, 17, shape) / 2,
        np.zeros(shape),
        halves,
        midway,
    ]
    return np.concatenate(kinds).astype(np.float32)


@pytest.mark.parametrize("codec", BY_GGUF, ids=by_name)
def test_quantize_is_ggufs_bit_for_bit(codec: Codec) -> None:
    weights = samples(codec)
    expected = quants.quantize(weights, gguf_type(codec)).view(np.uint8).reshape(-1, codec.block_bytes)
    np.testing.assert_array_equal(codec.quantize(weights), expected)


# RMS error over RMS weight of ggml's own quantizer (no importance matrix) on this sample, measured once.
GGML_ERROR = {
    "q2_k": 0.29698, "q3_k": 0.15108, "q4_k": 0.07153, "q5_k": 0.03615, "q6_k": 0.01779, "iq4_nl": 0.07623,
    "iq4_xs": 0.07682,
}  # fmt: skip


@pytest.mark.parametrize("name", GGML_ERROR)
def test_search_is_as_close_as_ggmls(name: str) -> None:
    codec = get(name)
    normal = np.random.default_rng(1).standard_normal((1 << 18) // codec.block * codec.block)
    weights = (normal * 0.02).astype(np.float32).reshape(-1, codec.block)
    error = np.sqrt(np.mean((codec.dequantize(codec.quantize(weights)) - weights) ** 2, dtype=np.float64))
    assert error / np.sqrt(np.mean(weights**2, dtype=np.float64)) < 1.005 * GGML_ERROR[name]


def test_iq4_nl_takes_the_nearest_level() -> None:
    codec = get("iq4_nl")
    weights = np.random.default_rng(5).standard_normal((2000, 32)).astype(np.float32)
    blocks = codec.quantize(weights)
    scale = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    choices = scale[:, :, None] * np.array(quants.IQ4_NL.kvalues, np.float32)
    nearest = np.abs(weights[..., None] - choices).min(axis=-1)
    np.testing.assert_allclose(np.abs(codec.dequantize(blocks) - weights), nearest, atol=1e-6)


@pytest.mark.parametrize("name", ["q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_xs"])
@pytest.mark.parametrize("size", [1e-4, 1e-3])
def test_small_weights_lose_little_more_though_their_steps_are_subnormal(name: str, size: float) -> None:
    """A step over 6-bit or 8-bit scales of weights of 1e-3 lies where f16 has 3 to 7 bits."""
    codec = get(name)
    weights = np.random.default_rng(2).standard_normal((400, 256)).astype(np.float32)
    usual, small = (np.std(codec.dequantize(codec.quantize(weights * np.float32(s))) / s - weights) for s in (1, size))
    assert small < 1.03 * usual


# Largest error over largest weight of a block, before its scales are rounded to f16 (up to 1/2048 more).
WORST = {
    "q4_0": 1 / 8, "q4_1": 1 / 14, "q5_0": 1 / 16, "q5_1": 1 / 30, "q8_0": 1 / 254,
    "q4_k": 1 / 7, "q5_k": 1 / 12, "q6_k": 1 / 35, "iq4_nl": 1 / 6,
    "q2_k": 1 / 2 + 1 / 10,  # four steps over weights of both signs, the last left out; 4-bit scales: 3/30 of them
    "q3_k": 1 / 3,  # weights at three steps of one sign may stretch the scale so far for one at four of the other
    "iq4_xs": 1 / 6 + 1 / 56,  # as iq4_nl, whose scale is rounded by up to a 64th of the largest, times 127 / 113
    "mxfp4": 1 / 4,  # 16 units of the scale, of which the largest level is 12
}  # fmt: skip


@pytest.mark.parametrize("codec", BLOCKS, ids=by_name)
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), exponent=st.floats(-45, 4), power=st.floats(0.3, 8))
def test_no_weight_is_far_off(codec: Codec, seed: int, exponent: float, power: float) -> None:
    rng = np.random.default_rng(seed)
    signs, sizes = rng.choice([-1, 1], (4, codec.block)), rng.random((4, codec.block))
    weights = (signs * sizes**power * 10.0**exponent).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        error = np.abs(codec.dequantize(codec.quantize(weights)) - weights)
    # Below f16's smallest normal number a scale loses bits: up to 3e-8, times 127 x 32 at most.
    allowed = (WORST[codec.name] + 1 / 2048) * np.abs(weights).max() + 1.3e-4
    assert error.max() <= allowed


@pytest.mark.parametrize("codec", F16_SCALES, ids=by_name)
@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, -1.0, 1e-3, 1e-40])
def test_constant_blocks_survive(codec: Codec, value: float) -> None:
    weights = np.full((3, codec.block), value, np.float32)
    np.testing.assert_allclose(codec.dequantize(codec.quantize(weights)), weights, rtol=0.02, atol=1e-38)


@pytest.mark.parametrize("codec", BLOCKS, ids=by_name)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_are_refused(codec: Codec, bad: float) -> None:
    weights = np.ones((5000, codec.block), np.float32)
    weights[4999, 3] = bad
    with pytest.raises(FormatError, match=r"1 of .* NaN or infinite"):
        codec.quantize(weights)


def test_mxfp4_keeps_its_levels_at_any_scale() -> None:
    """Every level times a power of two, -0 being 0, from subnormal to the largest."""
    codec = get("mxfp4")
    levels = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
    for power in (-125, -40, -1, 0, 1, 90):
        weights = np.tile(levels, 2)[None] * np.float32(2.0**power)
        np.testing.assert_array_equal(codec.dequantize(codec.quantize(weights)), weights)
    assert codec.bits_per_weight == 4.25


@pytest.mark.parametrize("codec", F16_SCALES, ids=by_name)
@pytest.mark.parametrize("huge", [3e8, 1e20, 3.4e38, -3.4e38])
def test_scales_beyond_f16_are_refused(codec: Codec, huge: float) -> None:
    weights = np.random.default_rng(0).uniform(-1, 1, (2, codec.block)).astype(np.float32)
    weights[1, :2] = huge, -huge
    with warnings.catch_warnings(), pytest.raises(FormatError, match="65504"):
        warnings.simplefilter("error")
        codec.quantize(weights)


@pytest.mark.parametrize(("name", "largest", "large"), [("f16", 65519, 65520), ("bf16", 3.395e38, 3.397e38)])
def test_halves_refuse_what_would_turn_infinite(name: str, largest: float, large: float) -> None:
    codec = get(name)
    assert np.isfinite(codec.dequantize(codec.quantize(np.array([[largest]], np.float32)))).all()
    with pytest.raises(FormatError, match="magnitudes"):
        codec.quantize(np.array([[0.0], [-large]], np.float32))


@pytest.mark.parametrize("name", ["f32", "f16", "bf16"])
def test_floats_keep_nan_and_infinity(name: str) -> None:
    weights = np.array([[np.nan], [np.inf], [-np.inf], [-0.0]], np.float32)
    codec = get(name)
    got = codec.dequantize(codec.quantize(weights))
    np.testing.assert_array_equal(got, weights)
    assert np.signbit(got[3, 0])


# --- the tables


@pytest.mark.parametrize("kind", list(gguf.GGMLQuantizationType), ids=lambda kind: kind.name)
def test_sizes_and_numbers_are_ggufs(kind: gguf.GGMLQuantizationType) -> None:
    found = block_type(int(kind))
    # gguf 0.19 still sizes Q8_1 by its old float32 fields; ggml stores two f16 and 32 int8.
    sizes = (32, 36) if kind.name == "Q8_1" else gguf.GGML_QUANT_SIZES[kind]
    assert (found.name, found.block, found.block_bytes) == (kind.name.lower(), *sizes)
    assert BLOCK_TYPES[found.name] is found


def test_every_known_type_is_listed_once() -> None:
    assert len({entry.ggml_type for entry in BLOCK_TYPES.values()}) == len(BLOCK_TYPES) == 36  # GGUF's 35, and FP8
    assert (block_type(42).name, block_type(42).bits_per_weight) == ("q2_0", 2.25)
    for name, codec in CODECS.items():
        found = BLOCK_TYPES[name]
        assert (codec.ggml_type, codec.block) == (found.ggml_type, found.block)
        assert codec.block_bytes == found.block_bytes


@pytest.mark.parametrize("number", [4, 5, 31, 32, 33, 36, 37, 38])
def test_withdrawn_types_are_named(number: int) -> None:
    with pytest.raises(UnsupportedError, match=r"withdrawn from GGUF"):
        block_type(number)


@pytest.mark.parametrize("number", [-1, 43, 2**32 - 1])
def test_unknown_types_are_refused(number: int) -> None:
    with pytest.raises(UnsupportedError, match=f"unknown tensor type {number}.*0..42"):
        block_type(number)


def test_get_says_what_there_is() -> None:
    assert get("q4_k").bits_per_weight == 4.5
    assert get("q6_k").nbytes(512) == 420
    with pytest.raises(ValueError, match="do not fill"):
        get("q6_k").nbytes(128)
    with pytest.raises(UnsupportedError, match=r"'iq2_xs' has sizes but no codec yet; .* f32, .*iq4_nl"):
        get("iq2_xs")
    with pytest.raises(UnsupportedError, match=r"'Q4_K' is not a GGUF type"):
        get("Q4_K")


def test_import_brings_nothing_heavy() -> None:
    heavy = ("numba", "llvmlite", "gguf", "typer")
    code = f"import sys, memfirst.codecs; print([m for m in {heavy} if m in sys.modules])"
    root = Path(__file__).parent.parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
