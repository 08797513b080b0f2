"""A model's bytes at the contexts that were measured, and the share of a bandwidth that the times come to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memfirst.graph import Graph, decode
from memfirst.graph.traffic import KV_READ
from memfirst.ledger import price as priced
from memfirst.measure.probe.fit import Line


@dataclass(frozen=True)
class Price:
    """Bytes of a decoded token: `fixed` whatever the context, and `per_context` for each token of it."""

    fixed: float
    per_context: float


@dataclass(frozen=True)
class Shares:
    """Rates in bytes/s, and what part of `bandwidth` they are; None where the model or the bandwidth is not known."""

    weights_rate: float | None
    kv_rate: float | None
    bandwidth: float | None

    @property
    def weights(self) -> float | None:
        """Of the bandwidth, while what does not depend on the context is read: overheads count against it."""
        return _share(self.weights_rate, self.bandwidth)

    @property
    def kv(self) -> float | None:
        """Of the bandwidth, while the context is read."""
        return _share(self.kv_rate, self.bandwidth)


def _share(rate: float | None, bandwidth: float | None) -> float | None:
    return rate / bandwidth if rate is not None and bandwidth else None


def price(graph: Graph, contexts: Sequence[float]) -> Price:
    """Bytes of `graph`, by a straight line through those of `contexts`: a window or two bend it as they bend times."""
    ledgers = [priced(graph, decode(max(0, round(c) - 1))) for c in contexts]
    kv = [float(ledger.by_purpose()[KV_READ].mean) if KV_READ in ledger.by_purpose() else 0.0 for ledger in ledgers]
    slope = _slope(contexts, kv)
    mean = sum(contexts) / len(contexts)
    streamed = sum(ledger.streamed.mean for ledger in ledgers) / len(ledgers)
    return Price(streamed - slope * mean, slope)


def _slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Least squares; with one x, bytes per token of that context."""
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - mean_x) ** 2 for x in xs)
    if spread <= 0:
        return mean_y / mean_x if mean_x else 0.0
    return sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / spread


def shares(line: Line, cost: Price | None, bandwidth: float | None) -> Shares:
    """What `line` (seconds per token against context) means in bytes per second."""
    if cost is None:
        return Shares(None, None, bandwidth)
    fixed = cost.fixed / line.intercept if line.intercept > 0 else None
    grows = cost.per_context / line.slope if line.slope > 0 and cost.per_context > 0 else None
    return Shares(fixed, grows, bandwidth)
