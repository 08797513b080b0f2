"""Tokens per second of a step, beside the ceiling that the bandwidth sets; a step may draft tokens and check them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memfirst.predict.fitted import Prediction, Term

DRAFT = "draft"
"""The term of a speculating step that the drafting model takes."""


@dataclass(frozen=True)
class Speed:
    """A predicted step. Seconds with the 80 % interval [low, high]; None where a rate of the machine is unknown.

    tokens   new tokens that it is expected to give, of all sequences together
    nbytes   that it reads; ceiling: tokens/s that the peak bandwidth alone allows, None where unknown
    terms    add up to seconds; binding: the largest of them
    """

    seconds: float | None
    low: float | None
    high: float | None
    tokens: float
    nbytes: float
    ceiling: float | None
    terms: tuple[Term, ...]
    binding: str
    mbu: float | None
    mfu: float | None
    notes: tuple[str, ...] = ()

    @property
    def rate(self) -> float | None:
        """Tokens/s of all sequences together."""
        return self.tokens / self.seconds if self.seconds else None

    @property
    def slowest(self) -> float | None:
        """Tokens/s at the slow end of the interval."""
        return self.tokens / self.high if self.high else None

    @property
    def fastest(self) -> float | None:
        """Tokens/s at the fast end of the interval."""
        return self.tokens / self.low if self.low else None

    @property
    def shares(self) -> tuple[tuple[str, float], ...]:
        """Terms by their share of the time, the largest first."""
        total = self.seconds or 1.0
        return tuple(sorted(((t.name, t.seconds / total) for t in self.terms), key=lambda share: -share[1]))


def speed(found: Prediction, tokens: float, nbytes: float, bandwidth: float | None) -> Speed:
    """A prediction of a step that gives `tokens` and reads `nbytes`, on devices of `bandwidth` bytes/s together."""
    ceiling = bandwidth * tokens / nbytes if bandwidth and nbytes else None
    return Speed(
        found.seconds, found.low, found.high, tokens, nbytes, ceiling, found.terms, found.binding, found.mbu, found.mfu,
        found.notes,
    )  # fmt: skip


def drafted(check: Speed, draft: Sequence[Speed], tokens: float, bandwidth: float | None) -> Speed:
    """A step that checks what `draft` (one step each) wrote: times and bytes add up, and so do their intervals."""
    parts = (check, *draft)
    nbytes = sum(p.nbytes for p in parts)
    ceiling = bandwidth * tokens / nbytes if bandwidth and nbytes else None
    seconds, low, high = (_sum([getattr(p, name) for p in parts]) for name in ("seconds", "low", "high"))
    terms = check.terms
    if draft and seconds is not None:
        terms += (Term(DRAFT, sum(d.seconds or 0.0 for d in draft)),)
    binding = max(terms, key=lambda t: t.seconds).name if terms else ""
    mbu = nbytes / (seconds * bandwidth) if seconds and bandwidth else None
    mfu = sum((p.mfu or 0.0) * (p.seconds or 0.0) for p in parts) / seconds if seconds and check.mfu else None
    return Speed(seconds, low, high, tokens, nbytes, ceiling, terms, binding, mbu, mfu, check.notes)


def _sum(values: Sequence[float | None]) -> float | None:
    """None where one of them is not known."""
    known = [v for v in values if v is not None]
    return sum(known) if len(known) == len(values) else None
