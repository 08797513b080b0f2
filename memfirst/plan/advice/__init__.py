"""What to change first: ranked changes of a plan, each with bytes, speed, memory, and what it costs in answers."""

from __future__ import annotations

from memfirst.plan import Plan
from memfirst.plan.advice.change import ELSEWHERE, MACHINE, MODEL, SLOW, WINDOW, Advice
from memfirst.plan.advice.elsewhere import elsewhere
from memfirst.plan.advice.fitting import fitting
from memfirst.plan.advice.same import same
from memfirst.plan.framework import BATCH, CODEC, CONTEXT, DEVICES, HEAD, KV, SPECULATION, THREADS

LITTLE = 1.05
"""Gain below which a change is listed last."""

_LEAST_CHANGE = (KV, CODEC, CONTEXT, WINDOW, THREADS, SPECULATION, HEAD, BATCH, SLOW, DEVICES, MACHINE, MODEL)

__all__ = ["LITTLE", "Advice", "advise", "best"]


def advise(plan: Plan) -> tuple[Advice, ...]:
    """Changes, the best first: for a model that does not fit, those after which it does.

    The same model, machine and use before others, then by gain. What gains less than LITTLE comes last. Where there was
    no speed to gain on, what changes least comes first: weights on disk before fewer bits where they are faster.
    """
    near = fitting(plan) if plan.fits is False else same(plan)
    found = [a for a in (*near, *elsewhere(plan)) if a.after is None or a.after.fits is not False]
    fewer_bits = max((a.rate or 0.0 for a in found if a.kind == CODEC), default=0.0)
    return tuple(sorted(found, key=lambda advice: _order(advice, fewer_bits)))


def best(found: tuple[Advice, ...], count: int) -> tuple[Advice, ...]:
    """The first of each kind that changes anything, at most `count`."""
    first: dict[str, Advice] = {}
    for advice in found:
        saves = advice.gain is None or advice.gain >= 1.01 or advice.kind == "window"
        if saves:
            first.setdefault(advice.kind, advice)
    return tuple(first.values())[:count]


def _order(advice: Advice, fewer_bits: float) -> tuple[int, float]:
    if advice.gain is None:  # it had no speed before: what changes least comes first
        if advice.kind == SLOW and (advice.rate or 0.0) > fewer_bits > 0:
            return _LEAST_CHANGE.index(CODEC), -1.0
        return _LEAST_CHANGE.index(advice.kind), 0.0
    return 2 if advice.gain < LITTLE else int(advice.kind in ELSEWHERE), -advice.gain
