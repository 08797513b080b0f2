"""Fitting the constants of `memfirst.predict.fitted.pieces` to measured rows: regularised least squares on log time.

    log t_i = log f(pieces of row i, constants) + machine's own + source's own + cell's + model's + row's own

Constants have a Gaussian prior about zero (`BEFORE`). A machine (with one engine and backend), a source, a source on a
machine and a model there deviate from them, each by its own Gaussian; how widely is estimated from the same rows
(`_spreads`: expectation maximisation, started from `START`, which counts as `WORTH` groups). What a machine's rows say
of its own deviation is kept (`Fit.levels`): it informs predictions for that machine from sources never seen.
Gauss-Newton with the row's deviation widened for outliers (Huber). NumPy, deterministic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.measured_rows import Row
from memfirst.predict.fitted.pieces import (
    ADDED,
    ATTENTION,
    HOST,
    MATMUL_LANE,
    SOFT,
    STREAM,
    Piece,
    pieces,
    where,
)  # fmt: skip
from memfirst.predict.fitted.predict import CEILING, PREDICTED, floor
from memfirst.predict.fitted.priors import ALL, NARROWER, Level

F64 = NDArray[np.float64]
Index = NDArray[np.intp]

BEFORE = {
    "memory": 0.12, "memory/age": 0.05, "memory/dies": 0.3, "experts": 0.2, "skew": 0.1, "sockets": 0.4, "core": 0.4,
    "unpack": 0.6, "unpack/age": 0.3, "few": 0.5, "matmul": 0.5, "matmul/age": 0.3, "matmul/routed": 0.7, "scores": 0.5,
    "cache": 0.5, "cache/age": 0.3, "attend": 0.7, "attention": 0.7,
    "layer": 0.6, "layer/age": 0.3, "routing": 0.7, "recurrent": 0.8, "barrier": 0.7, "token": 0.7, "prepared": 0.5,
    "eager": 0.5, "hop": 0.6, "sum": 0.6, "slow": 0.3, "disk": 0.3,
}  # fmt: skip
"""Spread of a constant before any fit: 0.1 where data sheets bind (bandwidth), 0.6 where only the order is known."""

MACHINE, SOURCE, CELL, MODEL, ROW = "machine", "source", "cell", "model", "row"

START: Mapping[str, Mapping[str, float]] = {
    MACHINE: {ALL: 0.05, "memory": 0.06, "unpack": 0.25, "matmul": 0.3, "cache": 0.25, "layer": 0.2},
    SOURCE: {ALL: 0.05, "memory": 0.05, "unpack": 0.2, "few": 0.2, "matmul": 0.2, "cache": 0.2, "attend": 0.2,
             "layer": 0.2, "token": 0.3, "hop": 0.3, "sum": 0.3, "skew": 0.1, "recurrent": 0.3},
    CELL: {ALL: 0.05, "matmul": 0.1, "layer": 0.1},
    MODEL: {ALL: 0.03, "matmul": 0.1, "layer": 0.1},
    ROW: {ALL: 0.05},
}  # fmt: skip
"""Spreads of deviations that the estimate starts from, by what deviates and constant; ALL: of the time as a whole."""

WORTH = 2.0
"""How many groups the start of a spread counts as."""

NEAREST = float(np.log(CEILING / PREDICTED))
"""Between the floor of intervals and that of predictions."""

STEPS, HALVINGS, SETTLED, OUTLIER = 25, 5, 0.03, 2.0
ROUNDS = 3
"""Estimates of the spreads, with a fit before and after each."""

Spreads = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Table:
    """Rows as arrays: n rows of at most k pieces, over p constants.

    base [n, k] seconds before any fit; lane [n, k]; y [n] log seconds measured
    which, times [n, k, m] the constants of each piece, and how often each counts
    least [n] log seconds at the ceiling; engine [n] and groups[what] [n]: integers that are equal where rows share them
    """

    rows: tuple[Row, ...]
    names: tuple[str, ...]
    base: F64
    lane: Index
    which: Index
    times: F64
    y: F64
    least: F64
    engine: Index
    groups: Mapping[str, Index]

    @property
    def author(self) -> Index:
        """Who measured."""
        return self.groups[SOURCE]

    @property
    def cell(self) -> Index:
        """Source and machine: what counts once in an average."""
        return self.groups[CELL]

    @property
    def before(self) -> F64:
        """Variances of the constants before the fit."""
        heads = (BEFORE.get(n, BEFORE[n.split("/", maxsplit=1)[0]] * NARROWER) for n in self.names)
        return np.array(list(heads)) ** 2


Own = Mapping[tuple[int, str], float]
"""What machines deviate by: (group, constant) -> value."""


@dataclass(frozen=True)
class Fit:
    """Constants [p] and their covariance [p, p]; spreads of deviations; what rows say of single machines, by group."""

    constants: F64
    covariance: F64
    spreads: Spreads
    levels: Mapping[int, Level]
    own: Own


def row_pieces(row: Row) -> tuple[Piece, ...]:
    """A row's pieces; a prompt whose time the speed includes adds its share of matrix work."""
    found = pieces(row.cost, row.machine, row.how)
    if row.prompt is None:
        return found
    prompt = (p for p in pieces(row.prompt, row.machine, row.how) if p.lane == MATMUL_LANE)
    return found + tuple(replace(p, lane=ADDED, seconds=p.seconds * row.prompt_share) for p in prompt)


def table(rows: Sequence[Row]) -> Table:
    """Rows as arrays."""
    found = [row_pieces(row) for row in rows]
    names = tuple(sorted({name for ps in found for p in ps for name, _ in p.constants}))
    index = {name: i for i, name in enumerate(names)}
    most, longest = max(len(ps) for ps in found), max(len(p.constants) for ps in found for p in ps)
    base, lane = np.zeros((len(rows), most)), np.zeros((len(rows), most), np.intp)
    which, times = np.zeros((len(rows), most, longest), np.intp), np.zeros((len(rows), most, longest))
    for i, ps in enumerate(found):
        for k, piece in enumerate(ps):
            base[i, k], lane[i, k] = piece.seconds, piece.lane
            for m, (name, often) in enumerate(piece.constants):
                which[i, k, m], times[i, k, m] = index[name], often
    groups = {
        MACHINE: _codes([machine_key(row) for row in rows]),
        SOURCE: _codes([row.author for row in rows]),
        CELL: _codes([row.cell for row in rows]),
        MODEL: _codes([(*row.cell, machine_key(row), row.cost.codec, row.cost.layers, row.cost.width) for row in rows]),
    }
    return Table(
        tuple(rows), names, base, lane, which, times, np.log([row.seconds for row in rows]),
        np.log([floor(row.cost, row.machine, row.how) for row in rows]),
        _codes([row.how.engine for row in rows]), groups,
    )  # fmt: skip


def machine_key(row: Row) -> tuple[str, str, str]:
    """Engine, backend and machine: what has a level of its own. A capped card is another machine."""
    capped = " capped" if "W cap" in row.hardware else ""
    return row.how.family, where(row.machine, row.how), row.machine.name + capped


def _codes(values: Sequence[object]) -> Index:
    seen: dict[object, int] = {}
    return np.array([seen.setdefault(v, len(seen)) for v in values], np.intp)


def model(t: Table, constants: F64, own: Own, at: Index) -> tuple[F64, F64]:
    """Log seconds [n] of the rows `at`, and their slopes [n, p] by constant; own: of machines."""
    lane, which, times = t.lane[at], t.which[at], t.times[at]
    exponent = (times * constants[which]).sum(2)
    for name in START[MACHINE]:
        value = np.array([own.get((int(g), name), 0.0) for g in t.groups[MACHINE][at]])
        at_name = t.names.index(name) if name in t.names else -1  # no row may have such a piece
        often = 1.0 if name == ALL else (times * (which == at_name)).sum(2)
        exponent = exponent + value[:, None] * often
    each = t.base[at] * np.exp(exponent)
    lanes = np.stack([(each * (lane == i)).sum(1) for i in range(HOST + 1)], 1)
    weight = np.empty_like(lanes)
    overlapped = []
    for part in (STREAM, ATTENTION):
        together = np.maximum((lanes[:, part] ** SOFT).sum(1) ** (1 / SOFT), 1e-30)
        weight[:, part] = (lanes[:, part] / together[:, None]) ** (SOFT - 1)
        overlapped.append(together)
    device = overlapped[0] + overlapped[1] + lanes[:, ADDED]
    total = (device**SOFT + lanes[:, HOST] ** SOFT) ** (1 / SOFT)
    weight[:, ADDED] = 1.0
    weight[:, :HOST] *= ((device / total) ** (SOFT - 1))[:, None]
    weight[:, HOST] = (lanes[:, HOST] / total) ** (SOFT - 1)
    shares = np.take_along_axis(weight, lane, 1) * each / total[:, None]
    p = len(t.names)
    row = np.arange(len(at))[:, None, None] * p
    slopes = np.bincount((row + which).ravel(), (shares[:, :, None] * times).ravel(), len(at) * p).reshape(-1, p)
    return np.log(total), np.asarray(slopes, np.float64)


def design(t: Table, slopes: F64, names: Sequence[str]) -> F64:
    """[n, names] how log seconds follow deviations of the named constants; of ALL, one for one."""
    index = {name: i for i, name in enumerate(t.names)}
    none = np.zeros(len(slopes))
    columns = [np.ones(len(slopes)) if n == ALL else slopes[:, index[n]] if n in index else none for n in names]
    return np.stack(columns, 1)


def scatter(t: Table, slopes: F64, at: Index, spreads: Spreads, what: Sequence[str]) -> F64:
    """Covariance [n, n] of rows `at` beyond the constants: of the deviations `what`."""
    found = np.zeros((len(at), len(at)))
    for kind in what:
        group = t.groups[kind][at]
        own = design(t, slopes, tuple(spreads[kind])) * np.array(list(spreads[kind].values()))
        found += (own @ own.T) * (group[:, None] == group)
    return found


AMONG = (SOURCE, CELL, MODEL)
"""Deviations that rows of one author alone share."""


def fit(t: Table, at: Index) -> Fit:
    """Constants from the rows `at`, and nothing else."""
    search = _Search(t, at)
    for _ in range(ROUNDS):
        search.settle()
        search.estimate_spreads()
    search.settle()
    return search.found()


class _Search:
    """A fit under way. Unknown are the constants and machines' own, side by side: `values`, about 0 by `prior`."""

    def __init__(self, t: Table, at: Index) -> None:
        self.t, self.at = t, at
        self.machine = t.groups[MACHINE][at]
        self.pairs = [(int(g), name) for name in START[MACHINE] for g in np.unique(self.machine) if self.has(g, name)]
        self.values = np.zeros(len(t.names) + len(self.pairs))
        self.spreads: dict[str, Mapping[str, float]] = dict(START)
        self.trust = np.ones(len(at))
        self.blocks = [np.flatnonzero(t.author[at] == a) for a in np.unique(t.author[at])]

    def has(self, group: int, name: str) -> bool:
        """Whether rows of that machine have a piece that the constant scales."""
        if name == ALL:
            return True
        at = self.at[self.machine == group]
        used = self.t.times[at] != 0
        return name in self.t.names and bool((self.t.which[at][used] == self.t.names.index(name)).any())

    @property
    def prior(self) -> F64:
        """Variances of what is unknown, before any row."""
        own = self.spreads[MACHINE]
        return np.concatenate([self.t.before, [own[name] ** 2 for _, name in self.pairs]])

    def own(self, values: F64) -> Own:
        """Of machines, by group and name."""
        return dict(zip(self.pairs, values[len(self.t.names) :], strict=True))

    def evaluate(self, values: F64) -> tuple[F64, F64]:
        """What the rows are off, and slopes by constant."""
        log_seconds, slopes = model(self.t, values[: len(self.t.names)], self.own(values), self.at)
        return self.t.y[self.at] - log_seconds, slopes

    def whole(self, slopes: F64) -> F64:
        """Slopes by all that is unknown."""
        names = tuple(START[MACHINE])
        columns = design(self.t, slopes, names)
        own = [columns[:, names.index(name)] * (self.machine == g) for g, name in self.pairs]
        return np.concatenate([slopes, np.stack(own, 1)], 1)

    def weights(self, slopes: F64) -> list[F64]:
        """Inverse covariances of the rows of each author, everything unknown given."""
        row, found = self.spreads[ROW][ALL] ** 2, []
        for b in self.blocks:
            own = scatter(self.t, slopes[b], self.at[b], self.spreads, AMONG)
            found.append(np.asarray(np.linalg.inv(own + np.diag(row / self.trust[b])), np.float64))
        return found

    def settle(self) -> None:
        """The values that fit best at these spreads.

        A whole Gauss-Newton step goes too far where lanes change places, and then to and fro for good: it is halved
        until the misfit falls.
        """
        prior = 1 / self.prior
        for _ in range(STEPS):
            off, slopes = self.evaluate(self.values)
            weights, whole = self.weights(slopes), self.whole(slopes)
            curvature, pull = np.diag(prior), -self.values * prior
            for b, w in zip(self.blocks, weights, strict=True):
                solved = whole[b].T @ w
                curvature = curvature + solved @ whole[b]
                pull = pull + solved @ off[b]
            step = np.linalg.solve(curvature, pull)
            step *= min(1.0, 0.7 / max(float(np.abs(step).max()), 1e-12))
            most = self.misfit(off, weights, self.values)
            for _ in range(HALVINGS):
                if self.misfit(self.evaluate(self.values + step)[0], weights, self.values + step) <= most:
                    break
                step = step / 2
            self.values = self.values + step
            self.trust = (self.trust + self.trusted()) / 2
            if float(np.abs(step).max()) < SETTLED:
                break

    def misfit(self, off: F64, weights: Sequence[F64], values: F64) -> float:
        """Squares of what the rows and the values are off, in units of what they may be."""
        return sum(float(off[b] @ w @ off[b]) for b, w in zip(self.blocks, weights, strict=True)) + float(
            values**2 @ (1 / self.prior)
        )

    def trusted(self) -> F64:
        """1 for a row within OUTLIER spreads, less beyond."""
        off, slopes = self.evaluate(self.values)
        variance = np.full(len(self.at), self.spreads[ROW][ALL] ** 2)
        for kind in AMONG:
            own = np.array(list(self.spreads[kind].values())) ** 2
            variance += (design(self.t, slopes, tuple(self.spreads[kind])) ** 2) @ own
        trust: F64 = np.minimum(1.0, OUTLIER / np.maximum(np.abs(off) / np.sqrt(variance), 1e-12))
        return trust

    def left(self) -> tuple[F64, F64, F64, list[F64]]:
        """What the rows are off, their slopes, the covariance that is left, and each author's weights."""
        off, slopes = self.evaluate(self.values)
        weights, whole = self.weights(slopes), self.whole(slopes)
        curvature = np.diag(1 / self.prior)
        for b, w in zip(self.blocks, weights, strict=True):
            curvature = curvature + whole[b].T @ w @ whole[b]
        return off, slopes, np.asarray(np.linalg.inv(curvature), np.float64), weights

    def estimate_spreads(self) -> None:
        """Spreads of deviations as the rows have them: a step of expectation maximisation."""
        off, slopes, covariance, weights = self.left()
        squares = self.values**2 + np.diag(covariance)
        first, new = len(self.t.names), {}
        for name in START[MACHINE]:
            mine = [squares[first + i] for i, pair in enumerate(self.pairs) if pair[1] == name]
            new[name] = _spread(mine, START[MACHINE][name])
        found: dict[str, Mapping[str, float]] = {**self.spreads, MACHINE: new}
        whole = self.whole(slopes)
        parts = []
        for b, w in zip(self.blocks, weights, strict=True):
            seen = w @ whole[b]
            parts.append((w @ off[b], w - seen @ covariance @ seen.T))
        for kind in AMONG:
            found[kind] = {
                name: _spread(self.squares(kind, name, slopes, parts), START[kind][name]) for name in START[kind]
            }
        row = self.spreads[ROW][ALL] ** 2
        own = [(row * pull) ** 2 / self.trust[b] + row - row**2 * np.diag(left) / self.trust[b]
               for b, (pull, left) in zip(self.blocks, parts, strict=True)]  # fmt: skip
        found[ROW] = {ALL: float(np.sqrt(np.concatenate(own).mean()))}
        self.spreads = found

    def squares(self, kind: str, name: str, slopes: F64, parts: Sequence[tuple[F64, F64]]) -> list[float]:
        """Expected squares of one constant's deviation, of each group."""
        found, old = [], self.spreads[kind][name] ** 2
        column = design(self.t, slopes, (name,))[:, 0]
        for b, (pull, left) in zip(self.blocks, parts, strict=True):
            group = self.t.groups[kind][self.at[b]]
            for g in np.unique(group):
                m = np.flatnonzero(group == g)
                a = column[b[m]]
                found.append((old * float(a @ pull[m])) ** 2 + old - old**2 * float(a @ left[np.ix_(m, m)] @ a))
        return found

    def found(self) -> Fit:
        """The fit, and every machine's own deviation."""
        covariance, first, names = self.left()[2], len(self.t.names), tuple(START[MACHINE])
        where_is = {pair: first + i for i, pair in enumerate(self.pairs)}
        levels = {}
        for g in np.unique(self.machine):
            known = [i for i, name in enumerate(names) if (int(g), name) in where_is]
            at = [where_is[int(g), names[i]] for i in known]
            means, left = np.zeros(len(names)), np.diag([self.spreads[MACHINE][name] ** 2 for name in names])
            means[known], left[np.ix_(known, known)] = self.values[at], covariance[np.ix_(at, at)]
            levels[int(g)] = Level(names, means, left)
        own = self.own(self.values)
        return Fit(self.values[:first], covariance[:first, :first], self.spreads, levels, own)


def _spread(squares: Sequence[float], start: float) -> float:
    return float(np.sqrt((sum(squares) + WORTH * start**2) / (len(squares) + WORTH)))


def predict(t: Table, fitted: Fit, at: Index) -> tuple[F64, F64, F64]:
    """Log seconds [n], floored at the ceiling; before that floor; and their covariance [n, n], rows' own left out."""
    log_seconds, slopes = model(t, fitted.constants, fitted.own, at)
    spread = slopes @ fitted.covariance @ slopes.T + scatter(t, slopes, at, fitted.spreads, AMONG)
    names = tuple(START[MACHINE])
    unseen = np.diag([fitted.spreads[MACHINE][name] ** 2 for name in names])
    columns, group = design(t, slopes, names), t.groups[MACHINE][at]
    for g in np.unique(group):
        m = np.flatnonzero(group == g)
        own = fitted.levels[int(g)].covariance if int(g) in fitted.levels else unseen
        spread[np.ix_(m, m)] += columns[m] @ own @ columns[m].T
    return np.maximum(log_seconds, t.least[at] + NEAREST), log_seconds, spread
