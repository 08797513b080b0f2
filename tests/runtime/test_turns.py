"""A conversation on the real model: what is kept between turns never changes an answer, interruptions included."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import pytest

import memfirst
from memfirst.runtime.sampling import GREEDY

Messages = list[dict[str, str]]

FIRST = "Name three colours."
SECOND = "Which of them is the warmest?"


def turn(model: memfirst.Model, messages: Messages, tokens: int = 24) -> list[int]:
    return [token.id for token in model.generate(messages, params=GREEDY, max_tokens=tokens)]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


@contextmanager
def interrupted(seconds: float) -> Iterator[None]:
    """Ctrl-C after that long, wherever it hits."""

    def ring(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        with suppress(KeyboardInterrupt):
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def second(smollm2: Path) -> tuple[Messages, list[int]]:
    """A conversation up to its second question, and a fresh model's answer."""
    with memfirst.load(smollm2, threads=2, ctx=1024) as fresh:
        answer = fresh.tokenizer.decode(turn(fresh, [user(FIRST)]))
    messages = [user(FIRST), {"role": "assistant", "content": answer}, user(SECOND)]
    with memfirst.load(smollm2, threads=1, ctx=1024) as fresh:
        return messages, turn(fresh, messages)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_second_turn_is_as_in_a_fresh_process(
    smollm2: Path, second: tuple[Messages, list[int]], threads: int
) -> None:
    messages, expected = second
    with memfirst.load(smollm2, threads=threads, ctx=1024) as model:
        turn(model, messages[:1])
        generation = model.generate(messages, params=GREEDY, max_tokens=24)
        assert [token.id for token in generation] == expected
        assert generation.timing.reused_tokens > 40


def test_interruptions_leave_nothing_behind(smollm2: Path, second: tuple[Messages, list[int]]) -> None:
    messages, expected = second
    with memfirst.load(smollm2, threads=2, ctx=1024) as model:
        turn(model, messages[:1])
        for milliseconds in (3, 20, 60, 150, 400):  # in the prompt, in the answer
            with interrupted(milliseconds / 1000):
                turn(model, [*messages[:2], user("Write a story about whales. " * 40)], tokens=500)
            assert turn(model, messages) == expected


def test_the_ceiling_is_measured_once_an_answer(smollm2: Path) -> None:
    with memfirst.load(smollm2, threads=1, ctx=256) as model:
        generation = model.generate([user(FIRST)], params=GREEDY, max_tokens=4)
        lines = [generation.line() for _ in generation]
        assert len(lines) == 4 and ["measured" in line for line in lines] == [False, False, False, True]
        assert generation.line() == lines[3]
