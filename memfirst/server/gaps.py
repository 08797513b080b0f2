"""Times between an answer's tokens as the engine makes them, whoever reads them when."""

from __future__ import annotations

from bisect import bisect_left

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Upper bounds in seconds, with their values."""


class Gaps:
    """Counts them by `BOUNDS`. Tokens of one step, drafted or forced ones, come together: the next gap is from it."""

    def __init__(self) -> None:
        self.counts, self.seconds = [0] * (len(BOUNDS) + 1), 0.0
        self._last: dict[int, float] = {}

    def gave(self, number: int, now: float) -> None:
        """A step gave tokens of answer `number`."""
        last = self._last.get(number)
        if last is not None:
            self.counts[bisect_left(BOUNDS, now - last)] += 1
            self.seconds += now - last
        self._last[number] = now

    def ended(self, number: int) -> None:
        """The answer has no more."""
        self._last.pop(number, None)
