"""What the options of `memfirst plan` name: files, machines, and the values of a sweep."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import typer

from memfirst.errors import MemfirstError
from memfirst.hardware.throttled import Throttle
from memfirst.plan import HERE, Options, Place, Plan, Speculation, Subject, find, make, place, this_machine
from memfirst.plan.options import MOST_BANDWIDTH, MOST_MEMORY
from memfirst.plan.place import cards

AXES = {"ctx": "context", "batch": "batch", "codec": "codec", "kv": "kv", "devices": "devices"}
"""What may be swept, and the option it is."""

MOST_ROWS, MOST_VALUES = 1024, 64


def places(names: Sequence[str], bandwidth: str = "", cap: str = "") -> list[Place]:
    """The machines called so; without a name this one: its processor, and its GPUs where it has any.

    bandwidth, cap  GB/s and watts of the one machine, below what it is sold with; "" as it is sold
    """
    with usage():
        throttle = Throttle(rate("--bandwidth", bandwidth), _watts(cap))
    found = [place(name) for name in names] if names else [this_machine(), *cards()]
    if throttle and len(found) > 1:
        raise typer.BadParameter(
            f"--bandwidth and --power-cap are of one machine, of {len(found)} here: name one, --on"
        )
    return [one.throttled(throttle) for one in found]


def _watts(text: str) -> float:
    word = text.lower().removesuffix("w").strip()
    try:
        found = float(word) if text else 0.0
    except ValueError:
        found = -1.0
    if text and not 0 < found < 1e6:
        raise typer.BadParameter(f"--power-cap is {text[:40]!r}: give watts, as in 250")
    return found


def host(text: str) -> tuple[int, float]:
    """`64GB@90`, `64GB` or `@90` as bytes of a GPU's host, and bytes/s of its memory; 0 where not said."""
    found = re.fullmatch(
        r"\s*(?:(\d+(?:\.\d+)?)\s*(?:gi?b|g)?)?\s*(?:@\s*(\d+(?:\.\d+)?)(?:\s*gb/?s)?)?\s*", text.lower()
    )
    if text and (not found or not (found[1] or found[2])):
        raise typer.BadParameter(f"--host is {text[:40]!r}: give its memory and bandwidth in GB/s, as in 64GB@90")
    return (int(float(found[1] or 0) * 2**30), 1e9 * float(found[2] or 0)) if found else (0, 0.0)


def limit(memory: int | Literal["auto"] | None) -> int:
    """Bytes of memory to use at most; "auto" is all that a plan knows of: 0."""
    return MOST_MEMORY if memory == "auto" else memory or 0


def rate(option: str, text: str) -> float:
    """Bytes/s of what an option gives in GB/s; 0 where not said."""
    word = text.lower().removesuffix("/s").removesuffix("gb").strip()
    try:
        found = 1e9 * float(word) if text else 0.0
    except ValueError:
        found = -1.0
    if text and not 0 < found <= MOST_BANDWIDTH:
        raise typer.BadParameter(f"{option} is {text[:40]!r}: give a read bandwidth in GB/s, as in 3.5")
    return found


@contextmanager
def usage() -> Iterator[None]:
    """Options that cannot be are bad usage, not a failure."""
    try:
        yield
    except MemfirstError as error:
        raise typer.BadParameter(str(error)) from error


def combinations(options: Options, axes: Mapping[str, Sequence[Any]]) -> list[Options]:
    """The options for each combination of the swept values."""
    rows = list(itertools.islice(itertools.product(*axes.values()), MOST_ROWS + 1))
    if len(rows) > MOST_ROWS:
        raise typer.BadParameter(f"--sweep asks for more than {MOST_ROWS} plans")
    return [replace(options, **dict(zip(axes, values, strict=True))) for values in rows]


def plans(
    models: Sequence[str], where: Sequence[Place], rows: Sequence[Options], unknown: bool, offline: bool = False
) -> tuple[Plan, ...]:
    """Every model on every machine, for each row of options; a model is read once a codec."""
    from memfirst.cli.display import progress

    found: list[Plan] = []
    for name in models:
        by_codec: dict[str, Subject] = {}
        for one, options in itertools.product(where, rows):
            if options.codec not in by_codec:
                by_codec[options.codec] = find(
                    name, options.codec, options.engine, allow_unknown=unknown, offline=offline, progress=progress()
                )
            found.append(make(by_codec[options.codec], one, options))
    return tuple(found)


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


def verified(plan: Plan, quiet: bool) -> Any:
    """The best change that can be run here, run; MemfirstError where this machine has not been measured."""
    from importlib import import_module

    from memfirst.cli.display import progress

    verify: Any = import_module("memfirst.measure.verify")  # kernels come in with it
    here = place(HERE)
    with progress(quiet=quiet) as report:
        return verify.verify(plan, here, report)
