"""The suffix automaton: what a search of all suffixes finds, in texts of any kind."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

import pytest

from memfirst.speculate.suffix import SuffixAutomaton


def longest_suffix(ids: Sequence[int]) -> tuple[int, int]:
    """The length of the longest suffix that ended before, and where it did last; slowly."""
    n = len(ids)
    for length in range(n - 1, 0, -1):
        for end in range(n - 1, length - 1, -1):
            if ids[end - length : end] == ids[n - length :]:
                return length, end
    return 0, 0


def followed(ids: Sequence[int], end: int, most: int) -> list[int]:
    """What came behind a place, and goes on as the text would that repeats itself."""
    out: list[int] = []
    for i in range(most):
        out.append(ids[end + i] if end + i < len(ids) else out[end + i - len(ids)])
    return out


def test_it_finds_what_a_search_finds() -> None:
    """1,000 texts over few letters: every prefix, the length of the match and what followed it last."""
    rng = random.Random(1)
    for _ in range(1000):
        letters, text = rng.choice((2, 4, 4, 9)), SuffixAutomaton()
        ids = [rng.randrange(letters) for _ in range(rng.randrange(1, 40))]
        for n, id in enumerate(ids, 1):
            text.push(id)
            match, end = longest_suffix(ids[:n])
            assert text.match == match, ids[:n]
            assert text.draft(5) == (followed(ids[:n], end, 5) if match else []), ids[:n]
    assert text.draft(0) == []


@pytest.mark.parametrize("period", [1, 2, 3, 50])
def test_a_text_that_repeats_itself_goes_on_doing_so(period: int) -> None:
    """Its suffixes are nested as deep as it is long, and a token still costs a few microseconds."""
    text, count = SuffixAutomaton(), 20_000
    start = time.process_time()
    text.extend(i % period for i in range(count))
    assert time.process_time() - start < 2
    assert text.match == count - period
    assert text.draft(7) == [(count + i) % period for i in range(7)]


def test_what_it_remembers_is_bounded() -> None:
    text = SuffixAutomaton(most=64)
    for i in range(1000):
        text.push(i % 7)
        assert len(text) <= 64
        assert text.draft(3) == ([(i + 1 + j) % 7 for j in range(3)] if text.match else [])
    assert text.match
