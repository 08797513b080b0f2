"""Writes docs/cli.md from the command line's own help: `make docs`; a test compares the two."""

from __future__ import annotations

import inspect
import sys
from typing import Any

from memfirst.cli.app import COMMANDS, command
from memfirst.cli.examples import EXAMPLES

HEAD = """# Commands

Every command but `serve` takes `--json`: one object on stdout and nothing else there. Notes and bars go to stderr,
and only when it is a terminal (`pull` writes its notes to a log too). Exit codes: 0 done, 1 failed with
one line on stderr, 2 bad usage, 130 interrupted, 141 nobody reads our output.

This page is made by `make docs`.
"""


def option_row(parameter: Any) -> str:
    """One option of a command as a row of a table."""
    names = ", ".join(f"`{o}`" for o in parameter.opts)
    metavar = f" {parameter.metavar}" if parameter.metavar and not parameter.is_flag else ""
    default = parameter.show_default if isinstance(parameter.show_default, str) else parameter.default
    shown = f" (default: {default})" if isinstance(default, (int, float, str)) and default not in (False, "") else ""
    return f"| {names}{metavar} | {parameter.help}{shown} |"


def _examples(about: str) -> str:
    """A paragraph that the parser is told to leave as it is (one that begins with \\b) is code."""
    parts = (part.removeprefix("\b\n") for part in about.split("\n\n"))
    code = (part.startswith("\b") for part in about.split("\n\n"))
    return "\n\n".join(f"```\n{part}\n```" if fixed else part for part, fixed in zip(parts, code, strict=True))


def section(name: str, parsed: Any) -> str:
    """One command: what it is for, its arguments, its options."""
    about = _examples(inspect.cleandoc(COMMANDS[name].__doc__ or ""))
    arguments = [p for p in parsed.params if p.param_type_name == "argument"]
    options = [p for p in parsed.params if p.param_type_name == "option" and p.name != "help"]
    words = [p.metavar if p.required else f"[{p.metavar}]" for p in arguments]
    rows = "\n".join(option_row(p) for p in options)
    usage = " ".join(["memfirst", name, *words, "[OPTIONS]"])
    lines = "\n".join(f"    {line}" for line in EXAMPLES.get(name, ()))
    examples = f" For example:\n\n{lines}" if lines else ""
    table = f"| option | what it does |\n|---|---|\n{rows}\n"
    return f"## memfirst {name}\n\n    {usage}\n\n{about}{examples}\n\n{table}"


def render() -> str:
    """The whole page."""
    parser = command()
    return "\n".join([HEAD, *(section(name, parser.commands[name]) for name in COMMANDS)])


if __name__ == "__main__":
    sys.stdout.write(render())
