"""The fitted constants: catalog/priors.json, written by `python -m benchmarks.fit_timing` from published speeds.

A constant is the logarithm of a factor on a piece of time. The file gives each one's value, the covariance
that the fit left, how far machines and sources scatter about them, and what an unseen constant may be.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from memfirst.catalog import shipped

F64 = NDArray[np.float64]

NARROWER = 0.4
"""Of two constants that add up, the second ("memory/hbm" after "memory") is expected to be smaller."""


ALL = "all"
"""In place of a constant: a deviation of the time as a whole."""


@dataclass(frozen=True)
class Level:
    """What published rows say of one machine with one engine and backend: its own deviation from the constants.

    names of constants (and ALL), means [names], covariance [names, names]
    """

    names: tuple[str, ...]
    means: F64
    covariance: F64


@dataclass(frozen=True)
class Priors:
    """Constants by name with what is not known about them; all spreads are standard deviations of a logarithm.

    covariance  [names, names] left by the fit
    before      spread expected before any fit, by name or by the part of a name before "/"
    spreads     how machines, sources, a source on a machine, a model there and single rows deviate, by constant
    levels      what published rows say of a machine, by "engine|backend|machine"
    widen       factor on the interval, so that 80 % of rows of sources left out fall inside; widen_known: of the
                interval where a step of the machine has been measured
    """

    means: Mapping[str, float]
    covariance: F64
    before: Mapping[str, float]
    spreads: Mapping[str, Mapping[str, float]]
    levels: Mapping[str, Level]
    widen: float
    widen_known: float

    @property
    def row(self) -> float:
        """How single rows deviate."""
        return self.spreads["row"][ALL]

    def level(self, engine: str, backend: str, machine: str) -> Level:
        """Of a machine; one that nobody measured deviates by what is usual, either way."""
        own = self.spreads["machine"]
        unseen = Level(tuple(own), np.zeros(len(own)), np.diag([spread**2 for spread in own.values()]))
        return self.levels.get(f"{engine}|{backend}|{machine}", unseen)

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

    @property
    def engines(self) -> frozenset[str]:
        """Engines that published rows ran."""
        return frozenset(n.split("/")[1] for n in self.means if n.startswith("token/"))


def parse(data: Mapping[str, object]) -> Priors:
    """Priors from priors.json's object; the file is ours, so a bad one is a bug."""
    means: Mapping[str, float] = data["means"]  # type: ignore[assignment]
    own: tuple[str, ...] = tuple(data["own"])  # type: ignore[arg-type]
    given: Mapping[str, list[list[float]]] = data["levels"]  # type: ignore[assignment]
    levels = {name: Level(own, np.array(rows[0]), _symmetric(rows[1:])) for name, rows in given.items()}
    rest = {key: data[key] for key in _PLAIN}
    covariance = _symmetric(data["covariance"])  # type: ignore[arg-type]
    return Priors(means, covariance, levels=levels, **rest)  # type: ignore[arg-type]


def _symmetric(lower: Sequence[Sequence[float]]) -> F64:
    """A matrix from the rows of its lower triangle, in units of 1/UNIT."""
    size = len(lower)
    found = np.zeros((size, size))
    found[np.tril_indices(size)] = np.array([value for row in lower for value in row], float) / UNIT
    return found + np.tril(found, -1).T


_PLAIN = ("before", "spreads", "widen", "widen_known")

UNIT = 1e5
"""Covariances are stored as integers of 1/UNIT, the lower triangle by rows."""


@cache
def priors() -> Priors:
    """The constants that memfirst ships."""
    return parse(json.loads(shipped("priors.json").decode()))
