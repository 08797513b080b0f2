"""`memfirst machine`: measure this machine, or list those of the catalogue."""

from __future__ import annotations

import re
from enum import StrEnum
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memfirst.cli.options import Json
from memfirst.cli.streams import write
from memfirst.hardware.memory_modules import MemoryPeak

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memfirst.hardware.machines import Machine
    from memfirst.predict.measured import Rates

STABLE = 0.15
"""Repetitions that differ by more than this are said to."""


TITLES = {
    "datacentre-gpu": "datacentre GPU", "gpu": "desktop GPU", "laptop-gpu": "laptop GPU", "unified": "shared memory",
    "cpu": "processor", "board": "board",
}  # fmt: skip
"""Of each kind of machine, what stands above its rows."""

FIGURES = {"opened": "checked", "derived": "derived"}
"""How memory and bandwidth are known, in a word."""

LEGEND = (
    "Memory and bandwidth are checked against a data sheet or a published table, derived from it by a rule, or"
    " unchecked; --json has each row's source, and how its arithmetic is known. Names may be written as people and"
    " drivers do: --on 'NVIDIA GeForce RTX 4090', 8xh100."
)


class Action(StrEnum):
    """What the command does."""

    measure = "measure"
    show = "show"
    list = "list"


What = Annotated[
    Action, typer.Argument(help="measure (about a minute), show what was measured, or list the catalogue.")
]


def machine(action: What = Action.measure, *, as_json: Json = False) -> None:
    """Measure this machine, for plan to use.

    Streams by threads, every kernel in cache, attention, barriers; kept with its date beside your own machines, and
    used until the hardware changes. `memfirst machine list` shows the catalogue that `plan --on` takes.
    """
    if action is Action.list:
        _list(as_json)
        return
    if action is Action.show:
        _print(_shown(), as_json)
        return
    from memfirst.errors import MemfirstError
    from memfirst.predict.measured import save

    rates = _measured(as_json)
    try:
        save(rates)
    except MemfirstError:
        _print(rates, as_json, kept=False)  # what took a minute is shown all the same
        raise
    _print(rates, as_json)


def _print(rates: Rates, as_json: bool, kept: bool = True) -> None:
    if as_json:
        from dataclasses import asdict

        from memfirst.cli.display import print_json

        print_json(asdict(rates))
    else:
        write(page(rates, kept))


def _shown() -> Rates:
    from memfirst.errors import MemfirstError
    from memfirst.predict.measured import load

    found = load()
    if found is None:
        raise MemfirstError("this machine was not measured yet", do="measure it: memfirst machine")
    return found


def _measured(quiet: bool) -> Rates:
    from memfirst.cli.display import progress

    calibrate: Any = import_module("memfirst.measure.calibrate")
    with progress(quiet=quiet) as report:
        rates: Rates = calibrate.calibrate(report)
    return rates


def page(rates: Rates, kept: bool = True) -> str:
    """For people: streams by threads, then kernels; and in which file they are kept."""
    from memfirst.cli.display import brief, table, width
    from memfirst.cli.wrap import fold
    from memfirst.predict.measured import rates_file

    def indented(rows: Sequence[Sequence[str]], numbers: Sequence[int]) -> list[str]:
        return [f"  {line}" for line in table(rows, numbers, max(0, width() - 2)).split("\n")]

    def said(text: str) -> list[str]:
        return fold(text, width(), "  ", "    ")

    streams = [("threads", "reads GB/s", "weights reach", "keys and values", "a phase")]
    streams += [
        (str(n), f"{rates.read[n] / 1e9:.1f}", f"{100 * rates.stream[n]:.0f} %", f"{100 * rates.gather[n]:.0f} %",
         f"{1e6 * rates.phase[n]:.1f} µs") for n in rates.threads
    ]  # fmt: skip
    kernels = [("one core, from cache", "weights/s, a token", "multiply-adds/s, 8 tokens")]
    kernels += [(codec, f"{one:.0f}G", f"{eight:.0f}G") for codec, one, eight in _kernels(rates)]
    lines = [*fold(f"{rates.fingerprint}, measured {rates.date[:16].replace('T', ' ')}", width()), ""]
    lines += [*indented(streams, range(5)), "", *(line for text in _memory(rates) for line in said(text)), ""]
    lines += indented(kernels, (1, 2))
    if rates.spread > STABLE:
        spread = f"streams differed by {100 * rates.spread:.0f} %"
        lines += ["", *said(f"not steady: {spread}; something else takes memory: measure again when it is quiet")]
    lines += ["", *said(f"kept in {brief(rates_file())}")] if kept else []
    return "\n".join([*lines, *(line for note in rates.notes for line in said(note))])


def _memory(rates: Rates) -> list[str]:
    """The patterns that read fastest, and the peak of the modules where the firmware says it."""
    lines = [f"fastest to read with {n} thread{'s' * (n > 1)}: {name}" for n, name in sorted(rates.pattern.items())]
    if not rates.peak:
        unknown = "unknown (a virtual machine, or its firmware's table is closed to you)"
        return [*lines, f"peak of the memory modules: {unknown}"]
    most = max(rates.read.values())
    return [*lines, f"{100 * most / rates.peak:.0f} % of {MemoryPeak(rates.peak, rates.modules)}"]


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
    from memfirst.cli.display import print_json, table, width
    from memfirst.cli.wrap import fold
    from memfirst.hardware.machines import machines

    found = machines()
    if as_json:
        from dataclasses import asdict

        print_json({"machines": [asdict(m) for m in found]})
        return
    for kind, title in TITLES.items():
        rows = [_row(m) for m in found if m.kind == kind]
        write(table([(title, "memory", "GB/s", "figures"), *rows], numbers=(1, 2)) + "\n" if rows else "", end="")
        write("")
    write("\n".join(fold(LEGEND, width(), rest="")))


def _row(machine: Machine) -> tuple[str, ...]:
    sizes = [f"{n / 2**30:.0f}" for n in machine.memory_options or filter(None, [machine.memory])]
    memory = f"{'–'.join(dict.fromkeys((sizes[0], sizes[-1])))} GiB" if sizes else "?"
    first = re.split(r"[,;(]", machine.known)[0].strip()
    known = "unchecked" if "bandwidth from memory" in machine.known else FIGURES.get(first, "unchecked")
    return machine.name, memory, f"{machine.bandwidth / 1e9:.0f}" if machine.bandwidth else "?", known
