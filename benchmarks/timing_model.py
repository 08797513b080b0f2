"""Fitting the constants of `memfirst.predict.fitted.pieces` to measured rows: regularised least squares on log time.

    log t_i = log f(pieces of row i, constants) + machine's own + source's own + row's own

Constants have a Gaussian prior about zero (`BEFORE`), as have deviations of a machine (`MACHINE`), of a source
(`SOURCE`) and of a row (`ROW`), so rows of one machine or source count for less than as many independent ones.
Gauss-Newton with the row's deviation widened for outliers (Huber). NumPy, deterministic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.measured_rows import Row
from memfirst.predict.fitted.pieces import ADDED, HOST, MATMUL_LANE, SOFT, Piece, pieces
from memfirst.predict.fitted.predict import CEILING, PREDICTED, floor
from memfirst.predict.fitted.priors import NARROWER

F64 = NDArray[np.float64]
Index = NDArray[np.intp]

BEFORE = {
    "memory": 0.12, "memory/age": 0.05, "memory/dies": 0.3, "experts": 0.2, "skew": 0.2, "sockets": 0.4, "core": 0.4,
    "unpack": 0.6, "unpack/age": 0.3, "few": 0.5, "matmul": 0.5, "matmul/age": 0.3, "matmul/routed": 0.7, "scores": 0.5,
    "cache": 0.5, "cache/age": 0.3,
    "layer": 0.6, "layer/age": 0.3, "routing": 0.7, "barrier": 0.7, "token": 0.7, "eager": 0.5, "hop": 0.6, "sum": 0.6,
    "slow": 0.3, "disk": 0.3,
}  # fmt: skip
"""Spread of a constant before any fit: 0.1 where data sheets bind (bandwidth), 0.6 where only the order is known."""

MACHINE = {
    "memory": 0.06, "unpack": 0.25, "few": 0.3, "matmul": 0.3, "cache": 0.25, "layer": 0.2, "routing": 0.3,
    "barrier": 0.3, "token": 0.3, "hop": 0.3, "sum": 0.3, "eager": 0.15, "core": 0.15, "skew": 0.1,
}  # fmt: skip
SOURCE = {
    "memory": 0.05, "unpack": 0.2, "few": 0.2, "matmul": 0.2, "cache": 0.2, "layer": 0.2, "token": 0.3, "hop": 0.3,
    "sum": 0.3,
}  # fmt: skip
MACHINE_ALL, SOURCE_ALL, ROW = 0.05, 0.05, 0.05

NEAREST = float(np.log(CEILING / PREDICTED))
"""Between the floor of intervals and that of predictions."""

STEPS, HALVINGS, SETTLED, OUTLIER = 60, 8, 1e-3, 2.0


@dataclass(frozen=True)
class Table:
    """Rows as arrays: n rows of at most k pieces, over p constants.

    base [n, k] seconds before any fit; lane [n, k]; slopes [n, k, p]; y [n] log seconds measured
    least [n] log seconds at the ceiling; author, cell, engine [n] integers that are equal where rows share them
    """

    rows: tuple[Row, ...]
    names: tuple[str, ...]
    base: F64
    lane: Index
    slopes: F64
    y: F64
    least: F64
    author: Index
    cell: Index
    engine: Index

    def diagonal(self, spreads: dict[str, float]) -> F64:
        """Variances by constant, 0 where none is named."""
        return np.array([spreads.get(name, 0.0) ** 2 for name in self.names])

    @property
    def before(self) -> F64:
        """Variances of the constants before the fit."""
        heads = (BEFORE.get(n, BEFORE[n.split("/", maxsplit=1)[0]] * NARROWER) for n in self.names)
        return np.array(list(heads)) ** 2


@dataclass(frozen=True)
class Fit:
    """Constants [p] and their covariance [p, p]."""

    constants: F64
    covariance: F64


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
    most = max(len(ps) for ps in found)
    base, lane = np.zeros((len(rows), most)), np.zeros((len(rows), most), np.intp)
    slopes = np.zeros((len(rows), most, len(names)))
    for i, ps in enumerate(found):
        for k, piece in enumerate(ps):
            base[i, k], lane[i, k] = piece.seconds, piece.lane
            for name, times in piece.constants:
                slopes[i, k, index[name]] += times
    return Table(
        tuple(rows), names, base, lane, slopes, np.log([row.seconds for row in rows]),
        np.log([floor(row.cost, row.machine, row.how) for row in rows]),
        _codes([row.author for row in rows]), _codes([row.cell for row in rows]),
        _codes([row.how.engine for row in rows]),
    )  # fmt: skip


def _codes(values: Sequence[object]) -> Index:
    seen: dict[object, int] = {}
    return np.array([seen.setdefault(v, len(seen)) for v in values], np.intp)


def model(t: Table, constants: F64, at: Index) -> tuple[F64, F64]:
    """Log seconds [n] of the rows `at`, and their slopes [n, p] by constant."""
    lane, slopes = t.lane[at], t.slopes[at]
    each = t.base[at] * np.exp(slopes @ constants)
    lanes = np.stack([(each * (lane == i)).sum(1) for i in range(HOST + 1)], 1)
    stream = (lanes[:, :ADDED] ** SOFT).sum(1) ** (1 / SOFT)
    device = stream + lanes[:, ADDED]
    total = (device**SOFT + lanes[:, HOST] ** SOFT) ** (1 / SOFT)
    weight = np.empty_like(lanes)
    weight[:, ADDED] = (device / total) ** (SOFT - 1)
    weight[:, :ADDED] = weight[:, [ADDED]] * (lanes[:, :ADDED] / stream[:, None]) ** (SOFT - 1)
    weight[:, HOST] = (lanes[:, HOST] / total) ** (SOFT - 1)
    shares = np.take_along_axis(weight, lane, 1) * each / total[:, None]
    return np.log(total), np.einsum("nk,nkp->np", shares, slopes)


def scatter(t: Table, slopes: F64, at: Index) -> F64:
    """Covariance [n, n] of rows `at` beyond the constants: their machine's and source's own deviations."""
    own = (slopes * t.diagonal(MACHINE)) @ slopes.T + MACHINE_ALL**2
    source = (slopes * t.diagonal(SOURCE)) @ slopes.T + SOURCE_ALL**2
    shared: F64 = own * (t.cell[at][:, None] == t.cell[at]) + source * (t.author[at][:, None] == t.author[at])
    return shared


def fit(t: Table, at: Index) -> Fit:
    """Constants from the rows `at`, and nothing else.

    A whole Gauss-Newton step goes too far where lanes change places, and then to and fro for good (constants differed
    by up to 1.0 between 25 and 60 steps): it is halved until the misfit falls.
    """
    constants, prior = np.zeros(len(t.names)), 1 / t.before
    groups = [np.flatnonzero(t.author[at] == a) for a in np.unique(t.author[at])]
    log_seconds, slopes = model(t, constants, at)
    trust, curvature = np.ones(len(at)), np.diag(prior)
    for _ in range(STEPS):
        weights = [np.linalg.inv(scatter(t, slopes[g], at[g]) + np.diag(ROW**2 / trust[g])) for g in groups]
        off = t.y[at] - log_seconds
        solved = [slopes[g].T @ w for g, w in zip(groups, weights, strict=True)]
        curvature = np.diag(prior) + sum(s @ slopes[g] for g, s in zip(groups, solved, strict=True))
        pull = sum((s @ off[g] for g, s in zip(groups, solved, strict=True)), -constants * prior)
        step = np.linalg.solve(curvature, pull)
        step *= min(1.0, 0.7 / max(float(np.abs(step).max()), 1e-12))
        most = _misfit(off, groups, weights) + float(constants**2 @ prior)
        for _ in range(HALVINGS):
            log_seconds, slopes = model(t, constants + step, at)
            if _misfit(t.y[at] - log_seconds, groups, weights) + float((constants + step) ** 2 @ prior) <= most:
                break
            step = step / 2
        constants = constants + step
        trust = (trust + _trust(t, constants, at)) / 2
        if float(np.abs(step).max()) < SETTLED:
            break
    return Fit(constants, np.asarray(np.linalg.inv(curvature), np.float64))


def _misfit(off: F64, groups: Sequence[Index], weights: Sequence[F64]) -> float:
    """Squares of what the rows are off, in units of what they may be."""
    return sum(float(off[g] @ w @ off[g]) for g, w in zip(groups, weights, strict=True))


def _trust(t: Table, constants: F64, at: Index) -> F64:
    """1 for a row within OUTLIER spreads, less beyond."""
    log_seconds, slopes = model(t, constants, at)
    own = t.diagonal(MACHINE) + t.diagonal(SOURCE)
    spread = np.sqrt(ROW**2 + MACHINE_ALL**2 + SOURCE_ALL**2 + (slopes**2 @ own))
    away = np.abs(t.y[at] - log_seconds) / spread
    trust: F64 = np.minimum(1.0, OUTLIER / np.maximum(away, 1e-12))
    return trust


def predict(t: Table, fitted: Fit, at: Index) -> tuple[F64, F64, F64]:
    """Log seconds [n], floored at the ceiling; before that floor; and their covariance [n, n], rows' own left out."""
    log_seconds, slopes = model(t, fitted.constants, at)
    spread = slopes @ fitted.covariance @ slopes.T + scatter(t, slopes, at)
    return np.maximum(log_seconds, t.least[at] + NEAREST), log_seconds, spread
