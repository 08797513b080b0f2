"""`memfirst doctor`: ten lines about this machine for a bug report, and what would make it faster."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any

from memfirst.cli.options import Json
from memfirst.cli.streams import write
from memfirst.cli.wrap import fold

if TYPE_CHECKING:
    from memfirst.measure.doctor import Diagnosis

LABEL, WIDTH = 11, 110
"""Characters of the words at the left, and of a line where no terminal limits it."""


def doctor(as_json: Json = False) -> None:
    """Describe this machine for a bug report.

    Processor, instructions, memory, limits, versions and caches, and how fast memory is read right now, in ten lines
    to paste into a bug report; then commands, where something slows it down. Takes two seconds.
    """
    from memfirst.cli.display import print_json, progress, width

    measure: Any = import_module("memfirst.measure.doctor")  # kernels come in with it
    with progress(quiet=as_json) as report:
        found = measure.diagnose(report)
    if as_json:
        print_json(found.json())
    else:
        write("\n".join(page(found, width() or WIDTH)))


def page(found: Diagnosis, width: int = WIDTH) -> Iterator[str]:
    """Nine labelled facts, wrapped, and the advice."""
    rest = " " * LABEL
    for label, text in found.lines():
        yield from fold(text, width, f"{label:<{LABEL}}", rest)
    for i, advice in enumerate(found.advice):
        yield from fold(advice.why, width, rest if i else f"{'faster':<{LABEL}}", rest)
        yield f"{rest}  {advice.command}"
    if not found.advice:
        yield f"{'faster':<{LABEL}}nothing was found that slows it down"
