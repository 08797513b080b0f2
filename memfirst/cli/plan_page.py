"""A plan as a page of at most 30 lines, and several as a table."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from memfirst.cli.bar import bar
from memfirst.cli.display import gib, printable, size, table, width
from memfirst.cli.wrap import fold, packed
from memfirst.graph import decode
from memfirst.graph.traffic import EMBEDDING
from memfirst.plan import Options, Place, Plan, Prediction
from memfirst.plan.advice import Advice
from memfirst.plan.options import DEFAULT_CONTEXT
from memfirst.plan.rank import quality

if TYPE_CHECKING:
    from memfirst.plan.from_disk import FromDisk
    from memfirst.plan.load import Load
    from memfirst.plan.replicas import Replicas
    from memfirst.plan.result import Sketch
    from memfirst.predict.load import Figures, Simulated

WIDTH, LABEL = 110, 9
"""Characters of a line at most, and of the words at the left."""

FITTING = 6
"""Changes that are listed where the model does not fit."""

TERMS = {
    "weights": "reading weights", "experts": "reading routed experts", "KV": "reading the KV cache",
    "compute": "arithmetic", "overhead": "fixed costs", "link": "exchange between devices",
    "draft": "the drafting model", "disk": "reading weights from disk", "capacity": "memory: it does not fit",
}  # fmt: skip
"""What binds, in words."""


def page(plan: Plan, found: Sequence[Advice], within: int | None = None) -> str:
    """The answer for one model on one machine, in lines of at most `within` characters (the terminal's; 0: 110)."""
    most = min(width() if within is None else within, WIDTH) or WIDTH
    lines = [*packed(_title(plan), most, rest="  "), ""]
    begun = ""
    for label, *parts in _facts(plan, most - LABEL - 2):
        lines += packed(parts, most, f"  {label if label != begun else '':<{LABEL}}", " " * (LABEL + 2))
        begun = label
    for note in (*plan.notes, *(plan.decode.notes if plan.decode else ())):
        lines += fold(note, most, f"  {'note':<{LABEL}}", " " * (LABEL + 2))
    if found:
        lines += ["", "what would make it fit" if plan.fits is False else "what to change first"]
        lines += [line for i, advice in enumerate(found, 1) for line in _advice(i, advice, most)]
    return printable("\n".join(lines))


def _title(plan: Plan) -> list[str]:
    machine, options = plan.place.machine, plan.options
    codec = plan.subject.codec.upper() + (" (assumed: --codec)" if plan.subject.assumed else "")
    many = f"{_batch(plan)} sequences" if plan.asked > 1 else "one sequence"
    devices = f"{options.devices} × " if options.devices > 1 else ""
    where = f"this machine ({machine.title})" if plan.place.here else machine.name
    where += f" ({gib(machine.memory)})" if machine.memory and not plan.place.here else ""
    drafts = []
    if by := options.speculation:
        who = f" by {by.draft}" if by.draft else ""
        drafts = [f"{by.tokens} drafted a step{who}, {100 * by.acceptance:.0f} % right"]
    name = plan.subject.name + (f" ({plan.subject.asked})" if plan.subject.asked else "")
    return [f"{name} in {codec} on {devices}{where}", plan.engine, f"{many} of {plan.context:,} tokens", *drafts]


def _batch(plan: Plan) -> str:
    """Sequences that run at a time, of those asked for."""
    running = plan.options.batch
    return f"{running} of {plan.asked}" if plan.asked > running else str(running)


def _facts(plan: Plan, room: int) -> Iterator[tuple[str, ...]]:
    """A label and what belongs together, a line each where there is room; the same label again goes on below it."""
    yield "held", _fits(plan)
    yield ("held", *_held(plan))
    if said := _room(plan):
        yield "room for", said
    yield "read", _read(plan)
    small = plan.amounts[EMBEDDING].mean if EMBEDDING in plan.amounts else 0.0
    more = [f"embedding {size(small)}"] if small > 0.005 * plan.step_bytes else []
    for line in bar({p: amount.mean for p, amount in plan.amounts.items()}, room, sizes=True, more=more):
        yield "read", line
    yield from _partly(plan)
    if plan.growth or plan.overtakes:
        yield ("context", *_growth(plan))
    if plan.fits is False:
        yield "decode", "no speed: it does not fit"
        return
    if plan.decode:
        for parts in _decode(plan, plan.decode):
            yield ("decode", *parts)
    yield from _several(plan)
    if plan.prefill and plan.prefill.seconds:
        for parts in _prompt(plan, plan.prefill):
            yield ("prompt", *parts)
    if plan.load:
        yield ("users", *_users(plan.load))
        if plan.load.arriving:
            yield ("users", *_arriving(plan.load, plan.load.arriving))


def _partly(plan: Plan) -> Iterator[tuple[str, str]]:
    """Of weights that a step reads in part: the head by a sketch, what lies on disk, routed experts."""
    if plan.sketch:
        yield "read", _sketch(plan.sketch)
    if plan.disk:
        yield "disk", _disk(plan, plan.disk)
    if plan.distinct:
        yield "experts", _experts(plan)


def _several(plan: Plan) -> Iterator[tuple[str, str]]:
    """Of a model over several processes, or several servers of one."""
    if plan.split:
        yield "split", _split(plan, plan.split)
    if plan.replicas:
        yield "replicas", _replicas(plan.replicas)


def _split(plan: Plan, found: Prediction) -> str:
    """Speed, and why it is not as many times as fast."""
    options, link = plan.options, {t.name: t.seconds for t in found.terms}.get("link", 0.0)
    why = (
        "each reads a part of every matrix at once, through one memory bus" if options.split == "tensor"
        else "they take turns with a token: room for larger models, no speed"
    )  # fmt: skip
    return (
        f"{options.processes} processes, {options.split}: {found.tokens_per_second or 0:.0f} tok/s "
        f"({1000 * (found.seconds or 0):.1f} ms a step, {1000 * link:.1f} of it to exchange values); {why}"
    )


def _replicas(found: Replicas) -> str:
    """Total and per user, and why it is not linear on one memory bus."""
    users = found.count * found.each

    def speed(total: float) -> str:
        return f"{total:.0f} tok/s, {total / users:.1f} for each of {users}"

    said = (
        f"{found.count} on machines of their own {speed(found.apart)}; all on one machine {speed(found.shared)}, as"
        f" they share its memory bus and each reads its own weights ({size(found.weights)} more a step of all)"
    )
    return said if found.joined is None else f"{said}; one server for all {speed(found.joined)}"


def _held(plan: Plan) -> Iterator[str]:
    needs = plan.memory.needs
    yield f"weights {size(needs.weights)}"
    if needs.kv_allocated:
        same = needs.kv_allocated == needs.kv_held
        yield f"KV {size(needs.kv_allocated)}" + ("" if same else f" allocated, {size(needs.kv_held)} held")
    if needs.state_allocated:
        yield f"state {size(needs.state_allocated)}"
    yield f"buffers {size(needs.buffers.nbytes)}"
    yield f"overhead {size(needs.overhead.nbytes)}"
    if needs.host:
        yield f"embedding in the host's memory {size(needs.host)}"


def _fits(plan: Plan) -> str:
    total, each = plan.memory.needs.total, " on the fullest device" if plan.options.devices > 1 else ""
    if plan.available is None:
        return f"{gib(total)} in all; the memory of {plan.place.machine.name} is not known"
    allocator, share = plan.memory.allocator, plan.memory.allocator.share
    have = f"{gib(total)}{each} of {gib(plan.available)}"
    have += _of(plan)
    have += f", of which {allocator.name} takes {100 * share:.0f} %" if share < 1 else ""
    if plan.fits:
        return f"{have}: {'tight' if plan.tight else 'fits'}, {gib(plan.memory.spare)} to spare"
    return f"{have}: does not fit, {gib(-plan.memory.spare)} too much"


def _of(plan: Plan) -> str:
    """Why that is not all of the machine's memory."""
    if plan.options.memory and plan.available == plan.options.memory:
        return " (--memory)"
    whole = plan.place.machine.memory
    return f" that macOS lends of {gib(whole)}" if whole and whole != plan.available else ""


def _room(plan: Plan) -> str:
    """The longest context and the most sequences."""
    found = plan.limits
    if found is None:
        return ""
    each = " each" if plan.options.batch > 1 else ""
    if not found.context:
        return f"no context{each}"
    trained = " (as trained)" if found.context == found.trained else ""
    many = f"{found.sequences:,} sequences" if found.sequences != 1 else "1 sequence"
    return f"{found.context:,} tokens of context{each}{trained}, or {many} of {plan.context:,}"


def _read(plan: Plan) -> str:
    total = plan.step_bytes
    if plan.options.speculation:
        return f"{size(total)} a step without drafts, {size(plan.nbytes)} with them for each token kept"
    if plan.options.batch > 1:
        return f"{size(total)} a step of {plan.options.batch} tokens, {size(plan.nbytes)} each"
    return f"{size(total)} a token"


def _sketch(found: Sketch) -> str:
    if not found.used:
        return f"sketch of the head {size(found.nbytes)}: for steps of one greedy answer alone, not these"
    source = "measured of it" if found.measured else "the most that was measured of any"
    return (
        f"of the head's {size(found.head)} a sketch, {size(found.nbytes)}, and {100 * found.share:.1f} % of its rows"
        f" ({source}), at most all; greedy answers"
    )


def _disk(plan: Plan, disk: FromDisk) -> str:
    read = disk.reads(decode(plan.context - 1, plan.options.batch))
    most = "" if read.exact else f" expected, at most {size(read.high)}"
    kept = f"; memory keeps {100 * disk.experts:.0f} % of the experts there" if disk.experts is not None else ""
    return (
        f"{size(disk.on_disk)} of the weights stay there; {size(read.mean)} a step{most}, at"
        f" {disk.bandwidth / 1e9:.1f} GB/s ({disk.source}){kept}"
    )


def _experts(plan: Plan) -> str:
    d = plan.distinct
    if d is None:
        return ""
    if d.low == d.high:
        return f"{d.low} of {d.experts} in each layer that routes"
    return (
        f"{d.mean:.1f} of {d.experts} distinct ones expected in each layer that routes, if routed evenly; "
        f"at least {d.low}, at most {d.high}"
    )


def _growth(plan: Plan) -> tuple[str, str]:
    grows = f"each token adds {size(plan.growth)}" if plan.growth else "every window is full: no more bytes"
    trained, each = plan.subject.graph.context, " each" if plan.options.batch > 1 else ""
    if plan.overtakes is None:
        return grows, "KV never exceeds the weights"
    if plan.overtakes > trained:
        return grows, f"KV stays below the weights up to the trained {trained:,} tokens{each}"
    return grows, f"KV exceeds the weights from {plan.overtakes:,} tokens{each} on"


def _decode(plan: Plan, found: Prediction) -> Iterator[Sequence[str]]:
    """Speed, what binds it, and how much of the machine that is."""
    if found.tokens_per_second is None:
        bound = f"; at most {rate(plan.most)} tok/s by its bandwidth" if plan.most else ""
        yield (f"no number: what it rests on is not known{bound}",)
        return
    total = f" in all, {rate(plan.each)} each" if plan.options.batch > 1 else ""
    parts = [f"{rate(found.tokens_per_second)} tok/s{total} (80 %: {rate(found.slowest)}–{rate(found.fastest)})"]
    if plan.empty and plan.empty.tokens_per_second and plan.empty.tokens_per_second > 1.02 * found.tokens_per_second:
        parts.append(f"{rate(plan.empty.tokens_per_second)} at an empty context")
    yield parts
    if found.seconds:
        yield tuple(_bound(found))
        yield tuple(_used(plan, found))


def _used(plan: Plan, found: Prediction) -> Iterator[str]:
    """Shares of the peaks: MBU and MFU, in words."""
    if found.mbu is not None and found.ceiling:
        yield f"{_percent(found.mbu)} of {_bandwidth(plan)} that allow {rate(found.ceiling)} tok/s"
    if found.mfu is not None:
        yield f"{_percent(found.mfu)} of the FLOP/s"


def _bandwidth(plan: Plan) -> str:
    found = plan.place.bandwidth(plan.options) or 0.0
    said = f"{found / 1e9:,.0f} GB/s" if found >= 1e10 else f"{found / 1e9:.1f} GB/s"
    if plan.place.rates:
        return f"the {said}, as measured,"
    return f"the {said} ({plan.place.machine.known})" if plan.place.here else f"the {said}"


def _bound(found: Prediction) -> Iterator[str]:
    first, *rest = found.shares
    yield f"bound by {TERMS[first[0]]} ({100 * first[1]:.0f} % of the time)"
    if rest and rest[0][1] >= 0.05:
        yield f"then {TERMS[rest[0][0]]} ({100 * rest[0][1]:.0f} %)"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.0995 else f"{100 * share:.1f} %"


def _prompt(plan: Plan, found: Prediction) -> Iterator[Sequence[str]]:
    low, high = seconds(found.low), seconds(found.high)
    yield (f"{plan.prompt:,} tokens in {seconds(found.seconds)} (80 %: {low}–{high}) to the first token",)
    parts = [f"{rate(found.tokens_per_second)} tok/s, bound by {TERMS[found.binding]}"]
    yield parts if found.mfu is None else [*parts, f"{_percent(found.mfu)} of the FLOP/s"]


def _users(load: Load) -> Iterator[str]:
    """Each asks again once answered."""
    found = load.together.figures
    places = f", {load.places} at a time" if load.places < load.users else ""
    yield f"{load.users} that ask {load.prompt:,} tokens and get {load.answer:,}, again and again{places}"
    yield f"{rate(found.tok_s)} tok/s in all, {rate(found.each)} each"
    yield from _waits(found)
    if load.fit is not None:
        yield f"{load.fit:,} of the plan's context fit"


def _arriving(load: Load, simulated: Simulated) -> Iterator[str]:
    """They come at random."""
    found = simulated.figures
    yield f"at {load.rate:g} requests a second: {rate(found.tok_s)} tok/s"
    yield from _waits(found)
    yield f"longest queue {found.queue}"


def _waits(found: Figures) -> Iterator[str]:
    yield f"first token {_brief(found.ttft.p50)} (99 of 100: {_brief(found.ttft.p99)})"
    yield f"then every {_brief(found.itl.p50)} (99 of 100: {_brief(found.itl.p99)})"


def _brief(value: float) -> str:
    return f"{1e3 * value:.1f} ms" if value < 0.01 else seconds(value)


def seconds(value: float | None) -> str:
    """Two digits: "61 ms", "2.5 s", "130 s"."""
    if value is None:
        return "?"
    if value < 1:
        return f"{1e3 * value:.0f} ms"
    return f"{value:.2g} s" if value < 10 else f"{value:,.0f} s"


def rate(value: float | None) -> str:
    """Three digits: "0.123", "12.3", "1,230"."""
    if value is None:
        return "?"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value < 10 else f"{value:.1f}"


def _advice(number: int, advice: Advice, most: int) -> Iterator[str]:
    between = f" (80 %: {rate(advice.interval[0])}–{rate(advice.interval[1])})" if advice.interval else ""
    speed = f"{rate(advice.rate)} tok/s{between}" if advice.rate else f"at most {rate(advice.most)} tok/s"
    if advice.rate is None and advice.most is None:
        speed = "no speed known"
    gain = f"×{advice.gain:.2f}, " if advice.gain is not None else ""
    cost = advice.effect, f"{size(advice.nbytes)} a token, {size(advice.memory)} held"
    yield from packed((f"{advice.change}: {gain}{speed}", *cost), most, f"  {number}  ", " " * 5)
    yield from _command(advice.flags or advice.command, width() and most)


def _command(text: str, most: int) -> Iterator[str]:
    """A command on lines that a shell joins again, an option with its value; one line where nothing limits it."""
    words = re.findall(r"(?:[^\s']|'[^']*')+", text)
    line = " " * 5
    for i, word in enumerate(words):
        needed = len(word)
        if word.startswith("-") and i + 1 < len(words) and not words[i + 1].startswith("-"):
            both = needed + 1 + len(words[i + 1])
            needed = both if both + 10 <= most else needed
        if most and line.strip() and len(line) + needed + 3 > most:
            yield f"{line}\\"
            line = " " * 7
        line += f"{word} "
    yield line.rstrip()


COLUMNS = ("model", "codec", "machine", "engine", "KV", "context", "batch", "devices", "held", "to spare", "a token",
           "tok/s", "80 %", "ceiling", "bound by", "first token")  # fmt: skip
CHOSEN = COLUMNS.index("held")
"""Columns before this one are what was chosen: where all rows have the same, it is said above them."""


def comparison(plans: Sequence[Plan]) -> str:
    """One row a plan; what is the same in all of them goes above."""
    rows = [_row(p) for p in plans]
    same = [i for i in range(CHOSEN) if len({row[i] for row in rows}) == 1]
    said = [i for i in same if COLUMNS[i] not in ("KV", "devices") or rows[0][i] not in ("f16", "1")]
    kept = [i for i in range(len(COLUMNS)) if i not in same]
    words = ("model", "codec", "machine", "engine", "KV", "bound by")
    numbers = [at for at, i in enumerate(kept) if COLUMNS[i] not in words]
    text = table([[row[i] for i in kept] for row in (COLUMNS, *rows)], numbers)
    above = packed([f"{COLUMNS[i]} {rows[0][i]}" for i in said], width() or WIDTH, rest="  ")
    return printable("\n".join([*above, "", text]) if above else text)


def _row(plan: Plan) -> tuple[str, ...]:
    spare = "?" if plan.available is None else gib(plan.memory.spare) if plan.fits else f"−{gib(-plan.memory.spare)}"
    fast, first, options = plan.decode, plan.prefill, plan.options
    return (
        plan.subject.name, plan.subject.codec.upper(), plan.place.machine.name, plan.engine, options.kv,
        f"{plan.context:,}", _batch(plan), str(options.devices), gib(plan.memory.needs.total), spare,
        size(plan.nbytes), rate(fast.tokens_per_second) if fast else "–",
        f"{rate(fast.slowest)}–{rate(fast.fastest)}" if fast else "–", rate(fast.ceiling) if fast else "–",
        plan.binding or "?", seconds(first.seconds) if first else "–",
    )  # fmt: skip


TIGHT = "*"
"""Marks what fits with less than MARGIN to spare."""


def ranking(plans: Sequence[Plan], place: Place, options: Options, most: int = 24) -> str:
    """What fits a machine, a row for each model and codec."""
    machine, many = place.machine, max(place.count, options.devices)
    where = f"this machine ({machine.title})" if place.here else machine.name
    room = place.memory(options)
    memory = [f"{gib(room)} to use"] if room else []
    tokens = f"{options.context or DEFAULT_CONTEXT:,} tokens"
    title = [
        f"what fits {f'{many} × ' if many > 1 else ''}{where}",
        *memory,
        place.engine(options),
        f"context {tokens}",
    ]
    title += ["largest first"]
    if place.here and not place.rates:
        title += [f"rates {machine.source}: run memfirst machine"]
    above = packed(title, width() or WIDTH, rest="  ")
    if not plans:
        return printable("\n".join([*above, "", "nothing of the catalogue fits"]))
    head = ("model", "codec", "tok/s", "80 %", "held", "max ctx", "quality")
    tight = any(plan.tight for plan in plans[:most])
    rows = [_ranked(plan, " " * tight) for plan in plans[:most]]
    text = table([head, *rows], numbers=[2, 3, 4, 5])
    left = [f"{TIGHT} less than 1 GiB to spare"] if tight else []
    left += [f"and {len(plans) - most} more: --json"] if len(plans) > most else []
    return printable("\n".join([*above, "", text, *left]))


def _ranked(plan: Plan, loose: str) -> tuple[str, ...]:
    fast, limits = plan.decode, plan.limits
    return (
        plan.subject.name, plan.subject.codec.upper(), rate(plan.rate),
        f"{rate(fast.slowest)}–{rate(fast.fastest)}" if fast else "–",
        gib(plan.memory.needs.total) + (TIGHT if plan.tight else loose), f"{limits.context:,}" if limits else "?",
        quality(plan),
    )  # fmt: skip


def csv_rows(rows: Sequence[Mapping[str, Any]]) -> str:
    """A header, then a line a plan; what is not known is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().removesuffix("\n")
