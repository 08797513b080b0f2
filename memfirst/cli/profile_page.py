"""A profile for a terminal: a table of phases and operations, and one step's timeline by worker."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from memfirst.cli.wrap import NBSP, fold

if TYPE_CHECKING:
    from memfirst.measure.profile import PhaseTime, StepProfile, Trace

LEAST, USUAL, MOST = 60, 100, 160
"""Characters of a line: what a table needs, where nothing limits it, and what a timeline gains nothing beyond."""
LABEL = 12
RAMP = "▁▂▃▄▅▆▇█"
"""Shares from nothing to all, where the terminal can show it."""
PLAIN_RAMP = ".:-=+*%@"
WAIT, ALONE = "·", "*"
TOKEN_FIRST = ("calls", "waits µs", "of mem")
PROMPT_FIRST = ("calls", "of mem", "waits µs", "GB/s")
"""Columns that are left out where a line is too short: of a token, which is bound by bytes, and of a prompt."""

Windows = list[tuple[str, float, float]]
"""Names with where they begin and end, in seconds."""


def page(profiles: Sequence[StepProfile], width: int, ramp: str = RAMP) -> str:
    """All of it: of each step its table, then its timeline."""
    width = max(LEAST, min(MOST, width))
    parts = [line for p in profiles for line in (*table(p, width), "", *timeline(p, width, ramp), "")]
    return "\n".join(line.rstrip() for line in parts).rstrip("\n")


# --- the table -------------------------------------------------------------------------------------------


def table(profile: StepProfile, width: int) -> list[str]:
    """Kinds of phase with their operations, then what is no kernel's time: the µs add up to the step."""
    many = profile.step.tokens > 1
    lines = _head(profile, width)
    rows = [["", "calls", "MB", "µs", "GB/s", "of mem", "of peak", "of all", "waits µs"]]
    for phase in profile.phases:
        rows += _phase_rows(profile, phase)
    for name, seconds in profile.others.items():
        rows.append([name, "", "", _us(seconds), "", "", "", _percent(seconds / profile.seconds), ""])
    rows.append(["all", "", f"{profile.bytes / 1e6:.2f}", _us(profile.seconds), *[""] * 3, "100 %", ""])
    kept = [c for c in range(len(rows[0])) if c == 0 or any(row[c] for row in rows[1:])]
    shown, left_out = _that_fit(rows, kept, PROMPT_FIRST if many else TOKEN_FIRST, width)
    lines += ["", *_columns([[row[c] for c in shown] for row in rows])]
    said = ["µs: mean of the workers."]
    if any(op.prologue for phase in profile.phases for op in phase.ops):
        said.append(f"{ALONE} by each worker for itself, before its chunks.")
    if left_out:
        said.append(f"A wider terminal shows: {', '.join(rows[0][c] for c in left_out)}.")
    return [*lines, *fold(" ".join(said), width, rest="")]


def _that_fit(rows: list[list[str]], kept: list[int], order: Sequence[str], width: int) -> tuple[list[int], list[int]]:
    """The columns for which there is room, names whole, and those left out, in that order as far as it takes."""
    widths = [max(len(row[c]) for row in rows) for c in range(len(rows[0]))]
    shown, left_out = list(kept), []
    for name in order:
        c = rows[0].index(name)
        if sum(widths[i] + 2 for i in shown) - 2 > width and c in shown:
            shown.remove(c)
            left_out.append(c)
    return shown, left_out


def _head(profile: StepProfile, width: int) -> list[str]:
    """The step, what it is bound by, and what the log adds."""
    tokens, us, ceiling = profile.step.tokens, 1e6 * profile.seconds, profile.read_bandwidth / 1e9
    said = [
        f"{f'a step of {tokens} tokens' if tokens > 1 else 'one token'}: {us:,.0f} µs by {profile.threads}"
        f" thread{'s' * (profile.threads > 1)} (middle half of {profile.runs} runs), {profile.bytes / 1e6:.2f} MB"
        f" ({'as' if profile.bytes_as_predicted else 'NOT as'} the ledger says), {profile.bytes / us / 1e3:.1f} GB/s",
        f"bound by {max(profile.bounds, key=lambda name: profile.bounds[name])}: "
        + ", ".join(f"{n} alone {_us(s)} µs ({_percent(s / profile.seconds)})" for n, s in profile.bounds.items())
        + f", at the measured {ceiling:.1f} GB/s and "
        + ", ".join(f"{rate / 1e12:.2f} T {values} operations/s" for values, rate in profile.peaks.items()),
        f"an ordinary step in between: {1e6 * profile.ordinary:,.0f} µs; the log adds {100 * profile.cost:+.1f} %",
    ]
    return [line for text in said for line in fold(text, width)]


def _phase_rows(profile: StepProfile, phase: PhaseTime) -> list[list[str]]:
    """The phase, and its operations where it has others than the one that it is named by."""
    many = profile.step.tokens > 1

    def cells(name: str, calls: int, nbytes: int, seconds: float, peak: float | None, waiting: str) -> list[str]:
        rate = nbytes / max(seconds, 1e-12)
        moved = [f"{nbytes / 1e6:.2f}", _us(seconds), f"{rate / 1e9:.1f}", _percent(rate / profile.read_bandwidth)]
        if nbytes < 1e-4 * profile.bytes:  # a rate of next to nothing says nothing
            moved = ["", _us(seconds), "", ""]
        shown = _percent(peak) if many and peak is not None else ""
        return [name, str(calls), *moved, shown, _percent(seconds / profile.seconds), waiting]

    single = [op.op for op in phase.ops] == [phase.phase]
    peak = profile.share_of_peak(phase.ops[0]) if single else None
    rows = [cells(phase.phase, phase.count, phase.bytes, phase.seconds, peak, _us(phase.waiting))]
    for op in phase.ops if not single else ():
        name = " ".join(filter(None, [f"  {op.op}", op.part, ALONE * op.prologue]))
        rows.append(cells(name, op.calls, op.bytes, op.seconds, profile.share_of_peak(op), ""))
    return rows


def _us(seconds: float) -> str:
    return f"{1e6 * seconds:,.0f}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _columns(rows: list[list[str]]) -> list[str]:
    """Aligned, numbers to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


# --- the timeline ----------------------------------------------------------------------------------------


def timeline(profile: StepProfile, width: int, ramp: str = RAMP) -> list[str]:
    """The median run: all of it, then its median layer and what follows the layers, enlarged."""
    trace = profile.median
    layers = _layers(trace)
    lines = fold(f"timeline of one run, {1e6 * trace.walk:,.0f} µs in the walk; {_each(trace.walk, width)}", width)
    lines += _whole(trace, layers, profile.read_bandwidth, width, ramp)
    heavy = sorted(trace.calls, key=lambda call: not call.kernel.startswith(("matmul.", "attention.attend")))
    letters = _letters(call.op for call in heavy)
    if layers:
        name, begin, end = sorted(layers, key=lambda w: w[2] - w[1])[len(layers) // 2]
        of_all = f"layer {name}, the median of {len(layers)}: {_us(end - begin)} µs"
        lines += ["", *fold(f"{of_all}; {_each(end - begin, width)}", width)]
        lines += _enlarged(trace, begin, end, width, letters)
        after, rest = layers[-1][2], trace.walk
        if rest - after > 0:
            lines += ["", *fold(f"after the layers: {_us(rest - after)} µs; {_each(rest - after, width)}", width)]
            lines += _enlarged(trace, after, rest, width, letters)
    said = [f"{letter} {op}" for op, letter in letters.items()]
    said += [f"{WAIT} waiting", "blank: taking chunks, away", "small letters: by each worker for itself"]
    return [*lines, *_together(said, width)]


def _together(items: Sequence[str], width: int) -> list[str]:
    """As many of them on a line as fit."""
    return fold("  ".join(item.replace(" ", NBSP) for item in items), width, rest="")


def _each(seconds: float, width: int) -> str:
    return f"a column is {1e6 * seconds / (width - LABEL):.1f} µs"


def _layers(trace: Trace) -> Windows:
    """Each layer from the first of its phases to the last, by worker 0."""
    found: dict[str, tuple[float, float]] = {}
    for phase, (begin, _, end) in zip(trace.program.phases, trace.intervals[0].tolist(), strict=True):
        if match := re.match(r"blk\.(\d+)\.", phase.name):
            found[match[1]] = found.get(match[1], (begin, end))[0], end
    return [(name, begin, end) for name, (begin, end) in found.items()]


def _whole(trace: Trace, layers: Windows, ceiling: float, width: int, ramp: str) -> list[str]:
    """Marks of layers; for each worker the share of a column in kernels; bytes read in it beside the ceiling's."""
    columns, spans = width - LABEL, list(trace.spans())
    column = trace.walk / columns
    marks = [(f"|{name}" if name.endswith(("0", "5")) else "", begin) for name, begin, _ in layers]
    marks = [m for m in marks if m[0]] + ([("|head", layers[-1][2])] if layers else [])
    lines = [" " * LABEL + _marked(marks, 0.0, trace.walk, columns)]
    for worker in range(trace.threads):
        own = [(s.begin, s.end, s.end - s.begin) for s in spans if s.worker == worker]
        busy = _spread(own, 0.0, trace.walk, columns)
        lines.append(f"worker {worker}".ljust(LABEL) + "".join(_of(ramp, b / column) for b in busy))
    read = _spread([(s.begin, s.end, float(s.bytes)) for s in spans], 0.0, trace.walk, columns)
    most = max(ceiling, max(read) / column)
    lines.append("read".ljust(LABEL) + "".join(_of(ramp, n / column / most) for n in read))
    scale = f"worker: {ramp[-1]} all of a column in kernels; read: {ramp[-1]} {most / 1e9:.0f} GB/s"
    return [*lines, *fold(scale, width)]


def _of(ramp: str, share: float) -> str:
    return ramp[min(len(ramp) - 1, int(share * len(ramp)))]


def _spread(spans: Iterable[tuple[float, float, float]], begin: float, end: float, columns: int) -> list[float]:
    """Amounts of (begin, end, amount), evenly over the columns that they cover."""
    out, column = [0.0] * columns, (end - begin) / columns
    for b, e, amount in spans:
        if e <= begin or b >= end:
            continue
        length = max(e - b, 1e-12)
        for c in range(max(0, int((b - begin) / column)), min(columns, int((e - begin) / column) + 1)):
            left, right = begin + c * column, begin + (c + 1) * column
            out[c] += amount * max(0.0, min(e, right) - max(b, left)) / length
    return out


def _enlarged(trace: Trace, begin: float, end: float, width: int, letters: dict[str, str]) -> list[str]:
    """Phases by name above, then for each worker the letter of what most of each column is."""
    columns = width - LABEL
    names = [
        (f"|{_kind(phase.name)}", b)
        for phase, (b, _, e) in zip(trace.program.phases, trace.intervals[0].tolist(), strict=True)
        if b >= begin and e <= end and e > b
    ]
    lines = [" " * LABEL + _marked(names, begin, end, columns)]
    spans, waits = list(trace.spans()), list(trace.waits())
    for worker in range(trace.threads):
        by_letter: dict[str, list[tuple[float, float, float]]] = {}
        for s in spans:
            if s.worker == worker and s.end > begin and s.begin < end:
                letter = letters[_kind(s.call.op)]
                by_letter.setdefault(letter.lower() if s.chunk < 0 else letter, []).append(_amount(s.begin, s.end))
        by_letter[WAIT] = [_amount(b, e) for w, _, b, e in waits if w == worker]
        shares = {letter: _spread(own, begin, end, columns) for letter, own in by_letter.items()}
        idle = (end - begin) / columns / 4  # a column that is mostly neither stays blank
        cells = (max((share[c], letter) for letter, share in shares.items()) for c in range(columns))
        lines.append(f"worker {worker}".ljust(LABEL) + "".join(letter if s > idle else " " for s, letter in cells))
    return lines


def _amount(begin: float, end: float) -> tuple[float, float, float]:
    return begin, end, end - begin


def _marked(names: Sequence[tuple[str, float]], begin: float, end: float, columns: int) -> str:
    """Words where they begin, each cut at the next."""
    at = [min(columns - 1, int((b - begin) / (end - begin) * columns)) for _, b in names] + [columns]
    line = [" "] * columns
    for (name, _), start, stop in zip(names, at[:-1], at[1:], strict=True):
        text = name[: max(1, stop - start - 1)] if stop - start <= len(name) else name
        line[start : start + len(text)] = text
    return "".join(line[:columns])


def _kind(name: str) -> str:
    return name.split(".", 2)[-1]


def _letters(ops: Iterable[str]) -> dict[str, str]:
    """A capital for each kind of operation, those first that take the time: of its last word, else of its name."""
    out: dict[str, str] = {}
    for name in dict.fromkeys(map(_kind, ops)):
        wanted = name.rsplit("_", 1)[-1] + name + "abcdefghijklmnopqrstuvwxyz"
        taken = set(out.values())
        out[name] = next((c for c in wanted.upper() if c.isalpha() and c.isascii() and c not in taken), "?")
    return out
