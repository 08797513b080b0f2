"""Another machine, or another model of the catalogue: the smallest step that is worth it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from memfirst.catalog.configs import ModelConfig, configs
from memfirst.errors import MemfirstError
from memfirst.hardware.machines import Machine, machines
from memfirst.plan import Place, Plan, make, subject
from memfirst.plan.advice.change import EXACT, MACHINE, MODEL, Advice, attempt, changed, family

FASTER, TRIED, SMALLEST = 1.4, 2, 10
"""Gain below which nobody moves; how many candidates are priced; how many times smaller a model may be."""

_CLASSES = (("gpu", "laptop-gpu"), ("datacentre-gpu",), ("unified",), ("cpu", "board"))


def elsewhere(plan: Plan) -> Iterator[Advice]:
    """At most one other machine and one other model."""
    yield from islice(_machines(plan), 1)
    yield from islice(_models(plan), 1)


def _machines(plan: Plan) -> Iterator[Advice]:
    """The slowest that is worth it, of the same class if there is one, that holds the model."""
    if plan.place.here:
        return  # its speed is known where it was measured, and elsewhere rests on other rates than here
    better = sorted((m for m in machines() if _worth(m, plan)), key=lambda m: _rank(m, plan))
    for machine in better[:TRIED]:
        after = attempt(plan.subject, Place(machine), plan.requested)
        if after is None:
            continue
        advice = changed(MACHINE, f"{machine.name}, {(machine.bandwidth or 0) / 1e9:,.0f} GB/s", EXACT, plan, after)
        if after.fits and after.rate and _pays(plan, advice):
            yield advice


def _worth(machine: Machine, plan: Plan) -> bool:
    """Whether it has the memory, and, where the model fits already, the bandwidth."""
    room = Place(machine).memory(plan.options)
    if machine.unknown or not room or not machine.bandwidth or not plan.framework.runs_on(machine):
        return False
    if plan.fits is False:
        return room * plan.memory.allocator.share >= plan.memory.total
    return machine.bandwidth >= FASTER * (plan.place.machine.bandwidth or 0.0)


def _rank(machine: Machine, plan: Plan) -> tuple[bool, float]:
    """The same class first; then by memory for a model that does not fit, else by bandwidth."""
    other = _class(machine) != _class(plan.place.machine)
    size = machine.memory if plan.fits is False else machine.bandwidth
    return other, float(size or 0)


def _class(machine: Machine) -> int:
    return next(i for i, kinds in enumerate(_CLASSES) if machine.kind in kinds)


def _models(plan: Plan) -> Iterator[Advice]:
    """The largest of the family that is worth it."""
    now = plan.subject.parameters
    kin = [m for m in configs() if family(m.name) == family(plan.subject.name) and m.parameters]
    near = (m for m in kin if now / SMALLEST <= (m.parameters or 0) < 0.98 * now)
    smaller = sorted(near, key=lambda m: -(m.parameters or 0))
    for row in _sizes(smaller)[: 2 * TRIED]:
        advice = _model(plan, row)
        if advice is not None:
            yield advice


def _sizes(rows: list[ModelConfig]) -> list[ModelConfig]:
    """One of each number of parameters."""
    return list({row.parameters: row for row in rows}.values())


def _model(plan: Plan, row: ModelConfig) -> Advice | None:
    codec = "" if plan.subject.assumed or plan.subject.graph is plan.subject.origin else plan.subject.codec
    try:
        after = make(subject(row.name, codec, plan.engine), plan.place, plan.requested)
    except MemfirstError:
        return None  # longer than it was trained for, or no such codec: not a model to advise
    size = f"{(row.parameters or 0) / 1e9:.1f} billion weights for {plan.subject.parameters / 1e9:.1f}"
    advice = changed(MODEL, f"{row.name}, {size}", "other answers", plan, after)
    return advice if after.fits is not False and _pays(plan, advice) else None


def _pays(plan: Plan, advice: Advice) -> bool:
    """It fits where the model did not, or is worth a move."""
    return plan.fits is False or (advice.gain or 0.0) >= FASTER
