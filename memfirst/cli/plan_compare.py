"""Several plans side by side: a column each, and bars of their speed and of what they hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from memfirst.cli.display import gib, printable, size, table, width
from memfirst.cli.plan_page import WIDTH, comparison, rate, seconds
from memfirst.cli.streams import can_show
from memfirst.cli.wrap import fold, packed
from memfirst.plan import Plan

BAR, LEAST_BAR = 40, 12
"""Characters of a bar at most, and of the narrowest that says anything."""

BLOCKS, PLAIN = "█▓░", "#=-"
"""Up to the slow end of the interval, to what is predicted, to the fast end; of memory: weights, KV, the rest. Where
the terminal's encoding has no blocks, plain characters."""

CHOICES: Sequence[tuple[str, Callable[[Plan], str]]] = (
    ("model", lambda p: p.subject.name),
    ("codec", lambda p: p.subject.codec.upper()),
    ("machine", lambda p: (f"{p.options.devices} × " if p.options.devices > 1 else "") + p.place.machine.name),
    ("engine", lambda p: p.engine),
    ("KV", lambda p: p.options.kv),
    ("context", lambda p: f"{p.context:,}"),
    ("sequences", lambda p: f"{p.options.batch:,}"),
)
"""What was chosen: said once where it is the same in all."""


def _spare(plan: Plan) -> str:
    if plan.available is None:
        return "?"
    return gib(plan.memory.spare) if plan.fits else f"−{gib(-plan.memory.spare)}"


FIGURES: Sequence[tuple[str, Callable[[Plan], str]]] = (
    ("held", lambda p: gib(p.memory.needs.total)),
    ("to spare", _spare),
    ("longest context", lambda p: f"{p.limits.context:,}" if p.limits else "?"),
    ("read a token", lambda p: size(p.nbytes)),
    ("tok/s", lambda p: rate(p.rate) if p.decode else "–"),
    ("  80 %", lambda p: f"{rate(p.decode.slowest)}–{rate(p.decode.fastest)}" if p.decode else "–"),
    ("  at most", lambda p: rate(p.decode.ceiling) if p.decode else "–"),
    ("bound by", lambda p: p.binding or "?"),
    ("first token", lambda p: seconds(p.prefill.seconds) if p.prefill else "–"),
)


def side_by_side(plans: Sequence[Plan]) -> str:
    """A column for each plan, or a row where they are too many, then bars."""
    most = width() or WIDTH
    same = [(head, tell(plans[0])) for head, tell in CHOICES if len({tell(p) for p in plans}) == 1]
    other = [(head, tell) for head, tell in CHOICES if head not in dict(same)]
    rows = [[head, *(tell(p) for p in plans)] for head, tell in (*other, *FIGURES)]
    text = table(rows, numbers=range(1, len(plans) + 1), within=0)
    if max(map(len, text.split("\n"))) > most:
        text = comparison(plans)
    else:
        said = [f"{head} {value}" for head, value in same if head != "KV" or value != "f16"]
        text = "\n".join([*packed(said, most, rest="  "), "", text])
    names = _names(plans)
    return printable("\n".join([text, "", *_speeds(plans, names, most), "", *_memories(plans, names, most)]))


def _names(plans: Sequence[Plan]) -> list[str]:
    """What tells them apart, in as few words."""
    varied = [tell for _, tell in CHOICES if len({tell(p) for p in plans}) > 1]
    return [" ".join(tell(p) for tell in varied or [CHOICES[0][1]]) for p in plans]


def _speeds(plans: Sequence[Plan], names: Sequence[str], most: int) -> list[str]:
    """Bars of tokens/s with their intervals, from 0 to the fastest end of all."""
    top = max((p.decode.fastest or 0.0 for p in plans if p.decode), default=0.0)
    said = [f"{rate(p.rate)} tok/s" if p.rate else "does not fit" if p.fits is False else "no speed" for p in plans]
    shares = [
        (p.decode.slowest or 0.0, p.rate or 0.0, p.decode.fastest or 0.0) if p.decode and p.rate else (0.0, 0.0, 0.0)
        for p in plans
    ]
    sure, likely, possible = _marks()
    key = f"{sure} to the slow end of the 80 % interval, {likely} to the speed predicted, {possible} to the fast end"
    return [*_bars(names, shares, said, top, most), *fold(key, most)]


def _memories(plans: Sequence[Plan], names: Sequence[str], most: int) -> list[str]:
    """Bars of what each holds, from 0 to the most of all."""
    ends = []
    for plan in plans:
        needs = plan.memory.needs
        kept = needs.weights + needs.kv_allocated + needs.state_allocated
        ends.append((float(needs.weights), float(kept), float(needs.total)))
    said = [gib(p.memory.needs.total) + (f" of {gib(p.available)}" if p.available else "") for p in plans]
    weights, kv, rest = _marks()
    key = f"held: {weights} weights, {kv} KV and state, {rest} buffers and overhead"
    return [*_bars(names, ends, said, max(total for *_, total in ends), most), *fold(key, most)]


def _bars(
    names: Sequence[str], ends: Sequence[tuple[float, float, float]], said: Sequence[str], top: float, most: int
) -> list[str]:
    """A line each: the name, a bar of three parts that end at `ends`, the figure; the bar below where it is narrow."""
    left, right = max(map(len, names)), max(map(len, said))
    room = min(BAR, most - left - right - 4)
    if room < LEAST_BAR:
        room = min(BAR, max(4, most - right - 4))
        lines = []
        for name, each, text in zip(names, ends, said, strict=True):
            lines += [name, f"  {_bar(each, top, room)}  {text}"]
        return lines
    return [f"{n:<{left}}  {_bar(e, top, room)}  {s}" for n, e, s in zip(names, ends, said, strict=True)]


def _bar(ends: tuple[float, float, float], top: float, room: int) -> str:
    at = [round(room * end / top) if top else 0 for end in ends]
    first, second, third = _marks()
    return (first * at[0] + second * (at[1] - at[0]) + third * (at[2] - at[1])).ljust(room)


def _marks() -> tuple[str, str, str]:
    first, second, third = tuple(BLOCKS if can_show(BLOCKS) else PLAIN)
    return first, second, third
