"""Fit the planner's constants to published speeds, and measure it on sources that the fit has not seen.

    OPENBLAS_NUM_THREADS=1 python -m benchmarks.fit_timing           # evaluate, print, write constants and figures
    python -m benchmarks.fit_timing --check   # evaluate and print only

Each author's rows are left out in turn; their predictions come from a fit to all other authors' rows, which also
estimates spreads and machines' own levels anew. Their interval's width comes from errors on the other authors' rows,
left out alike. Every source x machine counts once: its rows weigh 1/n. Minutes: a fit for each of 44 authors.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np

from benchmarks import planned_rows
from benchmarks import timing_model as tm
from benchmarks.measured_rows import DATA, Left, Row, prompts, read
from memfirst.predict.fitted.pieces import where
from memfirst.predict.fitted.predict import CEILING, INSIDE_80
from memfirst.predict.fitted.priors import ALL, UNIT

CATALOG = Path(__file__).parent.parent / "memfirst" / "catalog"
MADE = "python -m benchmarks.fit_timing, from benchmarks/data/measured_*.csv"
PRIORS, PUBLISHED = CATALOG / "priors.json", CATALOG / "published.json"
FIGURES = DATA / "timing_figures.json"
"""What the last run of this script found: tests compute a part of it again."""


@dataclass(frozen=True)
class Score:
    """Figures in which each source x machine counts once, but for those by row.

    by_row   median error of all rows; tenth: what nine of ten rows are below
    median   error of the speed; nine: what nine of ten are below; mean_of_medians: mean, over source x machine, of the
             median of its rows
    inside   share of rows in the 80 % interval; ratio: median of its high over its low end
    fastest  the highest share of the peak bandwidth predicted
    """

    rows: int
    cells: int
    by_row: float
    tenth: float
    median: float
    nine: float
    mean_of_medians: float
    inside: float
    ratio: float
    fastest: float


def weighted_quantile(values: tm.F64, weights: tm.F64, share: float) -> float:
    """The value below which `share` of the weight lies."""
    order = np.argsort(values)
    reached = np.cumsum(weights[order]) / weights.sum()
    return float(values[order][min(int(np.searchsorted(reached, share)), len(values) - 1)])


def by_cell(cells: tm.Index) -> tm.F64:
    """1/n for each row of a source x machine of n rows."""
    _, inverse, counts = np.unique(cells, return_inverse=True, return_counts=True)
    weights: tm.F64 = 1 / counts[inverse]
    return weights


@dataclass(frozen=True)
class LeftOut:
    """Predictions of every row by a fit that has not seen its author. log_seconds, spread: [n]; fits by author."""

    log_seconds: tm.F64
    spread: tm.F64
    fits: Mapping[int, tm.Fit]


def leave_out(t: tm.Table, authors: Sequence[int] | None = None) -> LeftOut:
    """Leave each author out in turn, or those named."""
    log_seconds, spread = np.zeros(len(t.y)), np.ones(len(t.y))
    fits = {}
    for author in np.unique(t.author) if authors is None else authors:
        out = np.flatnonzero(t.author == author)
        fits[int(author)] = fitted = tm.fit(t, np.flatnonzero(t.author != author))
        log_seconds[out], _, covariance = tm.predict(t, fitted, out)
        spread[out] = np.sqrt(np.diag(covariance) + _row(fitted) ** 2)
    return LeftOut(log_seconds, spread, fits)


def _row(fitted: tm.Fit) -> float:
    return fitted.spreads[tm.ROW][ALL]


@dataclass(frozen=True)
class Missed:
    """Predictions against measurements: error: log measured - log predicted seconds; spread: as predicted.

    share  of the peak bandwidth that is predicted
    """

    error: tm.F64
    spread: tm.F64
    share: tm.F64
    cell: tm.Index
    author: tm.Index

    @property
    def widening(self) -> float:
        """Factor on the spread so that 80 % of rows of a further source x machine fall inside, as far as these m say.

        Conformal prediction: the share 0.8·(m + 1)/m of theirs.
        """
        m = len(np.unique(self.cell))
        share = min(1.0, 0.8 * (m + 1) / m)
        return weighted_quantile(np.abs(self.error) / self.spread, by_cell(self.cell), share) / INSIDE_80


def unknown(t: tm.Table, found: LeftOut, among: tm.Index) -> Missed:
    """Predictions without any row of the source."""
    error = (t.y - found.log_seconds)[among]
    share = CEILING * np.exp(t.least - found.log_seconds)[among]
    return Missed(error, found.spread[among], share, t.cell[among], t.author[among])


def one_known(t: tm.Table, found: LeftOut, among: tm.Index) -> Missed:
    """Predictions with one row of that source, machine and engine known: every row in turn is the known one."""
    parts = [_one_known(t, found, among[t.cell[among] == cell]) for cell in np.unique(t.cell[among])]
    fields = ("error", "spread", "share", "cell", "author")
    return Missed(*(np.concatenate([getattr(part, field) for part in parts]) for field in fields))


def _one_known(t: tm.Table, found: LeftOut, at: tm.Index) -> Missed:
    fitted = found.fits[int(t.author[at[0]])]
    _, mean, shared = tm.predict(t, fitted, at)
    shared = shared + _row(fitted) ** 2 * np.eye(len(at))
    gain = shared / np.diag(shared)  # [asked, known]
    after = np.maximum(mean[:, None] + gain * (t.y[at] - mean), t.least[at][:, None] + tm.NEAREST)
    left = np.sqrt(np.maximum(np.diag(shared)[:, None] - gain * shared.T, _row(fitted) ** 2))
    pairs = (t.engine[at][:, None] == t.engine[at]) & ~np.eye(len(at), dtype=bool)
    same = np.zeros(int(pairs.sum()), np.intp)
    share = CEILING * np.exp(t.least[at][:, None] - after)
    return Missed(
        (t.y[at][:, None] - after)[pairs], left[pairs], share[pairs], same + t.cell[at[0]], same + t.author[at[0]]
    )  # fmt: skip


Question = Callable[[tm.Table, LeftOut, tm.Index], Missed]


def evaluate(t: tm.Table, ask: Question, found: LeftOut, among: tm.Index) -> Score:
    """An author's interval is as wide as the other authors' errors say."""
    missed = ask(t, found, among)
    widen = np.ones(len(missed.error))
    for author in np.unique(missed.author):
        others = among[t.author[among] != author]
        widen[missed.author == author] = ask(t, found, others).widening
    return score(missed, widen)


def score(missed: Missed, widen: tm.F64) -> Score:
    """Figures of predictions, their spreads widened by row."""
    weights, off = by_cell(missed.cell), np.abs(np.expm1(missed.error))  # predicted speed over measured, less 1
    reach = INSIDE_80 * widen * missed.spread
    medians = [float(np.median(off[missed.cell == c])) for c in np.unique(missed.cell)]
    inside = float(weights[np.abs(missed.error) < reach].sum() / weights.sum())
    ratio = weighted_quantile(np.exp(2 * reach), weights, 0.5)
    median, nine = (weighted_quantile(off, weights, share) for share in (0.5, 0.9))
    fastest = float(missed.share.max())
    by_row, tenth = float(np.median(off)), float(np.quantile(off, 0.9))
    return Score(len(off), len(medians), by_row, tenth, median, nine, float(np.mean(medians)), inside, ratio, fastest)


def write(t: tm.Table, fitted: tm.Fit, widen: float, widen_known: float) -> None:
    """The constants with their spread, and what is known of single machines, for `memfirst.predict.fitted`."""
    names = {code: "|".join(tm.machine_key(row)) for row, code in zip(t.rows, t.groups[tm.MACHINE], strict=True)}
    own = tuple(tm.START[tm.MACHINE])
    levels = {
        names[g]: [[round(float(v), 3) for v in level.means], *_lower(level.covariance)]
        for g, level in sorted(fitted.levels.items(), key=lambda item: names[item[0]])
    }
    data = {
        "made": MADE, "rows": len(t.y), "widen": round(widen, 3), "widen_known": round(widen_known, 3),
        "before": tm.BEFORE,
        "spreads": {kind: {n: round(v, 4) for n, v in of.items()} for kind, of in fitted.spreads.items()},
        "means": {n: round(float(c), 4) for n, c in zip(t.names, fitted.constants, strict=True)},
        "covariance": _lower(fitted.covariance), "own": own, "levels": levels,
    }  # fmt: skip
    lines = (f"  {json.dumps(key)}: {_line(value)}" for key, value in data.items())
    PRIORS.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def _lower(covariance: tm.F64) -> list[list[int]]:
    """The lower triangle in integers of 1/UNIT."""
    whole = np.round(covariance * UNIT).astype(int)
    return [[int(v) for v in whole[i, : i + 1]] for i in range(len(whole))]


def published(rows: Sequence[Row]) -> dict[str, dict[str, dict[str, int]]]:
    """How many rows there are of each engine, machine and source: what `plan --explain` names."""
    found: dict[str, dict[str, dict[str, int]]] = {}
    for row in rows:
        of = found.setdefault(row.how.family, {}).setdefault(row.machine.name, {})
        of[row.source] = of.get(row.source, 0) + 1
    return {
        engine: {m: dict(sorted(of.items())) for m, of in sorted(ms.items())} for engine, ms in sorted(found.items())
    }


def write_published(rows: Sequence[Row]) -> None:
    """One line a machine."""
    lines = ["{", f'  "made": {json.dumps(MADE)},', '  "rows": {']
    counted = published(rows)
    for engine, machines in counted.items():
        each = [f"      {json.dumps(m)}: {json.dumps(sources)}" for m, sources in machines.items()]
        end = "" if engine == list(counted)[-1] else ","
        lines += [f"    {json.dumps(engine)}: {{", ",\n".join(each), f"    }}{end}"]
    PUBLISHED.write_text("\n".join([*lines, "  }", "}", ""]), encoding="utf-8")


def _line(value: object) -> str:
    """JSON on one line, but a line for each row of a matrix and each machine."""
    if isinstance(value, dict) and any(isinstance(v, list) for v in value.values()):
        each = (f"    {json.dumps(k)}: {json.dumps(v, separators=(',', ':'))}" for k, v in value.items())
        return "{\n" + ",\n".join(each) + "\n  }"
    if isinstance(value, list):
        return "[\n" + ",\n".join("    " + json.dumps(row, separators=(",", ":")) for row in value) + "\n  ]"
    return json.dumps(value)


def bound(t: tm.Table, fitted: tm.Fit, among: tm.Index) -> float:
    """The median error that is left where the constants and every machine were known: sources, models and rows differ.

    Of a normal distribution half is within 0.6745 standard deviations.
    """
    _, slopes = tm.model(t, fitted.constants, fitted.own, among)
    apart = np.diag(tm.scatter(t, slopes, among, fitted.spreads, tm.AMONG)) + _row(fitted) ** 2
    return float(np.median(np.expm1(0.6745 * np.sqrt(apart))))


def by_author(t: tm.Table, left: LeftOut) -> dict[str, list[float]]:
    """Rows of each author that was left out, and the median of their errors of the logarithm, sign and all."""
    found = {}
    for author in left.fits:
        at = np.flatnonzero(t.author == author)
        found[t.rows[at[0]].author] = [len(at), round(float(np.median((t.y - left.log_seconds)[at])), 4)]
    return found


def gather() -> tuple[list[Row], list[Left], int, int]:
    """All rows, those left out, how many of the first are the published set, and how many with 2026's are scored.

    After these: speeds that are fitted to and not scored, then prompts (`Row.cost` tells them).
    """
    rows, left = read()
    added, left_added = read(DATA / "measured_added.csv")
    decoding, reading = planned_rows.read()
    by_backend, read_by_backend = planned_rows.read(DATA / "measured_backends.csv")
    scored = rows + decoding
    others = added + by_backend + prompts() + reading + read_by_backend
    return scored + others, left + left_added, len(rows), len(scored)


def scores(t: tm.Table, left: LeftOut, first: int, scored: int) -> dict[str, Score]:
    """Every question: the first set without and with all other rows to fit to, all that are scored, parts of it."""
    found: dict[str, Score] = {}
    alone, among = tm.table(t.rows[:first]), np.arange(first)
    without = leave_out(alone)
    found["published, source left out"] = evaluate(alone, unknown, without, among)
    found["published, one row known"] = evaluate(alone, one_known, without, among)
    found["with added rows, source left out"] = evaluate(t, unknown, left, among)
    found["with added rows, one row known"] = evaluate(t, one_known, left, among)
    return found | parts(t, left, first, scored)


def parts(t: tm.Table, left: LeftOut, first: int, scored: int) -> dict[str, Score]:
    """All speeds of decoding and of prompts, and parts of them."""
    both, there = np.arange(scored), np.array([where(row.machine, row.how) for row in t.rows])
    asked = np.flatnonzero([row.cost.tokens > row.cost.sequences and not _by_backend(row) for row in t.rows])
    later = asked[[t.rows[i].source.startswith(("kyuz0", "alesha")) for i in asked]]
    chosen = {
        "published and 2026, source left out": both, "rows of 2026, source left out": both[first:],
        "processors, source left out": both[there[both] == "cpu"],
        "ROCm, Vulkan and SYCL, source left out": both[np.isin(there[both], ("rocm", "vulkan", "sycl"))],
        "prompts, source left out": asked, "prompts of 2026, source left out": later,
    }  # fmt: skip
    found = {label: evaluate(t, unknown, left, among) for label, among in chosen.items()}
    return found | {"prompts, one row known": evaluate(t, one_known, left, asked)}


def _by_backend(row: Row) -> bool:
    """Of measured_backends.csv: fitted to, not scored."""
    return row.source in _backend_sources()


@cache
def _backend_sources() -> frozenset[str]:
    return frozenset(row.source for part in planned_rows.read(DATA / "measured_backends.csv") for row in part)


def show(name: str, found: Score) -> None:
    """Three lines of figures."""
    print(
        f"{name}: {found.rows} rows or pairs of {found.cells} source x machine\n"
        f"  by row: median {found.by_row:.1%}, nine of ten below {found.tenth:.1%}; by source x machine: median"
        f" {found.median:.1%}, nine of ten below {found.nine:.1%}, mean of medians {found.mean_of_medians:.1%}\n"
        f"  inside the interval {found.inside:.1%}; high/low {found.ratio:.2f}; highest share of peak"
        f" {found.fastest:.1%}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluate, print, and write the constants."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args(arguments)
    rows, left, first, scored = gather()
    print(f"{len(rows)} rows, {len(left)} left out: {dict(Counter(row.why for row in left))}")
    t = tm.table(rows)
    out = leave_out(t)
    found = scores(t, out, first, scored)
    for name, value in found.items():
        show(name, value)
    if options.check:
        return
    fitted = tm.fit(t, np.arange(len(rows)))
    least = bound(t, fitted, np.arange(scored))
    print(f"between sources of one machine: median {least:.1%} of decoding cannot be predicted")
    figures = {
        "bound": least,
        "scores": {name: asdict(value) for name, value in found.items()},
        "authors": by_author(t, out),
    }
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    write_published(rows)
    widening = (ask(t, out, np.arange(scored)).widening for ask in (unknown, one_known))
    write(t, fitted, *widening)


if __name__ == "__main__":
    main()
