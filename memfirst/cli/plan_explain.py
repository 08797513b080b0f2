"""`plan --explain` as text: the source of each fact, and a table of the parts of each time."""

from __future__ import annotations

from memfirst.cli.display import printable, table, width
from memfirst.cli.plan_page import WIDTH, seconds
from memfirst.cli.wrap import fold
from memfirst.plan import Plan
from memfirst.plan.explain import explained
from memfirst.predict.fitted.explain import Explained

LABEL = 12


def explanation(plan: Plan) -> str:
    """Below a plan's page: where each of its figures comes from."""
    most = width() or WIDTH
    found = explained(plan)
    lines = ["where the figures come from"]
    for fact in found.facts:
        lines += fold(fact.source, most, f"  {fact.figure:<{LABEL}}  ", " " * (LABEL + 4))
    if found.why_no_parts:
        lines += fold(found.why_no_parts, most, f"  {'times':<{LABEL}}  ", " " * (LABEL + 4))
    for name, of, parts in (("decode", plan.decode, found.decode), ("prompt", plan.prefill, found.prefill)):
        if parts and of and of.seconds:
            lines += ["", *fold(f"{name}: {seconds(of.seconds)} a step, of parts that partly overlap", most)]
            lines.append(_parts(parts))
    if found.decode:
        lines += ["", *_rows(plan, found.decode, most)]
    return printable("\n".join(lines))


def _parts(found: Explained) -> str:
    """A row a part: what it is before any fit, what the fit made of it, its part of the step."""
    rows = [
        (part.term, f"{part.before * 1e3:.3g} ms", f"× {part.factor:.2f}", f"{part.seconds * 1e3:.3g} ms", part.formula)
        for part in found.parts
        if part.seconds > 0.001 * sum(p.seconds for p in found.parts)
    ]
    head = ("  term", "unfitted", "fitted", "of the step", "unfitted, it is")
    return table([head, *((f"  {term}", *rest) for term, *rest in rows)], numbers=(1, 2, 3))


def _rows(plan: Plan, found: Explained, most: int) -> list[str]:
    """The published speeds behind the factors."""
    mine = sum(found.machine.values())
    name, engine = plan.place.machine.name, plan.place.deployment(plan.options).family
    said = f"factors: fitted to {found.rows} published speeds (memfirst/catalog/priors.json), {found.engine_rows} of"
    said += f" {engine}, {mine or 'none'} of them on {name}"
    lines = fold(said, most)
    if not mine:
        return lines + fold("what a machine's own rows would say is in the interval: it is wider by that", most, "  ")
    for source, count in found.machine.items():
        lines += fold(f"{count} by {source}", most, "  ", "    ")
    return lines
