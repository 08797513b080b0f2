"""What is predicted of a step: one type, whether from fitted priors, from measured rates, or of several steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

DRAFT = "draft"
"""The term of a speculative step that the draft model takes."""


@dataclass(frozen=True)
class Term:
    """One part of the time."""

    name: str
    seconds: float


@dataclass(frozen=True)
class Prediction:
    """Seconds of a step with the 80 % interval [low, high]; None where the machine's row lacks a rate."""

    seconds: float | None
    low: float | None
    high: float | None
    terms: tuple[Term, ...]
    """They add up to `seconds`."""
    binding: str
    """The largest of the terms, "" without a number."""
    tokens: float
    """New tokens that the step is expected to give, of all sequences together."""
    mbu: float | None = None
    """Share of the peak bandwidth that it reaches."""
    mfu: float | None = None
    """Share of the peak of matrix units that it reaches."""
    notes: tuple[str, ...] = field(default=())
    """What is known where there is no number; else what the number rests on."""
    nbytes: float = 0.0
    """That it reads."""
    ceiling: float | None = None
    """Tokens/s that the peak bandwidth alone allows; None where that is unknown."""

    @property
    def tokens_per_second(self) -> float | None:
        """Of all sequences of the step together."""
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

    def of(self, tokens: float, nbytes: float, bandwidth: float | None) -> Prediction:
        """The same step, giving `tokens` and reading `nbytes`, on devices of `bandwidth` bytes/s together."""
        return replace(self, tokens=tokens, nbytes=nbytes, ceiling=_ceiling(tokens, nbytes, bandwidth))

    def widened(self, factor: float) -> Prediction:
        """The same with an interval that is `factor` times wider at both ends."""
        low, high = self.low, self.high
        return replace(self, low=None if low is None else low / factor, high=None if high is None else high * factor)


def speculative(check: Prediction, drafts: Sequence[Prediction], bandwidth: float | None) -> Prediction:
    """A step that checks what `drafts` (one step each) wrote: times and bytes add up, and so do their intervals."""
    parts = (check, *drafts)
    nbytes = sum(p.nbytes for p in parts)
    seconds, low, high = (_sum([getattr(p, name) for p in parts]) for name in ("seconds", "low", "high"))
    terms = check.terms
    if drafts and seconds is not None:
        terms += (Term(DRAFT, sum(d.seconds or 0.0 for d in drafts)),)
    return replace(
        check, seconds=seconds, low=low, high=high, terms=terms, nbytes=nbytes,
        binding=max(terms, key=lambda t: t.seconds).name if terms else "",
        mbu=nbytes / (seconds * bandwidth) if seconds and bandwidth else None,
        mfu=sum((p.mfu or 0.0) * (p.seconds or 0.0) for p in parts) / seconds if seconds and check.mfu else None,
        ceiling=_ceiling(check.tokens, nbytes, bandwidth),
    )  # fmt: skip


def _ceiling(tokens: float, nbytes: float, bandwidth: float | None) -> float | None:
    return bandwidth * tokens / nbytes if bandwidth and nbytes else None


def _sum(values: Sequence[float | None]) -> float | None:
    """None where one of them is not known."""
    known = [v for v in values if v is not None]
    return sum(known) if len(known) == len(values) else None
