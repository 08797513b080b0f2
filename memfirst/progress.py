"""How long work reports what it does: a protocol, so that no other library code prints or draws."""

from __future__ import annotations

import sys
from typing import Protocol


class Progress(Protocol):
    """What `load`, `resolve` and the like are told to report to; `cli.display` draws it on a terminal."""

    def note(self, text: str) -> None:
        """One line that says what happens next ("asking the hub for …")."""

    def update(self, what: str, done: int, total: int, unit: str = "B") -> None:
        """`done` of `total` units of `what`; `total` 0 where it is not known, `done == total` ends it."""


class Announcing:
    """One line on stderr when long work begins: what a library user gets of `load` without asking."""

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


class Silent:
    """Reports nothing."""

    def note(self, text: str) -> None:
        """Say nothing."""

    def update(self, what: str, done: int, total: int, unit: str = "B") -> None:
        """Draw nothing."""
