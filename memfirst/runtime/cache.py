"""Blocks of the KV cache: who holds which. Storage belongs to the backends; how many bytes, to the graph."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from memfirst.errors import CapacityError
from memfirst.graph import RELEASED, CacheGroup


class BlockPool:
    """Hands out the blocks of one cache group, or slots of state, and counts references: sequences share prefixes.

    The prefix cache is one of the holders; a block that it alone holds is idle: in use, but to be had.
    """

    def __init__(self, blocks: int) -> None:
        self._free = list(range(blocks - 1, -1, -1))
        self._references = [0] * blocks
        self._kept = bytearray(blocks)
        self.idle = 0
        """Blocks that only the prefix cache holds."""

    @property
    def total(self) -> int:
        """Blocks that there are."""
        return len(self._references)

    @property
    def used(self) -> int:
        """Blocks that somebody holds."""
        return len(self._references) - len(self._free)

    @property
    def held(self) -> int:
        """Blocks that somebody besides the prefix cache holds."""
        return self.used - self.idle

    @property
    def free(self) -> int:
        """Blocks that nobody holds."""
        return len(self._free)

    def references(self, block: int) -> int:
        """How many hold a block."""
        return self._references[block]

    def is_idle(self, block: int) -> bool:
        """Whether only the prefix cache holds a block."""
        return self._references[block] == self._kept[block] == 1

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
        self.idle -= self.is_idle(block)
        self._references[block] += 1

    def release(self, block: int) -> None:
        """One reference less; a block without references is free again."""
        self._references[block] -= 1
        if not self._references[block]:
            self._free.append(block)
        else:
            self.idle += self.is_idle(block)

    def keep(self, block: int) -> None:
        """The prefix cache holds it too."""
        self._references[block] += 1
        self._kept[block] = 1

    def forget(self, block: int) -> None:
        """The prefix cache lets go of it."""
        self.idle -= self.is_idle(block)
        self._kept[block] = 0
        self.release(block)

    def rebuild(self, held: Iterable[int], kept: Iterable[int] = ()) -> None:
        """Count references anew, from every table that there is and from the prefix cache: after an interruption that
        may have torn the count."""
        references, flags = [0] * len(self._references), bytearray(len(self._references))
        for block in held:
            references[block] += 1
        for block in kept:
            references[block] += 1
            flags[block] = 1
        self._references, self._kept = references, flags
        self._free = [block for block in range(len(references) - 1, -1, -1) if not references[block]]
        self.idle = sum(n == flag == 1 for n, flag in zip(references, flags, strict=True))


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
        self._gone = [0] * len(self._groups)

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

    def missing(self, length: int) -> int | None:
        """The first group that has too few free blocks for `length` positions; None where all have enough."""
        for i, (cache, table, pool) in enumerate(zip(self._groups, self.tables, self._pools, strict=True)):
            if -(-length // cache.block) - len(table) > pool.free:
                return i
        return None

    def _measure(self) -> None:
        rooms = (len(t) * c.block for t, c in zip(self.tables, self._groups, strict=True))
        self.room = min(rooms, default=UNBOUNDED)

    def advance(self, length: int) -> None:
        """`length` positions are cached now: what lies behind a window is given back."""
        self.length = length
        for i, cache in enumerate(self._groups):
            gone = cache.first_block(length)
            if gone > self._gone[i]:
                self._release(i, self._gone[i], gone)
                self._gone[i] = gone

    def trim(self) -> None:
        """Give back what is reserved beyond the page in which the cached positions end."""
        keep = [-(-self.length // cache.block) for cache in self._groups]
        self.room = min((n * c.block for n, c in zip(keep, self._groups, strict=True)), default=UNBOUNDED)
        tables, self.tables = self.tables, tuple(t[:n] for t, n in zip(self.tables, keep, strict=True))
        for pool, table, n in zip(self._pools, tables, keep, strict=True):
            for block in table[n:]:
                if block != RELEASED:
                    pool.release(block)

    def joined(self, pages: Sequence[Sequence[int]], length: int) -> BlockTables:
        """Tables of `length` positions: these, which end a page, and `pages`, each a block of every group or RELEASED.
        They take over the references that these had, and that the caller has to the blocks of `pages`."""
        made = BlockTables(self.groups, self._pools)
        made.tables = tuple((*table, *(page[i] for page in pages)) for i, table in enumerate(self.tables))
        made.length, made._gone = length, list(self._gone)
        made._measure()
        return made

    def replace(self, group: int, page: int, block: int) -> None:
        """Hold another block of the same content in a page's place."""
        table = self.tables[group]
        self._pools[group].share(block)
        self.tables = _replaced(self.tables, group, (*table[:page], block, *table[page + 1 :]))
        self._pools[group].release(table[page])

    def clear(self) -> None:
        """Give all blocks back."""
        self.length = 0
        self.trim()
        self._gone = [0] * len(self._groups)

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
