"""Rounds, clean pairs and their ratios: what is kept, what is thrown away, what is reported.

A round runs every engine once, with the read probe first. A pair is memfirst and one other engine of
the same round; it is clean where neither window was spoiled by other processes. Only clean pairs count,
unless all were asked for: then those that were disturbed are counted beside.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.engines import Sample
from benchmarks.noise import Window

OURS = "memfirst"


@dataclass(frozen=True)
class Round:
    """One pass over the engines: the probe's GB/s, and each engine's sample and window, by name."""

    probe_gbps: float
    samples: Mapping[str, Sample]
    windows: Mapping[str, Window]
    unquiet: bool = False

    def spoiled(self, *names: str) -> bool:
        """True where any of these engines' windows was spoiled."""
        return any(self.windows[name].spoiled for name in names)

    def clean(self, *names: str) -> bool:
        """True where these engines' samples count."""
        return self.unquiet or not self.spoiled(*names)


@dataclass(frozen=True)
class Ratio:
    """memfirst ÷ peer, over pairs that count: median and quartiles; pairs discarded, and counted though disturbed."""

    median: float
    q1: float
    q3: float
    values: tuple[float, ...]
    discarded: int
    disturbed: int = 0


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """First quartile, median, third quartile (linear between the values, ends included)."""
    if not values:
        raise ValueError("no values")
    if len(values) == 1:
        return values[0], values[0], values[0]
    q1, q2, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return q1, q2, q3


def ratio(rounds: Sequence[Round], peer: str) -> Ratio:
    """The speed of memfirst over the peer's, pair by pair; ValueError where no pair is clean."""
    clean = [r for r in rounds if r.clean(OURS, peer)]
    values = tuple(r.samples[OURS].tok_s / r.samples[peer].tok_s for r in clean)
    q1, median, q3 = quartiles(values)
    return Ratio(median, q1, q3, values, len(rounds) - len(clean), sum(r.spoiled(OURS, peer) for r in clean))


def speed(rounds: Sequence[Round], name: str) -> float:
    """An engine's median tokens/s over the rounds in which its window was clean."""
    return statistics.median(r.samples[name].tok_s for r in rounds if r.clean(name))


def probe_share(rounds: Sequence[Round]) -> float | None:
    """Median of memfirst's GB/s ÷ the probe's GB/s of the same round; None where it reports no bytes."""
    shares = [
        sample.gbps / r.probe_gbps for r in rounds if r.clean(OURS) and (sample := r.samples[OURS]).gbps is not None
    ]
    return statistics.median(shares) if shares else None


def clean_pairs(rounds: Sequence[Round], peers: Sequence[str]) -> int:
    """Clean pairs of the peer that has fewest; without peers, rounds in which memfirst's window was clean."""
    counts = [sum(r.clean(OURS, peer) for r in rounds) for peer in peers]
    return min(counts) if counts else sum(r.clean(OURS) for r in rounds)
