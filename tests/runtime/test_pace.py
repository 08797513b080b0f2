"""Steps are filled by what they are predicted to take."""

from __future__ import annotations

import random
from typing import Any, ClassVar

import pytest

from memfirst.backends.base import Backend, StepResult
from memfirst.backends.cpu.backend import CpuBackend, CpuOptions
from memfirst.graph import Step
from memfirst.predict.tiles import whole
from memfirst.runtime.engine import Engine
from memfirst.runtime.pace import UNCOMPARED, Filling, Pace
from tests.runtime.test_engine import CONTEXT, Counting
from tests.support.requests import alone, drain, request
from tests.support.tiny_models import tiny


def measured(*pairs: tuple[int, float]) -> Pace:
    made = Pace()
    for rows, seconds in pairs:
        made.record(rows, seconds)
    return made


def test_rows_count_in_whole_tiles() -> None:
    assert [whole(n) for n in (1, 7, 8, 9, 16, 17)] == [1, 7, 8, 16, 16, 24]


def test_between_measured_sizes_are_straight_lines() -> None:
    pace = measured((1, 0.010), (8, 0.024), (40, 0.088))
    assert abs(pace.seconds(1) - 0.010) < 1e-9 and abs(pace.seconds(4) - 0.016) < 1e-9
    assert abs(pace.seconds(17) - 0.056) < 1e-9 and abs(pace.seconds(56) - 0.120) < 1e-9
    assert Pace().seconds(5) == 0.0 and measured((8, 1.0)).seconds(16) == 2.0
    assert abs(pace.token - 0.0022) < 1e-9


def test_a_size_is_learned_again() -> None:
    pace = measured((1, 0.010))
    for _ in range(30):
        pace.record(1, 0.020)
    assert 0.0199 < pace.seconds(1) < 0.020


def beside(pace: Pace, decoding: int, most: int, gap: float, past: int = 0) -> int:
    """Once such steps have been."""
    pace.reached = 256
    return Filling(pace, decoding, most, gap).room(past)


def test_a_prompt_fills_whole_tiles_within_the_gap() -> None:
    """Four decode in 10 ms; a tile more costs 2 ms: five more fit twice that."""
    pace = measured((4, 0.010), (8, 0.010), (64, 0.024))
    assert beside(pace, 4, 256, 2.0) == 48 - 4
    assert beside(pace, 4, 256, 1.0) == 16 - 4, "a quarter more than a token alone"
    assert beside(pace, 4, 256, 100.0) == 256 - 4
    assert beside(pace, 4, 20, 100.0) == 20 and beside(pace, 4, 5, 2.0) == 5


def test_a_prompt_keeps_the_gap_in_its_first_tile() -> None:
    """One decodes in 10 ms, eight rows take 30: more than three rows of a prompt would take more than twice as long."""
    pace = measured((1, 0.010), (2, 0.012), (4, 0.018), (8, 0.030), (16, 0.056))
    assert beside(pace, 1, 256, 2.0) == 3
    assert beside(pace, 8, 256, 2.0) == 8, "a new tile takes more than the gap by itself: it is filled"


def test_what_is_far_behind_costs_more() -> None:
    """A prompt's token costs 1 ms at its beginning and 4 ms after 3,000 others: it gets fewer of them a step. Attention
    reads keys for four tokens together: one of them takes half of what four do."""
    pace = measured((4, 0.010), (5, 0.010), (8, 0.012), (16, 0.020))
    assert beside(pace, 4, 256, 2.0) == 12 and beside(pace, 4, 256, 2.0, 3000) == 4, "not known: one tile at most"
    pace.record(8, 0.012 + 0.012, [(4, 3000)])
    assert abs(pace.deep(4, 3000) - 0.012) < 1e-9 and abs(pace.deep(2, 3000) - 0.012) < 1e-9
    assert abs(pace.deep(8, 1500) - 0.012) < 1e-9, "in proportion at most" and pace.deep(8, 200) == 0
    assert beside(pace, 4, 256, 2.0, 3000) == 1 and beside(pace, 4, 256, 2.0, 1000) == 4
    pace.record(5, 0.010 + 0.006, [(1, 3000)])
    assert abs(pace.deep(1, 3000) - 0.006) < 1e-9 and abs(pace.deep(4, 3000) - 0.012) < 1e-9
    assert abs(pace.seconds(16) - 0.020) < 1e-9, "rows cost what they did"
    assert beside(pace, 4, 256, 2.0, 6000) == 1, "more than the gap, but it goes on"


def test_a_second_prompt_has_what_the_first_leaves() -> None:
    pace = measured((4, 0.010), (8, 0.012), (16, 0.014), (24, 0.021))
    pace.record(8, 0.012 + 0.0025, [(4, 3000)])
    pace.reached = 256
    filling = Filling(pace, 4, 200, 2.0)
    assert filling.room(0) == 12
    filling.take(4, 3000)
    assert filling.room(3000) == 4 and abs(filling.seconds(4, 3000) - (0.014 + 0.005)) < 1e-9
    filling.take(4, 3000)
    assert filling.room(0) == 4
    filling.take(4, 0)
    assert filling.left == 188 and filling.room(0) == 0 and filling.left == 0


def test_a_slower_machine_changes_no_share() -> None:
    """Neighbours make all steps three times as long, from one step to the next: a prompt has the tokens that it had,
    far behind too. A single step that takes ten times as long changes little."""
    pace = measured((4, 0.010), (8, 0.012), (16, 0.020))
    for _ in range(20):
        pace.record(8, 0.012 + 0.006, [(4, 3000)])
        pace.record(4, 0.010)
    assert (had := beside(pace, 4, 256, 2.0, 3000)) == 4
    pace.record(8, 0.180, [(4, 3000)])
    pace.record(4, 0.100)
    assert beside(pace, 4, 256, 2.0, 3000) == had and pace.seconds(4) < 0.013
    for _ in range(40):
        for _ in range(UNCOMPARED):
            pace.record(8, 0.054, [(4, 3000)])
        assert pace.compares
        pace.record(4, 0.030)
        assert not pace.compares
    assert beside(pace, 4, 256, 2.0, 3000) == had and abs(pace.seconds(4) - 0.030) < 0.001
    assert beside(pace, 4, 256, 2.0) == 12


def test_thousands_of_steps_of_one_size_change_nothing_of_others() -> None:
    """Four rows take 10 ms with noise and spikes, which is no reason to think that 56 rows have become shorter."""
    draw = random.Random(5)
    pace = measured((4, 0.010), (8, 0.012), (16, 0.018), (56, 0.060))
    assert beside(pace, 4, 256, 2.0) == 12
    for _ in range(5000):
        pace.record(4, 0.010 * draw.lognormvariate(0.0, 0.25) * (8 if draw.random() < 0.02 else 1))
    assert beside(pace, 4, 256, 2.0) == 12 and pace.seconds(4) == pytest.approx(0.010, rel=0.35)
    assert pace.seconds(56) / pace.seconds(4) == pytest.approx(6, rel=0.35)


def test_the_first_steps_beside_others_grow_by_half() -> None:
    """What was measured of larger steps is old, here fifteen times too little: a step of 256 rows would find it out."""
    pace, seen = measured((4, 0.010), (8, 0.0101), (256, 0.018)), list[int]()

    def takes(rows: int) -> float:
        return 0.009 + 0.001 * rows

    for _ in range(12):
        filling = Filling(pace, 4, 252, 2.0)
        rows = 4 + filling.room(0)
        seen.append(rows)
        pace.record(rows, takes(rows), [(rows - 4, 0)])
    assert seen[:2] == [8, 16] and max(seen) <= 40
    assert max(map(takes, seen)) <= 2.5 * takes(16) and takes(seen[-1]) <= 2.6 * takes(4)
    for _ in range(UNCOMPARED + 1):
        pace.record(4, takes(4))
    assert Filling(pace, 4, 252, 2.0).room(0) == 4, "the next prompt begins again"
    quick = measured((4, 0.010), (256, 0.018))
    for expected in (8, 16, 24, 40, 64, 96, 144, 216, 256):
        assert 4 + Filling(quick, 4, 252, 2.0).room(0) == expected
        quick.record(expected, 0.010 + 0.008 * expected / 256, [(expected - 4, 0)])


class Counted(Counting):
    """A backend whose steps take what is counted of them, on a clock of its own: tiles of rows, then of keys that are
    read for four tokens together, times how slow the machine is."""

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend)
        self.now, self.slow = 0.0, 1.0

    def seconds(self, step: Step) -> float:
        """Of a step where nothing slows the machine."""
        rows = 0.004 + 0.002 * whole(step.tokens) / 8 + 0.0005 * min(step.tokens, 8)
        return rows + sum(0.001 * s.past / 1000 * (1 if s.new == 1 else 3 * -(-s.new // 4)) for s in step.sequences)

    def step(self, step: Step, tokens: Any) -> StepResult:
        """As of `Backend`."""
        self.now += self.slow * self.seconds(step)
        return super().step(step, tokens)


class Watched(Filling):
    """Notes what steps are predicted to take with tokens of prompts, and what they may."""

    noted: ClassVar[list[tuple[int, float, float]]] = []

    def take(self, tokens: int, past: int) -> None:
        if self.target:
            self.noted.append((tokens, self.seconds(tokens, past), self.target))
        super().take(tokens, past)


@pytest.mark.parametrize("slower", [1.0, 3.0])
def test_streams_keep_half_their_speed_beside_a_long_prompt(slower: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt of 3,600 tokens comes while four streams run, and in the midst of it neighbours. No step is predicted to
    take more than twice what the streams' alone does, nor takes it, but for what could not be known yet; and the prompt
    gets most of what that leaves."""
    context = 4096
    graph, checkpoint = tiny("llama", "q4_0")
    made = CpuBackend(graph, checkpoint, CpuOptions(1, context, 5, pool=5))
    backend, noted = Counted(made), list[tuple[int, float, float]]()
    engine = Engine(backend, context)
    monkeypatch.setattr("memfirst.runtime.engine.time.perf_counter", lambda: backend.now)
    monkeypatch.setattr("memfirst.runtime.scheduler.Filling", Watched)
    monkeypatch.setattr(Watched, "noted", noted)
    engine.scheduler.gap = 2.0
    streams = [request(engine, [7, 7 * n], 3000, n) for n in range(4)]
    for one in streams:
        engine.submit(one)

    def advance() -> None:
        engine.advance()
        for one in streams:
            one.events.clear()

    for _ in range(30):
        advance()
    long = request(engine, [n % 250 for n in range(3600)], 1)
    engine.submit(long)
    ratios, spare, used, since = list[float](), 0.0, 0.0, len(backend.seen)
    while not long.done:
        backend.slow = slower if long.cached > 1500 else 1.0
        advance()
    for step in backend.seen[since:]:
        decoding = Step(tuple(s for s in step.sequences if s.new == 1 and s.past < 3000 and s.logits != ()))
        alone, took = backend.seconds(decoding), backend.seconds(step)
        ratios.append(took / alone)
        spare, used = spare + alone, used + took - alone
    assert noted and all(predicted <= target or tokens == 1 for tokens, predicted, target in noted)
    ratios.sort()
    assert ratios[-10] <= 2.1 and ratios[-1] <= 2.6, ratios[-20:]
    assert used >= 0.6 * spare
    made.close()


def test_both_kinds_progress_in_every_step() -> None:
    """Whatever steps take, who decodes gets a token in each, and prompts too; nobody's text changes."""
    graph, checkpoint = tiny("llama", "q4_0")
    made = CpuBackend(graph, checkpoint, CpuOptions(2, CONTEXT, 4, pool=4))
    backend = Counting(made)
    asked = [[1, 2], list(range(150)), [7] * 130]
    expected = alone(made, CONTEXT, asked, 30)
    engine = Engine(backend, CONTEXT)
    engine.scheduler.gap = 2.0
    requests = [request(engine, prompt, 30, seed) for seed, prompt in enumerate(asked)]
    engine.submit(requests[0])
    first = engine.next(requests[0])
    for one in requests[1:]:
        engine.submit(one)
    assert first is not None
    assert [first.id, *drain(engine, requests[0])] == expected[0]
    assert [drain(engine, one) for one in requests[1:]] == expected[1:]
    mixed = [step for step in backend.seen if {s.new == 1 for s in step.sequences} == {True, False}]
    unfinished = [step for step in mixed if any(s.logits == () for s in step.sequences)]
    assert unfinished and all(step.tokens % 8 == 0 or step.tokens < 8 for step in unfinished)
    made.close()
