"""Seconds of a step from its pieces and the fitted constants, with an interval and the term that binds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, inf, log, sqrt

import numpy as np

from memfirst.hardware.machines import Machine
from memfirst.predict.fitted.cost import TENSOR, Cost, Deployment
from memfirst.predict.fitted.pieces import (
    ADDED,
    ATTENTION,
    HOST,
    OWN,
    SOFT,
    STREAM,
    TERMS,
    Piece,
    peak_rate,
    pieces,
    where,
)  # fmt: skip
from memfirst.predict.fitted.priors import ALL, F64, Level, Priors, priors
from memfirst.predict.prediction import Prediction, Term

CEILING = 0.95
"""Share of the peak bandwidth, and of the fastest arithmetic, that nothing is predicted to exceed."""

PREDICTED = 0.92
"""The same for the prediction itself: its interval goes on to CEILING, and does not end where it stands."""

INSIDE_80 = 1.2816
"""Standard deviations about the mean that hold 80 % of a normal distribution."""

_PLAIN = Deployment()


@dataclass(frozen=True)
class Observation:
    """A step whose time is known: what is predicted for the same machine and engine follows it."""

    cost: Cost
    machine: Machine
    deployment: Deployment
    seconds: float


@dataclass(frozen=True)
class Estimate:
    """Log seconds of pieces, with their shares (they sum to 1) and the slope by constant."""

    log_seconds: float
    shares: tuple[float, ...]
    slope: Mapping[str, float]


def estimate(found: Sequence[Piece], constants: Priors, own: Level | None = None) -> Estimate:
    """What pieces take together at the fitted constants, and a machine's own deviation from them.

    The soft maximum is homogeneous, so each piece's slope, d log t / d log piece, is its share of the time.
    """
    mine = dict(zip(own.names, own.means, strict=True)) if own else {}
    each = [
        p.seconds * exp(mine.get(ALL, 0.0) + sum(x * (constants.mean(n) + mine.get(n, 0.0)) for n, x in p.constants))
        for p in found
    ]
    lanes = [0.0] * (HOST + 1)
    for piece, seconds in zip(found, each, strict=True):
        lanes[piece.lane] += seconds
    stream, attention = _soft(*lanes[STREAM]), _soft(*lanes[ATTENTION])
    device = stream + attention + lanes[ADDED]
    total = _soft(device, lanes[HOST])
    on_device = (device / total) ** (SOFT - 1)
    weight = [on_device * (lane / stream) ** (SOFT - 1) if stream else 0.0 for lane in lanes[STREAM]]
    weight += [on_device * (lane / attention) ** (SOFT - 1) if attention else 0.0 for lane in lanes[ATTENTION]]
    weight += [on_device, (lanes[HOST] / total) ** (SOFT - 1)]
    shares = tuple(weight[p.lane] * s / total for p, s in zip(found, each, strict=True))
    slope: dict[str, float] = {}
    for piece, share in zip(found, shares, strict=True):
        for name, times in piece.constants:
            slope[name] = slope.get(name, 0.0) + share * times
    return Estimate(log(total), shares, slope)


def _soft(*lanes: float) -> float:
    """The soft maximum of times that overlap."""
    return float(sum(lane**SOFT for lane in lanes) ** (1 / SOFT))


def predict(
    cost: Cost, machine: Machine, deployment: Deployment = _PLAIN, known: Sequence[Observation] = ()
) -> Prediction:
    """Time of a step, of one new token or of a prompt. `known`: measured steps, best of this machine."""
    if lacking := _lacking(cost, machine, deployment):
        return lacking
    usable = [k for k in known if not _lacking(k.cost, k.machine, k.deployment)]
    return _prediction(cost, machine, deployment, pieces(cost, machine, deployment), usable)


def level(machine: Machine, how: Deployment) -> Level:
    """What published rows say of the machine with that engine and backend."""
    return priors().level(how.family, where(machine, how), machine.name)


def _lacking(cost: Cost, machine: Machine, how: Deployment) -> Prediction | None:
    """The answer where a rate is unknown: what is known, and no number."""
    needed = (
        ("bandwidth", machine.bandwidth, f"reads {cost.total / 1e9:.3g} GB"),
        ("arithmetic rate", machine.compute or None, f"takes {cost.flops:.3g} operations"),
        ("slower memory's rate", machine.slow_bandwidth or not cost.slow, f"reads {cost.slow / 1e9:.3g} GB from it"),
        ("disk's rate", machine.disk_bandwidth or not cost.disk, f"reads {cost.disk / 1e9:.3g} GB from it"),
    )
    notes = [f"{machine.name}: its {what} is not known; a step {needs}" for what, rate, needs in needed if not rate]
    if not notes:
        return None
    if machine.bandwidth is not None:
        fastest = cost.tokens / floor(cost, machine, how)
        notes.append(f"its bandwidth alone allows {fastest:.3g} tokens/s at the most")
    return Prediction(None, None, None, (), "", cost.tokens, notes=tuple(notes))


def floor(cost: Cost, machine: Machine, how: Deployment) -> float:
    """Seconds at 95 % of the peaks, of bandwidth and of arithmetic, of all devices that work at once."""
    reading = cost.fast / (machine.bandwidth or inf)
    fastest = max(machine.compute.values(), default=inf)
    own = how.family == OWN and machine.compute
    computing = cost.flops / (peak_rate(machine, how) if own else fastest)
    return max(reading, computing) / (CEILING * _parts(how))


def _parts(how: Deployment) -> int:
    return how.devices if how.parallel == TENSOR else 1


def _prediction(
    cost: Cost, machine: Machine, how: Deployment, found: Sequence[Piece], known: Sequence[Observation]
) -> Prediction:
    constants = priors()
    first = estimate(found, constants, level(machine, how))
    mean, spread = _conditioned(first, cost, machine, how, known, constants)
    least = floor(cost, machine, how)
    widen = constants.widen_known if known else constants.widen
    seconds, reach = max(exp(mean), least * CEILING / PREDICTED), exp(INSIDE_80 * widen * spread)
    terms = _terms(found, first.shares, seconds)
    return Prediction(
        seconds, max(seconds / reach, least), seconds * reach, terms, max(terms, key=lambda t: t.seconds).name,
        cost.tokens, cost.fast / (seconds * (machine.bandwidth or 0.0) * _parts(how)),
        cost.flops / (seconds * peak_rate(machine, how) * _parts(how)), _notes(machine, how, known, constants),
    )  # fmt: skip


def _terms(found: Sequence[Piece], shares: Sequence[float], seconds: float) -> tuple[Term, ...]:
    sums = dict.fromkeys(TERMS, 0.0)
    for piece, share in zip(found, shares, strict=True):
        sums[piece.term] += share * seconds
    return tuple(Term(name, value) for name, value in sums.items() if value > 0)


def _notes(machine: Machine, how: Deployment, known: Sequence[Observation], constants: Priors) -> tuple[str, ...]:
    notes = []
    if how.family == OWN:
        notes.append("memfirst: rates of its kernels on other processors, so the interval is wide")
    elif how.family not in constants.engines:
        notes.append(f"no published speeds of {how.engine}: priors of all engines, so the interval is wide")
    if "memory" in machine.known:
        notes.append(f"{machine.name}: {machine.known} ({machine.source})")
    if known:
        notes.append(f"follows {len(known)} measured step{'s' if len(known) > 1 else ''}")
    return tuple(notes)


@dataclass(frozen=True)
class _Asked:
    """A step that is predicted or was measured, for its covariance with others."""

    slope: Mapping[str, float]
    log_seconds: float
    cost: Cost
    machine: Machine
    how: Deployment

    @property
    def place(self) -> tuple[str, str, str]:
        """Engine, backend and machine."""
        return self.how.family, where(self.machine, self.how), self.machine.name

    @property
    def model(self) -> tuple[object, ...]:
        """What tells models apart."""
        return (*self.place, self.cost.codec, self.cost.layers, self.cost.width)


def _asked(cost: Cost, machine: Machine, how: Deployment, constants: Priors) -> _Asked:
    found = estimate(pieces(cost, machine, how), constants, level(machine, how))
    return _Asked(found.slope, found.log_seconds, cost, machine, how)


def _conditioned(
    first: Estimate, cost: Cost, machine: Machine, how: Deployment, known: Sequence[Observation], constants: Priors
) -> tuple[float, float]:
    """Mean and spread of log seconds, given the measured steps: a Gaussian conditioned on them."""
    asked = [_Asked(first.slope, first.log_seconds, cost, machine, how)]
    asked += [_asked(k.cost, k.machine, k.deployment, constants) for k in known]
    shared = _covariance(asked, constants)
    if not known:
        return first.log_seconds, sqrt(shared[0, 0])
    missed = np.array([log(k.seconds) - a.log_seconds for k, a in zip(known, asked[1:], strict=True)])
    gain = np.linalg.solve(shared[1:, 1:], shared[1:, 0])
    left = shared[0, 0] - shared[0, 1:] @ gain
    return first.log_seconds + float(gain @ missed), sqrt(max(left, constants.row**2))


def _covariance(asked: Sequence[_Asked], constants: Priors) -> F64:
    """[steps, steps] of log seconds: constants and a source are shared by all, the rest by steps of one machine."""
    names = list(dict.fromkeys(n for a in asked for n in a.slope))
    slopes = np.array([[a.slope.get(n, 0.0) for n in names] for a in asked])
    found: F64 = slopes @ constants.between(names) @ slopes.T + constants.row**2 * np.eye(len(asked))
    spreads = constants.spreads
    groups: dict[str, list[tuple[object, ...]]] = {
        "source": [()] * len(asked), "cell": [a.place for a in asked], "model": [a.model for a in asked],
    }  # fmt: skip
    for kind, group in groups.items():
        own = _columns(asked, tuple(spreads[kind])) * np.array(list(spreads[kind].values()))
        found += (own @ own.T) * np.array([[a == b for b in group] for a in group])
    for place in {a.place for a in asked}:
        at = np.array([a.place == place for a in asked])
        of = constants.level(*place)
        columns = _columns(asked, of.names) * at[:, None]
        found += columns @ of.covariance @ columns.T
    return found


def _columns(asked: Sequence[_Asked], names: Sequence[str]) -> F64:
    """[steps, names] how log seconds follow deviations of the constants; of ALL, one for one."""
    return np.array([[1.0 if n == ALL else a.slope.get(n, 0.0) for n in names] for a in asked])
