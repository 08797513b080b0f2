"""What sequences keep in the backend: blocks of the KV cache and slots of state, their own and those that they share.

A sequence goes on from the longest beginning of its tokens that is cached, whether its request ended, waits or still
runs; its own pages are there for others from the moment they are full.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from memfirst.backends.base import Backend
from memfirst.errors import BackendError
from memfirst.graph import RELEASED
from memfirst.graph.types import BLOCK
from memfirst.runtime.cache import BlockPool, BlockTables
from memfirst.runtime.prefix_page import Page, prune
from memfirst.runtime.prefixes import Match, PrefixCache, common, worth_copying

SPILLED, RESTORED, IN_FILE = "spilled_bytes", "restored_bytes", "page_file_bytes"
"""Names of `KVMemory.paged`."""

SNAPSHOT_EVERY = 512
"""Tokens between snapshots of state, besides the one behind a prompt."""


class SequenceState:
    """What is cached of one sequence: `ids` whose keys, values and state are there, their blocks, a slot of state.

    page, pages  its last whole page in the prefix cache, and how many those are

    A step reads one slot and writes another: until it is done, nothing here changes.
    """

    __slots__ = ("blocks", "ids", "page", "pages", "slot")

    def __init__(self, blocks: BlockTables, page: Page) -> None:
        self.ids: list[int] = []
        self.blocks, self.page, self.pages = blocks, page, 0
        self.slot: int | None = None


class KVMemory:
    """All blocks and slots of a backend, and the prefix cache in them."""

    def __init__(self, backend: Backend) -> None:
        self._copy_block, graph = backend.copy_block, backend.graph
        self.groups = graph.cache_groups
        self.caches = tuple(group.cache for group in self.groups)
        self.pools = tuple(BlockPool(n) for n in backend.blocks)
        self.recurrent = bool(graph.states)
        self.slots = BlockPool(backend.slots if graph.states else 0)
        sizes = {cache.block for cache in self.caches} or {BLOCK}
        if len(sizes) > 1:
            raise BackendError(f"cache groups with blocks of {sorted(sizes)} positions", "the same in all")
        self.size = sizes.pop()
        """Positions of a page."""
        self.prefixes = PrefixCache(self.groups, self.pools, self.slots, self.size)
        self.changed = False
        """Whether the page file may lack something that is worth keeping."""

    # --- sequences

    def new_sequence(self) -> SequenceState:
        """A sequence without a token."""
        return SequenceState(BlockTables(self.groups, self.pools), self.prefixes.root)

    def release(self, sequence: SequenceState) -> None:
        """Give back all that a sequence holds; its whole pages stay cached."""
        page, sequence.page, sequence.pages = sequence.page, self.prefixes.root, 0
        page.holders -= page is not self.prefixes.root
        sequence.blocks.clear()
        slot, sequence.slot = sequence.slot, None
        if slot is not None:
            self.slots.release(slot)
        prune(page)

    def keep(self, sequence: SequenceState, wanted: bool = False) -> Page | None:
        """Release a sequence; what it computed stays cached to its last token. `wanted`: others' goes before it, until
        `let_go`. Gives the page that it ends in."""
        self.prefixes.touch(sequence.page.path)
        last = self._last_page(sequence)
        if last is not None and sequence.slot is not None:
            self.prefixes.snapshot(last, sequence.slot)
        if last is not None and wanted:
            for page in last.path:
                page.wanted += 1
        self.release(sequence)
        self.changed = True
        return last

    def let_go(self, last: Page) -> None:
        """A request that wanted the pages up to `last` goes on, or is no more."""
        for page in last.path:
            page.wanted = max(0, page.wanted - 1)

    def _last_page(self, sequence: SequenceState) -> Page | None:
        """The page that a sequence ends in, entered into the cache."""
        tokens = tuple(sequence.ids[sequence.pages * self.size :])
        if not tokens:
            return sequence.page if sequence.pages else None
        page = sequence.page
        for known in list(page.children.values()):
            if known.tokens[: len(tokens)] == tokens and (not self.recurrent or known.tokens == tokens):
                self.prefixes.touch([known])
                return known
            shorter = len(known.tokens) < len(tokens) and tokens[: len(known.tokens)] == known.tokens
            if shorter and not self.recurrent and not known.wanted:
                self.prefixes.drop(known)
        return self.prefixes.add(page, tokens, [table[sequence.pages] for table in sequence.blocks.tables])

    # --- what is cached already

    def match(
        self, sequence: SequenceState | None, ids: Sequence[int], most: int, others: Iterable[SequenceState] = ()
    ) -> Match:
        """What a sequence of `ids` could go on with, within the first `most` of them: from the cache, or at its end
        from a page that one of `others` has not filled yet."""
        page, at = (self.prefixes.root, 0) if sequence is None else (sequence.page, sequence.pages * self.size)
        if sequence is not None and len(sequence.ids) > at:
            return Match([])
        found = self.prefixes.match(page, ids, at, most)
        if self.recurrent:
            return found  # state has one owner
        last, end = found.pages[-1] if found.pages else page, at + len(found.pages) * self.size
        wanted = tuple(ids[end : min(end + self.size, most)])
        for other in others:
            if other.page is last and other is not sequence:
                tokens = tuple(other.ids[other.pages * self.size :])
                part = common(tokens, wanted, len(wanted))
                if part > found.part and worth_copying(part, len(tokens), len(wanted)):
                    blocks = [table[other.pages] for table in other.blocks.tables]
                    found = Match(found.pages, Page(None, tokens, blocks, None), part)
        return found

    def extended(
        self, sequence: SequenceState, ids: Sequence[int], found: Match, parked: Page | None = None
    ) -> SequenceState:
        """A sequence that goes on from `sequence` with what `match` found for it, read again where it was paged out. It
        takes its place: the caller lets go of `sequence`, and calls `settle` with the new one. Where there is no room
        for what must be read, or it was damaged, `sequence` itself. `parked`: the page that it ended in itself."""
        start, count = sequence.pages, len(found.pages)
        whole = (start + count) * self.size
        sequence.blocks.trim()
        pages = [self._shared(page, start + i, whole) for i, page in enumerate(found.pages)]
        if not all(
            self._read(page, start + i, whole, b) for i, (page, b) in enumerate(zip(found.pages, pages, strict=True))
        ):
            self._give_back(pages)
            return sequence
        self.prefixes.touch(found.pages)
        tail = None if found.tail is None else self._own_tail(found.tail, found.part, found.tail is parked)
        last = found.tail if tail is not None and found.tail is not None else found.pages[-1] if count else None
        slot = self._own_slot(last) if self.recurrent and last is not None else None
        if last is None or (self.recurrent and slot is None):
            self._give_back(pages if tail is None else [*pages, tail])
            return sequence
        length = whole + (found.part if tail is not None else 0)
        made = SequenceState(sequence.blocks, found.pages[-1] if count else sequence.page)
        made.blocks = sequence.blocks.joined(pages if tail is None else [*pages, tail], length)
        made.ids, made.pages, made.slot = list(ids[:length]), start + count, slot
        return made

    def settle(self, old: SequenceState, new: SequenceState) -> None:
        """`new`, made by `extended`, has taken the place of `old`."""
        root = self.prefixes.root
        new.page.holders += new.page is not root
        old.page.holders -= old.page is not root
        if old.slot is not None:
            self.slots.release(old.slot)
        new.blocks.advance(len(new.ids))

    def _shared(self, page: Page, index: int, length: int) -> list[int]:
        """A page's blocks with one more reference each, but for those that lie behind a window of `length`."""
        blocks = list(page.blocks)
        for group, cache in enumerate(self.caches):
            if index < cache.first_block(length):
                blocks[group] = RELEASED
            elif blocks[group] != RELEASED:
                self.pools[group].share(blocks[group])
        return blocks

    def _read(self, page: Page, index: int, length: int, blocks: list[int]) -> bool:
        """Read the blocks that a page lacks and a sequence of `length` needs; False where that fails."""
        for group, cache in enumerate(self.caches):
            if blocks[group] != RELEASED or index < cache.first_block(length):
                continue
            paging, pool = self.prefixes.paging, self.pools[group]
            if paging is None or not (pool.free or self.prefixes.evict(group)):
                return False
            block = pool.take()
            if not paging.read(page, group, block):
                pool.release(block)
                return False
            blocks[group] = block
            self.prefixes.give_block(page, group, block)
        return True

    def _give_back(self, pages: Iterable[Sequence[int]]) -> None:
        for blocks in pages:
            for pool, block in zip(self.pools, blocks, strict=True):
                if block != RELEASED:
                    pool.release(block)

    def _own_slot(self, page: Page) -> int | None:
        """The state behind a page, with one more reference; None where it was damaged."""
        if page.slot is None:
            paging, slot = self.prefixes.paging, self.take_slot()
            if paging is None or not paging.read(page, paging.state, slot):
                self.slots.release(slot)
                return None
            self.prefixes.snapshot(page, slot)
            return slot
        self.slots.share(page.slot)
        return page.slot

    def _own_tail(self, tail: Page, part: int, own: bool) -> list[int] | None:
        """Blocks of a page that is shared in part: itself where nothing else is lost, else a copy, if there is room."""
        tail.holders += 1  # so that making room does not take it
        shared = self._shared(tail, 0, 0)
        copies = None
        if self._read(tail, 0, 0, shared):
            whole = tail.parent is not None and part == len(tail.tokens) < self.size
            if whole and tail.wanted <= own and not self.recurrent:
                tail.holders -= 1
                self.prefixes.drop(tail)
                return shared
            copies = self._copies(shared)
        tail.holders -= 1
        self._give_back([shared])
        return copies

    def _copies(self, blocks: Sequence[int]) -> list[int] | None:
        """Copies of blocks, one of each group; None where a block is missing."""
        if not all(pool.free or self.prefixes.evict(group) for group, pool in enumerate(self.pools)):
            return None
        copies = [pool.take() for pool in self.pools]
        for group, (source, target) in enumerate(zip(blocks, copies, strict=True)):
            self._copy_block(group, source, target)
        return copies

    # --- what a step adds

    def reserve(self, sequence: SequenceState, length: int) -> bool:
        """Blocks for `length` positions, where some are free or only cached; takes none where that is not enough."""
        if length <= sequence.blocks.room:
            return True
        while (group := sequence.blocks.missing(length)) is not None:
            if not self.prefixes.evict(group):
                return False
        sequence.blocks.reserve(length)
        return True

    def take_slot(self) -> int:
        """A slot of state to write."""
        while not self.slots.free and self.prefixes.evict_snapshot():
            pass
        return self.slots.take()

    def advance(self, sequence: SequenceState, prompt: int) -> None:
        """`sequence.ids` have been computed: pages that are full enter the cache. A snapshot of state is kept behind
        `prompt` tokens, at the last whole page of the prompt, and every `SNAPSHOT_EVERY`."""
        length = len(sequence.ids)
        while (sequence.pages + 1) * self.size <= length:
            self._enter(sequence)
        sequence.blocks.advance(length)
        wanted = length == self.last_whole(prompt) or not length % SNAPSHOT_EVERY
        if wanted and length == sequence.pages * self.size and sequence.slot is not None:
            self.prefixes.snapshot(sequence.page, sequence.slot)

    def snapshot_prompt(self, sequence: SequenceState) -> None:
        """A prompt is done: its state is kept, with a copy of the page that it ends in, if there is room for one."""
        if not self.recurrent or sequence.slot is None:
            return
        tokens, page = tuple(sequence.ids[sequence.pages * self.size :]), sequence.page
        if tokens:
            known = page.children.get(tokens)
            if known is None:
                if not all(pool.free for pool in self.pools):
                    return
                copies = self._copies([table[sequence.pages] for table in sequence.blocks.tables]) or []
                known = self.prefixes.add(page, tokens, copies)
                for pool, block in zip(self.pools, copies, strict=True):
                    pool.release(block)
            page = known
        if page is not self.prefixes.root:
            self.prefixes.snapshot(page, sequence.slot)

    def last_whole(self, prompt: int) -> int:
        """Where the last whole page ends that leaves a token of the prompt to compute: its logits are wanted."""
        return (prompt - 1) // self.size * self.size

    def next_stop(self, past: int, prompt: int) -> int:
        """The first position after `past` at which a step of a prompt has to end, for a snapshot of state."""
        if not self.recurrent:
            return prompt
        stops = ((past // SNAPSHOT_EVERY + 1) * SNAPSHOT_EVERY, self.last_whole(prompt))
        return min((stop for stop in stops if past < stop < prompt), default=prompt)

    def _enter(self, sequence: SequenceState) -> None:
        at = sequence.pages * self.size
        tokens = tuple(sequence.ids[at : at + self.size])
        blocks = [table[sequence.pages] for table in sequence.blocks.tables]
        known = sequence.page.children.get(tokens)
        if known is None:
            known = self.prefixes.add(sequence.page, tokens, blocks)
        else:
            self._hold_once(sequence, known, blocks)
        self._hold(sequence, known)

    def _hold(self, sequence: SequenceState, page: Page) -> None:
        old, sequence.page = sequence.page, page
        sequence.pages += 1
        page.holders += 1
        old.holders -= old is not self.prefixes.root

    def _hold_once(self, sequence: SequenceState, known: Page, blocks: Sequence[int]) -> None:
        """Two computed the same page at the same time: one is enough."""
        for group, block in enumerate(blocks):
            if known.blocks[group] == RELEASED and block != RELEASED:
                self.prefixes.give_block(known, group, block)
            elif block != RELEASED:
                sequence.blocks.replace(group, sequence.pages, known.blocks[group])
        self.prefixes.touch([known])

    # --- all together

    def in_memory(self, sequence: SequenceState, ids: Sequence[int], found: Match) -> Match:
        """What of `found` needs no reading."""
        count = next((i for i, page in enumerate(found.pages) if RELEASED in page.blocks), len(found.pages))
        return self.match(sequence, ids, (sequence.pages + count) * self.size)

    def can_read(self, found: Match, unread: Sequence[int]) -> bool:
        """Whether so many blocks of each group are to be had, those apart that `found` has in memory."""
        pages = [*found.pages, found.tail] if found.tail is not None else found.pages
        for group, (pool, n) in enumerate(zip(self.pools, unread, strict=True)):
            there = sum(page.blocks[group] != RELEASED and pool.is_idle(page.blocks[group]) for page in pages)
            if pool.free + pool.idle - there < n:
                return False
        return True

    def unread(self, found: Match) -> list[int]:
        """How many blocks of each group would be read from the page file."""
        pages = [*found.pages, found.tail] if found.tail is not None else found.pages
        return [sum(page.blocks[g] == RELEASED for page in pages) for g in range(len(self.pools))]

    @property
    def paged(self) -> dict[str, int]:
        """Bytes written to the page file and read from it so far, and that it holds."""
        paging = self.prefixes.paging
        if paging is None:
            return {SPILLED: 0, RESTORED: 0, IN_FILE: 0}
        file = paging.file
        return {SPILLED: file.written_bytes, RESTORED: file.read_bytes, IN_FILE: file.used * file.record_bytes}

    def close(self) -> None:
        """Write what is to be kept, and close the page file. A second call does nothing."""
        paging = self.prefixes.paging
        if paging is not None:
            self.save(1 << 62)
            self.prefixes.paging = None
            paging.file.close()

    def save(self, most: int) -> bool:
        """Write some cached pages that the page file lacks, at most `most`; whether there may be more."""
        paging = self.prefixes.paging
        if paging is None or not paging.everything or not self.changed:
            return False
        written = 0
        for page in self.prefixes:
            if written >= most:
                return True
            if paging.is_unsaved(page):
                if not paging.save(page):
                    break
                written += 1
        self.changed = False
        return False

    def rebuild(self, running: Iterable[SequenceState], parked: Iterable[Page] = ()) -> None:
        """After an interruption between two changes: counts from what is held."""
        held, pages = list(running), list(self.prefixes)
        self.prefixes.rebuild((s.page for s in held if s.page is not self.prefixes.root), parked)
        for i, pool in enumerate(self.pools):
            kept = (page.blocks[i] for page in pages if page.blocks[i] != RELEASED)
            pool.rebuild((block for s in held for block in s.blocks.held(i)), kept)
        slots = (s.slot for s in held if s.slot is not None)
        self.slots.rebuild(slots, (page.slot for page in pages if page.slot is not None))
