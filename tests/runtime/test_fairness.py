"""Clients take turns: who is begun next, by what was read for whom; no engine's answer depends on it."""

from __future__ import annotations

from collections import Counter
from functools import cache

import pytest

from memfirst.backends.cpu.backend import CpuBackend, CpuOptions
from memfirst.runtime.engine import Engine
from memfirst.runtime.fairness import Turns
from memfirst.runtime.request import Request
from memfirst.runtime.scheduler import Scheduler
from tests.support.requests import alone, drain, prompts, request
from tests.support.tiny_models import tiny

CONTEXT, PLACES = 256, 2


@cache
def backend() -> CpuBackend:
    graph, checkpoint = tiny("llama", "q4_0")
    return CpuBackend(graph, checkpoint, CpuOptions(1, CONTEXT, PLACES, 4))


def of(client: str, number: int, prompt: int = 8, tokens: int = 4, priority: int = 0) -> Request:
    """A request that has arrived."""
    made = request(Engine(backend(), CONTEXT), [number % 250] * prompt, tokens)
    made.client, made.number, made.priority = client, number, priority
    return made


def begun(turns: Turns, waiting: list[Request], count: int, ends: bool = True) -> list[Request]:
    """The next ones, each of which ends before the next is begun."""
    found = []
    for _ in range(count):
        one = next(turns.order(waiting))
        waiting.remove(one)
        turns.begin(one)
        found.append(one)
        if ends:
            one.ids += [0] * (one.max_tokens or 0)
            one.reached = len(one.prompt)
            turns.leave(one)
    return found


def arrived(turns: Turns, *groups: list[Request]) -> list[Request]:
    waiting = [one for group in groups for one in group]
    for one in waiting:
        turns.arrive(one)
    return waiting


def test_a_hundred_requests_of_one_client_do_not_starve_anothers_one() -> None:
    turns = Turns(1000, 10)
    waiting = arrived(turns, [of("many", i) for i in range(100)])
    begun(turns, waiting, 10)
    waiting += arrived(turns, [of("one", 200)])
    assert [r.client for r in begun(turns, waiting, 3)] == ["one", "many", "many"]


def test_clients_take_turns_by_bytes_not_by_requests() -> None:
    """Answers of 40 tokens beside answers of 10: one of the former for four of the latter."""
    turns = Turns(1000, 0)
    waiting = arrived(turns, [of("long", i, 1, 40) for i in range(20)], [of("short", 50 + i, 1, 10) for i in range(60)])
    found = Counter(r.client for r in begun(turns, waiting, 50))
    assert found["short"] / found["long"] == pytest.approx(4, abs=0.3)


def test_what_was_read_counts_and_not_what_was_asked_for() -> None:
    """Limits of 200 tokens of which 2 are used cost no more than 2."""
    turns = Turns(1000, 0)
    waiting = arrived(
        turns, [of("modest", i, 1, 200) for i in range(30)], [of("exact", 50 + i, 1, 2) for i in range(30)]
    )
    found = Counter[str]()
    for _ in range(20):
        one = next(turns.order(waiting))
        waiting.remove(one)
        turns.begin(one)
        one.ids += [0, 0]
        one.reached = 1
        turns.leave(one)
        found[one.client] += 1
    assert found == {"modest": 10, "exact": 10}


def test_who_was_away_gets_no_credit() -> None:
    """A client that comes late takes turns from then on; it does not catch up on what others had without it."""
    turns = Turns(1000, 0)
    waiting = arrived(turns, [of("early", i) for i in range(60)])
    begun(turns, waiting, 30)
    waiting += arrived(turns, [of("late", 100 + i) for i in range(30)])
    assert Counter(r.client for r in begun(turns, waiting, 20)) == {"late": 10, "early": 10}


def test_priority_orders_a_clients_own_requests_only() -> None:
    turns = Turns(1000, 0)
    mine = [of("a", 0), of("a", 1, priority=-5), of("a", 2, priority=3), of("a", 3, priority=-5)]
    waiting = arrived(turns, mine, [of("b", 4 + i, priority=9) for i in range(4)])
    found = begun(turns, waiting, 8)
    assert [r.number for r in found if r.client == "a"] == [1, 3, 0, 2]
    assert [r.client for r in found[:4]] in (["a", "b", "a", "b"], ["b", "a", "b", "a"])


def test_nothing_is_kept_of_who_has_gone() -> None:
    turns = Turns(1000, 0)
    for i in range(300):
        waiting = arrived(turns, [of(f"client {i}", i), of("stays", 1000 + i)])
        begun(turns, waiting, 2)
    assert not turns._read and not turns._live and not turns._charged
    given_up = of("gone", 5000)
    turns.arrive(given_up)
    turns.leave(given_up)
    assert not turns._read


def test_the_scheduler_begins_by_turns() -> None:
    """Two places, a client with six requests, then another's two: these have the next place that is free and, by turns,
    one of the two after it."""
    engine = Engine(backend(), CONTEXT)
    scheduler: Scheduler = engine.scheduler
    asked = [request(engine, [i + 1] * 6, 3, i) for i in range(8)]
    for i, one in enumerate(asked):
        one.client = "many" if i < 6 else "few"
        one.ahead = None
    for one in asked[:6]:
        engine.submit(one)
    engine.advance()
    assert [r.number for r in scheduler.running] == [0, 1]
    for one in asked[6:]:
        engine.submit(one)
    order = []
    while engine.advance():
        order += [r.number for r in scheduler.running if r.number not in order]
    assert order[2] == 6 and order.index(7) <= 5 and sorted(order) == list(range(8))
    assert all(one.turn is not None and one.done for one in asked) and not scheduler.live


def test_no_answer_depends_on_turns() -> None:
    """Clients, priorities, little cache: requests make room and go on, each to what it is alone."""
    graph, checkpoint = tiny("llama", "q4_0")
    small = CpuBackend(graph, checkpoint, CpuOptions(1, CONTEXT, 4, 1))
    try:
        asked = prompts(10)
        expected = alone(small, CONTEXT, asked, 50)
        engine = Engine(small, CONTEXT)
        requests = [request(engine, prompt, 50, seed) for seed, prompt in enumerate(asked)]
        for i, one in enumerate(requests):
            one.client, one.priority, one.ahead = f"client {i % 3}", -i % 4, None
            engine.submit(one)
        assert [drain(engine, one) for one in requests] == expected
        begun = sorted(requests, key=lambda one: one.turn or 0)
        assert [one.number for one in begun] != list(range(10))
    finally:
        small.close()
