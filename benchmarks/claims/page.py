"""docs/claims.md: the verdicts that surprise, then section by section verdicts, commands, figures and criteria."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.claims import measured
from benchmarks.claims.sections import SECTIONS
from benchmarks.claims.statement import Opinion, Outcome, Section
from benchmarks.claims.verdict import BESIDE, NEAR, Case, Scope, Verdict, percent

HEAD = """# The article's statements, tested

memfirst starts from an article, *LLM inference is bound by memory, not FLOPs*. It makes {total} statements.
{tested} can be tested: **{right} right, {conditions} right with conditions, {wrong} wrong**. {opinions} are opinion.

## What surprises: the {wrong} that are wrong

| # | it says | what is true |
|---|---|---|
{surprises}

`python -m benchmarks.claims --claim N` prints the figures of statement N, the criterion that each meets or not, and
their source.

## How they are tested

Every verdict here is computed. A test gives cases, each a figure and a criterion that it meets or not: a number
within {near} of the stated one, a range (or at most {beside} beside it), or a bound that stands beside it.
What follows from the cases depends on what the words claim:

{rules}

Figures come from memfirst's own graphs, codec mixes, data sheets and ceilings ("computed": on hardware that was not
run here), from its fitted timing ("predicted"), and from published measurements, with their source (numbers in
brackets, at the end). Names such as `llama-3:8b` are rows of the catalogue. This page is made by `make docs`.

Under each table stands the command that prints the figures of every test (and the plan to play with, where there is
one), then its cases: those that meet a criterion (yes), and those that do not (no).
"""


def outcomes() -> dict[int, Outcome]:
    """Of every statement that can be tested, by number."""
    return {s.number: s.outcome() for section in SECTIONS for s in section.statements}


def render(kept: Mapping[str, Any] | None = None) -> str:
    """The whole page; kept: what was measured, default the committed figures."""
    found = outcomes()
    sources = _sources(list(found.values()))
    parts = [_head(found), *(_section(section, found, sources) for section in SECTIONS)]
    parts.append(measured.page(measured.load() if kept is None else kept))
    parts.append("## Sources\n\n" + "\n".join(f"{n}. {source}" for source, n in sources.items()) + "\n")
    return "\n".join(parts)


def _head(found: Mapping[int, Outcome]) -> str:
    counts = Counter(o.verdict for o in found.values())
    opinions = sum(len(section.opinions) for section in SECTIONS)
    rules = "\n".join(f"* {_SCOPES[scope]}: {scope.value}." for scope in Scope)
    return HEAD.format(
        total=len(found) + opinions, tested=len(found), right=counts[Verdict.RIGHT],
        conditions=counts[Verdict.CONDITIONS], wrong=counts[Verdict.WRONG], opinions=opinions, near=percent(NEAR),
        beside=percent(BESIDE), rules=rules, surprises=_surprises(found),
    )  # fmt: skip


def _surprises(found: Mapping[int, Outcome]) -> str:
    wrong = (o.statement for o in found.values() if o.verdict is Verdict.WRONG)
    return "\n".join(f"| {s.number} | “{s.quote}” | {s.truth} |" for s in wrong)


_SCOPES = {Scope.PLAIN: "a plain statement", Scope.TYPICAL: "a *typical* one", Scope.UNIVERSAL: "a *universal* one"}


def _sources(found: Sequence[Outcome]) -> dict[str, int]:
    """Sources numbered in order of appearance."""
    names = dict.fromkeys(case.source for outcome in found for case in outcome.cases if case.source)
    return {name: n for n, name in enumerate(names, 1)}


def _section(section: Section, found: Mapping[int, Outcome], sources: Mapping[str, int]) -> str:
    rows = [f"| {s.number} | “{s.quote}” | {found[s.number].verdict.value} | {s.truth} |" for s in section.statements]
    table = "\n".join(["| # | it says | verdict | what is true |", "|---|---|---|---|", *rows])
    tests = "\n".join(test(found[s.number], sources) for s in section.statements)
    return f"## {section.title}\n\n{table}\n{_opinions(section.opinions)}\n### Tests\n\n{tests}"


def _opinions(opinions: Sequence[Opinion]) -> str:
    if not opinions:
        return ""
    return "\nNot testable: " + "; ".join(f"{o.number}, “{o.quote}” ({o.why})" for o in opinions) + ".\n"


def test(outcome: Outcome, sources: Mapping[str, int]) -> str:
    """The command, then the cases by criterion and by whether they meet it."""
    statement = outcome.statement
    scope = "" if statement.scope is Scope.PLAIN else f", *{statement.scope.name.lower()}*"
    groups: dict[tuple[str, bool], list[str]] = {}
    for case in outcome.cases:
        groups.setdefault((case.criterion, case.holds), []).append(_figure(case, sources))
    lines = [f"  * {'yes' if holds else 'no'}, {criterion}: {'; '.join(figures)}"
             for (criterion, holds), figures in groups.items()]  # fmt: skip
    plan = f"; `{statement.command}`" if statement.command else ""
    command = f"`python -m benchmarks.claims --claim {statement.number}`{plan}"
    return "\n".join([f"* **{statement.number}** {outcome.verdict.value}{scope}: {command}", *lines, ""])


def _figure(case: Case, sources: Mapping[str, int]) -> str:
    return f"{case.figure} [{sources[case.source]}]" if case.source in sources else case.figure


def alone(outcome: Outcome) -> str:
    """One statement with its test, for a terminal."""
    statement = outcome.statement
    lines = [f"{statement.number}  “{statement.quote}”: {outcome.verdict.value}", f"   {statement.truth}", ""]
    lines += [f"   {'yes' if c.holds else 'no '}  {c.figure}; asked: {c.criterion}" for c in outcome.cases]
    lines += [f"   rule: {statement.scope.value}", f"   test: {statement.shell}"]
    sources = dict.fromkeys(c.source for c in outcome.cases if c.source)
    return "\n".join([*lines, *(f"   from: {source}" for source in sources)])
