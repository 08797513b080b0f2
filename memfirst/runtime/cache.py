"""Blocks of the KV cache: who holds which. Storage belongs to the backends; how many bytes, to the graph."""

from __future__ import annotations

from collections.abc import Sequence

from memfirst.errors import CapacityError
from memfirst.graph import RELEASED, CacheGroup


class BlockPool:
    """Hands out the blocks of one cache group and counts references, so that sequences may share a prefix."""

    def __init__(self, blocks: int) -> None:
        self._free = list(range(blocks - 1, -1, -1))
        self._references = [0] * blocks

    @property
    def total(self) -> int:
        """Blocks that there are."""
        return len(self._references)

    @property
    def used(self) -> int:
        """Blocks that somebody holds."""
        return len(self._references) - len(self._free)

    def take(self) -> int:
        """A free block; CapacityError where there is none."""
        if not self._free:
            raise CapacityError(f"all {self.total} blocks of the KV cache are held", "a free one", "raise --ctx")
        block = self._free.pop()
        self._references[block] = 1
        return block

    def share(self, block: int) -> None:
        """One more reference to a block."""
        self._references[block] += 1

    def release(self, block: int) -> None:
        """One reference less; a block without references is free again."""
        self._references[block] -= 1
        if not self._references[block]:
            self._free.append(block)


class BlockTables:
    """One sequence's blocks: a table for each cache group, `length` positions cached.

    A windowed group gives back blocks that no later token attends: its table has `RELEASED` there.
    """

    def __init__(self, groups: Sequence[CacheGroup], pools: Sequence[BlockPool]) -> None:
        self._groups, self._pools = tuple(group.cache for group in groups), tuple(pools)
        self.length = 0
        self.tables: tuple[tuple[int, ...], ...] = ((),) * len(self._groups)

    def reserve(self, length: int) -> None:
        """Take blocks until `length` positions fit; CapacityError takes none."""
        if all(length <= len(t) * c.block for t, c in zip(self.tables, self._groups, strict=True)):
            return
        taken: list[list[int]] = [[] for _ in self._groups]
        try:
            for cache, pool, table, new in zip(self._groups, self._pools, self.tables, taken, strict=True):
                while (len(table) + len(new)) * cache.block < length:
                    new.append(pool.take())
        except CapacityError:
            for pool, new in zip(self._pools, taken, strict=True):
                for block in new:
                    pool.release(block)
            raise
        self.tables = tuple((*t, *new) if new else t for t, new in zip(self.tables, taken, strict=True))

    def advance(self, length: int) -> None:
        """`length` positions are cached now: what lies behind a window is given back."""
        self.length = length
        for i, cache in enumerate(self._groups):
            gone = cache.first_block(length)
            if gone and self.tables[i][gone - 1] != RELEASED:
                self._release(i, 0, gone)

    def cut(self, length: int) -> int:
        """Forget positions from `length` on, and the blocks that only they needed; returns how many stay cached: none
        where a window has given back what the next token would attend."""
        length = min(length, self.length)
        for cache, table in zip(self._groups, self.tables, strict=True):
            if RELEASED in table[cache.first_block(length) : -(-length // cache.block)]:
                length = 0
        for i, cache in enumerate(self._groups):
            keep = -(-length // cache.block)
            self._release(i, keep, len(self.tables[i]))
            self.tables = _replaced(self.tables, i, self.tables[i][:keep])
        self.length = length
        return length

    def _release(self, group: int, first: int, last: int) -> None:
        table = self.tables[group]
        for block in table[first:last]:
            if block != RELEASED:
                self._pools[group].release(block)
        new = (*table[:first], *(RELEASED,) * (last - first), *table[last:])
        self.tables = _replaced(self.tables, group, new)


def _replaced(tables: tuple[tuple[int, ...], ...], at: int, table: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    return (*tables[:at], table, *tables[at + 1 :])
