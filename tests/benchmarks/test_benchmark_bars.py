"""Batch, depth and Python's share: what a round says, what a bar makes of it, and short runs on tiny models."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

import memfirst
from benchmarks import batch, depth, model_files, rounds, share, tile_peak
from benchmarks.noise import Window
from benchmarks.process import BenchmarkError
from benchmarks.rounds import Goal, Kept
from memfirst.convert.synthetic import synthetic
from memfirst.graph import Sequence, Step
from memfirst.kernels.cpu.library import Library
from memfirst.models import build

QUIET, BUSY = Window(2.0, 0.03, 0.0), Window(2.0, 0.5, 0.0)


@pytest.fixture
def windows(monkeypatch):
    """What each round's window is; quiet once the list is used up."""

    def script(*given: Window) -> None:
        left = list(given)
        monkeypatch.setattr(rounds.noise, "watch", lambda work: (work(), left.pop(0) if left else QUIET))

    return script


def counting() -> Any:
    """Rounds that give 1, 2, 3, ..."""
    values = iter(range(1, 100))
    return lambda: {"ratio": float(next(values))}


# --- rounds ----------------------------------------------------------------------------------------


def test_spoiled_rounds_are_thrown_away_and_counted(windows):
    windows(QUIET, BUSY, BUSY, QUIET)
    said: list[str] = []
    kept = rounds.clean_rounds(counting(), Goal(3, 9), said.append)
    assert [r["ratio"] for r in kept.rounds] == [1, 4, 5]
    assert (kept.median("ratio"), kept.discarded, len(said)) == (4, 2, 5)
    assert ["spoiled" in line for line in said] == [False, True, True, False, False]


@pytest.mark.parametrize(("given", "enough"), [([BUSY, QUIET, QUIET], True), ([BUSY, BUSY, QUIET], False)])
def test_the_last_allowed_round_counts_and_none_after_it(windows, given, enough):
    windows(*given)
    if enough:
        assert rounds.clean_rounds(counting(), Goal(2, 3), print).discarded == 1
    else:
        with pytest.raises(BenchmarkError, match="1 clean rounds of 3"):
            rounds.clean_rounds(counting(), Goal(2, 3), print)


def test_a_record_holds_medians_and_every_round():
    found = Kept(({"a": 1.0}, {"a": 9.0}, {"a": 2.0}), 4).record()
    counts = {"clean_rounds": 3, "disturbed": 0, "discarded": 4}
    assert found == {"a": 2.0, **counts, "rounds": [{"a": 1.0}, {"a": 9.0}, {"a": 2.0}]}


def test_unquiet_rounds_all_count_and_say_what_they_are(windows, capsys):
    windows(QUIET, BUSY, BUSY, QUIET)
    kept = rounds.clean_rounds(counting(), Goal(3, 9, unquiet=True), lambda line: None)
    assert [r["ratio"] for r in kept.rounds] == [1, 2, 3]
    assert (kept.discarded, kept.disturbed, kept.record()["clean_rounds"]) == (0, 2, 1)
    rounds.report(lambda: [{**kept.record(), "ok": True, "verdict": "x"}])
    assert capsys.readouterr().err == "met: x; 2 of 3 rounds disturbed\n"


@pytest.mark.parametrize(("bars", "code"), [([True], 0), ([True, False], 1)])
def test_the_exit_code_is_the_bars(capsys, bars, code):
    assert rounds.report(lambda: [{"ok": ok, "verdict": "x"} for ok in bars]) == code
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert (found if isinstance(found, list) else [found]) == [{"ok": ok, "verdict": "x"} for ok in bars]
    assert err.count("MISSED: x") == bars.count(False)


def test_a_measurement_that_cannot_be_made_is_one_line(capsys):
    def fail() -> list[dict[str, Any]]:
        raise BenchmarkError("nothing")

    assert rounds.report(fail) == 1
    assert capsys.readouterr() == ("", "error: nothing\n")


# --- what a round says -----------------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "ratio"), [(1000.0, 1.5), (20.0, 0.75)])
def test_eight_sequences_are_held_to_memory_or_to_arithmetic(rate, ratio):
    """8 x 10 multiply-adds take 0.08 s or 4 s, one step takes 2 s, eight 3 s."""
    found = batch.figures(2.0, 3.0, 10, rate)
    assert found["ratio"] == pytest.approx(ratio)
    assert found["arithmetic_s"] == pytest.approx(80 / rate)


def test_depth_is_held_to_the_probe():
    """0.1 GB more at 20 GB/s are 5 ms; 6 ms were added."""
    assert depth.figures(0.004, 0.010, 100_000_000, 20.0)["ratio"] == pytest.approx(1.2)


def test_pythons_share_is_what_the_walk_leaves():
    found = share.figures(1.0, {"walk": 0.9, "sample": 0.06}, 100)
    assert found["share"] == pytest.approx(0.1)
    assert (found["token_us"], found["sample_us"]) == (pytest.approx(1e4), pytest.approx(600))
    assert found["loop_us"] == pytest.approx(400)


def test_the_clock_counts_what_is_inside_and_lets_go(monkeypatch: pytest.MonkeyPatch):
    """Seconds are the test's own: a busy machine sleeps 0.03 s in 0.06."""
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)

    class Worker:
        def work(self, seconds: float) -> float:
            nonlocal now
            now += seconds
            return seconds

    worker = Worker()
    with share.Clock() as clock:
        clock.around(worker, "work", "work")
        assert worker.work(0.25) == 0.25
        now += 4.0  # outside
        assert worker.work(0.5) == 0.5
    worker.work(1.0)
    assert clock.spent == {"work": 0.75}


# --- short runs ------------------------------------------------------------------------------------


def test_multiply_adds_are_the_matrices():
    """Per layer q and o, k and v, three of the feed-forward; then the head."""
    per_layer = 2 * 256 * 256 + 2 * 128 * 256 + 3 * 256 * 512
    assert batch.multiply_adds(build(synthetic("tiny-llama", "q4_0"))) == 2 * per_layer + 512 * 256


def test_the_peak_kernel_computes_its_products():
    """What is timed is a real product: outputs of every row and token are written, and not zero."""
    library = Library()
    key = ("matmul.block32", (("CODEC", "q4_0"), ("TILE", tile_peak.TILE)))
    entry = library.load([key])[key]
    made = tile_peak.product(entry, "q4_0", 1)
    bytes_read = tile_peak.native(entry)(made.record.ctypes.data, 0, 0, tile_peak.ROWS)
    assert bytes_read == made.arrays["w"].nbytes == tile_peak.ROWS * tile_peak.COLUMNS // 32 * 18
    assert (made.arrays["y"] != 0).all()


def test_a_batch_gives_each_sequence_pages_of_its_own():
    graph = build(synthetic("tiny-llama", "q4_0"))
    tables = [s.tables[0] for s in batch.decode_step(graph, 128, 8).sequences]
    assert len(tables) == 8 and len({p for table in tables for p in table}) == sum(map(len, tables))


def test_a_batch_is_measured_end_to_end(windows):
    windows(BUSY)
    found = batch.measure(1, Goal(2, 4), print, "tiny-llama", "q4_0")
    assert (found["clean_rounds"], found["discarded"]) == (2, 1)
    assert 0 < found["t1_s"] <= found["t8_s"] * 3
    assert found["ok"] is (found["ratio"] <= 1.15)


def test_depth_counts_the_cache_that_is_read():
    with depth.load("tiny-llama:q4_0", 1, 400) as model:
        measured = depth.Depth(model, 300)
        backend = measured.backend
        deep = backend.recorded(measured.step(300), backend.step(measured.step(300), measured.tokens[:1]))
        per_position = 2 * 2 * 2 * 64 * 2  # layers, K and V, heads, values, bytes
        assert measured.added_bytes() == 300 * per_position
        assert int(deep.by_purpose()["kv_read"]) == 301 * per_position


def test_an_unknown_model_is_one_line(capsys):
    assert depth.main(["/nonexistent.gguf"]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_pythons_share_is_measured_end_to_end(windows):
    windows()
    model = memfirst.load(synthetic("tiny-llama", "q4_0"), threads=1, ctx=320)
    found = share.measure(model, "tiny", 40, Goal(2, 4), print)
    parts = [found[f"{name}_us"] for name in ("describe_step", "sample", "accept", "detokenize", "count_bytes", "loop")]
    assert all(part > 0 for part in parts)
    rest = found["rounds"][0]
    assert rest["share"] == pytest.approx(1 - rest["walk_us"] / rest["token_us"])


# --- files -----------------------------------------------------------------------------------------


def test_model_files_are_written_once_and_load(tmp_path: Path, capsys):
    words = [str(tmp_path / "new"), "q4_0", "q8_0", "--shape", "tiny-llama"]
    assert model_files.main(words) == 0
    paths = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [path.name for path in paths] == ["tiny-llama.q4_0.gguf", "tiny-llama.q8_0.gguf"]
    made = [path.stat().st_mtime_ns for path in paths]
    assert model_files.main(words) == 0
    assert [path.stat().st_mtime_ns for path in paths] == made
    assert sorted(paths[0].parent.iterdir()) == sorted(paths)
    with memfirst.load(paths[0], threads=1) as model:
        assert model.price(Step((Sequence(0, 1),))).streamed.low > 0


def test_an_unknown_mix_is_one_line_and_leaves_nothing(tmp_path, capsys):
    assert model_files.main([str(tmp_path), "q9_9"]) == 1
    assert capsys.readouterr().err.startswith("error: ")
    assert list(tmp_path.iterdir()) == []
