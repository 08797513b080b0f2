"""How long work reports what it does: a protocol, and what a library's user gets without asking."""

from __future__ import annotations

import shutil
import sys
import time
from typing import Protocol

EVERY_S = 0.1
"""Between two drawings of a line."""

SOON_S = 0.5
"""Work that is done within this needs no progress."""


class Progress(Protocol):
    """What `load`, `resolve` and the like are told to report to; `cli.display` draws it on a terminal."""

    def note(self, text: str) -> None:
        """One line that says what happens next ("asking the hub for …")."""

    def update(self, what: str, done: int, total: int, unit: str = "B") -> None:
        """`done` of `total` units of `what`; `total` 0 where it is not known, `done == total` ends it."""


class Silent:
    """Reports nothing."""

    def note(self, text: str) -> None:
        """Say nothing."""

    def update(self, what: str, done: int, total: int, unit: str = "B") -> None:
        """Draw nothing."""


class Announcing:
    """One line on stderr when long work begins, for a log."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def note(self, text: str) -> None:
        """Say it."""
        if sys.stderr is not None:
            print(f"memfirst: {text}", file=sys.stderr, flush=True)

    def update(self, what: str, done: int, total: int, unit: str = "B") -> None:
        """Say it the first time."""
        if what not in self._said:
            self._said.add(what)
            self.note(what)


class Line:
    """One line on stderr that is drawn again and again, and gone at the end: for a terminal or a notebook."""

    def __init__(self) -> None:
        self._width = 0
        self._drawn_at = -EVERY_S
        self._begun: dict[str, tuple[float, int]] = {}

    def note(self, text: str) -> None:
        """A line that stays."""
        self._draw("")
        print(f"memfirst: {text}", file=sys.stderr, flush=True)

    def update(self, what: str, done: int, total: int, unit: str = "B") -> None:
        """Draw how far it is, and how long it will take at the speed so far."""
        now = time.monotonic()
        began, first = self._begun.setdefault(what, (now, done))
        if total and done >= total:
            del self._begun[what]
            self._draw("")
        elif now - self._drawn_at >= EVERY_S:
            self._drawn_at = now
            self._draw(f"memfirst: {what} {_of(done, total, unit)}{_left(now - began, done - first, total - done)}")

    def _draw(self, text: str) -> None:
        """Over what stands there; no more than a line has room for."""
        text = text[: max(1, shutil.get_terminal_size().columns - 1)]
        if sys.stderr is not None and (text or self._width):
            sys.stderr.write("\r" + text.ljust(self._width) + ("" if text else "\r"))
            sys.stderr.flush()
        self._width = len(text)


class Delayed:
    """Reports work only once it has taken `SOON_S`, as most of it is done by then."""

    def __init__(self, progress: Progress, what: str, total: int, unit: str = "B") -> None:
        self._report, self._what, self._total, self._unit = progress, what, total, unit
        self._start, self._shown = time.monotonic(), False

    def done(self, amount: int) -> None:
        """So much of the total is done."""
        if self._shown or (amount < self._total and time.monotonic() - self._start > SOON_S):
            self._shown = True
            self._report.update(self._what, amount, self._total, self._unit)


def usual() -> Progress:
    """What fits where stderr goes: a line that moves before a person's eyes, a few that stay in a log."""
    terminal = sys.stderr is not None and sys.stderr.isatty()
    return Line() if terminal or in_notebook() else Announcing()


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    shell = sys.modules.get("IPython")
    found = shell.get_ipython() if shell is not None else None
    return found is not None and type(found).__name__ == "ZMQInteractiveShell"


def _of(done: int, total: int, unit: str) -> str:
    if unit == "B":
        return f"{done / 1e6:,.0f} of {total / 1e6:,.0f} MB" if total else f"{done / 1e6:,.0f} MB"
    return f"{done:,} of {total:,}{unit and f' {unit}'}" if total else f"{done:,}{unit and f' {unit}'}"


def _left(seconds: float, done: int, rest: int) -> str:
    """The time that is left; nothing before there is a speed to go by."""
    if seconds < 1 or done <= 0 or rest <= 0:
        return ""
    left = round(seconds * rest / done)
    return f", {left} s left" if left < 100 else f", {round(left / 60)} min left"
