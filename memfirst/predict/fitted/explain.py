"""Where a predicted time comes from: each piece before any fit, what published speeds made of it, and which speeds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from math import exp

from memfirst.catalog import shipped
from memfirst.hardware.machines import Machine
from memfirst.predict.fitted.cost import Cost, Deployment
from memfirst.predict.fitted.pieces import CACHE, OWN, OWN_TILE_OTHER, REACHED, Piece, pieces
from memfirst.predict.fitted.predict import estimate, level, predict
from memfirst.predict.fitted.priors import ALL, Level, priors

FORMULAS = {
    "memory": f"bytes ÷ {100 * REACHED:.0f} % of peak bandwidth",
    "core": "bytes ÷ 30 GB/s a thread",
    "unpack": "unpacking ÷ float32's rate",
    "few": "operations ÷ 80 % of float32's rate",
    "matmul": "operations ÷ a share of matrix units",
    "attend": "attention's operations ÷ 25 % of float32's rate",
    "attention": "attention's operations ÷ 25 % of matrix units",
    "prepared": "2 ms a step prepared on the host",
    "cache": f"bytes ÷ {100 * CACHE:.0f} % of peak bandwidth",
    "scores": "scores in memory, 4 passes",
    "layer": "50 µs a layer",
    "barrier": "4 µs a layer and thread",
    "token": "300 µs a token",
    "eager": "800 µs a layer, launched by Python",
    "hop": "100 µs a hop between devices",
    "sum": "two sums over devices a layer",
    "slow": f"bytes ÷ {100 * REACHED:.0f} % of the slower memory's rate",
    "disk": f"bytes ÷ {100 * REACHED:.0f} % of the disk's rate",
}
"""What a piece is before any fit, by the first of its constants: `docs/timing.md` has the table."""


_OWN = {
    "unpack": "unpacking and multiplying ÷ float32's rate",
    "matmul": f"operations ÷ {100 * OWN_TILE_OTHER:.0f} % of int8's rate",
    "layer": "10 µs a layer",
    "barrier": "1 µs a layer and thread",
    "token": "100 µs a token",
}
"""The same of memfirst, whose kernels were timed."""


@dataclass(frozen=True)
class Part:
    """One piece of a step's time.

    before   seconds before any fit; factor: what the fit made of them; seconds: its part of the step's time, less than
             before × factor where it overlaps with others
    constants  the factors that make up `factor`, by name
    """

    term: str
    formula: str
    before: float
    factor: float
    seconds: float
    constants: Mapping[str, float]


@dataclass(frozen=True)
class Explained:
    """Parts of a step's time, the largest first, and the published rows that the factors are fitted to.

    rows     of all; engine_rows: of this engine on any machine
    machine  rows of this engine on this machine, by source
    """

    parts: tuple[Part, ...]
    rows: int
    engine_rows: int
    machine: Mapping[str, int]


def explain(cost: Cost, machine: Machine, how: Deployment) -> Explained:
    """The parts of what `predict` answers; its machine must have a bandwidth and a rate of arithmetic."""
    found = pieces(cost, machine, how)
    own = level(machine, how)
    first = estimate(found, priors(), own)
    total = predict(cost, machine, how).seconds or exp(first.log_seconds)
    formulas = FORMULAS | _OWN if how.family == OWN else FORMULAS
    parts = [_part(piece, share * total, own, formulas) for piece, share in zip(found, first.shares, strict=True)]
    published = _published()
    mine = published.get(how.family, {})
    return Explained(
        tuple(sorted(parts, key=lambda part: -part.seconds)),
        sum(n for machines in published.values() for sources in machines.values() for n in sources.values()),
        sum(n for sources in mine.values() for n in sources.values()),
        mine.get(machine.name, {}),
    )  # fmt: skip


def _part(piece: Piece, seconds: float, own: Level, formulas: Mapping[str, str]) -> Part:
    mine = dict(zip(own.names, own.means, strict=True))
    constants = {name: exp(times * priors().mean(name)) for name, times in piece.constants}
    here = mine.get(ALL, 0.0) + sum(times * mine.get(name, 0.0) for name, times in piece.constants)
    if here:
        constants["this machine"] = exp(here)
    factor = exp(here + sum(times * priors().mean(name) for name, times in piece.constants))
    formula = formulas[piece.constants[0][0].partition("/")[0]]
    routed = "routing" in constants
    return Part(piece.term, f"{formula} of experts" if routed else formula, piece.seconds, factor, seconds, constants)


@cache
def _published() -> Mapping[str, Mapping[str, Mapping[str, int]]]:
    """Rows by engine, machine and source."""
    found: Mapping[str, Mapping[str, Mapping[str, int]]] = json.loads(shipped("published.json").decode())["rows"]
    return found
