"""`plan --on MACHINE` without a model: what fits there, in which codec, how fast, with how much context."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import memfirst
from memfirst.cli import run_command
from memfirst.hardware import detect
from memfirst.plan import Options, make, place, subject
from memfirst.plan.rank import PEOPLE_RUN, SLOW, quality, rank, weight_bytes

SOME = ("llama-3.3:70b", "gpt-oss:20b", "qwen3:14b", "llama-3.1:8b", "gemma-3:1b", "smollm2:135m")


def test_each_fits_and_is_planned_as_when_it_is_named() -> None:
    found = rank(place("rtx 3060 12gb"), Options(), SOME)
    assert {p.subject.name for p in found} == set(SOME) - {"llama-3.3:70b", "gpt-oss:20b"}
    for plan in found:
        again = make(subject(plan.subject.name, plan.subject.codec), place("rtx-3060"), Options())
        assert plan.fits and plan.rate == again.rate and quality(plan)
        assert plan.limits and plan.limits.context >= plan.context


def test_the_most_bits_that_fit_and_the_usual_ones() -> None:
    by_model: dict[str, list[str]] = {}
    for plan in rank(place("rtx 3060 12gb"), Options(), SOME):
        by_model.setdefault(plan.subject.name, []).append(plan.subject.codec)
    assert by_model["qwen3:14b"] == ["q4_k_m"] and by_model["llama-3.1:8b"] == ["q8_0", "q4_k_m"]
    above = make(subject("qwen3:14b", "q6_k"), place("rtx 3060 12gb"), Options())
    assert above.fits is False


def test_the_largest_of_those_that_are_fast_enough_come_first() -> None:
    found = rank(place("laptop-ddr5 64gb"), Options(), SOME)
    fast = [(p.each or 0) >= SLOW for p in found]
    assert fast == sorted(fast, reverse=True) and not all(fast)
    sizes = [p.subject.parameters for p, quick in zip(found, fast, strict=True) if quick]
    assert sizes == sorted(sizes, reverse=True)


def test_several_machines_hold_more_and_an_engine_of_no_gguf_takes_it_as_published() -> None:
    assert "llama-3.3:70b" in {p.subject.name for p in rank(place("2x4090"), Options(), SOME)}
    published = rank(place("h100"), Options(engine="vllm"), SOME)
    assert {p.subject.codec for p in published} <= {"bf16", "f16", "mxfp4"} and {quality(p) for p in published} == {
        "published"
    }
    asked = rank(place("rtx-4090"), Options(codec="q6_k"), SOME)
    assert {p.subject.codec for p in asked} == {"q6_k"}


def test_all_that_are_ranked_are_models_of_the_catalogue() -> None:
    assert len(set(PEOPLE_RUN)) == len(PEOPLE_RUN) >= 40
    assert all(weight_bytes(subject(name)) for name in PEOPLE_RUN)


def test_the_page_and_its_rows(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memfirst.plan.rank.rank.__defaults__", (SOME, None))
    assert run_command(["plan", "--on", "RTX 4060 Ti 16GB"]) == 0
    page = capsys.readouterr().out
    assert page.startswith("what fits rtx-4060-ti · 16 GiB to use · llama.cpp · context 8,192 tokens")
    assert "gpt-oss:20b" in page and " published" in page and "max ctx" in page
    assert run_command(["plan", "--on", "RTX 4060 Ti 16GB", "--json"]) == 0
    plans = json.loads(capsys.readouterr().out)["plans"]
    assert {p["machine"] for p in plans} == {"rtx-4060-ti"} and all(p["memory"]["fits"] for p in plans)
    assert run_command(["plan", "--on", "RTX 4060 Ti 16GB", "--csv"]) == 0
    assert capsys.readouterr().out.startswith("model,codec,machine")


def test_without_a_machine_it_is_this_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MEMFIRST_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("MEMFIRST_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(detect, "gpus", lambda: ())
    monkeypatch.setattr("memfirst.plan.rank.rank.__defaults__", (("smollm2:135m",), None))
    assert run_command(["plan"]) == 0
    page = capsys.readouterr().out
    assert page.startswith("what fits this machine (") and "· memfirst ·" in page and "smollm2:135m" in page


def test_python_without_a_model_ranks_as_the_command_does(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memfirst.plan.rank.rank.__defaults__", (SOME, None))
    assert run_command(["plan", "--on", "rtx-3060", "--ctx", "4096", "--json"]) == 0
    command = json.loads(capsys.readouterr().out)["plans"]
    found = memfirst.plan(on="rtx-3060", ctx=4096)
    assert json.loads(json.dumps([plan.json() for plan in found])) == command and len(found) > 3
