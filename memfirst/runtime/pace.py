"""How long steps take, learned from the steps themselves: what lets a prompt use the time that others can spare.

A step reads its weights once for each tile of eight rows, so its time grows by tiles: 9 rows cost nearly what 16 do.
A token far behind in a prompt attends to all before it: at 4,000 positions that is more than the rest of it.
"""

from __future__ import annotations

from bisect import bisect_left

from memfirst.predict import tiles
from memfirst.predict.tiles import whole

LEARNS = 0.25
"""Weight of the newest step of a size: contexts grow, and neighbours come and go."""


SHALLOW = 256
"""Positions before a prompt's tokens up to which they are as those at its beginning."""

FADES = 0.9
"""What is left of a step's weight in what positions cost, after the next one."""


class Pace:
    """Seconds of a step by its rows: of sizes that were measured, and in between by straight lines; and what the
    positions before a prompt's tokens add."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}
        self._sizes: list[int] = []
        self._beyond, self._positions = 0.0, 0.0

    def record(self, rows: int, seconds: float, tokens: int = 0, positions: int = 0) -> None:
        """A step of so many rows is done, of which `tokens` of prompts have so many `positions` before them in all."""
        if positions > tokens * SHALLOW:
            self._beyond = FADES * self._beyond + seconds - self.seconds(rows)
            self._positions = FADES * self._positions + positions
            return
        size = whole(rows)
        known = self._seconds.get(size)
        if known is None:
            self._sizes.insert(bisect_left(self._sizes, size), size)
            self._seconds[size] = seconds
        else:
            self._seconds[size] = known + LEARNS * (seconds - known)

    def seconds(self, rows: int) -> float:
        """Of a step of so many rows; 0 before any was measured."""
        size, sizes = whole(rows), self._sizes
        if not sizes:
            return 0.0
        at = bisect_left(sizes, size)
        if at < len(sizes) and sizes[at] == size:
            return self._seconds[size]
        if len(sizes) == 1 or at == 0:  # no slope is known: in proportion at most
            return self._seconds[sizes[0]] * max(1.0, size / sizes[0])
        low, high = sizes[at - 1 : at + 1] if at < len(sizes) else sizes[-2:]
        slope = (self._seconds[high] - self._seconds[low]) / (high - low)
        return self._seconds[low] + max(0.0, slope) * (size - low)

    @property
    def position(self) -> float:
        """Seconds that a position before a prompt's token adds to it."""
        return max(0.0, self._beyond / self._positions) if self._positions else 0.0

    def beside(self, decoding: int, most: int, gap: float, past: int = 0) -> int:
        """Prompt tokens after `past` others for a step with `decoding` rows, as `predict.tiles.beside`, by what was
        measured."""
        return tiles.beside(self.seconds, decoding, most, gap, self.position * past)

    @property
    def token(self) -> float:
        """Seconds of a prompt's token in the largest step that was measured."""
        return self._seconds[self._sizes[-1]] / self._sizes[-1] if self._sizes else 0.0
