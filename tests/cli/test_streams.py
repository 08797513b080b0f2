"""Commands whose streams are closed, full, or cannot show a character; files that may not be looked at."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from memfirst import hub
from memfirst.cli import run_command, streams
from memfirst.cli.bar import BLOCKS, LETTERS
from memfirst.errors import MemfirstError

MEMFIRST = [sys.executable, "-m", "memfirst"]
FAKE = [sys.executable, "-m", "tests.support.fake_engine"]
PLAN = ["plan", "llama-3:8b", "--on", "rtx-4090"]


def shell(redirect: str, args: list[str], **environment: str) -> subprocess.CompletedProcess[bytes]:
    """The command with streams as a shell gives them (">/dev/full", "<&-")."""
    return subprocess.run(
        ["sh", "-c", f'"$@" {redirect}', "sh", *args], stdin=subprocess.DEVNULL, capture_output=True, timeout=60,
        env=os.environ | environment, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_characters_that_cannot_be_shown_are_replaced(encoding: str) -> None:
    plain, other = shell("", [*MEMFIRST, *PLAN]), shell("", [*MEMFIRST, *PLAN], PYTHONIOENCODING=encoding)
    assert (plain.returncode, other.returncode, other.stderr) == (0, 0, b"")
    text = plain.stdout.decode().translate(str.maketrans(BLOCKS, LETTERS))
    assert "·" in text and other.stdout.decode(encoding) == text.encode(encoding, "replace").decode(encoding)
    assert shell("", [*MEMFIRST, "plan", "--help"], PYTHONIOENCODING=encoding).returncode == 0


def test_json_keeps_every_character_in_any_encoding() -> None:
    args = [*FAKE, "run", "m.gguf", "-p", "日本語", "--json"]
    plain, other = (shell("", args, PYTHONIOENCODING=e) for e in ("utf-8", "ascii"))
    assert other.returncode == 0 and json.loads(other.stdout) == json.loads(plain.stdout)
    assert "日" in json.dumps(json.loads(plain.stdout), ensure_ascii=False) and other.stdout.isascii()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(
    "args",
    [
        [*MEMFIRST, "--version"],
        [*MEMFIRST, "list", "--catalogue"],
        [*MEMFIRST, *PLAN, "--json"],
        [*MEMFIRST, *PLAN, "--csv"],
        [*MEMFIRST, "plan", "--help"],
        [*FAKE, "run", "m.gguf", "-p", "x"],
    ],
    ids=lambda args: " ".join(args[3:]),
)
def test_no_room_for_the_output_is_one_line_and_code_1(args: list[str]) -> None:
    ran = shell(">/dev/full", args)
    assert ran.returncode == 1
    said = ran.stderr.decode().removeprefix("closed\n")  # what the fake engine says when it is closed
    assert said.count("\n") == 1 and said.startswith("memfirst: ") and "No space left on device" in said


@pytest.mark.parametrize("redirect", [">&-", "2>&-", ">&- 2>&-"])
def test_a_closed_stream_takes_nothing_and_breaks_nothing(redirect: str) -> None:
    for args, code in ((PLAN, 0), (["plan", "no-such-model", "--on", "rtx-4090"], 1), (["nonsense"], 2)):
        ran = shell(redirect, [*MEMFIRST, *args])
        assert ran.returncode == code and b"Traceback" not in ran.stderr
        assert b"memfirst:" not in ran.stdout, "notes never go to stdout"


def test_a_closed_standard_input_is_no_terminal_and_no_prompt() -> None:
    ran = shell("<&-", [*FAKE, "run", "m.gguf"])
    assert ran.returncode == 2 and b"standard input is closed" in ran.stderr and b"Traceback" not in ran.stderr
    assert shell("<&-", [*FAKE, "run", "m.gguf", "-p", "x"]).returncode == 0


def test_without_stdout_a_result_goes_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    streams.write("x", flush=True)
    streams.note("x")
    assert not streams.is_terminal(sys.stdout) and run_command(["--version"]) == 0


def test_ctrl_c_at_any_moment_leaves_no_traceback() -> None:
    """Once, or twice in a row: while it imports, prints, closes the model, ends. Python's own start is not ours."""
    args = [*FAKE, "run", "m.gguf", "-p", "x", "-n", "3"]
    for step in range(12):
        with subprocess.Popen(
            args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=os.environ | {"FAKE_SLEEP_S": "0.1", "FAKE_READY": "1"},
        ) as process:  # fmt: skip
            assert process.stderr and process.stderr.readline() == "ready\n"
            time.sleep(0.05 * step)
            process.send_signal(signal.SIGINT)
            if step % 2:
                time.sleep(0.01)
                process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=20)
        assert "Traceback" not in err and "Exception" not in err, (step, err)
        assert process.returncode in (0, 130, -signal.SIGINT), (step, process.returncode, out)


class Full:
    """A stream with room for nothing."""

    encoding, closed = "utf-8", False

    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        raise ValueError("no file")


def test_an_error_that_cannot_be_said_is_not_a_second_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Full())
    assert run_command(["plan", "no-such-model", "--on", "rtx-4090"]) == 1
    monkeypatch.setattr(sys, "stdout", Full())
    with pytest.raises(MemfirstError, match="standard output: No space"):
        streams.write("x")


@pytest.mark.parametrize("command", ["plan", "run", "inspect"])
def test_a_folder_that_may_not_be_entered(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    more = {"plan": ["--on", "rtx-4090"], "run": ["-p", "x"], "inspect": []}[command]
    monkeypatch.setattr(Path, "exists", refused)
    assert run_command([command, "locked/config.json", *more]) == 1
    assert capsys.readouterr().err == "memfirst: cannot look for locked/config.json: Permission denied\n"


def test_whatever_the_system_refuses_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused() -> None:
        raise PermissionError(13, "Permission denied", "models/x")

    monkeypatch.setattr(hub, "pulled", refused)
    assert run_command(["list"]) == 1
    assert capsys.readouterr().err == "memfirst: models/x: Permission denied\n"


def test_a_name_longer_than_any_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["plan", "x" * 5000, "--on", "rtx-4090"]) == 1
    assert "no model is called" in capsys.readouterr().err
