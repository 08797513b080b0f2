"""Pages of the KV cache: who holds which. Storage itself belongs to the backends; how many bytes, to the graph."""

from __future__ import annotations

from dataclasses import dataclass, field

from memfirst.errors import CapacityError


class PagePool:
    """Hands out pages and counts their holders, so that sequences may share a prefix."""

    def __init__(self, pages: int) -> None:
        self._free = list(range(pages - 1, -1, -1))
        self._holders = [0] * pages

    @property
    def used(self) -> int:
        """Pages that somebody holds."""
        return len(self._holders) - len(self._free)

    def take(self) -> int:
        """A free page; CapacityError where there is none."""
        if not self._free:
            raise CapacityError(f"all {len(self._holders)} pages of the KV cache are held", "a free one", "raise --ctx")
        page = self._free.pop()
        self._holders[page] = 1
        return page

    def share(self, page: int) -> None:
        """One more holder of a page."""
        self._holders[page] += 1

    def release(self, page: int) -> None:
        """One holder less; a page without holders is free again."""
        self._holders[page] -= 1
        if not self._holders[page]:
            self._free.append(page)


@dataclass
class PageTable:
    """One sequence's pages: `length` positions are cached, `pages` can hold more."""

    pool: PagePool
    page: int
    length: int = 0
    pages: tuple[int, ...] = field(default=())

    def reserve(self, length: int) -> None:
        """Take pages until `length` positions fit; CapacityError takes none."""
        missing = -(-length // self.page) - len(self.pages)
        if missing <= 0:
            return
        taken: list[int] = []
        try:
            while len(taken) < missing:
                taken.append(self.pool.take())
        except CapacityError:
            for page in taken:
                self.pool.release(page)
            raise
        self.pages += tuple(taken)

    def cut(self, length: int) -> None:
        """Forget positions from `length` on, and the pages that only they needed."""
        keep = -(-length // self.page)
        for page in self.pages[keep:]:
            self.pool.release(page)
        self.pages, self.length = self.pages[:keep], min(self.length, length)
