"""Between the prefix cache and the page file: which pages have a record, and what goes to and fro."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator

from memfirst.backends.base import Storage
from memfirst.graph import RELEASED
from memfirst.runtime.page_file import Head, PageFile, Part, key_of
from memfirst.runtime.prefix_page import Page, prune


class Paging:
    """Records of pages in a file. A page's parts are its blocks by cache group, then its state.

    everything  whether all pages are worth writing, for other processes; else only those that a waiting request wants
    root        digest of the model and of what its cache holds
    """

    def __init__(self, file: PageFile, storage: Storage, everything: bool, root: bytes = b"") -> None:
        self._file, self._storage, self.everything, self._root = file, storage, everything, root
        self.state = len(storage.blocks)
        """The number of the part that is the state."""
        self._recorded = OrderedDict[Page, None]()
        self.lost = 0
        """Pages whose records were damaged."""

    @property
    def file(self) -> PageFile:
        """Where the records are."""
        return self._file

    def has(self, page: Page, part: int) -> bool:
        """Whether a page can be read again without this part of it in memory."""
        return page.record is not None and part in self._file.parts(page.record)

    def wants(self, page: Page) -> bool:
        """Whether a page is worth writing rather than dropping."""
        return (self.everything or page.wanted > 0) and not self._file.failed

    def save(self, page: Page) -> bool:
        """Write what the page has in memory and not in its record; False where that cannot be."""
        parts = dict(self._unsaved(page))
        if not parts:
            return page.record is not None
        if page.record is None and not self._file.free and not self._make_room():
            return False
        parent = page.parent
        head = Head(self._key(page), self._key(parent) if parent is not None else b"", page.tokens, {})
        record = self._file.write(page.record, head, parts)
        if record is None:
            return False
        page.record = record
        self._recorded[page] = None
        return True

    def is_unsaved(self, page: Page) -> bool:
        """Whether something of a page is in memory and not in the file."""
        return any(True for _ in self._unsaved(page))

    def _unsaved(self, page: Page) -> Iterator[tuple[int, Part]]:
        for part, block in enumerate(page.blocks):
            if block != RELEASED and not self.has(page, part):
                yield part, self._storage.blocks[part][block]
        if page.slot is not None and not self.has(page, self.state):
            yield self.state, self._storage.states[page.slot]

    def _key(self, page: Page) -> bytes:
        """A page's digest, made once; of records that only this process reads, none."""
        if not self._file.kept:
            return bytes(16)
        if page.parent is None:
            return self._root
        if not page.key:
            page.key = key_of(self._key(page.parent), page.tokens)
        return page.key

    def read(self, page: Page, part: int, index: int) -> bool:
        """Read a part of a page into a block or slot; False where it was damaged: it is forgotten."""
        if page.record is None:
            return False
        self._recorded.move_to_end(page)
        data = self._storage.states[index] if part == self.state else self._storage.blocks[part][index]
        if self._file.read(page.record, {part: data}):
            return True
        self.lost += 1
        self.forget(page)
        return False

    def forget(self, page: Page) -> None:
        """Free a page's record."""
        record, page.record = page.record, None
        self._recorded.pop(page, None)
        if record is not None:
            self._file.release(record)

    def _make_room(self) -> bool:
        """Free the record that was used longest ago, of a page that nobody waits for: one that is in memory too, or
        on which none hangs."""
        for _ in range(len(self._recorded)):
            page = next(iter(self._recorded))
            if not page.wanted and (page.is_whole or not (page.children or page.holders)):
                self.forget(page)
                prune(page)
                return True
            self._recorded.move_to_end(page)
        return False

    def load(self, root: Page, blank: list[int]) -> int:
        """Pages of an earlier process, not in memory yet; how many. Records that lead nowhere are freed."""
        found, known = dict(self._file.load()), {self._root: root}
        heads = {head.key: (record, head) for record, head in found.items()}
        missing = [head.key for _, head in heads.values()]
        while missing:
            later = []
            for key in missing:
                record, head = heads[key]
                parent = known.get(head.parent)
                if parent is None:
                    later.append(key)
                    continue
                page = known[key] = Page(parent, head.tokens, list(blank), None)
                page.record, page.key = record, key
                parent.children[head.tokens] = page
                self._recorded[page] = None
            if len(later) == len(missing):
                break
            missing = later
        alive = {page.record for page in self._recorded}
        for record in found:
            if record not in alive:
                self._file.release(record)
        return len(self._recorded)

    def rebuild(self, pages: Iterable[Page]) -> None:
        """After an interruption: records of these pages only."""
        having = dict.fromkeys(page for page in pages if page.record is not None)
        self._recorded = OrderedDict.fromkeys([p for p in self._recorded if p in having] + [*having])
        self._file.rebuild(page.record for page in having if page.record is not None)
