"""What the options of `memfirst plan` name: files, machines, and the values of a sweep."""

from __future__ import annotations

import csv
import itertools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer

from memfirst.catalog.models import find_model
from memfirst.errors import MemfirstError
from memfirst.plan import Options, Place, Plan, Speculation, Subject, make, place, subject, this_machine

AXES = {"ctx": "context", "batch": "batch", "codec": "codec", "kv": "kv", "devices": "devices"}
"""What may be swept, and the option it is."""

MOST_ROWS, MOST_VALUES = 1024, 64


def places(names: Sequence[str]) -> list[Place]:
    """The machines called so; without a name this one, where it was measured."""
    if names:
        return [place(name) for name in names]
    here = this_machine()
    if here is None:
        do = "name one with --on rtx-4090 (or another), or measure this one with memfirst machine"
        raise MemfirstError("no machine was named, and this one has not been measured", do=do)
    return [here]


def plans(
    models: Sequence[str], where: Sequence[Place], options: Options, axes: Mapping[str, Sequence[Any]], unknown: bool
) -> tuple[Plan, ...]:
    """Every model on every machine, for each combination of the swept values."""
    rows = list(itertools.product(*axes.values()))
    if len(rows) * len(models) * len(where) > MOST_ROWS:
        raise typer.BadParameter(f"that is more than {MOST_ROWS} plans")
    found: list[Plan] = []
    for name in models:
        model = subject(name, options.codec, options.engine, unknown, local)
        for one, values in itertools.product(where, rows):
            changed = replace(options, **dict(zip(axes, values, strict=True)))
            found.append(make(_in(model, changed.codec, options.codec), one, changed))
    return tuple(found)


def _in(model: Subject, codec: str, given: str) -> Subject:
    return model if codec == given else model.recoded(codec)


def local(name: str) -> Path | None:
    """Files of `name` on this disk, in the cache or at a path; None for a name of the catalogue without files."""
    if Path(name).expanduser().exists():
        return Path(name).expanduser()
    base = name.rpartition(":")[0]
    if not name.startswith("hf:") and not find_model(name) and not (base and find_model(base)):
        return None
    from memfirst import hub

    if name.startswith("hf:"):
        return hub.resolve(name, download=False)
    from memfirst.hub.names import parse

    found = parse(name)
    return found if isinstance(found, Path) else hub.local(found)


def speculation(text: str) -> Speculation | None:
    """`4`, `4:0.8` or `4:0.8:llama-3.2:1b`."""
    if not text:
        return None
    count, _, rest = text.partition(":")
    accepted, _, draft = rest.partition(":")
    try:
        return Speculation(int(count), float(accepted or 0.7), draft)
    except ValueError:
        raise typer.BadParameter(f"--speculate is {text[:60]!r}: give as in 4:0.7:llama-3.2:1b") from None


def axes(sweeps: Sequence[str]) -> dict[str, list[Any]]:
    """`ctx=1k,4k` as {"context": [1024, 4096]}."""
    found: dict[str, list[Any]] = {}
    for text in sweeps:
        name, equals, values = text.partition("=")
        words = [w.strip() for w in values.split(",")]
        if name not in AXES or not equals or not all(words) or len(words) > MOST_VALUES or AXES[name] in found:
            said = f"--sweep is {text[:60]!r}: give one of {', '.join(AXES)}, each once, as in ctx=1k,4k,16k"
            raise typer.BadParameter(said)
        found[AXES[name]] = [w.lower() if name in ("codec", "kv") else _count(w, name) for w in words]
    return found


def _count(word: str, name: str) -> int:
    """`16k` is 16 · 1024."""
    digits, scale = (word[:-1], 1024) if word[-1:].lower() == "k" else (word, 1)
    if not digits.isdecimal() or not 0 < len(digits) <= 9 or not int(digits):
        raise typer.BadParameter(f"--sweep {name}= has {word[:20]!r}: give numbers from 1, as in 1k,4096")
    return int(digits) * scale


def print_csv(rows: Sequence[Mapping[str, Any]]) -> None:
    """A header, then a line a plan; what is not known is empty."""
    writer = csv.DictWriter(sys.stdout, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
