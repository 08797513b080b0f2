"""How the commands print: JSON, sizes, tables, and progress on a terminal."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from memfirst.cli.streams import can_show, columns, is_terminal, note, stated_columns, write
from memfirst.cli.wrap import NBSP, fold
from memfirst.progress import EVERY_S, Progress, Silent

INDENT = " " * 4


def print_json(data: Any) -> None:
    """One JSON object on stdout, with escapes for what its encoding does not have."""
    text = json.dumps(data, indent=2, ensure_ascii=False, default=str)
    write(text if can_show(text) else json.dumps(data, indent=2, default=str))


def size(nbytes: float) -> str:
    """Bytes as people read them, in powers of 1000: "98.4 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if round(nbytes, 1) < 1000:
            return f"{nbytes:.0f} B" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1000
    return f"{nbytes:.2f} TB"


def gib(nbytes: float) -> str:
    """A memory's size as people know it, in powers of 1024: "24 GiB"."""
    if abs(nbytes) < 1 << 30:
        return f"{nbytes / 2**20:.0f} MiB"
    return f"{nbytes / 2**30:.1f}".removesuffix(".0") + " GiB"


def brief(path: str | os.PathLike[str]) -> str:
    """A path as a shell takes it, from the home folder on: "~/models/x.gguf"."""
    whole, home = os.fspath(path), os.path.expanduser("~")
    inside = home not in ("/", "~") and whole.startswith(home + os.sep)
    return f"~{whole[len(home) :]}" if inside else whole


def printable(text: str) -> str:
    """`text` without control characters: what a file says of itself must not steer the terminal."""
    return "".join(c if c == "\n" or c.isprintable() else "\ufffd" for c in text)


def width() -> int:
    """Columns of the terminal that shows stdout (or COLUMNS); 0 where nothing limits a line."""
    return stated_columns() or columns(sys.stdout)


def table(rows: Sequence[Sequence[str]], numbers: Sequence[int] = (), within: int | None = None) -> str:
    """Aligned columns under the first row, their heads; those in `numbers` to the right. Of no rows, an empty string.

    Columns that find no room in `within` characters (the terminal's width; 0: any) follow below their row, indented,
    each as its head and its value: "tok/s 36.2 · bound by weights". A longer word (a path) is cut between its parts.
    """
    if not rows:
        return ""
    most = width() if within is None else within
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    beside = _beside(widths, most)
    lines = []
    for row in rows:
        cells = (row[i].rjust(widths[i]) if i in numbers else row[i].ljust(widths[i]) for i in range(beside))
        line = "  ".join(cells).rstrip()
        lines += fold(line, most, rest=INDENT, cut=True) if beside == 1 else [line]
        if row is not rows[0]:
            below = [
                f"{head} {cell}".replace(" ", NBSP)
                for head, cell in zip(rows[0][beside:], row[beside:], strict=True)
                if cell
            ]
            lines += fold(" · ".join(below), most, INDENT, INDENT, cut=True) if below else []
    return "\n".join(lines)


def _beside(widths: Sequence[int], within: int) -> int:
    """How many columns there is room for; at least one."""
    used = -2
    for i, each in enumerate(widths):
        used += 2 + each
        if within and i and used > within:
            return i
    return len(widths)


def pairs(rows: Sequence[tuple[str, str]], within: int | None = None) -> str:
    """Names and what they are, aligned; a name that is longer than half a line has a line of its own.

    What is longer than a line (a path) is cut between its parts; what has several lines keeps them.
    """
    most = width() if within is None else within
    left = max((len(name) for name, _ in rows), default=0) + 2
    left = min(left, most // 2) if most else left
    lines: list[str] = []
    for name, text in rows:
        beside = len(name) + 2 <= left
        lines += [] if beside else fold(name, most, rest=INDENT, cut=True)
        first, *more = text.split("\n")
        lines += fold(first, most, name.ljust(left) if beside else " " * left, " " * left, cut=True)
        lines += [line for each in more for line in fold(each, most, " " * left, " " * left, cut=True)]
    return "\n".join(line.rstrip() for line in lines)


@contextmanager
def progress(quiet: bool = False, notes: bool = False) -> Iterator[Progress]:
    """Bars and notes where stderr is a terminal, else nothing; with `notes`, these anywhere. The bars are gone at
    the end."""
    if quiet or not is_terminal(sys.stderr):
        yield Silent() if quiet or not notes else Notes()
        return
    bars = Bars()
    try:
        yield bars
    finally:
        bars.close()


class Notes(Silent):
    """Notes on stderr, for a log."""

    def note(self, text: str) -> None:
        """One line."""
        note(text)


class Bars:
    """Notes and one bar a task on stderr, by rich, which is imported when the first bar is drawn."""

    def __init__(self) -> None:
        self._bars: Any = None
        self._tasks: dict[str, Any] = {}
        self._drawn_at = 0.0

    def note(self, text: str) -> None:
        """A line above the bars."""
        if self._bars is None:
            note(text)
        else:
            self._bars.console.print(text, markup=False, highlight=False)

    def update(self, what: str, done: int, total: int, unit: str = "B") -> None:
        """Draw `what`; the bars leave the screen when all of them are full."""
        if self._bars is None:
            self._bars = _rich_bars(unit)
            self._bars.start()
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what, total=total or None)
        self._bars.update(self._tasks[what], completed=done)
        now = time.monotonic()
        if done in (0, total) or now - self._drawn_at > EVERY_S:
            self._bars.refresh()
            self._drawn_at = now
        if total and all(t.finished for t in self._bars.tasks):
            self.close()

    def close(self) -> None:
        """Take the bars off the screen."""
        if self._bars is not None:
            self._bars.stop()
        self._bars, self._tasks = None, {}


def _rich_bars(unit: str) -> Any:
    """Bytes get a rate and the time left; anything else a count. No thread draws: it would disturb what is measured."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    amount = [DownloadColumn(), TransferSpeedColumn()] if unit == "B" else [MofNCompleteColumn()]
    text = TextColumn("{task.description}", markup=False)
    console = Console(stderr=True)
    return Progress(
        text, BarColumn(), *amount, TimeRemainingColumn(), console=console, transient=True, auto_refresh=False
    )
