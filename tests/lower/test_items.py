"""How attention of a step is cut: every token and every split that it attends once, enough units for all workers."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memfirst.graph import KVCache, Sequence
from memfirst.lower.items import FEW, Item, cut
from memfirst.lower.step_fields import ITEM_TOKENS, SPLIT, TILE_ROWS, tile_of

SEQUENCES = st.lists(st.tuples(st.integers(0, 2000), st.integers(1, 40)), min_size=1, max_size=6)
WINDOWS = st.one_of(st.none(), st.integers(1, 1500))


def cache(heads: int, window: int | None = None, chunked: bool = False) -> KVCache:
    return KVCache("kv", heads, 64, 64, window=window, chunked=chunked)


@given(SEQUENCES, WINDOWS, st.booleans(), st.integers(1, 8), st.integers(1, 8), st.booleans())
def test_each_token_attends_its_splits_once(
    shapes: list[tuple[int, int]], window: int | None, chunked: bool, heads: int, workers: int, shared: bool
) -> None:
    """By the items that hold it, in order; items never mix sequences, and each partial has one place."""
    sequences = [Sequence(past, new) for past, new in shapes]
    items, parts = cut(sequences, cache(heads, window, chunked), workers, shared)
    positions = [(i, p) for i, s in enumerate(sequences) for p in range(s.past, s.past + s.new)]
    seen: dict[int, list[int]] = {t: [] for t in range(len(positions))}
    for item in items:
        held = range(item.token, item.token + item.tokens)
        assert 1 <= item.tokens <= (ITEM_TOKENS if shared else 1)
        assert len({positions[t][0] for t in held}) == 1
        for t in held:
            seen[t] += range(item.split, item.last + 1)
    by_split = any(a < b - 1 for a, b in pairwise(parts))
    assert len(parts) == len(positions) + 1 and (not by_split or len(positions) <= FEW)
    for t, (_, position) in enumerate(positions):
        before = position // window * window if window and chunked else position + 1 - (window or position + 1)
        first = max(before, 0) // SPLIT
        attended = list(range(first, position // SPLIT + 1))
        assert seen[t] == sorted(set(seen[t])) and set(attended) <= set(seen[t])
        assert parts[t + 1] - parts[t] == (len(attended) if by_split else 1)


def test_a_prompt_is_cut_into_items_of_eight_where_there_are_many() -> None:
    items, parts = cut([Sequence(600, 21), Sequence(5)], cache(8), 2, True)
    assert items == [Item(0, 8, 0, 1), Item(8, 8, 0, 1), Item(16, 5, 0, 1), Item(21, 1, 0, 0)]
    assert list(parts) == list(range(23))


def test_few_tokens_far_behind_are_cut_by_splits() -> None:
    items, parts = cut([Sequence(1022, 3)], cache(2), 2, True)
    assert items == [Item(0, 3, 0, 0), Item(0, 3, 1, 1), Item(0, 3, 2, 2)]
    assert list(parts) == [0, 2, 4, 7]


def test_latents_are_read_for_each_token() -> None:
    assert [item.tokens for item in cut([Sequence(0, 12)], cache(8), 2, False)[0]] == [1] * 12


@pytest.mark.parametrize(("group", "tiles"), [(1, [1, 2, 2, 4, 8, 8]), (3, [1, 2, 2, 4, 4, 4]), (9, [1] * 6)])
def test_tiles_fill_registers_and_no_more(group: int, tiles: list[int]) -> None:
    found = [tile_of(group, capacity) for capacity in (1, 2, 3, 4, 8, 256)]
    assert found == tiles and all(n * group <= max(TILE_ROWS, group) for n in found)
