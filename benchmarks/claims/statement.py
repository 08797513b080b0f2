"""A statement of the article, as data with its test; the outcome is computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.claims.verdict import Case, Scope, Verdict, verdict

Test = Callable[[], Sequence[Case]]
"""Computes the figures of a statement."""


@dataclass(frozen=True)
class Statement:
    """number: its place in the article; quote: a few of its words.

    command  what a stranger types to see the figure; "": `python -m benchmarks.claims --claim NUMBER`
    truth    one sentence, whatever the verdict
    """

    number: int
    quote: str
    truth: str
    test: Test
    command: str = ""
    scope: Scope = Scope.PLAIN

    @property
    def shell(self) -> str:
        """The command that tests it."""
        return self.command or f"python -m benchmarks.claims --claim {self.number}"

    def outcome(self) -> Outcome:
        """The test's figures and what follows from them."""
        cases = tuple(self.test())
        return Outcome(self, cases, verdict(cases, self.scope))


@dataclass(frozen=True)
class Outcome:
    """What a statement's test found."""

    statement: Statement
    cases: tuple[Case, ...]
    verdict: Verdict


@dataclass(frozen=True)
class Opinion:
    """A statement that no figure decides: rhetoric, forecast or taste."""

    number: int
    quote: str
    why: str


@dataclass(frozen=True)
class Section:
    """A section of the article."""

    title: str
    entries: tuple[Statement | Opinion, ...]

    @property
    def statements(self) -> tuple[Statement, ...]:
        """Those that can be tested."""
        return tuple(e for e in self.entries if isinstance(e, Statement))

    @property
    def opinions(self) -> tuple[Opinion, ...]:
        """Those that cannot."""
        return tuple(e for e in self.entries if isinstance(e, Opinion))
