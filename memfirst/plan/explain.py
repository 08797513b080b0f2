"""`plan --explain`: for each figure of a plan, the file, the measured rows or the prior that it comes from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from memfirst.convert.mixes import PRICED
from memfirst.graph import Step
from memfirst.graph import prefill as prefill_step
from memfirst.plan.result import Plan
from memfirst.predict.fitted.explain import Explained, explain


@dataclass(frozen=True)
class Origin:
    """One figure, and where it comes from."""

    figure: str
    source: str


@dataclass(frozen=True)
class Explanation:
    """Of a plan: its facts, and the parts of its times.

    why_no_parts  the times are not made of fitted parts, and what they are made of
    """

    facts: tuple[Origin, ...]
    decode: Explained | None
    prefill: Explained | None
    why_no_parts: str = ""

    def json(self) -> dict[str, Any]:
        """Everything by name."""
        return {
            "facts": [asdict(fact) for fact in self.facts],
            "decode": None if self.decode is None else asdict(self.decode),
            "prefill": None if self.prefill is None else asdict(self.prefill),
            "times": self.why_no_parts or "priors fitted to published speeds: memfirst/catalog/priors.json",
        }


def explained(plan: Plan) -> Explanation:
    """Where the figures of `plan` come from."""
    facts = tuple(_facts(plan))
    if plan.decode is None:
        return Explanation(facts, None, None, "no speed: it does not fit")
    if plan.decode.seconds is None:
        return Explanation(facts, None, None, "no speed: " + "; ".join(plan.decode.notes))
    if plan.place.rates and plan.engine == "memfirst":
        date = plan.place.rates.date
        return Explanation(facts, None, None, f"rates of this machine's own kernels, by memfirst machine on {date}")
    if plan.options.speculation or plan.disk:
        return Explanation(facts, None, None, "steps of several kinds: explain the plan without drafts and --memory")
    return Explanation(
        facts,
        _parts(plan, plan.options.step(plan.context)),
        _parts(plan, prefill_step(plan.prompt)) if plan.prefill and plan.prefill.seconds else None,
    )


def _parts(plan: Plan, step: Step) -> Explained:
    cost = plan.place.priced(plan.subject, plan.options).cost(step)
    return explain(cost, plan.place.machine, plan.place.deployment(plan.options))


def _facts(plan: Plan) -> Iterator[Origin]:
    model, machine, needs = plan.subject, plan.place.machine, plan.memory.needs
    where = (
        f"the header of {model.path}" if model.path else "the catalogue's configuration (memfirst/catalog/configs.json)"
    )
    if model.asked and not model.path and "/" in model.asked:
        where = f"what {model.asked} says of itself on the hub"
    yield Origin("tensors", where + ("" if model.spread == 1 else ", of an architecture that is not known"))
    yield Origin(f"codec {model.codec.upper()}", _codec(plan))
    yield Origin("KV", f"keys and values of the graph's caches, in {plan.options.kv}")
    yield Origin("buffers", needs.buffers.source)
    yield Origin("overhead", needs.overhead.source)
    known = f" ({machine.known})" if machine.known else ""
    sheet = machine.source or "its row in machines.json"
    if plan.place.throttle:
        yield Origin("limits", "; ".join(plan.place.throttle.said(plan.place.sold or machine)))
    yield Origin(machine.name, f"{sheet}{known}")


def _codec(plan: Plan) -> str:
    model = plan.subject
    if model.graph is model.origin:
        return "as the file or the configuration has it"
    mix = "llama.cpp's rule for which tensor gets which codec" if model.codec in PRICED else "its bits for each tensor"
    return f"{'assumed: ' if model.assumed else 'asked for: '}{mix}"
