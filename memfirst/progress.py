"""How long work reports what it does: a protocol, so that no library code prints or draws."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """What `load`, `resolve` and the like are told to report to; `cli.display` draws it on a terminal."""

    def note(self, text: str) -> None:
        """One line that says what happens next ("asking the hub for …")."""

    def update(self, what: str, done: int, total: int, unit: str = "B") -> None:
        """`done` of `total` units of `what`; `total` 0 where it is not known, `done == total` ends it."""


class Silent:
    """Reports nothing: what a library user gets without asking."""

    def note(self, text: str) -> None:
        """Say nothing."""

    def update(self, what: str, done: int, total: int, unit: str = "B") -> None:
        """Draw nothing."""
