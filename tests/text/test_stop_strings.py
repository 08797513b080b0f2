"""Stop strings: nothing of one is shown, and nothing is held back for long, however the text comes."""

from __future__ import annotations

import numpy as np
import pytest

from memfirst.errors import MemfirstError
from memfirst.text import StopStrings
from memfirst.text.stream import MAX_STOPS


def reference_stop(text: str, stops: list[str]) -> tuple[str, bool]:
    """Character by character: end as soon as a stop string is complete."""
    for end in range(1, len(text) + 1):
        ended = [stop for stop in stops if text[:end].endswith(stop)]
        if ended:
            return text[: end - max(map(len, ended))], True
    return text, False


@pytest.mark.parametrize("stops", [[], ["ab"], ["aab", "b"], ["aaaa", "ba"], ["abc", "bcd", "\n\n"]])
def test_stop_strings_in_any_chunks(stops: list[str]) -> None:
    rng = np.random.default_rng(len(stops))
    for _ in range(300):
        text = "".join(rng.choice(list("aabc\n"), rng.integers(0, 20)))
        filter, shown, stopped, at = StopStrings(stops), "", False, 0
        while at < len(text) and not stopped:
            size = int(rng.integers(1, 5))
            emitted, stopped = filter.push(text[at : at + size])
            shown, at = shown + emitted, at + size
        shown += "" if stopped else filter.flush()
        assert (shown, stopped) == reference_stop(text, stops)


def test_stop_strings_hold_back_no_more_than_they_must() -> None:
    filter = StopStrings(["<end>"])
    assert filter.push("text <e") == ("text ", False)
    assert filter.push("x") == ("<ex", False)
    assert filter.push("<end>more") == ("", True)
    assert filter.push("more") == ("", True)
    assert filter.stopped == "<end>"


@pytest.mark.parametrize("stops", [[""], ["a"] * (MAX_STOPS + 1), ["x" * 5000]])
def test_senseless_stop_strings_are_refused(stops: list[str]) -> None:
    with pytest.raises(MemfirstError):
        StopStrings(stops)
