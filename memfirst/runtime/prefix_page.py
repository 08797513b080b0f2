"""A page of the prefix cache."""

from __future__ import annotations

from memfirst.graph import RELEASED


class Page:
    """Some tokens after those of `parent`.

    blocks   by cache group; RELEASED where it has none in memory
    slot     of state after its last token; None: no snapshot in memory
    holders  running sequences whose last whole page it is
    wanted   requests that had to make room, and will go on from it or from a page behind it
    record   where the page file has it; key: its digest there, made when needed
    """

    __slots__ = ("blocks", "children", "holders", "key", "parent", "record", "slot", "tokens", "wanted")

    def __init__(self, parent: Page | None, tokens: tuple[int, ...], blocks: list[int], slot: int | None) -> None:
        self.parent, self.tokens, self.blocks, self.slot = parent, tokens, blocks, slot
        self.children: dict[tuple[int, ...], Page] = {}
        self.holders = self.wanted = 0
        self.record: int | None = None
        self.key = b""

    @property
    def in_memory(self) -> bool:
        """Whether any of it is in memory."""
        return self.slot is not None or any(block != RELEASED for block in self.blocks)

    @property
    def is_whole(self) -> bool:
        """Whether it has a block of every group in memory."""
        return bool(self.blocks) and RELEASED not in self.blocks

    @property
    def path(self) -> list[Page]:
        """It and those before it, the first one first."""
        found, page = list[Page](), self
        while page.parent is not None:
            found.append(page)
            page = page.parent
        return found[::-1]


def prune(page: Page | None) -> None:
    """Let go of a page on which nothing hangs and of which nothing is left, and of those before it that become one."""
    while page is not None and page.parent is not None and not (page.children or page.holders):
        if page.in_memory or page.record is not None:
            return
        page.parent.children.pop(page.tokens, None)
        page = page.parent
