"""Several servers of one model: what they give together, and why that depends on whose memory they read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from memfirst.errors import UnsupportedError
from memfirst.plan.options import MOST_SEQUENCES
from memfirst.predict.fitted import OVERHEAD
from memfirst.predict.prediction import Prediction

if TYPE_CHECKING:
    from memfirst.plan.result import Plan


@dataclass(frozen=True)
class Replicas:
    """Tokens/s of `count` servers, each with `each` sequences at a time.

    apart   of all of them, on machines of their own
    shared  of all of them on one machine: each reads its own weights through the same memory
    joined  of one server there with all their sequences, which reads weights once for all; None where that is unknown
    weights bytes that all of them read in a step on one machine, and one server does not: those of the others' weights
    """

    count: int
    each: int
    apart: float
    shared: float
    joined: float | None
    weights: float

    def json(self) -> dict[str, Any]:
        """By name; of all users, and of one."""
        users = self.count * self.each

        def speed(total: float | None) -> dict[str, float] | None:
            return None if total is None else {"tok_s": total, "tok_s_per_user": total / users}

        return {
            "count": self.count, "sequences_each": self.each, "own_machines": speed(self.apart),
            "one_machine": speed(self.shared), "one_server": speed(self.joined),
            "weights_read_again": self.weights,
        }  # fmt: skip


def replicas(plan: Plan, kv: float) -> Replicas | None:
    """Of a plan of one server; None where it has no speed. `kv`: bytes of a step that belong to its sequences."""
    from memfirst.plan.make import make

    count, rate = plan.options.replicas, plan.rate
    if count == 1 or plan.decode is None or rate is None:
        return None
    joined, all_of_them = None, count * plan.asked
    if all_of_them <= MOST_SEQUENCES and not plan.options.speculation:
        try:
            joined = make(plan.subject, plan.place, replace(plan.requested, batch=all_of_them, replicas=1)).rate
        except UnsupportedError:
            joined = None
    weights = (count - 1) * max(0.0, plan.step_bytes - kv)
    shared = count * plan.decode.tokens / seconds_beside(plan.decode, count)
    return Replicas(count, plan.options.batch, count * rate, shared, joined, weights)


def seconds_beside(step: Prediction, count: int) -> float:
    """Seconds of a step while as many others run on the same machine: bandwidth and arithmetic are divided among them,
    what is neither (barriers, the interpreter) each has for itself."""
    return sum(t.seconds * (1 if t.name == OVERHEAD else count) for t in step.terms)
