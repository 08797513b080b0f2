"""How many drafted tokens are worth checking, so that an answer cannot lose by it.

Times are in units of t(1), a step of one token. A step of n tokens takes t(n) = 1 + slope · (n − FIRST): measured, it
is nearly a line, whose first row costs a little more than each further one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

LENGTHS = (1, 2, 3, 5, 9, 17)
"""Lengths of a match from which on one counts for itself."""

PRIOR = (0.25, 0.45, 0.6, 0.8, 0.9, 0.93)
"""The share of drafted tokens accepted there, until it is known better: of one model's answers to twelve prompts."""

MODEL, MODEL_PRIOR = -1, 0.7
"""What stands for a match where a draft model proposes, and the share of its tokens accepted until it is known."""

WEIGHT, MEMORY = 3.0, 0.98
"""Drafted tokens that the prior counts for, and what is left of a count with each later draft."""

LOSS, GRANT, MODEL_GRANT = 0.01, 0.5, 2.0
"""What an answer may lose at most: a share of its time, and steps that may be risked before anything was won. With a
draft model a failed first draft costs 0.3 to 0.5: two steps are enough to know its share by."""

WORTH = 1.01
"""A row more must raise tokens per time by this: less is noise."""

FIRST, SLOPE = 0.7, 0.2
"""See above; the slope until it was measured: 0.13 with VNNI, 0.27 without (SmolLM2 135M, 256 positions)."""

UNITS, SLOPES, AGAIN = 31, 63, 8
"""Steps that the medians are over, and how many come before they are taken again: 5 µs."""


class Costs:
    """What steps of one engine take: t(1) in seconds and the slope, medians of its last steps.

    A median for each number of rows misjudges rare ones for minutes beside busy neighbours.
    """

    def __init__(self, slope: float = SLOPE) -> None:
        self.slope = slope
        self._units: deque[float] = deque(maxlen=UNITS)
        self._slopes: deque[float] = deque([slope] * 5, maxlen=SLOPES)
        self._unit = 0.0
        self._count = 0

    @property
    def unit(self) -> float:
        """t(1) in seconds; 0 until it was measured."""
        return self._unit

    def of(self, rows: int) -> float:
        """t(rows)."""
        return 1.0 if rows < 2 else 1.0 + self.slope * (rows - FIRST)

    def learn(self, rows: int, drafted: int, seconds: float) -> None:
        """A step of so many rows, of which `drafted` were drafts, took so long."""
        if not drafted:
            self._units.append(seconds / self.of(rows))
        elif self._unit:
            self._slopes.append((seconds / self._unit - 1) / (rows - FIRST))
        self._count += 1
        if self._count % AGAIN == 0 or not self._unit:
            self._unit = median(self._units) if len(self._units) >= 5 else 0.0
            self.slope = max(median(self._slopes), 0.02)


class Account:
    """One answer's: what share of drafts is accepted, and what drafts have won and lost so far.

    model  the share of a draft model's tokens, as far as other answers say
    """

    def __init__(self, loss: float = LOSS, grant: float = GRANT, model: float = MODEL_PRIOR) -> None:
        self._loss, self._grant = loss, grant
        priors = (*PRIOR, model)  # the last is MODEL's: index -1
        self._hits = [WEIGHT * share for share in priors]
        self._misses = [WEIGHT * (1 - share) for share in priors]
        self.plain = self.won = 0.0
        """What the tokens so far would have taken one at a time, and how much less they took."""

    def share(self, match: int) -> float:
        """The chance that a drafted token is accepted, given that all before it were."""
        i = _kind(match)
        return self._hits[i] / (self._hits[i] + self._misses[i])

    @property
    def allowed(self) -> float:
        """What may be lost now, should a draft fail."""
        return self._grant + self._loss * self.plain + self.won

    def learn(self, match: int, drafted: int, accepted: int, each: float, cost: float) -> None:
        """A step gave `accepted` of `drafted` tokens and one more.

        each  what a token takes without drafts; cost: what the drafted rows took
        """
        self.plain += each * (accepted + 1)
        self.won += each * accepted - cost
        if drafted:
            i = _kind(match)
            self._hits[i] = self._hits[i] * MEMORY + accepted
            self._misses[i] = self._misses[i] * MEMORY + (accepted < drafted)


def alike(came: Sequence[int], draft: Sequence[int]) -> int:
    """How many tokens both begin with."""
    return next((n for n, (a, b) in enumerate(zip(came, draft, strict=False)) if a != b), min(len(came), len(draft)))


def _kind(match: int) -> int:
    """Of a match's length; -1, the last, of `MODEL`."""
    return bisect_right(LENGTHS, match) - 1


class Offer(NamedTuple):
    """A sequence's draft: how many tokens there are, of a match of what length, or of `MODEL`; and what each takes to
    be made, besides its row."""

    account: Account
    match: int
    tokens: int
    each: float = 0.0


def worth(offer: Offer, rows: int, most: int, costs: Costs) -> float:
    """The most tokens a time that a step of `rows` rows gives with some of this draft, where t(1) is 1."""
    best, tokens, chance = rows / costs.of(rows), float(rows), 1.0
    for k in range(1, min(offer.tokens, most - rows) + 1 if offer.match else 1):
        chance *= offer.account.share(offer.match)
        tokens += chance
        best = max(best, tokens / (costs.of(rows + k) + k * offer.each))
    return best


def sizes(offers: Sequence[Offer], rows: int, most: int, costs: Costs) -> list[int]:
    """How many tokens of each draft to check in a step of `rows` rows and up to `most`.

    Rows go to the sequences by falling chance that they give a token, p^j for the j-th of a draft, and as many are
    taken as give the most tokens a second: (rows + Σ p^j) / (t(rows + k) + what k tokens take to be drafted).
    """
    chances: list[tuple[float, int]] = []
    for i, offer in enumerate(offers):
        if not offer.match or rows >= most:
            continue
        share = chance = offer.account.share(offer.match)
        for j in range(1, min(offer.tokens, most - rows) + 1):
            if costs.of(rows + j) - costs.of(rows) + j * offer.each > offer.account.allowed:
                break
            chances.append((chance, i))
            chance *= share
    chances.sort(key=lambda one: -one[0])  # stable: of a draft the first comes first
    best, tokens, taken, drafting = rows / costs.of(rows), float(rows), 0, 0.0
    for k, (chance, i) in enumerate(chances[: most - rows], 1):
        tokens, drafting = tokens + chance, drafting + offers[i].each
        rate = tokens / (costs.of(rows + k) + drafting)
        if rate > best * WORTH:
            best, taken = rate, k
    counts = [0] * len(offers)
    for _, i in chances[:taken]:
        counts[i] += 1
    return counts
