"""Keys, values and state as the reference keeps them: float32, by page and slot, nothing rounded."""

from __future__ import annotations

import numpy as np

from memfirst.codecs.base import F32
from memfirst.errors import BackendError, CapacityError
from memfirst.graph import KVCache, Sequence, StateCache


class FloatCaches:
    """Position p of a sequence is slot p % page of its page table's entry p // page, in every KV cache."""

    def __init__(self) -> None:
        self._pages: dict[tuple[str, int], tuple[F32, F32]] = {}  # (cache, page): k and v [page, heads, dim]
        self._states: dict[tuple[str, int], F32] = {}

    def write_kv(self, cache: KVCache, sequence: Sequence, k: F32, v: F32) -> None:
        """Store k [new, heads, k_dim] and v [new, heads, v_dim] after the past."""
        for i in range(sequence.new):
            place, slot = divmod(sequence.past + i, cache.page)
            keys, values = self._page_to_write(cache, sequence, place)
            keys[slot], values[slot] = k[i], v[i]

    def _page_to_write(self, cache: KVCache, sequence: Sequence, place: int) -> tuple[F32, F32]:
        if place >= len(sequence.pages):
            need = -(-(sequence.past + sequence.new) // cache.page)
            found = f"a sequence has {len(sequence.pages)} pages"
            raise CapacityError(found, f"{need} of {cache.page} positions")
        key = (cache.name, sequence.pages[place])
        if key not in self._pages:
            shape = (cache.page, cache.heads)
            empty = (np.zeros((*shape, d), np.float32) for d in (cache.k_dim, cache.v_dim))
            self._pages[key] = (next(empty), next(empty))
        return self._pages[key]

    def read_kv(self, cache: KVCache, sequence: Sequence) -> tuple[F32, F32]:
        """All positions, past and new: k [positions, heads, k_dim], v [positions, heads, v_dim]."""
        end = sequence.past + sequence.new
        pages = [self._page_to_read(cache, page) for page in sequence.pages[: -(-end // cache.page)]]
        keys, values = (np.concatenate(part)[:end] for part in zip(*pages, strict=True))
        return keys, values

    def _page_to_read(self, cache: KVCache, page: int) -> tuple[F32, F32]:
        found = self._pages.get((cache.name, page))
        if found is None:
            raise BackendError(f"page {page} of {cache.name} was never written", "a past computed here")
        return found

    def read_state(self, cache: StateCache, sequence: Sequence) -> F32:
        """[elements] of slot `state_read`; zeros for a sequence without a past."""
        if sequence.past == 0:
            return np.zeros(cache.elements, np.float32)
        found = self._states.get((cache.name, sequence.state_read))
        if found is None:
            where = f"slot {sequence.state_read} of {cache.name}"
            raise BackendError(f"{where} was never written", "a past computed here")
        return found

    def write_state(self, cache: StateCache, sequence: Sequence, state: F32) -> None:
        """Store [elements] in slot `state_write`."""
        self._states[cache.name, sequence.state_write] = state.reshape(cache.elements).copy()
