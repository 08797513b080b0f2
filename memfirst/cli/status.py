"""One line at the bottom of a terminal that stays while text scrolls above it."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from types import TracebackType

from memfirst.cli.streams import draws

PERIOD_S = 0.1
"""Ten changes a second are as many as can be read."""


class StatusLine:
    """Keeps the last row out of the scrolled region; does nothing where stdout is no capable terminal.

    The escapes are VT100's: `ESC 7`/`ESC 8` keep the cursor, `ESC D` goes down in the same column and
    scrolls at the bottom, `CSI top;bottom r` sets the region that scrolls.
    """

    def __init__(self, wanted: bool = True) -> None:
        self.active = wanted and draws() and os.name == "posix" and shutil.get_terminal_size().lines >= 4
        self._shown_at = 0.0
        self._rows = 0

    def __enter__(self) -> StatusLine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._rows:
            sys.stdout.write(f"\x1b7\x1b[r\x1b[{self._rows};1H\x1b[K\x1b8")
            sys.stdout.flush()

    def show(self, line: Callable[[], str], now: bool = False) -> None:
        """Replace the line by `line()`, which is called only when it is due, or `now`."""
        if not self.active or (not now and time.monotonic() - self._shown_at < PERIOD_S):
            return
        text = line()
        self._shown_at = time.monotonic()
        columns, rows = shutil.get_terminal_size()
        if rows != self._rows:
            self._reserve(rows)
        sys.stdout.write(f"\x1b7\x1b[{rows};1H\x1b[K\x1b[2m{text[: columns - 1]}\x1b[0m\x1b8")
        sys.stdout.flush()

    def _reserve(self, rows: int) -> None:
        """Scroll once, so that the last row is free, and keep it out of the region (again after a resize)."""
        self._rows = rows
        sys.stdout.write(f"\x1bD\x1b[1A\x1b7\x1b[1;{rows - 1}r\x1b8")
