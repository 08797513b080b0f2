"""`plan --explain`, `--compare`, `--bandwidth` and `--power-cap`: figures, screens and what they refuse."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import memfirst
from memfirst.catalog.paths import exists
from memfirst.cli import run_command
from memfirst.cli.plan_compare import side_by_side
from memfirst.errors import ConfigError
from memfirst.hardware.machines import find_machine
from memfirst.hardware.throttled import Throttle
from memfirst.plan import Options, Place, Plan, make, place, subject
from memfirst.plan.explain import explained
from memfirst.predict.fitted import Cost, Deployment, predict
from memfirst.predict.fitted.explain import FORMULAS, explain

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own for settings, 80 columns."""
    monkeypatch.setenv("MEMFIRST_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


@pytest.fixture(scope="module")
def llama() -> Plan:
    return make(subject("llama-3:8b"), place("rtx-4090"), Options())


STEPS = (
    Cost({"weights": 4.6e9, "kv_read": 0.5e9}, 1.6e10, 1, 32, "q4_k", 1, 4096),
    Cost({"weights": 1e9, "experts": 2e9, "kv_read": 1e8}, 6e9, 1, 48, "mxfp4", 1, 2880, 2e9),
    Cost({"weights": 1.5e10}, 8e12, 512, 32, "f16", 1, 4096),
)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("machine", ["rtx-4090", "apple-m2-ultra", "ryzen-7950x", "h100"])
@pytest.mark.parametrize(
    "how", [Deployment(), Deployment("vllm", 2, "tensor"), Deployment("mlx"), Deployment(threads=4)]
)
def test_parts_add_up_to_what_is_predicted(step: Cost, machine: str, how: Deployment) -> None:
    found, answer = explain(step, find_machine(machine), how), predict(step, find_machine(machine), how)
    assert sum(part.seconds for part in found.parts) == pytest.approx(answer.seconds)
    for term in answer.terms:
        assert sum(p.seconds for p in found.parts if p.term == term.name) == pytest.approx(term.seconds)
    for part in found.parts:
        product = 1.0
        for factor in part.constants.values():
            product *= factor
        assert part.factor == pytest.approx(product)
        assert part.seconds <= part.before * part.factor * 1.0001 or answer.mbu == pytest.approx(0.95, abs=0.001)
        assert part.formula.removesuffix(" of experts") in FORMULAS.values()


def test_the_rows_that_are_named_are_the_datas() -> None:
    """rtx-3090 by llama.cpp: every row of measured_*.csv that names it, but for what is left out."""
    found = explain(STEPS[0], find_machine("rtx-3090"), Deployment())
    counted: dict[str, int] = {}
    for name in ("measured_decode.csv", "measured_prefill.csv", "measured_added.csv", "measured_2026.csv"):
        with (ROOT / "benchmarks" / "data" / name).open(encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row["hardware"].startswith("RTX 3090 24GB") and row["backend"].startswith("llama.cpp"):
                    counted[row["source"]] = counted.get(row["source"], 0) + 1
    assert dict(found.machine) == counted and sum(counted.values()) > 50
    assert sum(found.machine.values()) <= found.engine_rows <= found.rows
    nobody = explain(STEPS[0], find_machine("gtx-1060"), Deployment("sglang"))
    assert (nobody.machine, nobody.engine_rows) == ({}, 0) and nobody.rows == found.rows


def test_every_fact_names_its_source(llama: Plan) -> None:
    found = explained(llama)
    facts = {fact.figure: fact.source for fact in found.facts}
    assert set(facts) == {"tensors", "codec Q4_K_M", "KV", "buffers", "overhead", "rtx-4090"} and all(facts.values())
    assert exists(ROOT / "memfirst/catalog/configs.json") and "memfirst/catalog/configs.json" in facts["tensors"]
    assert facts["codec Q4_K_M"].startswith("assumed: ") and "opened" in facts["rtx-4090"]
    assert found.decode and found.prefill and llama.decode
    assert sum(p.seconds for p in found.decode.parts) == pytest.approx(llama.decode.seconds)
    asked = make(subject("llama-3:8b", "q8_0"), llama.place.throttled(Throttle(8e11)), Options(codec="q8_0"))
    facts = {fact.figure: fact.source for fact in explained(asked).facts}
    assert facts["codec Q8_0"].startswith("asked for: ") and facts["limits"] == "rtx-4090: 800 GB/s as given, 79 % of" \
        " the data sheet's"  # fmt: skip


def test_without_a_fitted_speed_it_says_why(llama: Plan) -> None:
    large = make(subject("llama-3:70b"), llama.place, Options())
    assert explained(large).why_no_parts == "no speed: it does not fit" and explained(large).decode is None
    unknown = make(llama.subject, Place(replace(llama.place.machine, bandwidth=None)), Options())
    assert explained(unknown).why_no_parts.startswith("no speed: rtx-4090: its bandwidth is not known")


def shown(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert run_command(["plan", *args]) == 0
    return capsys.readouterr().out


def test_the_screen_of_an_explanation(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "llama-3:8b", "--on", "rtx-3090", "--explain")
    assert "where the figures come from" in text and "what to change first" not in text
    assert "bytes ÷ 85 % of peak bandwidth" in text and "XiongjieDai GPU-Benchmarks (May 2024)" in text
    assert max(map(len, text.split("\n"))) <= 80
    data = json.loads(shown(capsys, "llama-3:8b", "--on", "rtx-3090", "--explain", "--json"))["plans"][0]
    parts = data["explain"]["decode"]["parts"]
    assert sum(part["seconds"] for part in parts) == pytest.approx(data["decode"]["seconds"])
    assert {fact["figure"] for fact in data["explain"]["facts"]} >= {"tensors", "rtx-3090"}


def test_limits_of_a_machine_are_planned_with(capsys: pytest.CaptureFixture[str], llama: Plan) -> None:
    text = shown(capsys, "llama-3:8b", "--on", "rtx-4090", "--bandwidth", "500GB/s", "--power-cap", "300 W")
    assert (
        "of the 500 GB/s that allow" in text and "300 of 450 W leave 80 % of its arithmetic and the bandwidth" in text
    )
    data = json.loads(shown(capsys, "llama-3:8b", "--on", "rtx-4090", "--bandwidth", "500", "--json"))["plans"][0]
    assert (data["bandwidth"], data["bandwidth_source"], data["power_cap"]) == (5e11, "--bandwidth", None)
    assert any("--bandwidth 500" in advice["command"] for advice in data["advice"])
    asked = memfirst.plan("llama-3:8b", "rtx-4090", bandwidth=500, offline=True)
    assert asked.rate == pytest.approx(data["decode"]["tok_s"]) and llama.rate and asked.rate < 0.65 * llama.rate
    capped = memfirst.plan("llama-3:8b", "rtx-4090", power_cap=300, offline=True)
    assert capped.rate and 0.93 * llama.rate < capped.rate < llama.rate
    assert capped.prefill and llama.prefill and capped.prefill.seconds and llama.prefill.seconds
    assert 1.15 < capped.prefill.seconds / llama.prefill.seconds < 1.3  # of arithmetic 80 % is left


def test_measured_rates_hold_their_limits(llama: Plan) -> None:
    measured: Any = object()
    with pytest.raises(ConfigError, match="whose rates memfirst machine has measured"):
        replace(llama.place, rates=measured).throttled(Throttle(1e11))


def test_plans_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    args = ("llama-3:8b", "qwen3:8b", "--on", "rtx-4090", "--on", "apple-m1:8gb", "--codec", "q8_0", "--compare")
    text = shown(capsys, *args)
    lines = text.split("\n")
    assert lines[0] == "codec Q8_0 · engine llama.cpp · context 8,192 · sequences 1"
    assert max(map(len, lines)) <= 80
    bars = [line for line in lines if "tok/s" in line and "█" in line]
    assert len(bars) == 2 and sum("does not fit" in line for line in lines) == 2
    data = json.loads(shown(capsys, *args, "--json"))
    speeds = [one["speed"] for one in data["comparison"]]
    assert speeds[0] == 1.0 and speeds[1] is speeds[3] is None and 0.9 < speeds[2] < 1
    assert "advice" not in data["plans"][0]


def test_a_bar_ends_where_its_figure_says(llama: Plan) -> None:
    """40 characters to the fastest end of all: each part to the nearest character."""
    slow = make(llama.subject, place("rtx-3060"), Options())
    bars = [line for line in side_by_side([llama, slow]).split("\n") if line.endswith("tok/s")]
    assert llama.decode and slow.decode and llama.decode.fastest
    for plan, line in zip((llama, slow), bars, strict=True):
        assert plan.decode and plan.decode.slowest and plan.rate and plan.decode.fastest
        ends = [
            round(40 * rate / llama.decode.fastest) for rate in (plan.decode.slowest, plan.rate, plan.decode.fastest)
        ]
        found = line.count("█"), line.count("▓"), line.count("░")
        assert found == (ends[0], ends[1] - ends[0], ends[2] - ends[1])


def test_many_plans_are_rows_and_bars(monkeypatch: pytest.MonkeyPatch, llama: Plan) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    plans = [make(llama.subject, place("rtx-4090"), Options(context=1024 * (i + 1))) for i in range(7)]
    text = side_by_side(plans)
    assert max(map(len, text.split("\n"))) <= 60 and text.count("tok/s") >= 7


def test_a_picture_of_several(folder: Path, llama: Plan) -> None:
    pytest.importorskip("matplotlib")
    from memfirst.plan.plots import compared, draw

    large = make(subject("llama-3:70b"), llama.place, Options())
    drawn = compared([llama, large])
    speed, memory = drawn.axes
    assert [bar.get_width() for bar in speed.patches] == pytest.approx([llama.rate, 0.0])
    widths = [bar.get_width() for bar in memory.patches]
    assert sum(widths[::2]) * 2**30 == pytest.approx(llama.memory.needs.total)
    assert [label.get_text() for label in memory.get_yticklabels()] == ["fits", "does not fit"]
    draw([llama, large], folder / "two.png")
    assert (folder / "two.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--on", "rtx-4090", "--power-cap", "fast"], "give watts, as in 250"),
        (["--on", "rtx-4090", "--power-cap", "-5"], "give watts, as in 250"),
        (["--on", "rtx-4090", "--power-cap", "nan"], "give watts, as in 250"),
        (["--on", "rtx-4090", "--bandwidth", "0"], "give a read bandwidth in GB/s"),
        (["--on", "rtx-4090", "--on", "rtx-3090", "--bandwidth", "500"], "are of one machine, of 2 here"),
        (["--on", "rtx-4090", "--compare"], "--compare needs two plans"),
        (["--on", "rtx-4090", "--on", "rtx-3090", "--explain"], "--explain is of one plan, and 2"),
        (["--on", "rtx-4090", "--csv", "--explain"], "--csv prints rows of plans only"),
    ],
)
def test_what_cannot_be_asked(capsys: pytest.CaptureFixture[str], args: list[str], says: str) -> None:
    assert run_command(["plan", "llama-3:8b", *args]) == 2
    out, err = capsys.readouterr()
    assert out == "" and says in " ".join(err.split())
