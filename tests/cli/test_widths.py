"""Pages at the width of the terminal: no line is wider, no word or number is broken, and none says less."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from memfirst.cli import run_command
from memfirst.cli.display import pairs, table
from memfirst.cli.wrap import fold
from memfirst.graph.traffic import WEIGHTS, Amount
from memfirst.hub import Pulled
from memfirst.ledger import Entry, Ledger, Memory
from memfirst.measure.bench import Measured, OpRow
from memfirst.predict import measured as rates
from memfirst.predict.llama_bench import measured_row, write_rows
from tests.cli.test_cli import MEMFIRST, command
from tests.cli.test_run import small, write
from tests.predict.test_rates import made_up
from tests.support.terminal import Terminal

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
    ["plan", "--on", "rtx 3060 12gb"],
    ["list", "--catalogue"],
    ["machine", "list"],
    ["machine", "show"],
    ["inspect", "m.gguf"],
    ["bench", "m.gguf"],
    ["bench", "m.gguf", "--explain", "rows.json"],
)


@pytest.fixture(autouse=True)
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that was measured, a model, what another engine measured of it, and what `bench` would have."""
    monkeypatch.setenv("MEMFIRST_CONFIG_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    rates.save(replace(made_up(), notes=("huge pages are off: memory is read more slowly than it could be read here",)))
    write(small(), tmp_path / "m.gguf")
    about = {"n_prompt": 0, "n_gen": 32, "n_threads": 2, "model_type": "llama", "model_size": 1, "model_n_params": 1}
    rows = [measured_row([2.0], n_depth=depth, **about) for depth in (0, 16384)]
    (tmp_path / "rows.json").write_text(write_rows(rows))
    monkeypatch.setattr("memfirst.measure.bench.bench", lambda *args, **more: FOUND)


NAMES = ("token_embd", "attn_norm", "attn_q_rope", "ffn_down", "output")
READ = Ledger((Entry("all", WEIGHTS, Amount(1e8, 10**8, 10**8)),), 1)
FOUND = Measured(
    "a-model-with-a-long-name-such-as-people-give-their-files-Q4_K_M.gguf", 16, 256, 128, 60e9, 4183.4, 417.1,
    READ, READ,
    tuple(OpRow(name, 10_000_000 * i, 1e-3, 2) for i, name in enumerate(NAMES)), Memory(96 << 20, 8 << 20, 8 << 20, 0),
    dict.fromkeys(("imports", "open", "graph", "kernels", "program", "weights"), 0.05), 0, 236_000_000, "llama q4_1",
    96 << 20, 135_000_000, read_pattern="4 streams, prefetch 4 KiB ahead, own regions",
)  # fmt: skip


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
        assert len(line) <= columns or len(alone) <= 2, line  # one word (and what it is) may be longer than the screen
    monkeypatch.delenv("COLUMNS")
    wide = shown(capsys, args)
    words = [Counter(" ".join(lines).replace("\\ ", " ").replace(" · ", " ").split()) for lines in (narrow, wide)]
    missing, together = words[1] - words[0], "".join("".join(narrow).split())
    assert all(len(word) > columns // 2 - 4 and word in together for word in missing), "none is broken or left out"
    heads = {word for line in wide for word in line.split()} | {"·"}
    more = set(words[0] - words[1]) - heads
    assert all(any(part in word for word in missing) for part in more), "what is said twice stands above a column"


FOLDER = "models/hugginllam--gemma-3-270m-Q4_K_M-GGUF"
FILE = "a-model-with-a-long-name-such-as-people-give-their-files-when-they-have-tuned-it-Q4_K_M.gguf"
REPO = "mradermacher/DeepSeek-R1-Distill-Qwen-32B-Uncensored-abliterated-i1-GGUF:Q4_K_M"


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize("args", [["list"], ["inspect", f"{FOLDER}/{FILE}"]], ids=["list", "inspect"])
def test_long_paths_and_names_end_lines_between_their_parts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, args: list[str], columns: int
) -> None:
    path = tmp_path / FOLDER / FILE
    path.parent.mkdir(parents=True)
    (tmp_path / "m.gguf").rename(path)
    monkeypatch.setattr("memfirst.hub.pulled", lambda: [Pulled(REPO, 10**9, path, "hub")])
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = shown(capsys, args)
    assert all(len(line) <= columns for line in lines)
    whole = [args[-1]] if args[0] == "inspect" else [REPO, str(path)]
    for text in whole:
        assert text in "".join("".join(lines).split()), "nothing of it is left out"
    for line, after in itertools.pairwise(lines):
        broken = any(f"{line.split()[-1]}{after.split()[0]}" in text for text in whole) if line and after else False
        assert not broken or line[-1] in "/-_.:", line
    data = run_command([*args, "--json"]) or json.loads(capsys.readouterr().out)
    assert str(path.name) in (data["models"][0]["path"] if args[0] == "list" else data["path"])


def test_a_word_is_cut_only_where_it_must_be() -> None:
    text = "see /data/a/models/one-two-three.gguf now"
    assert fold(text, 30, cut=True) == ["see /data/a/models/", "  one-two-three.gguf now"]
    assert fold(text, 20, cut=True) == ["see /data/a/models/", "  one-two-three.", "  gguf now"]
    assert fold(text, 20)[1:] == ["  /data/a/models/one-two-three.gguf", "  now"], "one to be copied stays whole"
    assert fold("x" * 30, 12, cut=True) == ["x" * 9, "  " + "x" * 9, "  " + "x" * 9, "  xxx"]
    for most in range(10, 60):
        lines = fold(text, most, cut=True)
        assert max(map(len, lines)) <= most
        assert "".join("".join(lines).split()) == "".join(text.split())


def test_numbers_stay_with_their_units(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    for line in shown(capsys, PAGES[0]) + shown(capsys, PAGES[1]):
        assert not re.match(r"\s*(?:tok/s|GB|MB|GiB|kB|%|tokens)\b", line), line
        assert not re.search(r"\(80$|80 %:$|×$", line), line


def test_a_machine_is_a_line_of_the_catalogue(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    lines = shown(capsys, ["machine", "list"])
    assert not any(line.startswith("    ") for line in lines)
    assert {line.split()[-1] for line in lines if re.search(r" GiB +\d", line)} == {"checked", "derived", "unchecked"}


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_a_plan_is_one_calm_screen(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    """Facts stand whole on their lines: no dot at an end, no piece of one alone, and the bar's key is not broken."""
    monkeypatch.setenv("COLUMNS", str(columns))
    for args in PAGES[:4]:
        lines = shown(capsys, args)
        assert not any(line.endswith(("·", "(")) for line in lines), lines
        key = [part for line in lines for part in line.split("  ")[-1].split(" · ") if re.match(r"\s*[█▓▒░]+ ", part)]
        assert key and all(re.fullmatch(r"\s*[█▓▒░] \w+ [\d.,]+ .B, \d+ %", part) for part in key), key
        page = lines[: next(i for i, line in enumerate(lines) if line.startswith("what "))]
        assert len(page) <= (30 if columns == 60 else 21), page


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
        for whole in commands:
            assert whole in [" ".join(line.split()) for line in narrow.split("\n")]


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_an_option_stands_on_the_line_of_its_value(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    broken = 0
    for args in PAGES[:4]:
        for line, after in itertools.pairwise(shown(capsys, args)):
            if line.endswith("\\"):
                broken += 1
                option, value = line.split()[-2], after.split()[0]
                alone = option.startswith("-") and not value.startswith("-")
                assert not alone or len(option) + len(value) + 11 > columns, (line, after)
    assert broken or columns == 120


def test_every_swept_value_is_in_its_row(capsys: pytest.CaptureFixture[str]) -> None:
    rows = shown(capsys, ["plan", "qwen3:0.6b", "--on", "rtx-4090", "--sweep", "kv=f16,q8_0,q8_0/q4_0"])
    assert "KV" in rows[2].split() and [row.split()[0] for row in rows[3:]] == ["f16", "q8_0", "q8_0/q4_0"]
    rows = shown(
        capsys, ["plan", "qwen3:0.6b", "--on", "rtx-4090", "--sweep", "devices=1,2", "--sweep", "codec=q8_0,q4_0"]
    )
    assert {"codec", "devices"} <= set(rows[2].split())


def test_columns_that_find_no_room_follow_below_with_their_heads() -> None:
    rows = [("name", "size", "a long word"), ("a", "1.0 GB", "thingamabob"), ("bcd", "10.0 GB", "")]
    assert table(rows, [1], 0).split("\n") == [
        "name     size  a long word", "a      1.0 GB  thingamabob", "bcd   10.0 GB",
    ]  # fmt: skip
    assert table(rows, [1], 24).split("\n") == [
        "name     size", "a      1.0 GB", "    a long word", "    thingamabob", "bcd   10.0 GB",
    ]  # fmt: skip
    assert table(rows, [1], 12).split("\n")[:4] == ["name", "a", "    size", "    1.0 GB"]


def test_names_and_what_they_are() -> None:
    rows = [("a name", "one two three"), ("a very long name indeed", "four"), ("b", "")]
    assert pairs(rows, 0).split("\n")[::2] == ["a name                   one two three", "b"]
    assert pairs(rows, 20).split("\n") == [
        "a name    one two",
        "          three",
        "a very long name",
        "    indeed",
        "          four",
        "b",
    ]


def test_an_error_on_a_terminal_breaks_between_words() -> None:
    args = ["plan", "no-such-model", "--on", "rtx-4090"]
    whole = command(MEMFIRST, *args).stderr
    assert whole.count("\n") == 1
    for columns in (40, 80):
        with Terminal(*args, columns=columns, program=MEMFIRST) as terminal:
            terminal.process.wait()
            assert terminal.screen().split() == whole.split()


def test_lines_are_folded_between_facts() -> None:
    text = "first · second fact · 12 GB of 16 GiB · MBU 81 %"
    for most in range(8, 60):
        lines = fold(text, most)
        assert " ".join(line.strip() for line in lines) == text
        assert not any(re.match(r"\s*(·|GB|GiB|%|81)", line) for line in lines), lines
