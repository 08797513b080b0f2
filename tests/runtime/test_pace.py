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
    assert pace.beside(4, 256, 1.0) == 16 - 4, "at least a tile"
    assert pace.beside(4, 256, 100.0) == 256 - 4
    assert pace.beside(4, 20, 100.0) == 20 and pace.beside(4, 5, 2.0) == 5


def test_both_kinds_progress_in_every_step() -> None:
    """Whatever steps take, who decodes gets a token in each, and prompts at least a tile; nobody's text changes."""
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
    assert unfinished and all(step.tokens % 8 == 0 for step in unfinished)
    made.close()
