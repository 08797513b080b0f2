"""Blocks of the KV cache: who holds which. Storage belongs to the backends; how many bytes, to the graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

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

    @property
    def free(self) -> int:
        """Blocks that nobody holds."""
        return len(self._free)

    def references(self, block: int) -> int:
        """How many hold a block."""
        return self._references[block]

    def take(self) -> int:
        """A free block; CapacityError where there is none."""
        if not self._free:
            found, do = f"all {self.total} blocks of the KV cache are held", "load the model with a larger ctx"
            raise CapacityError(found, "a free one", do, "raise --ctx")
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

    def rebuild(self, held: Iterable[int]) -> None:
        """Count references anew, from every table that there is: after an interruption that may have torn the count."""
        references = [0] * len(self._references)
        for block in held:
            references[block] += 1
        self._references = references
        self._free = [block for block in range(len(references) - 1, -1, -1) if not references[block]]


UNBOUNDED = 1 << 62
"""Positions of a sequence that needs no blocks: a model without attention."""


class BlockTables:
    """One sequence's blocks: a table for each cache group, `length` positions cached.

    A windowed group gives back blocks that no later token attends: its table has `RELEASED` there.
    """

    def __init__(self, groups: Sequence[CacheGroup], pools: Sequence[BlockPool]) -> None:
        self.groups, self._pools = tuple(groups), tuple(pools)
        self._groups = tuple(group.cache for group in groups)
        self.length = 0
        self.room = 0 if groups else UNBOUNDED
        """Positions that fit into the blocks that are there."""
        self.tables: tuple[tuple[int, ...], ...] = ((),) * len(self._groups)

    def reserve(self, length: int) -> None:
        """Take blocks until `length` positions fit; CapacityError takes none."""
        if length <= self.room:
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
        self._measure()

    def _measure(self) -> None:
        rooms = (len(t) * c.block for t, c in zip(self.tables, self._groups, strict=True))
        self.room = min(rooms, default=UNBOUNDED)

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
        length = self.reusable(length)
        for i, cache in enumerate(self._groups):
            keep = -(-length // cache.block)
            self._release(i, keep, len(self.tables[i]))
            self.tables = _replaced(self.tables, i, self.tables[i][:keep])
        self.length = length
        self._measure()
        return length

    def reusable(self, length: int) -> int:
        """Of the first `length` positions, how many another sequence could go on from: none where a window has given
        back what its next token would attend."""
        length = min(length, self.length)
        for cache, table in zip(self._groups, self.tables, strict=True):
            if RELEASED in table[cache.first_block(length) : -(-length // cache.block)]:
                return 0
        return length

    def fork(self, length: int, copy: Callable[[int, int, int], None]) -> BlockTables:
        """Tables of another sequence with the same first `length` positions (as `reusable` allows): whole blocks are
        shared, a last one that is not whole is copied by `copy(group, source, target)`."""
        made = BlockTables(self.groups, self._pools)
        for i, (cache, pool, table) in enumerate(zip(self._groups, self._pools, self.tables, strict=True)):
            first, whole = cache.first_block(length), length // cache.block
            shared = [RELEASED if n < first else block for n, block in enumerate(table[:whole])]
            for block in shared[first:]:
                pool.share(block)
            if length % cache.block:
                shared.append(pool.take())
                copy(i, table[whole], shared[-1])
            made.tables = _replaced(made.tables, i, tuple(shared))
        made.length = length
        made._measure()
        return made

    def held(self, group: int) -> Iterator[int]:
        """Blocks of a group that it holds."""
        return (block for block in self.tables[group] if block != RELEASED)

    def _release(self, group: int, first: int, last: int) -> None:
        table = self.tables[group]
        new = (*table[:first], *(RELEASED,) * (last - first), *table[last:])
        self.tables = _replaced(self.tables, group, new)  # first: interrupted here, a block is lost, not given twice
        for block in table[first:last]:
            if block != RELEASED:
                self._pools[group].release(block)


def _replaced(tables: tuple[tuple[int, ...], ...], at: int, table: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    return (*tables[:at], table, *tables[at + 1 :])
