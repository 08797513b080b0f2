"""How attention of a step is cut into units of work: items of a few tokens, for each KV head.

The backend fills its arrays from this, and `predict.measured` counts by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple

from memfirst.graph import KVCache
from memfirst.graph import Sequence as Tokens
from memfirst.lower.step_fields import ITEM_TOKENS, SPLIT

FEW = 8
"""Tokens of a step up to which a split of their context may be an item: there is room for as many partials."""


class Item(NamedTuple):
    """Tokens of one sequence, from `token` of the step on, over the splits of its context from `split` to `last`."""

    token: int
    tokens: int
    split: int
    last: int


def cut(sequences: Iterable[Tokens], cache: KVCache, workers: int, shared: bool) -> tuple[list[Item], Sequence[int]]:
    """Items of a step, and where each token's partials begin (one more: where the last ones end).

    A token has one partial; where items are few, each split of context is an item, and gives its tokens one each.

    Args:
        cache: Of the group: its heads are units of work of each item.
        shared: Whether tokens of a sequence share what is read; else each is an item.
    """
    sequences = list(sequences)
    n = sum(s.new for s in sequences)
    most = _most(n, cache.heads, workers) if shared else 1
    items, at = [], 0
    for s in sequences:
        for i in range(0, s.new, most):
            count = min(most, s.new - i)
            first = s.past + i
            items.append(Item(at + i, count, cache.first(first) // SPLIT, (first + count - 1) // SPLIT))
        at += s.new
    if n > FEW or len(items) * cache.heads >= 8 * workers or all(item.split == item.last for item in items):
        return items, range(n + 1)
    positions = (p for s in sequences for p in range(s.past, s.past + s.new))
    parts = [0, *accumulate(p // SPLIT - cache.first(p) // SPLIT + 1 for p in positions)]
    return [item._replace(split=i, last=i) for item in items for i in range(item.split, item.last + 1)], parts


def _most(tokens: int, heads: int, workers: int) -> int:
    """Tokens of an item: half of the most where there would be fewer than four units for each worker."""
    return ITEM_TOKENS if tokens * heads >= 4 * ITEM_TOKENS * workers else ITEM_TOKENS // 2
