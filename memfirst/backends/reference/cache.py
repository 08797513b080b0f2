"""Keys, values and state as the reference keeps them: float32, by block and slot, nothing rounded."""

from __future__ import annotations

import numpy as np

from memfirst.codecs.base import F32
from memfirst.errors import BackendError, CapacityError
from memfirst.graph import RELEASED, Graph, KVCache, Sequence, StateCache


class FloatCaches:
    """Position p of a sequence is row p % block of entry p // block of its group's block table."""

    def __init__(self, graph: Graph) -> None:
        self._group_of, self._groups = graph.group_of, graph.cache_groups
        self._blocks: dict[tuple[str, int], tuple[F32, F32]] = {}  # (cache, block): k and v [block, heads, dim]
        self._states: dict[tuple[str, int], F32] = {}

    def copy_block(self, group: int, source: int, target: int) -> None:
        """Copy a block of all caches of a group."""
        for cache in self._groups[group].caches:
            keys, values = self._block_to_read(cache, source)
            self._blocks[cache.name, target] = keys.copy(), values.copy()

    def write_kv(self, cache: KVCache, sequence: Sequence, k: F32, v: F32) -> None:
        """Store k [new, heads, k_dim] and v [new, heads, v_dim] after the past."""
        for i in range(sequence.new):
            place, slot = divmod(sequence.past + i, cache.block)
            keys, values = self._block_to_write(cache, sequence, place)
            keys[slot], values[slot] = k[i], v[i]

    def _table(self, cache: KVCache, sequence: Sequence) -> tuple[int, ...]:
        group = self._group_of[cache.name]
        return sequence.tables[group] if group < len(sequence.tables) else ()

    def _block_to_write(self, cache: KVCache, sequence: Sequence, place: int) -> tuple[F32, F32]:
        table = self._table(cache, sequence)
        if place >= len(table):
            need = -(-(sequence.past + sequence.new) // cache.block)
            raise CapacityError(f"a sequence has {len(table)} blocks", f"{need} of {cache.block} positions")
        key = (cache.name, table[place])
        if key not in self._blocks:
            self._blocks[key] = _empty(cache)
        return self._blocks[key]

    def read_kv(self, cache: KVCache, sequence: Sequence) -> tuple[F32, F32]:
        """All positions, past and new: k [positions, heads, k_dim], v [positions, heads, v_dim]; zeros where a block
        was released."""
        end = sequence.past + sequence.new
        table = self._table(cache, sequence)[: -(-end // cache.block)]
        blocks = [_empty(cache) if block == RELEASED else self._block_to_read(cache, block) for block in table]
        keys, values = (np.concatenate(part)[:end] for part in zip(*blocks, strict=True))
        return keys, values

    def _block_to_read(self, cache: KVCache, block: int) -> tuple[F32, F32]:
        found = self._blocks.get((cache.name, block))
        if found is None:
            raise BackendError(f"block {block} of {cache.name} was never written", "a past computed here")
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


def _empty(cache: KVCache) -> tuple[F32, F32]:
    shape = (cache.block, cache.heads)
    return np.zeros((*shape, cache.k_dim), np.float32), np.zeros((*shape, cache.v_dim), np.float32)
