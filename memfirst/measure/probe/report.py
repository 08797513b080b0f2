"""What a probe found, as a page and as JSON: times, rates, and the share of bandwidth that they come to."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from memfirst.graph import Graph
from memfirst.measure.probe.fit import Line
from memfirst.measure.probe.price import Price, Shares, price, shares
from memfirst.measure.probe.run import Measured


@dataclass(frozen=True)
class Report:
    """A probe beside a model's bytes and a bandwidth, where they were given.

    bandwidth   bytes/s, and where it comes from
    """

    measured: Measured
    model: str = ""
    cost: Price | None = None
    bandwidth: float | None = None
    bandwidth_of: str = ""

    @property
    def shares(self) -> Shares:
        """Bandwidth reached; nothing where no line could be fitted."""
        line = self.measured.decode
        return shares(line, self.cost, self.bandwidth) if line else Shares(None, None, self.bandwidth)

    def json(self) -> dict[str, Any]:
        """All figures by name: seconds, bytes, tokens per second."""
        m, found = self.measured, self.shares
        return {
            "url": m.address, "server": asdict(m.server), "requests": m.requests, "seconds": m.seconds,
            "tokens_counted_by": m.counted,
            "decode": _line(m.decode, "seconds_per_token", "seconds_per_context_token"),
            "prefill": _line(m.prefill, "seconds_to_first_token", "seconds_per_prompt_token"),
            "contexts": [asdict(s) | {"tok_s": 1 / s.seconds} for s in m.samples],
            "concurrency": [asdict(r) for r in m.rows],
            "model": self.model or None, "bytes": asdict(self.cost) if self.cost else None,
            "bandwidth_GBps": self.bandwidth / 1e9 if self.bandwidth else None,
            "bandwidth_of": self.bandwidth_of or None,
            "weights_GBps": _giga(found.weights_rate), "kv_GBps": _giga(found.kv_rate),
            "weights_share": found.weights, "kv_share": found.kv,
            "notes": list(m.notes),
        }  # fmt: skip

    def page(self) -> str:
        """For people."""
        blocks = [[self._head()], self._fits(), self._contexts(), self._crowd(), self._bandwidth(), self._notes()]
        return "\n\n".join("\n".join(block) for block in blocks if block)

    def _head(self) -> str:
        s = self.measured.server
        limits = [f"{s.context:,} tokens of context" if s.context else "", f"{s.slots} slots" if s.slots else ""]
        kind = "an OpenAI-compatible server" if s.kind == "unknown" else f"{s.kind} {s.version}".strip()
        kind = s.version if s.version.startswith("memfirst") else kind  # which answers as llama.cpp's server does
        parts = [self.measured.address, kind, _last(s.model), *limits]
        return " · ".join(p for p in parts if p)

    def _fits(self) -> list[str]:
        m, lines = self.measured, []
        if m.decode:
            d = m.decode
            lines.append(
                f"  a token takes {_ms(d.intercept)}{_error(d.intercept_error, 1e3, 'ms')}"
                f" and {_digits(1e6 * d.slope)} µs{_error(d.slope_error, 1e6, 'µs')} for each token of context"
            )
        if m.prefill and m.prefill.slope > 0:
            p = m.prefill
            beside = f", and {_ms(p.intercept)} to begin with" if p.intercept > 0 else ""
            lines.append(f"  a prompt goes at {1 / p.slope:.0f} tok/s{beside}")
        return lines

    def _contexts(self) -> list[str]:
        lines = [f"  {'context':>8}{'tok/s':>9}{'ms/token':>10}{'first token ms':>16}"]
        for s in sorted(self.measured.samples, key=lambda s: s.context):
            lines.append(f"  {s.context:8.0f}{1 / s.seconds:9.1f}{1e3 * s.seconds:10.2f}{1e3 * s.first_s:16.0f}")
        return lines

    def _crowd(self) -> list[str]:
        rows = self.measured.rows
        if len(rows) < 2:
            return []
        head = [f"  {'streams':>8}{'tok/s':>9}{'each':>10}{'first token ms':>16}"]
        return head + [f"  {r.streams:8}{r.tok_s:9.1f}{1 / r.seconds:10.1f}{1e3 * r.first_s:16.0f}" for r in rows]

    def _bandwidth(self) -> list[str]:
        found, line = self.shares, self.measured.decode
        if not line:
            return []
        of = f"{self.bandwidth / 1e9:.4g} GB/s ({self.bandwidth_of})" if self.bandwidth else ""
        if self.cost is None:
            most = line.intercept * self.bandwidth if self.bandwidth else 0
            return [f"  at {of} a token can read {most / 1e6:.4g} MB in that time, at most"] if most > 0 else []
        name = _last(self.model)
        return [
            f"  {name}: {self.cost.fixed / 1e6:.4g} MB a token, {_rate(found.weights_rate, found.weights)}",
            f"  {'':{len(name)}}  {self.cost.per_context / 1e3:.4g} kB a token of context,"
            f" {_rate(found.kv_rate, found.kv)}",
            *([f"  shares are of {of}; what is not reading (sampling, the network) counts against them"] * bool(of)),
        ]

    def _notes(self) -> list[str]:
        m = self.measured
        return [
            *(f"  note: {n}" for n in m.notes),
            f"  {m.requests} requests in {m.seconds:.0f} s; tokens by {m.counted}",
        ]


def report(measured: Measured, model: str, graph: Graph | None, bandwidth: float | None, bandwidth_of: str) -> Report:
    """A probe beside the bytes of `graph` at the contexts that were measured."""
    cost = price(graph, [s.context for s in measured.samples]) if graph else None
    return Report(measured, model, cost, bandwidth, bandwidth_of)


def _last(name: str) -> str:
    """Of a path, the file's name."""
    return name.rpartition("/")[2] if name.startswith(("/", ".")) else name


def _line(line: Line | None, intercept: str, slope: str) -> dict[str, Any] | None:
    if line is None:
        return None
    return {
        intercept: line.intercept, slope: line.slope, f"{intercept}_error": line.intercept_error,
        f"{slope}_error": line.slope_error, "points": line.points,
    }  # fmt: skip


def _giga(rate: float | None) -> float | None:
    return rate / 1e9 if rate is not None else None


def _ms(seconds: float) -> str:
    return f"{_digits(1e3 * seconds)} ms"


def _digits(value: float) -> str:
    """Three digits that count, never as a power of ten."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}" if abs(value) >= 0.01 else f"{value:.4f}"


def _error(error: float | None, scale: float, unit: str) -> str:
    return "" if error is None else f" (± {_digits(scale * error)} {unit})"


def _rate(rate: float | None, share: float | None) -> str:
    if rate is None:
        return "too little to tell"
    return f"{rate / 1e9:.3g} GB/s" + (f", {100 * share:.0f} % of the bandwidth" if share is not None else "")
