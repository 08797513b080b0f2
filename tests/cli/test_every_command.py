"""Every command, with each kind of page that it prints, where nobody reads it or it has no room; Ctrl-C early."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import pytest

import memfirst
from memfirst import hub
from memfirst.cli import run_command
from memfirst.cli.app import COMMANDS
from memfirst.predict import measured as rates
from memfirst.predict.llama_bench import measured_row, write_rows
from tests.cli.test_run import small, write
from tests.cli.test_widths import FOUND
from tests.predict.test_rates import made_up
from tests.support import fake_engine

PLAN = ["plan", "llama-3:8b", "--on", "rtx-4090"]
PRINTED = [
    ["run", "m.gguf", "-p", "x"], ["run", "m.gguf", "-p", "x", "--json"],
    ["inspect", "m.gguf"], ["inspect", "m.gguf", "--json"],
    PLAN, [*PLAN, "--json"], [*PLAN, "--csv"], [*PLAN, "--sweep", "batch=1,2"],
    ["bench", "m.gguf"], ["bench", "m.gguf", "--json"], ["bench", "m.gguf", "--explain", "rows.json"],
    ["machine", "show"], ["machine", "list"], ["machine", "list", "--json"],
    ["doctor"],
    ["pull", "m.gguf"], ["pull", "m.gguf", "--json"],
    ["list"], ["list", "--json"], ["list", "--catalogue"], ["rm", "m.gguf"],
    [], ["--version"], *([name, "--help"] for name in COMMANDS),
]  # fmt: skip
"""Command lines that print a page. `serve` and `probe` are tested with a server: tests/server, tests/measure."""

DONE, FAILED, CLOSED_PIPE = 0, 1, 141


@pytest.fixture(autouse=True)
def cheap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model, rates and another engine's rows in an empty folder; nothing is loaded, measured or deleted."""
    monkeypatch.setenv("MEMFIRST_CONFIG_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    rates.save(made_up())
    write(small(), tmp_path / "m.gguf")
    row = measured_row(
        [2.0], n_depth=0, n_prompt=0, n_gen=32, n_threads=2, model_type="llama", model_size=1, model_n_params=1
    )
    (tmp_path / "rows.json").write_text(write_rows([row]))
    monkeypatch.setattr(memfirst, "load", fake_engine.load)
    monkeypatch.setattr("memfirst.measure.bench.bench", lambda *args, **more: FOUND)
    monkeypatch.setattr("memfirst.measure.doctor.BUFFER", 1 << 20)
    pulled = hub.Pulled("m", 10, tmp_path / "m.gguf", "here")
    monkeypatch.setattr(hub, "pulled", lambda: [pulled])
    monkeypatch.setattr(hub, "remove", lambda name: pulled)


def full() -> TextIO:
    """There is no room."""
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    return open("/dev/full", "w", encoding="utf-8")


def unread() -> TextIO:
    """A pipe whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    return open(writer, "w", encoding="utf-8")


@pytest.mark.parametrize("args", PRINTED, ids=lambda args: " ".join(args) or "memfirst")
@pytest.mark.parametrize(
    ("out", "code", "said"),
    [(full, FAILED, "No space left on device"), (unread, CLOSED_PIPE, "")],
    ids=["full", "pipe"],
)
def test_a_page_that_cannot_be_written(
    args: list[str], out: Callable[[], TextIO], code: int, said: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    with out() as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert run_command(args) == code
        monkeypatch.undo()
    err = capsys.readouterr().err.removesuffix("closed\n")  # what the fake engine says
    lines = [line for line in err.splitlines() if line.startswith("memfirst: ")]
    assert (err == "") if not said else (len(lines) == 1 and lines[0].endswith(said)), err


AT_IMPORT = """
import os, signal, sys
at = sys.argv.pop(1)
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == at:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
from memfirst.cli import main
main()
"""
"""Ctrl-C when a module is about to be imported."""


@pytest.mark.parametrize("name", COMMANDS)
def test_ctrl_c_while_it_imports(name: str) -> None:
    module = {"list": "listing"}.get(name, name)
    args = [sys.executable, "-c", AT_IMPORT, f"memfirst.cli.{module}", name, "--help"]
    ran = subprocess.run(args, capture_output=True, stdin=subprocess.DEVNULL, timeout=60, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, b"", b"")


def test_every_command_is_here() -> None:
    assert {args[0] for args in PRINTED if args and args[1:] != ["--help"]} | {"serve", "probe"} >= set(COMMANDS)
