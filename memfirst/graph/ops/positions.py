"""Where a step's tokens stand: RoPE positions, places in a tree of drafts, and what each may attend."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memfirst.graph import KVCache, Sequence, Step


def rope_positions(step: Step) -> NDArray[np.int64]:
    """[tokens]: as the sequences give them, else past, past + 1, … for each."""
    parts = [np.asarray(s.positions) if s.positions is not None else s.past + np.arange(s.new) for s in step.sequences]
    return np.concatenate(parts, dtype=np.int64) if parts else np.zeros(0, np.int64)


def ancestors(sequence: Sequence) -> NDArray[np.bool_]:
    """[new, new]: whether token j is token i or one of its ancestors (in a chain: j <= i)."""
    if sequence.parents is None:
        return np.tri(sequence.new, dtype=bool)
    seen = np.eye(sequence.new, dtype=bool)
    for i, parent in enumerate(sequence.parents):  # a parent precedes its children
        if parent >= 0:
            seen[i] |= seen[parent]
    return seen


def visible(sequence: Sequence, cache: KVCache) -> NDArray[np.bool_]:
    """[new, past + new]: the cache positions that each new token attends, itself included.

    A window counts positions along the token's own line.
    """
    own = ancestors(sequence)
    mask = np.concatenate([np.ones((sequence.new, sequence.past), bool), own], axis=1)
    if cache.window is not None:
        places = np.cumsum(mask, axis=1) - 1  # on each token's line
        first = np.array([cache.first(int(last)) for last in mask.sum(axis=1) - 1], np.int64)
        mask &= places >= first[:, None]
    return mask


def attended_pairs(sequence: Sequence, cache: KVCache) -> int:
    """(query, key) pairs that a step of this sequence computes."""
    if sequence.parents is None:
        ends = range(sequence.past + 1, sequence.past + sequence.new + 1)
    else:
        ends = [sequence.past + int(n) for n in ancestors(sequence).sum(1)]  # type: ignore[assignment]
    return sum(ends) if cache.window is None else sum(end - cache.first(end - 1) for end in ends)


def split(step: Step, *values: NDArray[Any]) -> Iterator[tuple[Sequence, tuple[NDArray[Any], ...]]]:
    """Each sequence that has new tokens, with its rows of the values."""
    start = 0
    for sequence in step.sequences:
        end = start + sequence.new
        if sequence.new:
            yield sequence, tuple(value[start:end] for value in values)
        start = end
