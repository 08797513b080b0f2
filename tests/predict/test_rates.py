"""What this machine measured, and the times that follow: amounts of work, the file, properties of a prediction."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from memfirst.cli import run_command
from memfirst.cli.machine import page
from memfirst.convert.mixes import mix
from memfirst.convert.synthetic import SyntheticCheckpoint, synthetic
from memfirst.convert.synthetic_shapes import SyntheticShape
from memfirst.errors import FormatError
from memfirst.graph import Graph, Sequence, Step, decode
from memfirst.graph import prefill as prompt
from memfirst.measure import calibrate
from memfirst.models import build
from memfirst.predict import measured as rates
from memfirst.predict.llama_bench import Row
from memfirst.predict.measured import Rate, Rates, others

SMALL = SyntheticShape("llama", 256, 2, 4, 2, 512, 512, max_position_embeddings=1024)


def made_up() -> Rates:
    """20 GB/s a thread, 10 ps a weight, 5 ns a position, 2 µs a phase."""
    names = ("matmul.block32 CODEC=q8_0 TILE=1", "matmul.block32 CODEC=q8_0 TILE=4", "matmul.block32 CODEC=q8_0 TILE=8")
    work = {name: Rate(0.0, 1e-11) for name in names}
    work["attention.attend DIM=64 GROUP=2 TILE=1"] = Rate(1e-7, 5e-9)
    by_threads = {1: 1.0, 2: 0.9}
    return Rates(
        rates.fingerprint(), "2026-01-01T00:00:00+00:00", 1 << 33, {1: 20e9, 2: 36e9}, by_threads, by_threads,
        {1: 2e-6, 2: 4e-6}, 1e-5, work,
    )  # fmt: skip


@pytest.fixture
def graph() -> Graph:
    return build(synthetic(SMALL, "q8_0"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("MEMFIRST_CONFIG_DIR", str(tmp_path))
    yield tmp_path


def amounts(graph: Graph, step: Step, start: str) -> tuple[float, float]:
    """Units and amounts of all calls whose key starts so."""
    program = rates.program_for(graph, step.tokens, 1024, 2)
    work = [w for part in rates.works(program, step) for w in (*part.repeated, *part.shared)]
    found = [w for w in work if w.key.startswith(start)]
    return sum(w.units for w in found), sum(w.amount for w in found)


def test_matmuls_do_every_weight_once_a_tile(graph: Graph) -> None:
    weights = 2 * (256 * (256 + 128 + 128 + 256) + 3 * 256 * 512) + 512 * 256
    assert amounts(graph, decode(10), "matmul") == (0.0, weights)
    assert amounts(graph, decode(10, 8), "matmul")[1] == weights
    assert amounts(graph, Step((Sequence(0, 64),)), "matmul")[1] == 8 * (weights - 512 * 256) + 512 * 256


def test_recurrences_do_every_column_of_every_token() -> None:
    """What a sequence begins with, and each of its tokens; state goes from slot to slot once a sequence."""
    model = build(SyntheticCheckpoint(calibrate.RECURRENT[1], mix("q8_0"), 0, ""))
    for step, sequences, tokens in ((decode(9, 3), 3, 3), (prompt(40, 9), 1, 40)):
        assert amounts(model, step, "wkv.wkv7 ") == (2 * 512 * sequences, 2 * 512 * tokens)
        assert amounts(model, step, "state.clear") == (0.0, 2 * 512 * 64 * sequences)
        assert amounts(model, step, "rwkv.keep") == (0.0, 4 * 512 * sequences)
        assert amounts(model, step, "rwkv.lerp") == (0.0, 2 * 7 * 512 * tokens)


def test_attention_does_every_position_of_every_kv_head(graph: Graph) -> None:
    assert amounts(graph, decode(600), "attention.attend") == (2 * 2 * 2, 2 * 2 * 601)  # layers, heads, splits
    assert amounts(graph, prompt(100), "attention.attend") == (2 * 2 * 13, 2 * 2 * 5050)  # thirteen items of eight
    assert amounts(graph, prompt(100), "attention.merge") == (0.0, 2 * 4 * 64 * 100)


def test_tokens_that_attend_alone_have_a_rate_of_their_own(graph: Graph) -> None:
    """The last of a prompt of eights and one, and decoded tokens beside it."""
    step = Step((Sequence(0, 97), Sequence(40), Sequence(50)))
    together, alone = (
        amounts(graph, step, f"attention.attend GROUP=2 KCODEC=kv_f16 K_DIM=64 TILE={n} ") for n in (8, 1)
    )
    assert together[1] == 2 * 2 * 97 * 96 / 2 and alone[1] == 2 * 2 * (97 + 41 + 51)
    assert together[0] + alone[0] == pytest.approx(2 * 2 * (13 + 2))


@pytest.mark.parametrize("past", [0, 500, 900])
def test_less_bandwidth_and_more_context_are_slower(graph: Graph, past: int) -> None:
    known = made_up()
    fast, slow = (rates.step_time(graph, decode(past), known, 2, read).seconds for read in (36e9, 18e9))
    more = rates.step_time(graph, decode(past + 100), known, 2, 36e9).seconds
    assert fast and slow and more and fast < slow < 2 * fast and fast < more


def test_terms_add_up_and_the_largest_binds(graph: Graph) -> None:
    found = rates.step_time(graph, decode(5), made_up(), 1)
    assert found.seconds == pytest.approx(sum(t.seconds for t in found.terms))
    assert found.binding == max(found.terms, key=lambda t: t.seconds).name == "weights"
    starved = replace(made_up(), phase={1: 1.0})
    assert rates.step_time(graph, decode(5), starved, 1).binding == "overhead"


def test_a_step_without_arithmetic_takes_its_bytes(graph: Graph) -> None:
    free = replace(made_up(), work={}, phase={1: 1e-12}, step=0.0)
    streamed = sum(w.nbytes for w in graph.weights().values()) + 256 * 272 // 256 * 15  # a looked-up row's neighbours
    seconds = rates.step_time(graph, decode(0), free, 1).seconds
    assert seconds == pytest.approx(streamed / 20e9, rel=0.02)


def test_a_prompt_is_its_largest_steps(graph: Graph) -> None:
    whole = rates.prefill(graph, 512, made_up(), 1)
    first = rates.step_time(graph, Step((Sequence(0, 256, logits=()),)), made_up(), 1).seconds
    second = rates.step_time(graph, Step((Sequence(256, 256),)), made_up(), 1).seconds
    assert whole.seconds == pytest.approx((first or 0) + (second or 0)) and whole.tokens == 512


def test_a_call_that_was_not_measured_follows_the_most_similar(graph: Graph) -> None:
    known = made_up()
    similar = rates.predict.rate_of("attention.attend DIM=64 GROUP=5 TILE=1", known)
    assert similar.item == pytest.approx(5e-9 * 6 / 3)
    together = rates.predict.rate_of("attention.attend DIM=64 GROUP=2 TILE=4", known)
    assert together.item == pytest.approx(5e-9 * 2.25 / 3)
    assert rates.predict.rate_of("elementwise.unheard", known) == Rate(0.0, 0.0)


@pytest.mark.parametrize("older", range(1, rates.store.FORMAT))
def test_a_file_of_an_older_format_is_measured_anew(folder: Path, older: int) -> None:
    """Of 1 the read bandwidth was of one pattern, of 2 kernels had other names."""
    path = rates.save(replace(made_up(), pattern={1: "1 stream, own regions"}, peak=460.8e9, modules="12 × DDR5-4800"))
    assert (rates.load() or made_up()).modules == "12 × DDR5-4800"
    now = path.read_text()
    path.write_text(now.replace(f'"format": {rates.store.FORMAT}', f'"format": {older}'))
    assert path.read_text() != now
    assert rates.load() is None


def test_the_page_says_the_pattern_and_the_peak() -> None:
    shown = page(replace(made_up(), pattern={1: "4 streams, own regions"}))
    assert (
        "fastest to read with 1 thread: 4 streams, own regions" in shown
        and "peak of the memory modules: unknown" in shown
    )
    assert "8 % of 460.8 GB/s peak (12 × DDR5-4800)" in page(replace(made_up(), peak=460.8e9, modules="12 × DDR5-4800"))


def test_the_file_comes_back_and_other_hardware_has_none(folder: Path) -> None:
    assert rates.load() is None
    path = rates.save(made_up())
    assert rates.load() == made_up() and list(folder.iterdir()) == [path]
    rates.save(replace(made_up(), fingerprint="another"))
    assert rates.load() is None


@pytest.mark.parametrize(
    "change",
    [{"read": {}}, {"read": {"1": -1}}, {"work": {"a": {}}}, {"phase": 3}, {"strange": 1}, {"observed": {"a": [1]}}],
)
def test_a_broken_file_is_named(folder: Path, change: dict[str, object]) -> None:
    path = rates.save(made_up())
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(FormatError, match=r"this-machine\.json"):
        rates.load()


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_rates_that_cannot_be_kept_are_shown(
    form: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They took a minute; where there is no room for them is an error of one line, after them."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MEMFIRST_CONFIG_DIR", str(tmp_path / "file" / "below"))
    monkeypatch.setattr("memfirst.measure.calibrate.calibrate", lambda report: made_up())
    assert run_command(["machine", *form]) == 1
    said = capsys.readouterr()
    assert json.loads(said.out)["read"] if form else ("reads GB/s" in said.out and "kept in" not in said.out)
    assert said.err.startswith("memfirst: the rates are not kept: cannot write") and said.err.count("\n") == 1
    assert "MEMFIRST_CONFIG_DIR" in said.err
    monkeypatch.setenv("MEMFIRST_CONFIG_DIR", str(tmp_path / "below"))
    assert run_command(["machine"]) == 0 and "kept in" in capsys.readouterr().out


def test_a_small_calibration_knows_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """All kernels of a model of the measured codecs get a rate above nothing, and a step a plausible time."""
    monkeypatch.setattr(calibrate, "MIXES", ("q8_0",))
    monkeypatch.setattr(calibrate, "HEADS", ((64, 8, 2),))
    monkeypatch.setattr(calibrate, "REPEATS", 2)
    monkeypatch.setattr(calibrate, "PAST", 512)
    monkeypatch.setattr(calibrate, "DEEP", 512)
    monkeypatch.setattr(calibrate, "_STREAM", SMALL)
    monkeypatch.setattr(calibrate, "_GATHER", SMALL)
    found = calibrate.calibrate(threads=(1,))
    graph = build(synthetic(replace(SMALL, num_attention_heads=8), "q8_0"))
    recurrent = [build(SyntheticCheckpoint(shape, mix("q8_0"), 0, "")) for shape in calibrate.RECURRENT]
    for model, tokens in product((graph, *recurrent), (1, 4, 8, 256)):
        program = rates.program_for(model, tokens, 1024, 1)
        for part in rates.works(program, prompt(tokens)):
            for work in (*part.repeated, *part.shared):
                rate = rates.predict.rate_of(work.key, found)
                assert rate.item > 0, work.key
    assert found.threads == (1,) and 1e9 < found.read[1] < 1e12 and found.phase[1] > 0
    for model in (graph, *recurrent):
        seconds = rates.step_time(model, decode(8), found, 1).seconds
        assert seconds and 1e-6 < seconds < 1e-2


def compared(matmuls: float, waiting: float) -> rates.Comparison:
    """Against 1 ms of matmuls, 0.2 of attention, 0.1 each of the others."""
    predicted = {"matmuls": 1e-3, "attention": 2e-4, "preparation": 1e-4, "waiting": 1e-4}
    return rates.Comparison(predicted, {**predicted, "matmuls": matmuls, "waiting": waiting}, "2026-01-01T00:00")


def test_the_miss_is_attributed_to_the_part_that_differs_most() -> None:
    slow = compared(1.5e-3, 2e-4)
    assert slow.largest_miss == "matmuls" and slow.miss == pytest.approx(6e-4)
    assert "measured 500 (-30%): matmuls took 1500 us where 1000 were predicted, 83% of" in slow.sentence()
    assert compared(0.9e-3, 3e-4).largest_miss == "waiting"  # slower on the whole, though matmuls were faster
    assert compared(0.7e-3, 1.2e-4).largest_miss == "matmuls"
    assert "within 3 %" in compared(1.01e-3, 1e-4).sentence()


def test_parts_add_up_to_the_prediction(graph: Graph) -> None:
    for step in (decode(5), decode(5, 8)):
        parts = rates.predicted_parts(graph, step, made_up(), 2, 36e9, 1024)
        whole = rates.step_time(graph, step, made_up(), 2, 36e9, 1024).seconds
        assert sum(parts.values()) == pytest.approx(whole)
        assert all(seconds > 0 for name, seconds in parts.items() if name != "preparation")


def test_measured_parts_keep_every_second(graph: Graph) -> None:
    program = rates.program_for(graph, 1, 1024, 2)
    spent = {id(call): 1e-6 for call in program.calls}
    parts = rates.measured_parts(program, spent, 2, 1.0)
    assert sum(parts.values()) == pytest.approx(1.0)
    assert parts["attention"] == pytest.approx(2 * 1e-6 / 2)  # two layers, both threads' time
    assert rates.measured_parts(program, spent, 2, 1e-9)["waiting"] == 0.0


def row(depth: int, seconds: float, prompt: int = 0) -> Row:
    """64 tokens, one thread."""
    count = 0 if prompt else 64
    return Row("llama", 1, 1, prompt, count, 1 / seconds, n_depth=depth, n_threads=1, n_ubatch=128)


def test_other_engines_rows_are_explained_by_bytes(graph: Graph) -> None:
    position = 2 * 2 * 2 * 64 * 2  # layers, K and V, heads, values, bytes
    rows = [row(depth, 1e-3 + 1e-6 * (depth + 32)) for depth in (0, 512, 2048)] + [row(0, 1e-5, prompt=256)]
    found = others.explain(graph, rows, made_up())
    weights = sum(w.nbytes for w in graph.weights().values())
    assert [e.kv for e in found[:3]] == [position * (depth + 33) for depth in (0, 512, 2048)]
    assert found[0].streamed == pytest.approx(weights + position * 33, rel=0.001)
    assert found[0].share == pytest.approx(found[0].streamed * rows[0].avg_ts / 20e9)
    assert found[3].streamed < weights / 100  # two steps of 128 for 256 tokens
    line = others.slope(found)
    assert line and line.position == pytest.approx(1e-6) and line.start == pytest.approx(1e-3)
    assert line.kv_rate == pytest.approx(position / 1e-6)
    assert f"{position / 1e3:.1f} kB come at" in others.growth(found)
    assert others.slope(found[:1]) is None


@pytest.mark.parametrize("what", ["stream", "gather", "phase"])
def test_what_a_step_took_is_explained(graph: Graph, what: str) -> None:
    """From a step's time at known rates, the rate that is left out comes back."""
    known = replace(made_up(), stream={2: 0.8}, gather={2: 0.6}, phase={2: 3e-6}, read={2: 36e9})
    step = decode(900)
    took = rates.step_time(graph, step, known, 2, 36e9).seconds or 0.0
    lost = replace(known, **{what: {2: 1e-3}}, observed={f"{what} 2": (36e9, took)})
    found = calibrate.solve(lost, what, 2, graph, step)
    assert getattr(found, what)[2] == pytest.approx(getattr(known, what)[2], rel=1e-3)
