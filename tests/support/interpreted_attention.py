"""Attention's kernels as Python: tests/kernels/test_kernels_attention.py runs this under NUMBA_DISABLE_JIT=1.

For caches of every codec, unique bytes loaded are the bytes that kernels return, each loaded once for a token and a
piece of heads; what is stored is what was priced.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from memfirst.kernels.cpu.spans import by_line
from tests.support import attention_cases
from tests.support.attention_cases import Cached, Case, attention
from tests.support.kernel_calls import LOG

CASES = [
    Case(2, 40, 24, window=17, contexts=(33, 90)),
    Case(2, 24, k_codec="f32", v_codec="f32", contexts=(7, 66)),
    Case(3, 64, k_codec="q8_0", v_codec="q8_0", rotate=True, contexts=(1, 77)),
    Case(2, 32, k_codec="q4_0", v_codec="q4_0", window=17, contexts=(34, 130)),
    Case(1, 64, k_codec="q8_0", v_codec="q4_0", sinks=True, softcap=3.0, contexts=(9, 65)),
]


TILED = [
    (Case(2, 40, 24, window=40, contexts=tuple(range(62, 70))), 4),
    (Case(2, 32, k_codec="q8_0", v_codec="q4_0", contexts=tuple(range(126, 131))), 4),
]


@pytest.mark.parametrize("number", range(len(CASES)))
def test_loads_are_what_is_returned(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[number]

    class Watched(Cached):
        def __init__(self, case: Case) -> None:
            super().__init__(case)
            LOG.watched.clear()
            LOG.clear()
            LOG.watch("kv", self.made["cache"], by_line)

    monkeypatch.setattr(attention_cases, "Cached", Watched)
    out, expected, read, due = attention(case)
    np.testing.assert_allclose(out, expected, rtol=0, atol=3e-6 if case.v_codec[0] == "f" else 5e-4)
    assert read == due
    touched = LOG.touched[None, "kv"]
    c, positions = case.cache, set()
    for end in case.contexts:
        positions |= set(range(max(end - case.window, 0) if case.window else 0, end))
    assert int((touched.loads > 0).sum()) == len(positions) * c.position_bytes
    assert touched.loads.max() <= len(case.contexts)
    assert not touched.stores.any()
    if folder := os.environ.get("MEMFIRST_TEST_OUTPUT"):
        np.save(Path(folder) / f"{number}.npy", out)


@pytest.mark.parametrize(("case", "tile"), TILED)
def test_tokens_of_a_tile_load_together(case: Case, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte that all tokens of a tile attend is loaded once for them, and none that no token attends."""
    watched: list[Cached] = []

    class Watched(Cached):
        def __init__(self, case: Case) -> None:
            super().__init__(case)
            LOG.watched.clear()
            LOG.clear()
            LOG.watch("kv", self.made["cache"], by_line)
            watched.append(self)

    monkeypatch.setattr(attention_cases, "Cached", Watched)
    out, expected, read, due = attention(case, tile=tile, each=len(case.contexts))
    np.testing.assert_allclose(out, expected, rtol=0, atol=3e-6 if case.v_codec[0] == "f" else 5e-4)
    assert read == due
    loads, tiles = LOG.touched[None, "kv"].loads, -(-len(case.contexts) // tile)
    ends, c = case.contexts, case.cache
    starts = [max(end - case.window, 0) if case.window else 0 for end in ends]
    assert int((loads > 0).sum()) == (ends[-1] - starts[0]) * c.position_bytes
    assert int((loads > tiles).sum()) <= (ends[-1] - ends[0] + starts[-1] - starts[0]) * c.v_bytes
    assert int(loads.sum()) < 0.5 * len(ends) * (ends[0] - starts[0]) * c.position_bytes


def test_stores_are_the_price() -> None:
    """Every byte of every position once; interpreted kernels raise where they leave an array."""
    for case in CASES:
        cached = Cached(case)
        written = int((cached.made["cache"] != 0xFF).sum())
        assert 0.9 * written <= len(cached.positions) * case.cache.position_bytes
