"""The measuring tools themselves: what counts as spoiled, what is averaged, how peers' output is read."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from benchmarks import noise, pairs, peers, table
from benchmarks.engines import Binding, Case, Engine, LlamaBench, Memfirst, Sample, Settings
from benchmarks.noise import Window
from benchmarks.process import BenchmarkError, parse_json, run

QUIET = Window(2.0, 0.03, 0.0)
DECODE = Case(2, 0, 128)


# --- noise -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("others_s", "steal_s", "spoiled"),
    [(0.0, 0.0, False), (0.039, 0.0, False), (0.041, 0.0, True), (0.0, 0.01, True)],
)
def test_a_window_is_spoiled_by_two_percent_of_a_core_or_any_steal(others_s, steal_s, spoiled):
    assert Window(2.0, others_s, steal_s).spoiled is spoiled


def test_proc_stat_counts_all_but_idle_and_waiting():
    text = "cpu  100 20 30 4000 500 6 7 8 99 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n"
    assert noise.parse_stat(text, 100) == (pytest.approx(1.63), pytest.approx(0.08))


@pytest.mark.parametrize("text", ["", "intr 5", "cpu 1 2 3"])
def test_proc_stat_of_another_shape_is_refused(text):
    with pytest.raises(BenchmarkError):
        noise.parse_stat(text, 100)


def test_our_own_time_and_our_childrens_is_not_others():
    before = noise.Counters(wall=0.0, busy=10.0, steal=1.0, ours=3.0)
    window = noise.between(before, noise.Counters(wall=2.0, busy=14.0, steal=1.5, ours=6.5))
    assert window == Window(2.0, 0.5, 0.5)
    assert noise.between(before, noise.Counters(2.0, 13.99, 1.0, 7.0)).others_s == 0.0


def test_a_childs_cpu_time_is_counted_as_ours():
    burn = "import time\nend = time.process_time() + 0.2\nwhile time.process_time() < end: pass"
    before = noise.read_counters()
    noise.watch(lambda: run([sys.executable, "-c", burn]))
    assert noise.read_counters().ours - before.ours >= 0.2


# --- pairs -----------------------------------------------------------------------------------------


def a_round(ours: float, theirs: float, window: Window = QUIET, gbps: float | None = None) -> pairs.Round:
    samples = {"memfirst": Sample(ours, gbps), "llama.cpp": Sample(theirs)}
    return pairs.Round(20.0, samples, {"memfirst": QUIET, "llama.cpp": window})


def test_ratio_is_the_median_over_clean_pairs_not_the_ratio_of_medians():
    rounds = [a_round(2, 1), a_round(30, 10), a_round(4, 4), a_round(99, 1, Window(1.0, 0.5, 0.0))]
    found = pairs.ratio(rounds, "llama.cpp")
    assert found.values == (2.0, 3.0, 1.0)
    assert (found.q1, found.median, found.q3, found.discarded) == (1.5, 2.0, 2.5, 1)


def test_a_spoiled_peer_does_not_spoil_our_own_speed():
    rounds = [a_round(10, 1), a_round(20, 1, Window(1.0, 0.0, 0.01))]
    assert pairs.speed(rounds, "memfirst") == 15
    assert pairs.speed(rounds, "llama.cpp") == 1
    assert pairs.clean_pairs(rounds, ["llama.cpp"]) == 1
    assert pairs.clean_pairs(rounds, []) == 2


def test_share_of_the_probe_is_taken_round_by_round():
    assert pairs.probe_share([a_round(1, 1, gbps=18.0), a_round(1, 1, gbps=16.0)]) == pytest.approx(0.85)
    assert pairs.probe_share([a_round(1, 1)]) is None


def test_no_clean_pair_is_an_error_not_a_number():
    with pytest.raises(ValueError, match="no values"):
        pairs.ratio([a_round(2, 1, Window(1.0, 1.0, 0.0))], "llama.cpp")


# --- engines ---------------------------------------------------------------------------------------

BENCH = {"n_prompt": 0, "n_gen": 128, "n_threads": 2, "avg_ts": 7.0, "samples_ts": [90.0, 100.0, 140.0]}


def test_llama_bench_reports_its_median_repetition():
    assert LlamaBench("b").parse("note\n" + json.dumps([BENCH]), DECODE).tok_s == 100.0
    without = {key: value for key, value in BENCH.items() if key != "samples_ts"}
    assert LlamaBench("b").parse(json.dumps([without]), DECODE).tok_s == 7.0


@pytest.mark.parametrize(
    "output",
    [
        "",
        "error: no such file",
        "[]",
        "[{",
        json.dumps([BENCH, BENCH]),
        json.dumps([{**BENCH, "n_threads": 1}]),
        json.dumps([{**BENCH, "n_gen": 0}]),
        json.dumps([{**BENCH, "samples_ts": [0.0]}]),
    ],
)
def test_llama_bench_output_that_is_not_the_test_asked_for_is_refused(output):
    with pytest.raises(BenchmarkError):
        LlamaBench("b").parse(output, DECODE)


@pytest.mark.parametrize(
    ("engine", "case", "words"),
    [
        (LlamaBench("b"), Case(1, 0, 128), ["-t", "1", "-p", "0", "-n", "128"]),
        (LlamaBench("b"), Case(1, 4096, 64), ["-p", "0", "-n", "64", "-d", "4096"]),
        (LlamaBench("b", ik=True), Case(1, 4096, 64), ["-p", "0", "-n", "0", "-gp", "4096,64"]),
        (LlamaBench("b"), Case(1, 256, 0), ["-p", "256", "-n", "0"]),
        (Binding("p", ik=True, path="d"), Case(2, 7, 8), ["--prompt", "7", "--generate", "8", "--path", "d"]),
        (Memfirst(("m",)), Case(2, 0, 128), ["--prompt", "1", "--generate", "128", "--json"]),
        (Memfirst(("m",)), Case(2, 256, 0), ["--prompt", "256", "--generate", "1"]),
    ],
)
def test_commands_ask_for_the_case(engine: Engine, case: Case, words: list[str]):
    line = " ".join(engine.command("model.gguf", case, {}))
    for key, value in zip(words[::2], words[1::2], strict=False):
        assert f"{key} {value}" in line


def test_memfirst_reads_the_field_of_the_case():
    speeds = {"prefill_tok_s": 900.0, "decode_tok_s": 200.0, "decode_GBps": 19.0}
    output = json.dumps({**speeds, "peak_rss_bytes": 5})
    assert Memfirst().parse(output, Case(1, 256, 0)).tok_s == 900.0
    found = Memfirst().parse(output, DECODE)
    assert (found.tok_s, found.gbps, found.details["peak_rss_bytes"]) == (200.0, 19.0, 5)


@pytest.mark.parametrize("value", [None, 0, -1, "12", True, float("nan")])
def test_a_speed_that_is_no_positive_number_is_refused(value):
    with pytest.raises(BenchmarkError):
        Memfirst().parse(json.dumps({"decode_tok_s": value, "decode_GBps": 1.0}), DECODE)


def test_a_failing_program_is_quoted():
    with pytest.raises(BenchmarkError, match="no such weights"):
        run([sys.executable, "-c", "raise SystemExit('no such weights')"])
    with pytest.raises(BenchmarkError, match="cannot run"):
        run(["/nonexistent/llama-bench"])


def test_json_is_found_after_notes():
    assert parse_json('loading...\n{"a": [1]} bye', "x") == {"a": [1]}


# --- comparison ------------------------------------------------------------------------------------


@dataclass
class Fake:
    """An engine that prints its speed: `speeds` by value of its one switch."""

    name: str
    speeds: Mapping[int, float]
    switches: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def command(self, model: str, case: Case, settings: Settings) -> list[str]:
        return [sys.executable, "-c", f"print({self.speeds[settings.get('-fa', 0)]})", model]

    def parse(self, output: str, case: Case) -> Sample:
        return Sample(float(output))


def ignore(text: str) -> None:
    """No notes."""


@pytest.mark.parametrize(("speeds", "best"), [({0: 5.0, 1: 6.0}, 1), ({0: 6.0, 1: 5.0}, 0)])
def test_a_peer_runs_with_its_fastest_switches(speeds, best):
    peer = Fake("llama.cpp", speeds, {"-fa": (0, 1)})
    assert peers.tune(peer, "m", DECODE, ignore) == {"-fa": best}


@pytest.fixture
def scripted(monkeypatch):
    """Windows from a list instead of the machine; the probe gives 20 GB/s; who ran, in order."""
    order: list[str] = []

    def script(windows: list[Window]) -> list[str]:
        def watch(work: Any) -> tuple[Any, Window]:
            found = work()
            order.append(str(found.tok_s))
            return found, windows.pop(0) if windows else QUIET

        monkeypatch.setattr(peers.noise, "watch", watch)
        monkeypatch.setattr(peers, "probe", lambda threads, seconds: 20.0)
        return order

    return script


def test_rounds_rotate_and_go_on_until_the_pairs_are_clean(scripted, tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"12345")
    order = scripted([QUIET, Window(1.0, 1.0, 0.0)])
    engines: list[Engine] = [Fake("memfirst", {0: 30.0}), Fake("llama.cpp", {0: 10.0})]
    found = peers.compare(engines, str(tmp_path / "m.gguf"), DECODE, peers.Goal(2, 9), ignore)
    assert order == ["30.0", "10.0", "10.0", "30.0", "30.0", "10.0"]
    assert found["ratios"]["llama.cpp"]["median"] == 3.0
    assert (found["ratios"]["llama.cpp"]["discarded"], len(found["rounds"])) == (1, 3)
    assert (found["file_bytes"], found["probe_gbps"]) == (5, 20.0)
    json.dumps(found)


def test_a_busy_machine_gives_a_result_only_where_asked(scripted, tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"12345")
    scripted([Window(1.0, 1.0, 0.0)] * 4)
    engines: list[Engine] = [Fake("memfirst", {0: 30.0}), Fake("llama.cpp", {0: 10.0})]
    found = peers.compare(engines, str(tmp_path / "m.gguf"), DECODE, peers.Goal(2, 9, unquiet=True), ignore)
    ratio = found["ratios"]["llama.cpp"]
    assert (ratio["median"], ratio["discarded"], ratio["disturbed"], len(found["rounds"])) == (3.0, 0, 2, 2)
    assert table.row(found, ["llama.cpp"])[-1] == "2 (0), 2 disturbed"


def test_a_busy_machine_gives_no_result(scripted):
    scripted([Window(1.0, 1.0, 0.0)] * 8)
    engines: list[Engine] = [Fake("memfirst", {0: 30.0}), Fake("llama.cpp", {0: 10.0})]
    with pytest.raises(BenchmarkError, match="0 clean pairs of 4"):
        peers.compare(engines, "m", DECODE, peers.Goal(2, 4), ignore)


def test_a_missing_model_is_one_line(capsys):
    assert peers.main(["/nonexistent.gguf"]) == 1
    assert capsys.readouterr().err.startswith("error: no file")


# --- table -----------------------------------------------------------------------------------------


def a_case() -> dict[str, Any]:
    llama = {"median": 2.1, "q1": 2.0, "q3": 2.25, "values": [2.0, 2.1, 2.3], "discarded": 4}
    return {
        "model": "m.gguf",
        "case": DECODE.label,
        "threads": 2,
        "probe_gbps": 24.31,
        "tok_s": {"memfirst": 210.0, "llama.cpp": 100.0},
        "probe_share": 0.861,
        "ratios": {"llama.cpp": llama},
        "commands": {"memfirst": "memfirst bench m.gguf", "llama.cpp": "llama-bench -m m.gguf"},
    }


def test_the_table_has_a_row_per_case_and_every_command_once():
    text = table.markdown([a_case(), a_case()])
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 4 and len({line.count("|") for line in rows}) == 1
    assert "| 24.3 | 210.0 | 86% | 100.0 | **2.10** (2.00–2.25) | 3 (4) |" in rows[2]
    assert text.count("llama-bench -m m.gguf") == 1


def test_only_the_text_between_the_markers_changes(tmp_path):
    page = tmp_path / "README.md"
    page.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    table.write_between_markers(page, "new")
    assert page.read_text() == f"before\n{table.BEGIN}\nnew\n{table.END}\nafter\n"
    assert os.listdir(tmp_path) == ["README.md"]


@pytest.mark.parametrize("text", ["", table.BEGIN, table.END + table.BEGIN, (table.BEGIN + table.END) * 2])
def test_a_page_without_one_pair_of_markers_is_left_alone(tmp_path, text):
    page = tmp_path / "README.md"
    page.write_text(text)
    with pytest.raises(BenchmarkError):
        table.write_between_markers(page, "new")
    assert page.read_text() == text


def test_commands_are_shown_without_folders():
    command = [sys.executable, "-m", "memfirst", "bench", "/a/b/m.gguf", "--json"]
    assert peers.shown(command) == "memfirst bench m.gguf --json"
    assert peers.shown(["/opt/x/llama-bench", "-m", "/a/m.gguf"]) == "llama-bench -m m.gguf"
