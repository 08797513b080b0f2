"""A load simulated, against times worked out by hand, and figures against NumPy."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from memfirst.predict.load import Answered, Ask, Server, Slo, figures, percentile, simulate

TOKEN, PROMPT = 0.010, 0.001
"""Seconds of a step with any decoding row, and of each token of a prompt."""


def step(decoding: int, context: float, prompt: int, past: float) -> float:
    return TOKEN * (decoding > 0) + PROMPT * prompt


def test_percentiles_are_numpys() -> None:
    rng = Random(3)
    for count in (1, 2, 7, 100):
        values = [rng.expovariate(1) for _ in range(count)]
        for percent in (0, 50, 90, 99, 100):
            assert percentile(values, percent) == pytest.approx(float(np.percentile(values, percent)))
    assert percentile([], 50) == 0.0


def test_one_client_waits_for_its_prompt_and_then_for_each_token() -> None:
    found = simulate([Ask(100, 11)] * 3, Server(1, 64), step, clients=1)
    assert found.figures.ttft.p50 == pytest.approx(0.1) and found.figures.itl.p99 == pytest.approx(TOKEN)
    assert found.figures.e2e.p90 == pytest.approx(0.2) and found.figures.seconds == pytest.approx(0.6)
    assert found.figures.tok_s == pytest.approx(33 / 0.6) and found.figures.each == pytest.approx(1 / TOKEN)
    assert (found.figures.requests, found.figures.tokens, found.figures.queue) == (3, 33, 0)
    assert found.steps == 3 * (2 + 10) and found.step_seconds == pytest.approx(found.figures.busy)


def test_who_finds_no_place_waits() -> None:
    """Three clients, two places, prompts of no length to speak of: the third waits for a whole answer."""
    found = simulate([Ask(1, 11)] * 3, Server(2, 64), step, clients=3)
    both = 2 * PROMPT + 10 * TOKEN
    assert found.figures.queue == 1 and found.figures.ttft.p99 == pytest.approx(both + PROMPT, rel=0.02)
    assert found.figures.seconds == pytest.approx(both + PROMPT + 10 * TOKEN)


def test_decoding_rows_share_a_step() -> None:
    alone, four = (simulate([Ask(1, 101)] * n, Server(4, 64), step, clients=n).figures for n in (1, 4))
    assert four.tok_s / alone.tok_s == pytest.approx(4, rel=0.01)


def test_a_prompt_beside_others_takes_no_more_than_the_gap_allows() -> None:
    """One decodes in 10 ms. Within 30 there is room for 15 tokens more, as whole tiles of rows are filled, so a prompt
    of 60 takes four steps of 25 ms; without a bound it takes one of 70."""
    asks = [Ask(1, 200), Ask(60, 2, at=0.5)]
    found = simulate(asks, Server(2, 256, gap=3.0), step)
    free = simulate(asks, Server(2, 256), step)
    assert found.figures.itl.p99 == pytest.approx(0.025) and free.figures.itl.mean == pytest.approx(0.0103)
    assert found.figures.ttft.p99 - free.figures.ttft.p99 == pytest.approx(0.03, rel=0.05)
    assert found.steps == free.steps and found.step_seconds == pytest.approx(free.step_seconds)


def test_a_shared_prefix_is_computed_once() -> None:
    asks = [Ask(300, 5, shared=256)] * 4
    shared, apart = (simulate(asks, Server(4, 512, shares=shares), step, clients=4) for shares in (True, False))
    assert apart.step_seconds - shared.step_seconds == pytest.approx(3 * 256 * PROMPT, rel=0.05)


def test_room_for_keys_and_values_bounds_who_runs() -> None:
    asks = [Ask(100, 50)] * 6
    few = simulate(asks, Server(16, 256, positions=300), step, clients=6)
    assert (
        few.figures.queue == 4 and simulate(asks, Server(16, 256, positions=10_000), step, clients=6).figures.queue == 0
    )


def test_requests_that_come_at_their_own_times() -> None:
    """At half of what the server can do nobody waits; at twice that the queue grows to the end."""
    answer = PROMPT + 9 * TOKEN
    calm = simulate([Ask(1, 10, at=i * 2 * answer) for i in range(50)], Server(1, 64), step)
    hurried = simulate([Ask(1, 10, at=i * answer / 2) for i in range(50)], Server(1, 64), step)
    assert calm.figures.queue == 0 and calm.figures.e2e.p99 == pytest.approx(answer)
    assert calm.figures.busy == pytest.approx(50 * answer) and calm.figures.seconds > 1.9 * calm.figures.busy
    assert 24 <= (hurried.figures.queue or 0) <= 25


def test_goodput_counts_what_was_within_every_limit() -> None:
    quick = Answered(0.0, 0.1, 1.0, (0.1,) * 9, 10)
    late = Answered(0.0, 0.6, 1.5, (0.1,) * 9, 10)
    halting = Answered(0.0, 0.1, 1.0, (0.01,) * 8 + (0.82,), 10)
    found = figures([quick, late, halting], 0, Slo(ttft=0.5, itl=0.2))
    assert found is not None and found.good == (pytest.approx(1 / 1.5), pytest.approx(1 / 3))
    assert Slo(tpot=0.1001).met(halting) and not Slo(tpot=0.09).met(quick)
    assert Slo(e2e=1.0).met(quick) and not Slo(e2e=1.0).met(late)
    assert figures([], 0, None) is None


def test_busy_time_is_that_in_which_somebody_waits() -> None:
    found = figures(
        [Answered(0, 1, 2, (1.0,), 2), Answered(1, 2, 3, (1.0,), 2), Answered(5, 6, 7, (1.0,), 2)], None, None
    )
    assert found is not None and found.busy == 5 and found.seconds == 7
