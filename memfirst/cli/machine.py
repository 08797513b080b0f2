"""`memfirst machine`: measure this machine, or list those of the catalogue."""

from __future__ import annotations

from enum import StrEnum
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memfirst.cli.options import Json
from memfirst.cli.streams import write
from memfirst.hardware.memory_modules import MemoryPeak

if TYPE_CHECKING:
    from memfirst.predict.measured import Rates

STABLE = 0.15
"""Repetitions that differ by more than this are said to."""


class Action(StrEnum):
    """What the command does."""

    measure = "measure"
    show = "show"
    list = "list"


What = Annotated[
    Action, typer.Argument(help="measure (about a minute), show what was measured, or list the catalogue.")
]


def machine(action: What = Action.measure, *, as_json: Json = False) -> None:
    """Measure this machine, so that plan can say what it will reach.

    Streams by threads, every kernel in cache, attention, barriers; kept with its date beside your own machines, and
    used until the hardware changes. `memfirst machine list` shows the catalogue that `plan --on` takes.
    """
    if action is Action.list:
        _list(as_json)
        return
    rates = _shown() if action is Action.show else _measured(as_json)
    if as_json:
        from dataclasses import asdict

        from memfirst.cli.display import print_json

        print_json(asdict(rates))
    else:
        write(page(rates))


def _shown() -> Rates:
    from memfirst.errors import MemfirstError
    from memfirst.predict.measured import load, rates_file

    found = load()
    if found is None:
        raise MemfirstError(f"{rates_file()} holds nothing about this machine", do="measure it: memfirst machine")
    return found


def _measured(quiet: bool) -> Rates:
    from memfirst.cli.display import progress
    from memfirst.predict.measured import save

    calibrate: Any = import_module("memfirst.measure.calibrate")
    with progress(quiet=quiet) as report:
        rates: Rates = calibrate.calibrate(report)
    save(rates)
    return rates


def page(rates: Rates) -> str:
    """For people: streams by threads, then kernels."""
    from memfirst.predict.measured import rates_file

    lines = [f"{rates.fingerprint}, measured {rates.date[:16].replace('T', ' ')}", ""]
    lines += ["  threads   reads GB/s   weights reach   keys and values   a phase"]
    lines += [
        f"  {n:>7}{rates.read[n] / 1e9:13.1f}{100 * rates.stream[n]:14.0f} %{100 * rates.gather[n]:15.0f} %"
        f"{1e6 * rates.phase[n]:8.1f} µs"
        for n in rates.threads
    ]
    lines += ["", *_memory(rates), ""]
    lines += [f"  {'one core, from cache':<24}{'weights/s, a token':>20}{'multiply-adds/s, 8 tokens':>28}"]
    lines += [f"  {codec:<24}{one:>19.0f}G{eight:>27.0f}G" for codec, one, eight in _kernels(rates)]
    if rates.spread > STABLE:
        spread = f"streams differed by {100 * rates.spread:.0f} %"
        lines += ["", f"  not steady: {spread}; something else takes memory: measure again when it is quiet"]
    return "\n".join([*lines, "", f"  kept in {rates_file()}", *(f"  {note}" for note in rates.notes)])


def _memory(rates: Rates) -> list[str]:
    """The patterns that read fastest, and the peak of the modules where the firmware says it."""
    lines = [f"  fastest to read with {n} thread{'s' * (n > 1)}: {name}" for n, name in sorted(rates.pattern.items())]
    if not rates.peak:
        return [
            *lines,
            "  peak of the memory modules: unknown (a virtual machine, or its firmware's table is closed to you)",
        ]
    most = max(rates.read.values())
    return [*lines, f"  {100 * most / rates.peak:.0f} % of {MemoryPeak(rates.peak, rates.modules)}"]


def _kernels(rates: Rates) -> list[tuple[str, float, float]]:
    """By codec, billions of weights a second for one token, and of multiply-adds for eight (floats: four)."""
    out = []
    for key, rate in sorted(rates.work.items()):
        kernel, _, statics = key.partition(" ")
        codec = statics.partition("CODEC=")[2].split(" ")[0]
        if not kernel.startswith("matmul.") or not key.endswith("TILE=1") or not rate.item:
            continue
        tile = 4 if kernel == "matmul.floats" else 8
        many = rates.work.get(key.replace("TILE=1", f"TILE={tile}"), rate)
        out.append((codec, 1e-9 / rate.item, 1e-9 * tile / many.item))
    return out


def _list(as_json: bool) -> None:
    from memfirst.cli.display import print_json, table
    from memfirst.hardware.machines import machines

    found = machines()
    if as_json:
        from dataclasses import asdict

        print_json({"machines": [asdict(m) for m in found]})
        return
    rows = [["NAME", "MEMORY GiB", "GB/s", "KIND", "KNOWN"]]
    for m in found:
        memory = f"{m.memory / 2**30:.0f}" if m.memory else "-"
        rows.append([m.name, memory, f"{m.bandwidth / 1e9:.0f}" if m.bandwidth else "-", m.kind, m.known])
    write(table(rows, numbers=(1, 2)))
