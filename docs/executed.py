"""Runs what a page shows and puts in what comes: `make docs`; tests compare the two, numbers aside.

A block marked `console` holds commands after `$ ` (a line that ends in a backslash goes on), each followed by what it
prints; of `console here` that depends on the machine, so tests only run it; `console slow` is run by `make docs` alone
(`python docs/executed.py --fast PAGE…` leaves it).
A block marked `python` followed by one marked `text` prints the latter; all blocks of a page share their names.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PAGES = (
    "README.md", "docs/start.md", "docs/plan.md", "docs/python.md", "docs/run.md", "docs/disk.md", "docs/load.md",
    "docs/timing.md", "docs/probe.md", "docs/profile.md",
)  # fmt: skip
FILES = {"docs/probe.md": ROOT / "tests" / "fixtures" / "llama_bench" / "rows.json"}
"""What a page's Python finds in its folder."""

COLUMNS = 100

_SHELL = f'memfirst() {{ "{sys.executable}" -m memfirst "$@"; }}; python() {{ "{sys.executable}" "$@"; }}'
_BLOCK = re.compile(r"^```(\w+)(?: (here|slow))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, how it is marked, its text, and where the text stands in the page."""

    language: str
    mark: str
    text: str
    start: int
    end: int


def blocks(page: str) -> list[Block]:
    """All blocks that say their language."""
    return [Block(m[1], m[2] or "", m[3], m.start(3), m.end(3)) for m in _BLOCK.finditer(page)]


def commands(text: str) -> Iterator[tuple[str, str]]:
    """Each command of a console block as it is written, and what is shown below it."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        lines, taken = part.splitlines(keepends=True), 1
        while lines[taken - 1].endswith("\\\n"):
            taken += 1
        yield "".join(lines[:taken]).rstrip("\n"), "".join(lines[taken:])


def run(command: str) -> str:
    """What a command prints, with notes; it runs in an empty folder, as on a machine that was never measured."""
    with tempfile.TemporaryDirectory() as folder:
        more = {"COLUMNS": str(COLUMNS), "XDG_CONFIG_HOME": folder, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
        ran = subprocess.run(
            ["bash", "-c", f"{_SHELL}\n{command}"], cwd=folder, env={**os.environ, **more}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
    if ran.returncode:
        raise RuntimeError(f"{command} failed with {ran.returncode}:\n{ran.stdout}")
    return "".join(f"{line.rstrip()}\n" for line in ran.stdout.replace(str(Path.home()), "~").splitlines())


def console(text: str, execute: Callable[[str], str] = run) -> str:
    """A console block with what its commands print now; blank lines between commands stay."""
    shown = [(command, execute(command), old) for command, old in commands(text)]
    return "".join(
        f"$ {command}\n{printed.strip(chr(10))}\n" + ("\n" if i + 1 < len(shown) else "")
        for i, (command, printed, _) in enumerate(shown)
    )


def python(text: str, names: dict[str, Any]) -> str:
    """What a Python block prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(text, "<page>", "exec"), names)
    return printed.getvalue().rstrip("\n") + "\n"


@contextlib.contextmanager
def folder(name: str) -> Iterator[None]:
    """An empty folder to run a page's Python in, but for the page's files."""
    with tempfile.TemporaryDirectory() as here, contextlib.chdir(here):
        if name in FILES:
            shutil.copy(FILES[name], here)
        yield


def executed(page: str, slow: bool) -> str:
    """The page with every output as it comes now; slow blocks stay unless they are wanted."""
    names: dict[str, Any] = {"__name__": "__main__"}
    found, pieces, at, printed = blocks(page), [], 0, ""
    for block in found:
        new = block.text
        if block.language == "console" and (slow or block.mark != "slow"):
            new = console(block.text)
        elif block.language == "python":
            printed = python(block.text, names)
        elif block.language == "text":
            new = printed
        pieces += [page[at : block.start], new]
        at = block.end
    return "".join([*pieces, page[at:]])


def same(shown: str, printed: str) -> bool:
    """Whether two outputs are one but for numbers, the lengths of bars, and what aligns them."""
    return _shape(shown) == _shape(printed)


def _shape(text: str) -> str:
    plain = re.sub(r"[█▓▒░▚▞]+", "█", text)
    plain = re.sub(r"more than the (.*? read bandwidth): other work was running", r"0 % of \1", plain)
    return re.sub(r"\s+", " ", re.sub(r"[-−+]?\d[\d,.]*", "0", plain)).strip()


if __name__ == "__main__":
    for name in [one for one in sys.argv[1:] if one != "--fast"] or PAGES:
        path = ROOT / name
        with folder(name):
            made = executed(path.read_text(encoding="utf-8"), slow="--fast" not in sys.argv)
        path.write_text(made, encoding="utf-8")
