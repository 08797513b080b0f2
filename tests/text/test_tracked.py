"""Tracked text: equal to what `str` makes, and every character keeps where it came from."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from memfirst.text.tracked import Tracked, concat, formatted, from_messages, join, marks_of, printed, printf, tracked

METHODS: dict[str, Callable[[str, str, int], Any]] = {
    "strip": lambda x, s, n: x.strip(*[s][:n]),
    "lstrip": lambda x, s, n: x.lstrip(*[s][:n]),
    "rstrip": lambda x, s, n: x.rstrip(*[s][:n]),
    "removeprefix": lambda x, s, n: x.removeprefix(s),
    "removesuffix": lambda x, s, n: x.removesuffix(s),
    "split": lambda x, s, n: x.split(*[(), (s,), (None, 1), (s, 1)][n]),
    "rsplit": lambda x, s, n: x.rsplit(*[(), (s,), (None, 1), (s, 1)][n]),
    "partition": lambda x, s, n: x.partition(s),
    "rpartition": lambda x, s, n: x.rpartition(s),
    "splitlines": lambda x, s, n: x.splitlines(n > 1),
    "replace": lambda x, s, n: x.replace(s, "zz", n - 1),
    "join": lambda x, s, n: x.join(["a", x, s]),
    "plus": lambda x, s, n: s + x + s,
    "slice": lambda x, s, n: x[n - 2 : n + 5 : [1, -1, 2, 3][n]],
    "item": lambda x, s, n: x[n] if n < len(x) else "",
    "characters": lambda x, s, n: list(x),
    "reversed": lambda x, s, n: list(reversed(x)),
    "times": lambda x, s, n: x * n,
    "printf": lambda x, s, n: printf("<%s|%s%%", (x, s)),
}


def text(rng: random.Random, alphabet: str) -> str:
    return "".join(rng.choice(alphabet) for _ in range(rng.randrange(12)))


@pytest.mark.parametrize("name", METHODS)
def test_methods_are_those_of_str_and_keep_each_characters_origin(name: str) -> None:
    """A, B and tabs are marked, and nothing else is."""
    rng, run = random.Random(name), METHODS[name]
    for _ in range(500):
        plain, sep, n = text(rng, "abAB \n\t<|"), text(rng, "ab <|")[:2] or " ", rng.randrange(4)
        found = run(tracked(plain, bytes(c in "AB\t" for c in plain)), sep, n)
        assert found == run(plain, sep, n)
        for piece in [found] if isinstance(found, str) else found:
            assert [c in "AB\t" for c in piece] == [bool(mark) for mark in marks_of(piece)]


@pytest.mark.parametrize("name", ["upper", "lower", "title", "capitalize", "swapcase", "casefold"])
def test_changes_of_case_keep_marks_though_the_length_changes(name: str) -> None:
    rng = random.Random(name)
    for _ in range(500):
        plain = text(rng, "aßİ1 2ŉ")
        made = getattr(tracked(plain, bytes(c in "12" for c in plain)), name)()
        assert made == getattr(plain, name)()
        marks = [bool(mark) for mark in marks_of(made)]
        if len(made) != len(plain) and name in ("title", "capitalize"):  # not followed: marked in whole
            assert all(marks) or not any(c in "12" for c in plain)
        else:
            assert marks == [c in "12" for c in made]
        made = getattr(from_messages(plain), name)()
        assert marks_of(made) == b"\1" * len(made)


@pytest.mark.parametrize("name", ["center", "ljust", "rjust", "zfill"])
def test_what_is_not_followed_counts_as_the_messages(name: str) -> None:
    made = getattr(tracked("ab", b"\0\1"), name)(4)
    assert (made, marks_of(made)) == (getattr("ab", name)(4), b"\1\1\1\1")


def test_what_is_printed() -> None:
    assert [type(printed(value)) for value in (1, 2.5, True, None, "x")] == [str] * 5
    assert marks_of(printed(["x"])) == b"\1" * 5
    tag = from_messages("<s>")
    assert str(tag) is tag
    assert marks_of(printf("%s<%5s%d", (tag, "y", 7))) == b"\1\1\1" + b"\0" + b"\1" * 5 + b"\0"
    assert marks_of(printf("%c%c", (60, 124))) == b"\1\1"
    numbers = iter((60, 7))
    assert marks_of(formatted("{:c}{:05}", lambda name: next(numbers))) == b"\1" + bytes(5)
    assert marks_of(printf("%(a)s %%", {"a": tag})) == b"\1\1\1\0\0"
    assert marks_of(printf(from_messages("a%s"), "x")) == b"\1\0"
    values = {"": "t", "a": tag}
    made = formatted("[{}|{a}|{a!r:>6}]", values.__getitem__)
    assert (made, marks_of(made)) == ("[t|<s>| '<s>']", b"\0\0\0\1\1\1\0" + b"\1" * 6 + b"\0")
    assert type(concat(["a", "b"])) is type(tracked("ab", b"\0\0")) is type(join("-", ["a"])) is str
    assert isinstance(tag, Tracked) and {tag: 1}["<s>"] == 1
