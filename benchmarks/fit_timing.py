"""Fit the planner's constants to published speeds, and measure it on sources that the fit has not seen.

    OPENBLAS_NUM_THREADS=1 python -m benchmarks.fit_timing     # evaluate, print, write priors.json and published.json
    python -m benchmarks.fit_timing --check --quick            # evaluate and print only, in seconds

Each author's rows are left out in turn; their predictions come from a fit to all other authors' rows, and
their interval's width from predictions of those others, fitted without either. Every source x machine counts
once: its rows weigh 1/n.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks import planned_rows
from benchmarks import timing_model as tm
from benchmarks.measured_rows import DATA, Left, Row, prompts, read
from memfirst.predict.fitted.pieces import backend
from memfirst.predict.fitted.predict import CEILING, INSIDE_80
from memfirst.predict.fitted.priors import UNIT

CATALOG = Path(__file__).parent.parent / "memfirst" / "catalog"
MADE = "python -m benchmarks.fit_timing, from benchmarks/data/measured_*.csv"
PRIORS, PUBLISHED = CATALOG / "priors.json", CATALOG / "published.json"


@dataclass(frozen=True)
class Score:
    """Figures in which each source x machine counts once, but for those by row.

    by_row   median error of all rows; tenth: what nine of ten rows are below
    median   error of the speed; mean_of_medians: mean, over source x machine, of the median of its rows
    inside   share of rows in the 80 % interval; ratio: median of its high over its low end
    fastest  the highest share of the peak bandwidth predicted
    """

    rows: int
    cells: int
    by_row: float
    tenth: float
    median: float
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


def leave_out(t: tm.Table, without: int | None = None, fitted_to: int | None = None) -> LeftOut:
    """Leave each author out in turn (and `without` always); fit to the first `fitted_to` rows at most."""
    may = np.arange(len(t.y)) < (len(t.y) if fitted_to is None else fitted_to)
    log_seconds, spread = np.zeros(len(t.y)), np.ones(len(t.y))
    fits = {}
    for author in np.unique(t.author):
        if author == without:
            continue
        out = np.flatnonzero(t.author == author)
        seen = np.flatnonzero(may & (t.author != author) & (t.author != (-1 if without is None else without)))
        fits[int(author)] = fitted = tm.fit(t, seen)
        log_seconds[out], _, covariance = tm.predict(t, fitted, out)
        spread[out] = np.sqrt(np.diag(covariance) + tm.ROW**2)
    return LeftOut(log_seconds, spread, fits)


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
    _, mean, shared = tm.predict(t, found.fits[int(t.author[at[0]])], at)
    shared = shared + tm.ROW**2 * np.eye(len(at))
    gain = shared / np.diag(shared)  # [asked, known]
    after = np.maximum(mean[:, None] + gain * (t.y[at] - mean), t.least[at][:, None] + tm.NEAREST)
    left = np.sqrt(np.maximum(np.diag(shared)[:, None] - gain * shared.T, tm.ROW**2))
    pairs = (t.engine[at][:, None] == t.engine[at]) & ~np.eye(len(at), dtype=bool)
    same = np.zeros(int(pairs.sum()), np.intp)
    share = CEILING * np.exp(t.least[at][:, None] - after)
    return Missed(
        (t.y[at][:, None] - after)[pairs], left[pairs], share[pairs], same + t.cell[at[0]], same + t.author[at[0]]
    )  # fmt: skip


Question = Callable[[tm.Table, LeftOut, tm.Index], Missed]


def evaluate(
    t: tm.Table, ask: Question, found: LeftOut, among: tm.Index, without: Mapping[int, LeftOut] | None = None
) -> Score:
    """An author's interval is as wide as the other authors' errors say.

    without: by author, predictions of the others by fits that saw neither; else their fits have seen the author
    """
    missed = ask(t, found, among)
    widen = np.ones(len(missed.error))
    for author in np.unique(missed.author):
        others = among[t.author[among] != author]
        unseen = found if without is None else without[int(author)]
        widen[missed.author == author] = ask(t, unseen, others).widening
    return score(missed, widen)


def score(missed: Missed, widen: tm.F64) -> Score:
    """Figures of predictions, their spreads widened by row."""
    weights, off = by_cell(missed.cell), np.abs(np.expm1(missed.error))  # predicted speed over measured, less 1
    reach = INSIDE_80 * widen * missed.spread
    medians = [float(np.median(off[missed.cell == c])) for c in np.unique(missed.cell)]
    inside = float(weights[np.abs(missed.error) < reach].sum() / weights.sum())
    ratio = weighted_quantile(np.exp(2 * reach), weights, 0.5)
    median, fastest = weighted_quantile(off, weights, 0.5), float(missed.share.max())
    by_row, tenth = float(np.median(off)), float(np.quantile(off, 0.9))
    return Score(len(off), len(medians), by_row, tenth, median, float(np.mean(medians)), inside, ratio, fastest)


def write(t: tm.Table, fitted: tm.Fit, widen: float, widen_known: float) -> None:
    """The constants with their spread, for `memfirst.predict.fitted`."""
    whole = np.round(fitted.covariance * UNIT).astype(int)
    data = {
        "made": MADE, "rows": len(t.y),
        "widen": round(widen, 3), "widen_known": round(widen_known, 3), "row": tm.ROW,
        "machine_all": tm.MACHINE_ALL, "source_all": tm.SOURCE_ALL, "before": tm.BEFORE, "machine": tm.MACHINE,
        "source": tm.SOURCE,
        "means": {n: round(float(c), 4) for n, c in zip(t.names, fitted.constants, strict=True)},
        "covariance": [[int(v) for v in whole[i, : i + 1]] for i in range(len(t.names))],
    }  # fmt: skip
    lines = (f"  {json.dumps(key)}: {_line(value)}" for key, value in data.items())
    PRIORS.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


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
    """JSON on one line, but a line for each row of a matrix."""
    if isinstance(value, list):
        return "[\n" + ",\n".join("    " + json.dumps(row, separators=(",", ":")) for row in value) + "\n  ]"
    return json.dumps(value)


def gather() -> tuple[list[Row], list[Left], int]:
    """All rows, those left out, and how many of the first are the published set that is scored."""
    rows, left = read()
    added, left_added = read(DATA / "measured_added.csv")
    return rows + added + prompts(), left + left_added, len(rows)


def scores(rows: Sequence[Row], scored: int, nested: bool) -> dict[str, Score]:
    """Every question: without and with the added rows, without and with one known row; prompts.

    scored  how many of the first rows count in the first four
    nested  whether interval widths come from fits that saw neither author
    """
    found: dict[str, Score] = {}
    for label, chosen in (("published", rows[:scored]), ("with added rows", rows)):
        t, among = tm.table(chosen), np.arange(scored)
        left = leave_out(t)
        without = {int(a): leave_out(t, int(a)) for a in np.unique(t.author[among])} if nested else None
        found[f"{label}, source left out"] = evaluate(t, unknown, left, among, without)
        found[f"{label}, one row known"] = evaluate(t, one_known, left, among, without)
    asked = np.flatnonzero([row.cost.tokens > row.cost.sequences for row in rows])
    found["prompts, source left out"] = evaluate(t, unknown, left, asked)
    found["prompts, one row known"] = evaluate(t, one_known, left, asked)
    return found | _later_scores(rows, scored)


def _later_scores(rows: Sequence[Row], scored: int) -> dict[str, Score]:
    """Rows of 2025 and 2026 that no fit has seen, priced by the planner, alone and beside the published set.

    An author who has rows in both is left out of the fit too.
    """
    decoding, reading = planned_rows.read()
    t = tm.table([*rows, *decoding, *reading])
    left, after = leave_out(t, fitted_to=len(rows)), len(rows) + len(decoding)
    later, read_later = np.arange(len(rows), after), np.arange(after, len(t.y))
    both = np.concatenate([np.arange(scored), later])
    where = np.array([backend(row.machine) for row in t.rows])
    asked = {
        "rows of 2026, never fitted to": later, "prompts of 2026, never fitted to": read_later,
        "published and 2026, source left out": both,
        "processors, source left out": both[where[both] == "cpu"],
        "ROCm and Vulkan, source left out": both[where[both] == "other"],
    }  # fmt: skip
    return {label: evaluate(t, unknown, left, among) for label, among in asked.items()}


def show(name: str, found: Score) -> None:
    """Three lines of figures."""
    print(
        f"{name}: {found.rows} rows or pairs of {found.cells} source x machine\n"
        f"  by row: median {found.by_row:.1%}, nine of ten below {found.tenth:.1%}; by source x machine: median"
        f" {found.median:.1%}, mean of medians {found.mean_of_medians:.1%}\n"
        f"  inside the interval {found.inside:.1%}; high/low {found.ratio:.2f}; highest share of peak"
        f" {found.fastest:.1%}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluate, print, and write the constants."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="do not write priors.json")
    parser.add_argument("--quick", action="store_true", help="interval widths from fits that saw the row's author")
    parser.add_argument("--json", action="store_true", help="print one object")
    options = parser.parse_args(arguments)
    rows, left, scored = gather()
    found = scores(rows, scored, nested=not options.quick)
    if options.json:
        print(json.dumps({name: asdict(value) for name, value in found.items()}))
    else:
        print(f"{len(rows)} rows, {len(left)} left out: {dict(Counter(row.why for row in left))}")
        for name, value in found.items():
            show(name, value)
    if not options.check:
        t, among = tm.table(rows), np.arange(scored)
        out = leave_out(t)
        write_published(rows)
        write(t, tm.fit(t, np.arange(len(rows))), *(ask(t, out, among).widening for ask in (unknown, one_known)))


if __name__ == "__main__":
    main()
