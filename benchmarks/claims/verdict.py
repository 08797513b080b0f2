"""Cases and what follows from them: a figure beside a criterion, and the verdict over all cases of a statement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

NEAR = 0.10
"""How far a single number may be off and still be right."""

BESIDE = 0.05
"""How far beyond its ends a range may be missed: it has a width already."""


class Verdict(Enum):
    """What a statement is."""

    RIGHT = "right"
    CONDITIONS = "right with conditions"
    WRONG = "wrong"


class Scope(Enum):
    """How much a statement says, by its own words; the value is the rule that its verdict follows."""

    PLAIN = "right if every case holds, wrong if none does, else right with conditions"
    TYPICAL = "said of what is usual: right if two thirds of the cases hold, wrong if less than one third does"
    UNIVERSAL = "said without exception: right if every case holds, wrong if one does not"


@dataclass(frozen=True)
class Case:
    """What was found, what it was held against, and whether that holds. source: of a published figure."""

    figure: str
    criterion: str
    holds: bool
    source: str = ""


def verdict(cases: Sequence[Case], scope: Scope) -> Verdict:
    """What follows from the cases."""
    share = sum(case.holds for case in cases) / len(cases)
    least, none = {Scope.PLAIN: (1.0, 0.0), Scope.TYPICAL: (2 / 3, 1 / 3), Scope.UNIVERSAL: (1.0, 1.0)}[scope]
    if share >= least:
        return Verdict.RIGHT
    return Verdict.WRONG if share < none or not share else Verdict.CONDITIONS


def number(value: float) -> str:
    """Three digits, all of those before the point, no zeros at the end."""
    size = abs(value)
    places = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3
    text = f"{value:.2g}" if 0 < size < 0.1 else f"{value:,.{places}f}"
    text = text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text
    return text.replace("-", "−") if value < 0 else text


def percent(share: float, sign: bool = False) -> str:
    """A share without decimals, with its sign where that says a direction."""
    text = f"{100 * share:+.0f} %" if sign else f"{100 * share:.0f} %"
    return text.replace("-", "−")


def near(what: str, found: float, claimed: float, unit: str = "", source: str = "") -> Case:
    """A claimed number against what was found; `what` names it."""
    off = claimed / found - 1
    figure = f"{what}: {with_unit(found, unit)}, off by {percent(off, sign=True)}"
    return Case(figure, f"within {percent(NEAR)} of {with_unit(claimed, unit)}", abs(off) <= NEAR, source)


def inside(what: str, found: float, low: float, high: float, unit: str = "", source: str = "", of: str = "") -> Case:
    """A claimed range against what was found; `of`: the quantity, where several cases share it."""
    holds = low * (1 - BESIDE) <= found <= high * (1 + BESIDE)
    criterion = f"{of} in {_bare(low, unit)} to {with_unit(high, unit)}".strip()
    return Case(f"{what}: {with_unit(found, unit)}", criterion, holds, source)


def at_least(what: str, found: float, bound: float, unit: str = "", source: str = "", of: str = "") -> Case:
    """Something that must be large."""
    criterion = f"{of} at least {with_unit(bound, unit)}".strip()
    return Case(f"{what}: {with_unit(found, unit)}", criterion, found >= bound, source)


def at_most(what: str, found: float, bound: float, unit: str = "", source: str = "", of: str = "") -> Case:
    """Something that must be small."""
    criterion = f"{of} at most {with_unit(bound, unit)}".strip()
    return Case(f"{what}: {with_unit(found, unit)}", criterion, found <= bound, source)


def _bare(value: float, unit: str) -> str:
    """The lower end of a range."""
    return number(100 * value if unit == "%" else value)


def with_unit(value: float, unit: str) -> str:
    """A number with its unit: "×" stands before it, "%" takes a share."""
    if unit == "×":
        return f"×{number(value)}"
    if unit == "%":
        return f"{number(100 * value)} %"
    return f"{number(value)} {unit}".strip()
