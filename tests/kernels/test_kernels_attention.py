"""Flash-decoding against softmax in float64: contexts around blocks, splits and registers; groups, windows, codecs."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from memfirst.kernels.cpu import lang
from tests.support import interpreted_attention
from tests.support.attention_cases import CONTEXTS, Cached, Case, attention, keys
from tests.support.kernel_calls import library

ROOT = Path(__file__).parent.parent.parent
# Cases share sizes where these are not what they are about: each other size is seconds of compiling.
QUANTIZED = [("q8_0", "q8_0"), ("q4_0", "q4_0"), ("q8_0", "q4_0"), ("f16", "q8_0"), ("q8_0", "f32")]
BOTH = ("q8_0", "q4_0")
PLAIN = [Case(group, dim) for group, dim in ((1, 32), (2, 32), (3, 64), (4, 64), (7, 32), (8, 128))]
ODD = [Case(2, 8), Case(3, 24, 64), Case(9, 72, 40)]  # nine heads: two pieces
FLOATS = [Case(1, 64, k_codec="f32", v_codec="f32"), Case(2, 24, k_codec="f32", v_codec="f32"),
          Case(2, 32, k_codec="f32", v_codec="f16")]  # fmt: skip
INT8 = [
    *(Case(3, 64, k_codec=k, v_codec=v, rotate=k == v) for k, v in QUANTIZED),
    Case(1, 96, window=600, k_codec="q8_0", v_codec="q8_0", rotate=True),
    Case(9, 32, window=40, k_codec="q4_0", v_codec="q8_0"),
]
SPLIT = [Case(1, 32), Case(3, 64, sinks=True, softcap=3.0), Case(7, 32), Case(2, 40, 24),
         Case(3, 64, k_codec="q8_0", v_codec="q8_0", rotate=True),
         Case(2, 32, k_codec="q4_0", v_codec="q4_0")]  # fmt: skip
IN_A_ROW = (*range(1, 9), *range(13, 21), *range(509, 517), *range(1295, 1301))
TILED = [(SPLIT[0], 8), (SPLIT[1], 4), (SPLIT[3], 4), (SPLIT[4], 4), (SPLIT[5], 8)]
OUTLIERS = [Case(1, 64, k_codec="q4_0", v_codec="q4_0", rotate=rotate, outlier=50.0) for rotate in (False, True)]


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """All kernels, compiled together: in as many processes as there are cores."""
    cases = [*PLAIN, *ODD, *FLOATS, *INT8, *SPLIT, *OUTLIERS, *interpreted_attention.CASES]
    library().load(
        set().union(
            *map(keys, cases),
            *(keys(case, tile) for case, tile in (*TILED, *interpreted_attention.TILED)),
        )
    )


def check(case: Case, tolerance: float = 3e-6) -> None:
    found, expected, read, due = attention(case)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)
    assert read == due


@pytest.mark.parametrize("window", [0, 1, 40, 600])
@pytest.mark.parametrize("case", PLAIN)
def test_attention(case: Case, window: int) -> None:
    check(replace(case, window=window))


@pytest.mark.parametrize("case", ODD)
def test_heads_of_any_multiple_of_eight(case: Case) -> None:
    """Of keys and of values apart."""
    check(replace(case, window=600))


@pytest.mark.parametrize("softcap", [0.0, 2.0])
@pytest.mark.parametrize("sinks", [False, True])
def test_capped_scores_and_sinks(softcap: float, sinks: bool) -> None:
    check(Case(3, 64, softcap=softcap, sinks=sinks))
    check(Case(3, 64, softcap=softcap, sinks=sinks, window=40))


@pytest.mark.parametrize("case", FLOATS)
def test_float_cache(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("case", INT8)
def test_quantized_cache(case: Case) -> None:
    """Scores are exact integers; weights of int8 values are rounded to 1/32767 of the largest, 512 of them at once: by
    that much at most, and much less on average."""
    if case.v_codec not in BOTH:
        check(case)
        return
    check(case, 5e-4)
    found, expected, _, _ = attention(case)
    assert np.sqrt(np.square(found - expected).mean()) < 4e-5


@pytest.mark.parametrize(("codec", "steps"), [("q8_0", 127), ("q4_0", 8)])
def test_what_is_cached_is_within_half_a_step(codec: str, steps: int) -> None:
    """Of the largest of 32 values in size, whose f16 rounds; of Q4_0 a whole one on the side with one value less."""
    cached = Cached(Case(1, 64, k_codec=codec, v_codec=codec))
    for held, x in zip(cached.held(), (cached.k, cached.v), strict=True):
        blocks = x.reshape(-1, 32)
        error = np.abs(held.reshape(-1, 32) - blocks).max(1)
        step = np.abs(blocks).max(1) / steps
        assert (error <= step * (0.5625 if codec == "q8_0" else 1.01)).all()
        assert np.square(held.reshape(-1, 32) - blocks).mean() < 0.11 * np.square(step).mean()


def test_rotation_spreads_what_a_scale_could_not_hold() -> None:
    """A channel 50 times the others: the outputs of a rotated cache are closer to those of exact keys and values."""
    exact = attention(Case(1, 64, k_codec="f32", v_codec="f32", outlier=50.0))[1]
    plain, rotated = (np.abs(attention(case)[0] - exact)[:, 1:].mean() for case in OUTLIERS)
    assert rotated < 0.7 * plain, (rotated, plain)


@pytest.mark.parametrize("window", [0, 600])
@pytest.mark.parametrize("case", SPLIT)
def test_splits_by_different_workers_give_the_same_bits(case: Case, window: int) -> None:
    case = replace(case, window=window)
    np.testing.assert_array_equal(attention(case, by_split=True)[0], attention(case)[0])


@pytest.mark.parametrize("window", [0, 1, 3, 40, 600])
@pytest.mark.parametrize(("case", "tile"), TILED)
def test_tokens_that_share_reads_give_the_same_bits(case: Case, tile: int, window: int) -> None:
    """In tiles of tokens one after the other, over edges of blocks, splits and windows, and of tokens far apart."""
    for contexts in (IN_A_ROW, CONTEXTS):
        case = replace(case, window=window, contexts=contexts)
        alone, _, read, due = attention(case)
        assert read == due
        for by_split, each in ((False, 8), (True, 8), (False, 3), (True, 5)):
            found, _, read, due = attention(case, by_split, tile, each)
            np.testing.assert_array_equal(found, alone)
            assert read == due


@pytest.mark.parametrize(("case", "tile"), TILED)
def test_a_token_never_sees_those_behind_it(case: Case, tile: int) -> None:
    """In the same tile: not even where their keys and values are no numbers, which a weight of 0 would let through."""
    case = replace(case, contexts=tuple(range(510, 518)))
    sound = attention(case)[0]
    found = attention(replace(case, nan_from=514), tile=tile, each=8)[0]
    np.testing.assert_array_equal(found[:5], sound[:5])
    assert np.isnan(found[5:]).all(1).all()


def test_interpreted_kernels_read_what_they_say(tmp_path: Path) -> None:
    """And compute what the compiled ones do: tests/support/interpreted_attention.py, without compiled code."""
    assert not lang.INTERPRETED
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/support/interpreted_attention.py"]
    environment = dict(os.environ, NUMBA_DISABLE_JIT="1", MEMFIRST_TEST_OUTPUT=str(tmp_path))
    done = subprocess.run(command, check=False, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-4000:]
    for i, case in enumerate(interpreted_attention.CASES):
        np.testing.assert_allclose(attention(case)[0], np.load(tmp_path / f"{i}.npy"), rtol=0, atol=2e-6)
