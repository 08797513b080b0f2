"""What README and docs show: every command parses, and commands and snippets give what is shown, numbers aside."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import memfirst
from memfirst.cli.app import COMMANDS, command
from memfirst.cli.examples import EXAMPLES

ROOT = Path(__file__).parent.parent.parent
PAGES = ["README.md", "benchmarks/README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]


def _executed() -> Any:
    spec = importlib.util.spec_from_file_location("executed", ROOT / "docs" / "executed.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["executed"] = module  # where dataclasses look
    spec.loader.exec_module(module)
    return module


executed = _executed()
TEXTS = {page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES}


def consoles() -> Iterator[Any]:
    """Each fast command that a page shows with its output."""
    for page in executed.PAGES:
        for block in executed.blocks(TEXTS[page]):
            if block.language == "console" and block.mark != "slow":
                for line, shown in executed.commands(block.text):
                    yield pytest.param(line, shown, block.mark, id=f"{page} {line[:50]}")


@pytest.mark.parametrize(("line", "shown", "mark"), list(consoles()))
def test_a_command_prints_what_is_shown(smollm2: Path, line: str, shown: str, mark: str) -> None:
    printed = executed.run(line)
    assert shown.strip() and (mark == "here" or executed.same(shown, printed)), printed + "\nrun: make docs"


@pytest.mark.parametrize("page", executed.PAGES)
def test_snippets_print_what_is_shown(smollm2: Path, page: str) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    printed = ""
    with executed.folder(page):
        for block in executed.blocks(TEXTS[page]):
            if block.language == "python":
                printed = executed.python(block.text, names)
            elif block.language == "text":
                assert block.text.strip() and executed.same(block.text, printed), printed + "\nrun: make docs"
    for made in names.values():
        if isinstance(made, memfirst.Model):
            made.close()


def written() -> Iterator[Any]:
    """Each `memfirst …` in a page: in backticks, in code, in tables; without optional parts, comments and pipes."""
    for page, text in TEXTS.items():
        found = re.findall(r"`(memfirst [a-z-][^`\n]*)`", text)
        found += re.findall(r"^(?:    |\$ )(memfirst [a-z-].*)$", text, re.M)
        for block in re.findall(r"^```\n(.*?)^```$", text, re.M | re.S):
            found += re.findall(r"^(memfirst [a-z-].*)$", block, re.M)
        for line in sorted(set(found)):
            if "[OPTIONS]" not in line:
                bare = re.sub(r"\s*\[[^\]]*\]|\s#.*|\s{3,}.*|\s[<>|].*", "", line)
                yield pytest.param(bare, id=f"{page} {line[:60]}")


@pytest.mark.parametrize("line", list(written()))
def test_a_command_that_is_written_down_parses(line: str) -> None:
    parses(line)


@pytest.mark.parametrize("name", EXAMPLES)
def test_help_ends_with_examples(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from memfirst.cli import run_command

    for line in EXAMPLES[name]:
        parses(line.rpartition("| ")[2])
    screen = io.StringIO()
    monkeypatch.setenv("COLUMNS", "60")
    with contextlib.redirect_stdout(screen):
        assert run_command([name, "--help"] if name != "memfirst" else []) == 0
    assert screen.getvalue().splitlines()[-len(EXAMPLES[name]) :] == [f"    {line}" for line in EXAMPLES[name]]


@pytest.mark.parametrize("columns", [60, 80])
def test_the_first_page_says_each_command_whole(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from memfirst.cli import run_command

    screen = io.StringIO()
    monkeypatch.setenv("COLUMNS", str(columns))
    with contextlib.redirect_stdout(screen):
        assert run_command([]) == 0
    lines = screen.getvalue().splitlines()
    assert max(map(len, lines)) <= columns and "..." not in "".join(lines[1:])
    assert all(any(re.match(rf"  {name} +[A-Z].*\.$", line) for line in lines) for name in COMMANDS)


def parses(line: str) -> None:
    """The parser takes the line: the command is there, its options are, and no argument is missing."""
    words = shlex.split(line)[1:]
    if words[:1] == ["--version"] or len(words) == 1:  # a command that is named
        assert words[0] in ("--version", "--help", *COMMANDS), line
        return
    command().commands[words[0]].make_context(words[0], words[1:])


def test_outputs_are_compared_without_numbers() -> None:
    assert executed.same("12.5 tok/s  (3 MB)\n", "9 tok/s (1,024 MB)")
    assert not executed.same("12.5 tok/s", "12.5 tok/min")
    assert executed.same("█████▒▒  █ weights 67 %", "███▒▒▒▒  █ weights 41 %")
    quiet = "504 tok/s · 49.9 GB/s, 71 % of 70.1 GB/s measured read bandwidth · per token"
    busy = "50 tok/s · 4.9 GB/s, more than the 2.1 GB/s measured read bandwidth: other work was running · per token"
    assert executed.same(quiet, busy)


def test_commands_of_a_block() -> None:
    text = "$ memfirst run \\\n  x\nhello\n\n$ memfirst list\nnothing\n"
    assert list(executed.commands(text)) == [("memfirst run \\\n  x", "hello\n\n"), ("memfirst list", "nothing\n")]
    assert (
        executed.console(text, lambda line: line[-1] + "!\n\n") == "$ memfirst run \\\n  x\nx!\n\n$ memfirst list\nt!\n"
    )
