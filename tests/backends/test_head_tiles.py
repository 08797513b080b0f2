"""Steps that name tiles of the output head: the same bits there, nothing elsewhere, and the bytes that were priced."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from memfirst.backends.cpu.backend import CpuBackend
from memfirst.codecs.base import ROWS
from memfirst.errors import BackendError
from memfirst.graph import Graph
from memfirst.graph.ops.linear import Linear
from memfirst.graph.traffic import ACTIVATIONS, HEAD
from memfirst.kernels.cpu import walk
from memfirst.ledger import Ledger
from memfirst.lower.step_fields import COUNTS, count_of
from tests.support.tiny_models import STEPS, apart, options, tiny

TILES = ((0,), (16,), (3, 16), (0, 1, 2, 5, 9))
"""Of 17, the last with 4 of its 16 rows."""


def capped(graph: Graph) -> Graph:
    """With elementwise operations behind the head."""
    *ops, head = graph.ops
    assert isinstance(head, Linear)
    return replace(graph, ops=(*ops, replace(head, scale=0.5, softcap=2.0)))


@pytest.fixture(params=["f16", "q4_0", "q4_k", "q6_k", "capped", "capped, not fused"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[CpuBackend]:
    if "not" in request.param:
        monkeypatch.setenv("MEMFIRST_FUSE", "none")
    plain = request.param.startswith("capped")
    graph, checkpoint = tiny("llama", "q4_0" if plain else request.param)
    made = CpuBackend(capped(graph) if plain else graph, checkpoint, options(2))
    yield made
    made.close()


def counted(ledger: Ledger) -> dict[str, int]:
    return {p: int(a) for p, a in ledger.by_purpose().items() if p != ACTIVATIONS and int(a)}


@pytest.mark.parametrize("name", ["prefill", "decode", "batch", "all logits"])
def test_named_tiles_have_the_bits_of_the_whole_head(backend: CpuBackend, name: str) -> None:
    step = STEPS[name]
    whole = backend.step(step, apart(step))
    full, all_of_it = whole.logits.copy(), counted(backend.recorded(step, whole))
    for tiles in TILES:
        for _ in range(2):  # logits alternate between two arrays
            result = backend.step(step, apart(step))
            result.logits[:] = np.nan
        named = replace(step, head=tiles)
        result = backend.step(named, apart(step))
        there = np.isin(np.arange(full.shape[1]) // ROWS, tiles)
        np.testing.assert_array_equal(result.logits[:, there], full[:, there])
        assert np.isnan(result.logits[:, ~there]).all()
        recorded = counted(backend.recorded(named, result))
        assert recorded == counted(backend.predicted(named)) == counted_by(backend, result)
        assert recorded[HEAD] < all_of_it[HEAD]
        assert {p: n for p, n in recorded.items() if p != HEAD} == {p: n for p, n in all_of_it.items() if p != HEAD}
    again = backend.step(step, apart(step))
    np.testing.assert_array_equal(again.logits, full)


def counted_by(backend: CpuBackend, result: Any) -> dict[str, int]:
    return {purpose: n for purpose, n in backend.by_purpose(result).items() if n}


def test_tiles_that_are_not_there_are_refused() -> None:
    made = CpuBackend(*tiny("llama", "q4_0"), options(1))
    for tiles in ((), (17,), (-1,), (2, 1), (1, 1)):
        with pytest.raises(BackendError, match="of the output head"):
            made.step(replace(STEPS["decode"], head=tiles), apart(STEPS["decode"]))
    nothing = replace(STEPS["no logits"], head=(1,))
    result = made.step(nothing, apart(nothing))
    assert counted(made.recorded(nothing, result)) == counted(made.predicted(nothing))
    made.close()


def test_the_walk_finds_them_where_they_are_written() -> None:
    assert (count_of("head_tiles"), COUNTS, ROWS) == (walk.HEAD_TILES, walk.HEAD_LIST, walk.TILE)
