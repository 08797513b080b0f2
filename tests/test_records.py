"""`memfirst.records.dataclass` beside the standard library's: the same records."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError, field
from functools import cached_property
from typing import Any

import pytest

from memfirst import records


def kinds(dataclass: Callable[..., Any]) -> tuple[type, type, type, type]:
    """The same classes by either decorator."""

    @dataclass(frozen=True)
    class Point:
        x: int
        name: str = "origin"
        seen: list[int] = field(default_factory=list, compare=False, repr=False)

        @cached_property
        def double(self) -> int:
            return 2 * self.x

    @dataclass(frozen=True)
    class Named(Point):
        label: str = ""

        def __post_init__(self) -> None:
            if self.x < 0:
                raise ValueError(self.x)

    @dataclass(frozen=True, kw_only=True)
    class Apart(Point):
        unit: str
        scale: float = 1.0

    @dataclass(frozen=True)
    class Alone:
        inner: int = field(init=False, default=7)

        def __repr__(self) -> str:
            return "alone"

    return Point, Named, Apart, Alone


OURS, THEIRS = kinds(records.dataclass), kinds(dataclasses.dataclass)


def both(index: int, *args: Any, **kwargs: Any) -> list[Any]:
    return [classes[index](*args, **kwargs) for classes in (OURS, THEIRS)]


@pytest.mark.parametrize(
    ("index", "args", "kwargs"),
    [(0, (1,), {}), (0, (1, "a", [2]), {}), (1, (3,), {"label": "b"}), (2, (4,), {"unit": "m"}), (3, (), {})],
)
def test_records_are_those_of_the_standard_library(index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    mine, other = both(index, *args, **kwargs)
    assert vars(mine) == vars(other) or index == 3
    assert repr(mine) == repr(other)
    assert hash(mine) == hash(other)
    assert mine == copy.copy(mine) and mine != other
    assert [f.name for f in dataclasses.fields(mine)] == [f.name for f in dataclasses.fields(other)]
    assert dataclasses.asdict(mine) == dataclasses.asdict(other)
    for name in ("x", "inner", "new"):
        with pytest.raises(FrozenInstanceError):
            setattr(mine, name, 1)
        with pytest.raises(FrozenInstanceError):
            delattr(mine, name)


def test_what_is_left_out_of_comparisons() -> None:
    one, other = OURS[0](1, "a", [1]), OURS[0](1, "a", [2])
    assert one == other and hash(one) == hash(other)
    assert OURS[0](1) != OURS[0](2) and OURS[0](1) != OURS[1](1)
    assert OURS[0](1).seen is not OURS[0](1).seen


@pytest.mark.parametrize("index", [0, 1, 2])
def test_copies_with_other_values(index: int) -> None:
    more = {"unit": "m"} if index == 2 else {}
    for classes in (OURS, THEIRS):
        one = classes[index](1, **more)
        assert one.double == 2
        two = records.replace(one, x=5)
        assert (two.x, two.double, two.name, one.x) == (5, 10, "origin", 1)
        assert type(two) is classes[index]
        with pytest.raises(TypeError, match="nothing"):
            records.replace(one, nothing=1)
    with pytest.raises(ValueError, match="-1"):
        records.replace(OURS[1](1), x=-1)


@pytest.mark.parametrize("args", [(), (1, "a", [], "more"), ("x",)])
def test_arguments_are_checked(args: tuple[Any, ...]) -> None:
    if len(args) == 1:
        assert OURS[0](*args).x == "x"
        return
    with pytest.raises(TypeError):
        OURS[0](*args)
    with pytest.raises(TypeError):
        OURS[2](1, "a", [], "m")  # unit by name alone


def test_either_may_inherit_the_other() -> None:
    for outer, inner in ((records.dataclass, dataclasses.dataclass), (dataclasses.dataclass, records.dataclass)):
        below = kinds(inner)[0]

        @outer(frozen=True)
        class Above(below):  # type: ignore[misc, valid-type]
            more: int = 0

        one = Above(1, more=3)
        assert (one.x, one.more, one.double) == (1, 3, 2) and one != Above(2, more=3)
        with pytest.raises(FrozenInstanceError):
            one.more = 4


def test_records_of_the_package_survive_pickling() -> None:
    from memfirst.graph import KVCache

    cache = KVCache("blk.0.kv", 8, 128, 128)
    assert pickle.loads(pickle.dumps(cache)) == cache
