"""Greedy answers of a model whose output head has a sketch: the same tokens; other answers read the whole head."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from memfirst import Generation, Model, load
from memfirst.errors import ConfigError
from memfirst.graph.ops.sketched import sketched
from memfirst.graph.traffic import HEAD
from memfirst.hardware import host
from memfirst.lower.cpu import Lowering
from memfirst.models import build
from memfirst.runtime.head_use import MOST, PAUSE, HeadUse
from memfirst.runtime.packing import with_sketched_head
from memfirst.runtime.placing import needed
from memfirst.runtime.sharing import sharing_of
from tests.support.tiny_models import SMALL, Uniform

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5]


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[Model, Model]]:
    checkpoint = Uniform(replace(SMALL, vocab_size=1003), "q8_0")
    with (
        load(checkpoint, ctx=128, progress=False, threads=2) as full,
        load(checkpoint, ctx=128, progress=False, threads=2, head="auto") as auto,
    ):
        assert sketched(auto.graph) and not sketched(full.graph)
        yield full, auto


def answer(model: Model, **how: Any) -> Generation:
    made = model.generate(PROMPT, max_tokens=40, **{"temperature": 0, "speculate": "off"} | how)
    list(made)
    return made


@pytest.mark.parametrize("how", [{}, {"top_k": 1, "temperature": 0.8}, {"speculate": "auto"}])
def test_greedy_answers_have_the_same_tokens(both: tuple[Model, Model], how: dict[str, Any]) -> None:
    both[1].engine.scheduler.head_use.share = -1e9  # whatever it lists
    full, auto = (answer(model, **how) for model in both)
    assert full.ids == auto.ids and len(full.ids) == 40
    timing = auto.request.timing
    assert 0 < timing.sketched <= timing.decode_steps and timing.listed >= timing.sketched
    assert not full.request.timing.sketched
    if "speculate" not in how:
        assert timing.sketched == timing.decode_steps


@pytest.mark.parametrize(
    "how",
    [
        {"temperature": 0.8, "seed": 1}, {"repetition_penalty": 1.1}, {"logprobs": 2}, {"choice": ["abc", "abd"]},
    ],
)  # fmt: skip
def test_other_answers_read_the_whole_head(both: tuple[Model, Model], how: dict[str, Any]) -> None:
    full, auto = (answer(model, **how) for model in both)
    assert full.ids == auto.ids and not auto.request.timing.sketched


def test_answers_that_share_steps_read_it_for_all(both: tuple[Model, Model]) -> None:
    made = [[g.ids for g in model.generate([PROMPT, PROMPT[::-1]], temperature=0, max_tokens=12)] for model in both]
    assert made[0] == made[1]


def test_predicted_is_recorded(both: tuple[Model, Model]) -> None:
    both[1].engine.scheduler.head_use.share = -1e9
    for token in both[1].generate(PROMPT, temperature=0, max_tokens=8, speculate="off"):
        found = [ledger.by_purpose()[HEAD] for ledger in (token.predicted, token.recorded)]
        assert found[0].exact and found[0] == found[1]


def test_the_whole_head_is_read_where_many_tiles_are_listed() -> None:
    use = HeadUse(100)
    steps = 0
    while use.wanted():
        use.learn(100)
        steps += 1
    assert 5 < steps < 20
    assert [use.wanted() for _ in range(PAUSE)] == [False] * (PAUSE - 1) + [True]
    for _ in range(200):  # it lists few now
        use.learn(2)
    assert use.wanted() and use.share < MOST / 5
    assert not HeadUse(0).wanted()


class Notes:
    """Progress that keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)

    def update(self, what: str, done: int, total: int, unit: str = "B") -> None:
        """Nothing."""


def test_there_is_none_without_memory_for_it(both: tuple[Model, Model], monkeypatch: pytest.MonkeyPatch) -> None:
    lowering = Lowering(both[0].graph, 128)
    sharing, notes = sharing_of(both[0].graph, 128, 8, None), Notes()
    most = needed(Lowering(both[1].graph, 128), sharing, 2).total
    for memory, there in ((most, True), (most - 1, False)):
        monkeypatch.setattr(host, "available_memory", lambda memory=memory: memory)
        made = with_sketched_head(lowering, sharing, 2, 0, notes)
        assert (sketched(made.graph) is not None) == there == (made is not lowering)
    assert notes.said == ["the output head has no sketch: there is no memory for it"]


def test_a_small_head_has_none() -> None:
    graph = build(Uniform(replace(SMALL, vocab_size=300, num_hidden_layers=8, intermediate_size=640), "q8_0"))
    lowering = Lowering(graph, 128)
    assert with_sketched_head(lowering, sharing_of(graph, 128, 8, None), 2, 0, Notes()) is lowering


def test_what_is_no_kind_of_head_is_refused() -> None:
    with pytest.raises(ConfigError, match="head is 'half'"):
        load(Uniform(SMALL, "q8_0"), head="half")
