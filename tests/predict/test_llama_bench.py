"""llama-bench's rows: a real sample of llama.cpp's own output, and what is no such thing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from memfirst.cli import run_command
from memfirst.errors import FormatError
from memfirst.predict.llama_bench import MOST_BYTES, Row, measured_row, parse_rows, read_rows, write_rows

SAMPLES = Path(__file__).parent.parent / "fixtures" / "llama_bench"
"""`llama-bench -p 16 -n 8 -d 0,64 -r 3 -o json` (and the first two rows of -o jsonl) on SmolLM2-135M Q4_1."""


def test_a_real_file_is_read() -> None:
    rows = read_rows(SAMPLES / "rows.json")
    assert [(r.n_prompt, r.n_gen, r.n_depth) for r in rows] == [(16, 0, 0), (0, 8, 0), (16, 0, 64), (0, 8, 64)]
    assert {(r.model_type, r.model_size, r.model_n_params) for r in rows} == {
        ("llama 256M Q4_1", 96_576_768, 134_515_008)
    }
    assert {(r.n_threads, r.type_k, r.backends, len(r.samples_ns)) for r in rows} == {(2, "f16", "CPU", 3)}
    assert [r.decodes for r in rows] == [False, True, False, True]
    assert rows[0].other["build_commit"] == "0c1e570" and rows[0].other["flash_attn"] == -1
    assert rows[1].seconds_per_token == pytest.approx(1e-9 * sum(rows[1].samples_ns) / 3 / 8, rel=0.05)


def test_lines_of_objects_are_read_too() -> None:
    rows = read_rows(SAMPLES / "rows.jsonl")
    assert [(r.n_prompt, r.n_gen) for r in rows] == [(16, 0), (0, 8)]


def test_what_is_written_has_all_that_was_read() -> None:
    original = json.loads((SAMPLES / "rows.json").read_text())
    rows = read_rows(SAMPLES / "rows.json")
    written = json.loads(write_rows(rows))
    assert written == original
    assert parse_rows(write_rows(rows).encode(), "ours") == rows


def test_rows_of_older_versions_have_no_depth() -> None:
    item = json.loads((SAMPLES / "rows.json").read_text())[1]
    for name in ("n_depth", "type_k", "samples_ns", "samples_ts", "backends"):
        del item[name]
    (row,) = parse_rows(json.dumps([item | {"flash_attn": False, "cuda": True}]).encode(), "old")
    assert (row.n_depth, row.type_k, row.samples_ns, row.other["cuda"]) == (0, "f16", (), True)


def test_our_own_measurements_become_a_row() -> None:
    row = measured_row([0.5, 0.25], n_prompt=0, n_gen=10, model_type="m", model_size=5, model_n_params=3)
    assert row.samples_ns == (500_000_000, 250_000_000) and row.samples_ts == (20.0, 40.0)
    assert row.avg_ts == 30.0 and row.stddev_ts == pytest.approx(14.142, rel=1e-4)
    assert json.loads(write_rows([row]))[0]["avg_ns"] == 375_000_000
    assert parse_rows(write_rows([row]).encode(), "ours") == [row]


GOOD: dict[str, Any] = {
    "model_type": "m", "model_size": 10, "model_n_params": 5, "n_prompt": 0, "n_gen": 4, "avg_ts": 2.0,
    "samples_ns": [2_000_000_000],
}  # fmt: skip


def without(name: str) -> dict[str, Any]:
    return {k: v for k, v in GOOD.items() if k != name}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "0 rows"),
        (b"[]", "0 rows"),
        (b"{}", "has no model_type"),
        (b"[1]", "row 1 is a int"),
        (b"[[]]", "row 1 is a list"),
        (b"| model | size |\n|---|---|", "line 1 is not valid JSON"),
        (b"[{", "not valid JSON"),
        (b"\xff\xfe", "not UTF-8 at byte 0"),
        (b"[" * 100_000, "not valid JSON"),
        (b'[{"a": 1, "a": 2}]', "twice"),
        (b" " * (MOST_BYTES + 1), "longer than 16 MiB"),
        (json.dumps([GOOD] * 10_001).encode(), "10001 rows"),
        (b"{}\n" * 10_001, "10001 lines"),
        *[(json.dumps([without(n)]).encode(), f"has no {n}") for n in ("model_type", "avg_ts", "n_gen", "model_size")],
        *[
            (json.dumps([GOOD | change]).encode(), says)
            for change, says in [
                ({"avg_ts": 0}, "4 tokens at 0"),
                ({"avg_ts": -1.0}, "avg_ts is '-1.0'"),
                ({"avg_ts": "2"}, "avg_ts is '2'"),
                ({"avg_ts": True}, "avg_ts is 'True'"),
                ({"avg_ts": float("nan")}, "NaN is no number"),
                ({"avg_ts": 1e300}, "avg_ts is '1e+300'"),
                ({"avg_ts": 3.0}, "its samples_ns come to 2"),
                ({"samples_ns": [0]}, "its samples_ns come to inf"),
                ({"n_gen": 0}, "measures 0 tokens"),
                ({"n_gen": 1.5}, "n_gen is '1.5'"),
                ({"n_gen": -4}, "n_gen is '-4'"),
                ({"model_size": 10**16}, "model_size"),
                ({"model_type": 7}, "model_type is '7'"),
                ({"model_type": "x" * 5000}, "model_type"),
                ({"samples_ns": "none"}, "samples_ns"),
                ({"samples_ns": [1] * 10_001}, "at most 10000"),
                ({"samples_ns": [1.5]}, "samples_ns"),
                ({"new_field": [1]}, "new_field"),
                ({"new_field": {"a": 1}}, "new_field"),
                ({"new_field": "x" * 5000}, "new_field"),
            ]
        ],
    ],
    ids=lambda v: v[:30] if isinstance(v, str) else "",
)
def test_what_llama_bench_does_not_write_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(FormatError) as refused:
        parse_rows(data, "file")
    assert says in str(refused.value) and len(str(refused.value)) < 400


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(FormatError, match="cannot be read"):
            read_rows(path)


def test_minus_one_layers_means_all() -> None:
    (row,) = parse_rows(json.dumps([GOOD | {"n_gpu_layers": -1}]).encode(), "file")
    assert isinstance(row, Row) and row.n_gpu_layers == -1


def test_bench_writes_rows_that_are_read_again(smollm2: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["bench", str(smollm2), "--prompt", "16", "--generate", "4", "--llama-bench"]) == 0
    prompt, answer = parse_rows(capsys.readouterr().out.encode(), "ours")
    assert (prompt.n_prompt, prompt.n_gen, prompt.n_depth) == (16, 0, 0)
    assert (answer.n_prompt, answer.n_gen, answer.n_depth) == (0, 4, 16)
    theirs = read_rows(SAMPLES / "rows.json")[0]
    assert (answer.model_size, answer.model_n_params) == (theirs.model_size, theirs.model_n_params)
    assert answer.model_type == "llama Q4_1" and answer.avg_ts > 0


def test_rows_and_json_are_not_printed_together(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["bench", "m.gguf", "--llama-bench", "--json"]) == 2
    assert "--llama-bench" in capsys.readouterr().err
