"""Pages at the width of the terminal: no line is wider, no word or number is broken, and none says less."""

from __future__ import annotations

import re

import pytest

from memfirst.cli import run_command
from memfirst.cli.display import table

PAGES = (
    ["plan", "llama3.1:8b", "--on", "NVIDIA GeForce RTX 4090"],
    ["plan", "llama3.3:70b", "--on", "rtx 4090", "--host", "64GB@90"],
    ["plan", "gemma3:27b", "--on", "macbook pro m3 max 36gb", "--engine", "ollama", "--batch", "2"],
    ["plan", "llama3.1:8b", "--on", "8xh100", "--engine", "vllm", "--batch", "64"],
    ["plan", "llama3.1:8b", "qwen3:8b", "--on", "rtx-4090", "--on", "m2 ultra", "--sweep", "kv=f16,q8_0/q4_0"],
    [
        "plan",
        "qwen3:0.6b",
        "--on",
        "rtx-4090",
        "--sweep",
        "batch=1,64",
        "--sweep",
        "ctx=1k,32k",
        "--sweep",
        "devices=1,2",
    ],
    ["list", "--catalogue"],
)


def shown(capsys: pytest.CaptureFixture[str], args: list[str]) -> list[str]:
    assert run_command(args) == 0
    return capsys.readouterr().out.rstrip("\n").split("\n")


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize("args", PAGES, ids=" ".join)
def test_no_line_is_wider_and_no_word_is_broken(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, args: list[str], columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    narrow = shown(capsys, args)
    for line in narrow:
        alone = line.removesuffix("\\").split()
        assert len(line) <= columns or len(alone) <= 2, line  # one word (and its bullet) may be longer than the screen
    monkeypatch.delenv("COLUMNS")
    wide = shown(capsys, args)
    words = [" ".join(lines).replace("\\ ", " ").split() for lines in (narrow, wide)]
    assert sorted(words[0]) == sorted(words[1])


def test_numbers_stay_with_their_units(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    for line in shown(capsys, PAGES[0]) + shown(capsys, PAGES[1]):
        assert not re.match(r"\s*(?:tok/s|GB|MB|GiB|kB|%|tokens)\b", line), line
        assert not re.search(r"\(80$|80 %:$|(?:MBU|MFU|×)$", line), line


def test_a_command_on_several_lines_is_one_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for args in PAGES[:4]:
        monkeypatch.setenv("COLUMNS", "60")
        narrow = "\n".join(shown(capsys, args)).replace("\\\n", " ")
        monkeypatch.delenv("COLUMNS")
        commands = [
            line.strip() for line in shown(capsys, args) if re.match(r"\s+(?:llama-|vllm |OLLAMA|memfirst )", line)
        ]
        assert commands
        for command in commands:
            assert command in [" ".join(line.split()) for line in narrow.split("\n")]


def test_every_swept_value_is_in_its_row(capsys: pytest.CaptureFixture[str]) -> None:
    rows = shown(capsys, ["plan", "qwen3:0.6b", "--on", "rtx-4090", "--sweep", "kv=f16,q8_0,q8_0/q4_0"])
    assert "KV" in rows[2].split() and [row.split()[0] for row in rows[3:]] == ["f16", "q8_0", "q8_0/q4_0"]
    rows = shown(
        capsys, ["plan", "qwen3:0.6b", "--on", "rtx-4090", "--sweep", "devices=1,2", "--sweep", "codec=q8_0,q4_0"]
    )
    assert {"codec", "devices"} <= set(rows[2].split())


def test_columns_that_find_no_room_go_on_the_next_line() -> None:
    rows = [("name", "size", "a long word"), ("a", "1.0 GB", "thingamabob"), ("bcd", "10.0 GB", "")]
    assert table(rows, [1], 0).split("\n") == [
        "name     size  a long word", "a      1.0 GB  thingamabob", "bcd   10.0 GB",
    ]  # fmt: skip
    assert table(rows, [1], 16).split("\n") == [
        "name     size", "    a long word", "a      1.0 GB", "    thingamabob", "bcd   10.0 GB",
    ]  # fmt: skip
