"""`plan --users`: what a server's users get, by steps that the plan itself prices."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from memfirst.cli import run_command
from memfirst.errors import ConfigError
from memfirst.graph import Sequence, Step, decode
from memfirst.plan import Options, make, place, subject
from memfirst.plan.load import StepTimes, arrivals, server_of
from memfirst.predict.load import Ask, simulate

MODEL, GPU = "llama-3:8b", "rtx-4090"


def times(longest: int = 1024, budget: int = 512) -> StepTimes:
    return StepTimes(subject(MODEL, "q4_k_m").priced("f16"), place(GPU), Options("q4_k_m"), longest, budget)


def test_steps_are_those_of_the_plan_and_in_between_on_a_line() -> None:
    found = times()
    priced, where, options = found.priced, found.place, found.options
    assert found(4, 1023, 0, 0) == pytest.approx(where.time(priced, decode(1023, 4), options).seconds, rel=2e-3)
    mixed = Step((*(Sequence(1) for _ in range(3)), Sequence(1, 64)))
    assert found(3, 1, 64, 1) == pytest.approx(where.time(priced, mixed, options).seconds, rel=2e-3)
    middle = [found(8, context, 0, 0) for context in (1, 512, 1023)]
    assert middle[0] < middle[1] < middle[2] and middle[1] == pytest.approx(sum(middle[::2]) / 2, rel=1e-2)
    chunks = [found(8, 100, prompt, 0) for prompt in (0, 8, 12, 16, 300, 504)]
    assert chunks == sorted(chunks)


def test_one_user_gets_what_the_plan_says_of_one_sequence() -> None:
    plan = make(subject(MODEL), place(GPU), Options("q4_k_m", context=1024, prompt=512, users=1, answer=512))
    assert plan.load and plan.decode and plan.decode.seconds and plan.prefill and plan.prefill.seconds
    figures = plan.load.together.figures
    assert figures.itl.p99 == pytest.approx(plan.decode.seconds, rel=0.02)  # the last positions
    assert figures.ttft.p50 == pytest.approx(plan.prefill.seconds, rel=0.1)
    assert (figures.queue, plan.load.places, plan.load.arriving) == (0, 1, None)


def test_many_users_share_reads_and_some_wait() -> None:
    plan = make(subject(MODEL), place(GPU), Options("q4_k_m", context=1024, users=16, rate=3.0))
    few = make(subject(MODEL), place(GPU), Options("q4_k_m", context=1024, users=1)).load
    assert plan.load and few and plan.limits and plan.load.fit == plan.limits.sequences
    many = plan.load.together.figures
    assert 4 < many.tok_s / few.together.figures.tok_s < 16 and many.each < few.together.figures.each
    slow, hurried = (
        simulate(arrivals([Ask(512, 128)] * 256, rate), server_of("llama.cpp", 4), times(640)).figures
        for rate in (0.2, 20)
    )
    assert slow.queue is not None and hurried.queue is not None and slow.queue <= 2 and hurried.queue > 100
    ours = make(subject(MODEL), place("here"), Options("q4_k_m", context=1024, users=20, engine="memfirst"))
    assert ours.load is None or (ours.load.places, ours.load.together.figures.queue) == (16, 4)


def test_the_page_json_and_usage(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", MODEL, "--on", GPU, "--codec", "q4_k_m", "--ctx", "1k", "--users", "8", "--rate", "0.5"]
    assert run_command(words) == 0
    page = capsys.readouterr().out
    assert "8 that ask 512 tokens and get 128, again and again" in " ".join(page.split()) and "longest queue" in page
    assert run_command([*words, "--json"]) == 0
    load = json.loads(capsys.readouterr().out)["plans"][0]["load"]
    assert load["users"] == 8 and load["together"]["requests"] == 32 and load["arriving"]["requests"] == 256
    assert load["users_that_fit"] > 8 and load["arriving"]["longest_queue"] >= 0
    assert run_command(["plan", MODEL, "--on", GPU, "--users", "2", "--batch", "3"]) == 2
    assert run_command(["plan", MODEL, "--on", GPU, "--rate", "3"]) == 2
    assert "--users" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="users is -1"):
        replace(Options(), users=-1)
