"""Steps are filled by what they are predicted to take."""

from __future__ import annotations

from memfirst.backends.cpu.backend import CpuBackend, CpuOptions
from memfirst.predict.tiles import whole
from memfirst.runtime.engine import Engine
from memfirst.runtime.pace import Pace
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
    assert pace.seconds(1) == 0.010 and abs(pace.seconds(4) - 0.016) < 1e-9
    assert abs(pace.seconds(17) - 0.056) < 1e-9 and abs(pace.seconds(56) - 0.120) < 1e-9
    assert Pace().seconds(5) == 0.0 and measured((8, 1.0)).seconds(16) == 2.0
    assert abs(pace.token - 0.0022) < 1e-9


def test_a_size_is_learned_again() -> None:
    pace = measured((1, 0.010))
    for _ in range(30):
        pace.record(1, 0.020)
    assert 0.0199 < pace.seconds(1) < 0.020


def test_a_prompt_fills_whole_tiles_within_the_gap() -> None:
    """Four decode in 10 ms; a tile more costs 2 ms: five more fit twice that."""
    pace = measured((4, 0.010), (8, 0.010), (64, 0.024))
    assert pace.beside(4, 256, 2.0) == 48 - 4
    assert pace.beside(4, 256, 1.0) == 16 - 4, "a quarter more than a token alone"
    assert pace.beside(4, 256, 100.0) == 256 - 4
    assert pace.beside(4, 20, 100.0) == 20 and pace.beside(4, 5, 2.0) == 5


def test_a_prompt_keeps_the_gap_in_its_first_tile() -> None:
    """One decodes in 10 ms, eight rows take 30: more than three rows of a prompt would take more than twice as long."""
    pace = measured((1, 0.010), (2, 0.012), (4, 0.018), (8, 0.030), (16, 0.056))
    assert pace.beside(1, 256, 2.0) == 3
    assert pace.beside(8, 256, 2.0) == 8, "a new tile takes more than the gap by itself: it is filled"


def test_what_is_far_behind_costs_more() -> None:
    """A prompt's token costs 1 ms at its beginning and 4 ms after 3,000 others: it gets fewer of them a step."""
    pace = measured((4, 0.010), (8, 0.012), (16, 0.020))
    assert pace.beside(4, 256, 2.0, 3000) == 12 and pace.position == 0
    for _ in range(20):
        pace.record(16, 0.020 + 12 * 0.003, 12, 12 * 3000)
    assert abs(pace.position - 1e-6) < 1e-12 and abs(pace.seconds(16) - 0.020) < 1e-9
    assert pace.beside(4, 256, 2.0, 3000) == 2 and pace.beside(4, 256, 2.0, 0) == 12
    pace.record(16, 0.020, 12, 0)
    assert abs(pace.seconds(16) - 0.020) < 1e-9


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
