"""Whether a step that wants only the likeliest token goes by the head's sketch: not where that lists many tiles."""

from __future__ import annotations

MOST = 0.3
"""Share of the head's tiles, on average, from which on the whole head is read instead: sketch and tiles are 0.54 of its
bytes and that share, and scattered tiles are read more slowly."""
MEMORY = 0.03
"""Weight of the last step in the average. Uncertain tokens come together: with 0.1, a third of SmolLM2's steps read the
whole head, though its steps list 0.09 of the tiles on average."""
PAUSE = 256
"""Steps with the whole head before the sketch is tried again."""


class HeadUse:
    """Of one model, by the tiles that its last steps listed."""

    def __init__(self, tiles: int) -> None:
        self.tiles = tiles
        """Of the head; 0 where it has no sketch."""
        self.share, self._pause = 0.0, 0

    def wanted(self) -> bool:
        """Whether the next step that may go by the sketch does; to be asked once for each."""
        if self._pause:
            self._pause -= 1
            return False
        return self.tiles > 0

    def learn(self, listed: int) -> None:
        """A step by the sketch read so many tiles in full."""
        self.share += MEMORY * (listed / self.tiles - self.share)
        if self.share > MOST:
            self.share, self._pause = MOST * (1 - MEMORY), PAUSE  # tried again, a few steps decide
