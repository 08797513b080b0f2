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
from memfirst.runtime.paging import Paging
from memfirst.runtime.prefix_page import Page, prune

COPY_LEAST = 8
"""Positions of a partly shared page that are worth copying it: fewer are computed as fast, unless they are all."""


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
        self.paging: Paging | None = None
        """The page file, where there is one."""

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
            if self._recurrent and (part < len(child.tokens) or not self._can_have(child, len(self._caches))):
                continue  # state cannot be cut
            if part > longest:
                best, longest = child, part
        if best is None or not worth_copying(longest, len(best.tokens), len(ids)):
            return None, 0
        return best, longest

    def _goes_on(self, pages: Sequence[Page], tail: Page | None, start: int, length: int) -> bool:
        """Whether the token after `length` positions finds all that it attends, and the state before it."""
        last, size = tail or pages[-1], self._size
        if self._recurrent and not self._can_have(last, len(self._caches)):
            return False
        needed = [*pages, tail] if tail is not None else pages
        for group, cache in enumerate(self._caches):
            first = max(0, cache.first_block(length) - start // size)
            if not all(self._can_have(page, group) for page in needed[first:]):
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
        """A block for a group that the page has none of in memory."""
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
        """Mark pages as used, each the next one's parent: a page without children goes first where all positions
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
        self._forget(page)
        prune(page)

    def _forget(self, page: Page) -> None:
        """All that is in memory and in the file of a page."""
        for group in range(len(page.blocks)):
            self._drop_block(page, group)
        self._drop_snapshot(page)
        if self.paging is not None:
            self.paging.forget(page)

    def _drop_block(self, page: Page, group: int) -> None:
        block, page.blocks[group] = page.blocks[group], RELEASED
        if block != RELEASED:
            self._orders[group].pop(page, None)
            self._pools[group].forget(block)

    def _drop_snapshot(self, page: Page) -> None:
        slot, page.slot = page.slot, None
        if slot is not None:
            self._snapshots.pop(page, None)
            self._slots.forget(slot)

    def evict(self, group: int) -> bool:
        """Free a block of a group, of the page that was needed longest ago; what a waiting request wants goes last, and
        to the file if it has room. False where all are in use."""
        return self._evict(group, False) or self._evict(group, True)

    def _evict(self, group: int, wanted: bool) -> bool:
        order, pool, windowed = self._orders[group], self._pools[group], self._caches[group].window is not None
        if not pool.idle:
            return False
        for _ in range(len(order)):
            page = next(iter(order))
            if pool.is_idle(page.blocks[group]) and (wanted or not page.wanted) and not page.holders:
                if self._saved(page, group) or windowed:
                    self._drop_block(page, group)
                    prune(page)
                    return True
                if self._drop_tree(page):
                    return True
            order.move_to_end(page)  # in use, or before one that is kept
        return False

    def _saved(self, page: Page, part: int) -> bool:
        """Whether a part of a page can be read again, after writing it where it is worth that."""
        paging = self.paging
        if paging is None:
            return False
        return paging.has(page, part) or (paging.wants(page) and paging.save(page) and paging.has(page, part))

    def _drop_tree(self, page: Page) -> bool:
        """Drop a page with all behind it; False where some of that is in memory."""
        behind = [page]
        for one in behind:
            if one is not page and (one.in_memory or one.holders):
                return False
            behind += one.children.values()
        for one in reversed(behind):
            self._forget(one)
            prune(one)
        return True

    def evict_snapshot(self) -> bool:
        """Free a slot of state; False where all are in use."""
        return self._evict_snapshot(False) or self._evict_snapshot(True)

    def _evict_snapshot(self, wanted: bool) -> bool:
        if not self._slots.idle:
            return False
        for _ in range(len(self._snapshots)):
            page = next(iter(self._snapshots))
            if page.slot is not None and self._slots.is_idle(page.slot) and (wanted or not page.wanted):
                self._saved(page, len(self._caches))
                self._drop_snapshot(page)
                prune(page)
                return True
            self._snapshots.move_to_end(page)
        return False

    def _can_have(self, page: Page, part: int) -> bool:
        """Whether a part of a page is in memory, or can be read."""
        there = page.slot is not None if part == len(self._caches) else page.blocks[part] != RELEASED
        return there or (self.paging is not None and self.paging.has(page, part))

    def clear(self) -> None:
        """Forget all that no running sequence holds, in the file too."""
        for page in reversed(list(self)):
            if not page.children and not page.holders:
                self.drop(page)

    def rebuild(self, held: Iterable[Page], parked: Iterable[Page] = ()) -> None:
        """After an interruption: holders from the running sequences' last whole pages, wanted ones from the pages that
        waiting requests ended in, orders from the pages."""
        pages = list(self)
        for page in (self.root, *pages):
            page.holders = page.wanted = 0
        for page in held:
            page.holders += 1
        for last in parked:
            for page in last.path:
                page.wanted += 1
        if self.paging is not None:
            self.paging.rebuild(pages)
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
