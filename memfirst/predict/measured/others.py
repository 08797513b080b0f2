"""Another engine's measured rows, explained by the bytes of the model that it ran."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memfirst.graph import Graph, Step, decode
from memfirst.graph.traffic import KV_READ
from memfirst.ledger import price
from memfirst.predict.llama_bench import Row
from memfirst.predict.measured.store import Rates, nearest


@dataclass(frozen=True)
class Explained:
    """One row with what a token of it moved.

    context    mean positions that a decoded token attended; 0 for prompts
    streamed   bytes a token from memory; kv: those of keys and values among them
    flops      operations of a token
    ceiling    bytes/s that this machine reads with the row's threads; None where it was not measured
    """

    row: Row
    context: float
    streamed: float
    kv: float
    flops: float
    ceiling: float | None

    @property
    def rate(self) -> float:
        """Bytes per second that the row's speed means."""
        return self.streamed * self.row.avg_ts

    @property
    def share(self) -> float | None:
        """Of what the machine reads."""
        return None if self.ceiling is None else self.rate / self.ceiling


@dataclass(frozen=True)
class Slope:
    """How time grows with the context: seconds a token, at no context and for each position, by least squares."""

    start: float
    position: float
    kv_bytes: float

    @property
    def kv_rate(self) -> float:
        """Bytes of keys and values per second that the growth means; infinite where time did not grow."""
        return self.kv_bytes / self.position if self.position > 0 else float("inf")


def explain(graph: Graph, rows: Sequence[Row], rates: Rates | None) -> list[Explained]:
    """Each row beside its bytes: of decoding at its mean context, or of its whole prompt by token."""
    return [_one(graph, row, rates) for row in rows if row.n_gen or row.n_prompt]


def _one(graph: Graph, row: Row, rates: Rates | None) -> Explained:
    ceiling = nearest(rates.read, row.n_threads) if rates and row.n_threads else None
    if row.decodes:
        context = row.n_depth + row.n_gen / 2
        streamed, kv, flops = _priced(graph, decode(round(context)))
        return Explained(row, context, streamed, kv, flops, ceiling)
    tokens = row.n_prompt + row.n_gen
    past = row.n_depth + row.n_prompt // 2
    streamed, kv, flops = _priced(graph, decode(past))
    batch = max(1, min(row.n_ubatch or row.n_prompt, row.n_prompt))
    return Explained(row, 0.0, (streamed - kv) / batch * row.n_prompt / tokens + kv / batch, kv / batch, flops, ceiling)


def _priced(graph: Graph, step: Step) -> tuple[float, float, float]:
    ledger = price(graph, step)
    kv = ledger.by_purpose().get(KV_READ)
    return ledger.streamed.mean, kv.mean if kv else 0.0, float(graph.flops(step))


def slope(explained: Sequence[Explained]) -> Slope | None:
    """Over the rows that decode at several depths; None where there are none."""
    points = [(e.context, e.row.seconds_per_token, e.kv) for e in explained if e.row.decodes]
    if len({context for context, _, _ in points}) < 2:
        return None
    mean_x, mean_y = (sum(p[i] for p in points) / len(points) for i in (0, 1))
    spread = sum((x - mean_x) ** 2 for x, _, _ in points)
    position = sum((x - mean_x) * (y - mean_y) for x, y, _ in points) / spread
    kv = sum((x - mean_x) * kv for x, _, kv in points) / spread
    return Slope(mean_y - position * mean_x, position, kv)


HEAD = ("test", "threads", "tok/s", "MB/token", "GB/s", "of what it reads", "GFLOP/s")


def rows(explained: Sequence[Explained]) -> list[tuple[str, ...]]:
    """A line each, under HEAD."""
    return [_cells(e) for e in explained]


def _cells(e: Explained) -> tuple[str, ...]:
    name = f"tg{e.row.n_gen}" if e.row.decodes else f"pp{e.row.n_prompt}"
    name += f" @ {e.row.n_depth}" if e.row.n_depth else ""
    share = "-" if e.share is None else f"{100 * e.share:.0f} %"
    rates = f"{e.row.avg_ts:.1f}", f"{e.streamed / 1e6:.1f}", f"{e.rate / 1e9:.1f}", share
    return name, str(e.row.n_threads or "-"), *rates, f"{e.flops * e.row.avg_ts / 1e9:.1f}"


def growth(explained: Sequence[Explained]) -> str:
    """How a token's time grows with the context, in words; "" where that was not measured."""
    found = slope(explained)
    if found is None:
        return ""
    grows = f"{1e6 * found.position:.3g} us a position of context"
    if found.position > 0:
        grows += f": its {found.kv_bytes / 1e3:.1f} kB come at {found.kv_rate / 1e9:.1f} GB/s"
    return f"a token takes {1e3 * found.start:.3g} ms without context, and {grows}"
