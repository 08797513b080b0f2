"""The prefix cache: a tree of pages, each found by its parent and its own token ids.

A page is one block of each cache group; the last page of a sequence that ended may have fewer tokens than a block has
positions. Tokens are compared, not hashes: nobody is given what others' tokens would have made. A page enters when it
is full, so a second request of the same burst finds it. A page may lack its block in a windowed group: no sequence goes
on where its window would need that. A recurrent model goes on only where a page has a snapshot of state. What was
needed longest ago goes first, a page only once none hangs on it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from memfirst.graph import RELEASED, CacheGroup
from memfirst.runtime.cache import BlockPool

COPY_LEAST = 8
"""Positions of a partly shared page that are worth copying it: fewer are computed as fast, unless they are all."""


class Page:
    """Some tokens after those of `parent`.

    blocks   by cache group; RELEASED where a windowed group has none
    slot     of state after its last token; None: no snapshot
    holders  running sequences whose last whole page it is
    """

    __slots__ = ("blocks", "children", "holders", "parent", "slot", "tokens")

    def __init__(self, parent: Page | None, tokens: tuple[int, ...], blocks: list[int], slot: int | None) -> None:
        self.parent, self.tokens, self.blocks, self.slot = parent, tokens, blocks, slot
        self.children: dict[tuple[int, ...], Page] = {}
        self.holders = 0


class Match(NamedTuple):
    """Whole pages that a sequence can go on with, and of one page behind them the first `part` tokens."""

    pages: list[Page]
    tail: Page | None = None
    part: int = 0

    def tokens(self, size: int) -> int:
        """How many it is together."""
        return len(self.pages) * size + self.part


class PrefixCache:
    """Pages that sequences computed, for sequences that begin alike."""

    def __init__(self, groups: Sequence[CacheGroup], pools: Sequence[BlockPool], slots: BlockPool, size: int) -> None:
        self._caches, self._pools, self._slots = tuple(group.cache for group in groups), tuple(pools), slots
        self._size, self._recurrent = size, slots.total > 0
        self.root = Page(None, (), [], None)
        self._orders = [OrderedDict[Page, None]() for _ in self._caches]
        """Pages with a block of each group, the one needed longest ago first."""
        self._snapshots = OrderedDict[Page, None]()

    def __iter__(self) -> Iterator[Page]:
        """All pages, parents before children."""
        found = list(self.root.children.values())
        while found:
            page = found.pop()
            found += page.children.values()
            yield page

    # --- found

    def match(self, page: Page, ids: Sequence[int], at: int, most: int) -> Match:
        """The longest way on from `page`, which ends `ids[:at]`, within `ids[:most]`."""
        pages, start, size = list[Page](), at, self._size
        while at + size <= most:
            child = page.children.get(tuple(ids[at : at + size]))
            if child is None:
                break
            page = child
            pages.append(page)
            at += size
        tail, part = self._tail(page, tuple(ids[at : min(at + size, most)]))
        if tail is not None and self._goes_on(pages, tail, start, at + part):
            return Match(pages, tail, part)
        while pages and not self._goes_on(pages, None, start, start + size * len(pages)):
            pages.pop()
        return Match(pages)

    def _tail(self, page: Page, ids: tuple[int, ...]) -> tuple[Page | None, int]:
        """The child that has the longest beginning in common with `ids`, and how long it is."""
        best: Page | None = None
        longest = 0
        for child in page.children.values():
            part = common(child.tokens, ids, len(ids))
            if self._recurrent and (part < len(child.tokens) or child.slot is None):
                continue  # state cannot be cut
            if part > longest:
                best, longest = child, part
        if best is None or not worth_copying(longest, len(best.tokens), len(ids)):
            return None, 0
        return best, longest

    def _goes_on(self, pages: Sequence[Page], tail: Page | None, start: int, length: int) -> bool:
        """Whether the token after `length` positions finds all that it attends, and the state before it."""
        last = tail or pages[-1]
        if self._recurrent and last.slot is None:
            return False
        for group, cache in enumerate(self._caches):
            if cache.window is None:
                continue
            first = max(0, cache.first_block(length) - start // self._size)
            if any(page.blocks[group] == RELEASED for page in pages[first:]):
                return False
            if tail is not None and tail.blocks[group] == RELEASED:
                return False
        return True

    # --- come and go

    def add(self, parent: Page, tokens: tuple[int, ...], blocks: Sequence[int]) -> Page:
        """A page of these blocks, which it holds from now on."""
        page = Page(parent, tokens, list(blocks), None)
        parent.children[tokens] = page
        for group, block in enumerate(blocks):
            if block != RELEASED:
                self._pools[group].keep(block)
                self._orders[group][page] = None
        return page

    def give_block(self, page: Page, group: int, block: int) -> None:
        """A block for a windowed group that the page has none of."""
        page.blocks[group] = block
        self._pools[group].keep(block)
        self._orders[group][page] = None

    def snapshot(self, page: Page, slot: int) -> None:
        """The state after the page's last token, unless it has it."""
        if page.slot is None:
            page.slot = slot
            self._slots.keep(slot)
            self._snapshots[page] = None

    def touch(self, pages: Sequence[Page]) -> None:
        """They were needed just now, each the next one's parent: what nothing hangs on goes first where all positions
        are attended, what lies furthest back where a window is."""
        for group, (cache, order) in enumerate(zip(self._caches, self._orders, strict=True)):
            for page in pages if cache.window is not None else reversed(pages):
                if page.blocks[group] != RELEASED:
                    order.move_to_end(page)
        for page in pages:
            if page.slot is not None:
                self._snapshots.move_to_end(page)

    def drop(self, page: Page) -> None:
        """Let a page go that has no children and no holders, and those before it that were there only for it."""
        if page.parent is not None:
            page.parent.children.pop(page.tokens, None)
        for group, block in enumerate(page.blocks):
            if block != RELEASED:
                self._orders[group].pop(page, None)
                page.blocks[group] = RELEASED
                self._pools[group].forget(block)
        self._drop_snapshot(page)
        self.prune(page.parent)

    def _drop_snapshot(self, page: Page) -> None:
        slot, page.slot = page.slot, None
        if slot is not None:
            self._snapshots.pop(page, None)
            self._slots.forget(slot)

    def prune(self, page: Page | None) -> None:
        """Let go of a page without children, holders, blocks and state, and of those before it that become one."""
        while page is not None and page.parent is not None and not page.children and not page.holders:
            if page.slot is not None or any(block != RELEASED for block in page.blocks):
                return
            page.parent.children.pop(page.tokens, None)
            page = page.parent

    def evict(self, group: int) -> bool:
        """Free a block of a group, of the page that was needed longest ago; False where all are in use."""
        order, pool, windowed = self._orders[group], self._pools[group], self._caches[group].window is not None
        if not pool.idle:
            return False
        for _ in range(len(order)):
            page = next(iter(order))
            if not page.children and not page.holders:
                self.drop(page)
                return True
            if windowed and pool.is_idle(block := page.blocks[group]):
                del order[page]
                page.blocks[group] = RELEASED
                pool.forget(block)
                self.prune(page)
                return True
            order.move_to_end(page)  # in use, or before one that is kept
        return False

    def evict_snapshot(self) -> bool:
        """Free a slot of state; False where all are in use."""
        if not self._slots.idle:
            return False
        for _ in range(len(self._snapshots)):
            page = next(iter(self._snapshots))
            if page.slot is not None and self._slots.is_idle(page.slot):
                self._drop_snapshot(page)
                self.prune(page)
                return True
            self._snapshots.move_to_end(page)
        return False

    def clear(self) -> None:
        """Forget all that no running sequence holds."""
        for page in reversed(list(self)):
            if not page.children and not page.holders:
                self.drop(page)

    def rebuild(self, held: Iterable[Page]) -> None:
        """After an interruption: holders from the running sequences' last whole pages, orders from the pages."""
        pages = list(self)
        for page in (self.root, *pages):
            page.holders = 0
        for page in held:
            page.holders += 1
        for group, order in enumerate(self._orders):
            having = dict.fromkeys(page for page in pages if page.blocks[group] != RELEASED)
            self._orders[group] = OrderedDict.fromkeys([p for p in order if p in having] + [*having])
        having = dict.fromkeys(page for page in pages if page.slot is not None)
        self._snapshots = OrderedDict.fromkeys([p for p in self._snapshots if p in having] + [*having])


def worth_copying(part: int, have: int, wanted: int) -> bool:
    """Whether `part` tokens, which a page of `have` and a sequence that wants `wanted` have in common, save a step's
    work."""
    return part > 0 and (part >= COPY_LEAST or part in (have, wanted))


def common(a: Sequence[int], b: Sequence[int], most: int) -> int:
    """How many tokens two sequences have in common at their beginning, at most `most`."""
    most = min(most, len(a), len(b))
    if a[:most] == b[:most]:
        return most
    return next(i for i in range(most) if a[i] != b[i])
