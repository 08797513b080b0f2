"""A straight line through points of which a few may be wild, with the standard errors of its two numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

HUBER = 1.345
"""Residuals beyond this many standard deviations lose weight: 95 % as efficient as least squares on clean points."""

_ROUNDS = 30
F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Line:
    """y = intercept + slope·x over `points`; standard errors None where there are too few points to tell."""

    intercept: float
    slope: float
    intercept_error: float | None
    slope_error: float | None
    points: int

    def at(self, x: float) -> float:
        """The line's value."""
        return self.intercept + self.slope * x


def robust_line(xs: Sequence[float], ys: Sequence[float]) -> Line | None:
    """Huber's line, begun from the median of the slopes between points; None without two different x.

    Reweighted least squares with Huber's weights. The errors are those of an M-estimate (Huber 1981, section
    7.6): σ² K² / (n − 2) · Σψ² / mean(ψ')² · (XᵀX)⁻¹ with K = 1 + 2/n · (1 − m)/m, m the share of unclipped points.
    """
    x, y = np.asarray(xs, float), np.asarray(ys, float)
    if len(x) < 2 or np.ptp(x) <= 0:
        return None
    design = np.stack([np.ones_like(x), (x - x.mean()) / np.ptp(x)], axis=1)  # [n, 2], conditioned
    beta = _start(design[:, 1], y)
    for _ in range(_ROUNDS):
        weights = _weights(y - design @ beta)
        root = np.sqrt(weights)
        beta = np.linalg.lstsq(design * root[:, None], y * root, rcond=None)[0]
    return _line(x, design, y, beta)


def _start(u: F64, y: F64) -> F64:
    """Theil and Sen's line: wild points, up to 29 % of them, do not move it far."""
    i, j = np.triu_indices(len(u), 1)
    apart = u[i] != u[j]
    slope = median((y[j] - y[i])[apart] / (u[j] - u[i])[apart])
    return np.array([median(y - slope * u), slope])


def _scale(residuals: F64) -> float:
    """Standard deviation by the median of the absolute residuals; two of them are 0 by construction."""
    size = np.sort(np.abs(residuals))[min(2, len(residuals) - 1) :]
    return float(1.4826 * np.median(size))


def _weights(residuals: F64) -> F64:
    limit = HUBER * _scale(residuals)
    size = np.abs(residuals)
    return np.where(size <= limit, 1.0, limit / np.maximum(size, 1e-300)) if limit > 0 else np.ones_like(size)


def _line(x: F64, design: F64, y: F64, beta: F64) -> Line:
    """Back in units of x, with errors."""
    mean, spread, n = float(x.mean()), float(np.ptp(x)), len(x)
    to_x = np.array([[1.0, -mean / spread], [0.0, 1.0 / spread]])
    intercept, slope = to_x @ beta
    if n < 3:
        return Line(float(intercept), float(slope), None, None, n)
    covariance = to_x @ _covariance(design, y - design @ beta) @ to_x.T
    errors = np.sqrt(np.maximum(0.0, np.diag(covariance)))
    return Line(float(intercept), float(slope), float(errors[0]), float(errors[1]), n)


def _covariance(design: F64, residuals: F64) -> F64:
    n, scale = len(residuals), _scale(residuals)
    limit = HUBER * scale if scale > 0 else np.inf
    psi = np.clip(residuals, -limit, limit)
    inside = max(1.0 / n, float(np.mean(np.abs(residuals) <= limit)))
    k = 1 + 2 / n * (1 - inside) / inside
    variance = k * k * float(psi @ psi) / (n - 2) / inside**2
    return np.asarray(variance * np.linalg.inv(design.T @ design))
