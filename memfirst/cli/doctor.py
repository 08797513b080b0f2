"""`memfirst doctor`: ten lines about this machine for a bug report, and what would make it faster."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from memfirst.cli.options import Json
from memfirst.cli.streams import write

if TYPE_CHECKING:
    from memfirst.measure.doctor import Diagnosis

LABEL, WIDTH = 11, 110
"""Characters of the words at the left, and of a line where no terminal limits it."""


def doctor(as_json: Json = False) -> None:
    """Say what this machine is to memfirst, and what would make it faster.

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
        yield from wrap(text, width, initial_indent=f"{label:<{LABEL}}", subsequent_indent=rest, break_on_hyphens=False)
    for i, advice in enumerate(found.advice):
        yield from wrap(advice.why, width, initial_indent=rest if i else f"{'faster':<{LABEL}}", subsequent_indent=rest)
        yield f"{rest}  {advice.command}"
    if not found.advice:
        yield f"{'faster':<{LABEL}}nothing was found that slows it down"
