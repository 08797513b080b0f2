"""The fitted constants: catalog/priors.json, written by `python -m benchmarks.fit_timing` from published speeds.

A constant is the logarithm of a factor on a piece of time. The file gives each one's value, the covariance
that the fit left, how far machines and sources scatter about them, and what an unseen constant may be.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]

NARROWER = 0.7
"""Of two constants that add up, the second ("memory/hbm" after "memory") is expected to be smaller."""


@dataclass(frozen=True)
class Priors:
    """Constants by name with what is not known about them; all spreads are standard deviations of a logarithm.

    covariance  [names, names] left by the fit
    before      spread expected before any fit, by name or by the part of a name before "/"
    machine     by constant: how machines of one class differ; source: how builds and ways of measuring differ
    machine_all, source_all, row  the same for the time as a whole; of single rows
    widen       factor on the interval, so that 80 % of rows of sources left out fall inside; widen_known: of the
                interval where a step of the machine has been measured
    """

    means: Mapping[str, float]
    covariance: F64
    before: Mapping[str, float]
    machine: Mapping[str, float]
    source: Mapping[str, float]
    machine_all: float
    source_all: float
    row: float
    widen: float
    widen_known: float

    def spread_before(self, name: str) -> float:
        """What a constant may be before any measurement."""
        if name in self.before:
            return self.before[name]
        return self.before[name.split("/", maxsplit=1)[0]] * NARROWER

    def mean(self, name: str) -> float:
        """The fitted value; 0 for a constant that no published row depends on."""
        return self.means.get(name, 0.0)

    def between(self, names: Sequence[str]) -> F64:
        """Covariance of the named constants: the fit's, or the spread before any fit where it has none."""
        index = {name: i for i, name in enumerate(self.means)}
        found = np.diag([self.spread_before(name) ** 2 for name in names])
        old = [i for i, name in enumerate(names) if name in index]
        at = [index[names[i]] for i in old]
        found[np.ix_(old, old)] = self.covariance[np.ix_(at, at)]
        return found

    def scatter(self, names: Sequence[str], of: Mapping[str, float]) -> F64:
        """Diagonal covariance of machines' or sources' own constants."""
        return np.diag([of.get(name, 0.0) ** 2 for name in names])

    @property
    def engines(self) -> frozenset[str]:
        """Engines that published rows ran."""
        return frozenset(n.split("/")[1] for n in self.means if n.startswith("token/"))


def parse(data: Mapping[str, object]) -> Priors:
    """Priors from priors.json's object; the file is ours, so a bad one is a bug."""
    means: Mapping[str, float] = data["means"]  # type: ignore[assignment]
    lower: list[list[int]] = data["covariance"]  # type: ignore[assignment]
    covariance = np.zeros((len(means), len(means)))
    covariance[np.tril_indices(len(means))] = np.concatenate([np.array(row, float) for row in lower]) / UNIT
    covariance += np.tril(covariance, -1).T
    rest = {key: data[key] for key in _PLAIN}
    return Priors(means, covariance, **rest)  # type: ignore[arg-type]


_PLAIN = ("before", "machine", "source", "machine_all", "source_all", "row", "widen", "widen_known")

UNIT = 1e5
"""Covariances are stored as integers of 1/UNIT, the lower triangle by rows."""


@cache
def priors() -> Priors:
    """The constants that memfirst ships."""
    return parse(json.loads(files("memfirst.catalog").joinpath("priors.json").read_text(encoding="utf-8")))
