"""The kernel language: what a specialised text does is what the text says as it stands."""

from __future__ import annotations

from typing import Any

import pytest

from memfirst.kernels.cpu.build import Specialise, specialise
from memfirst.kernels.cpu.lang import compiled, lanes, macro, static
from memfirst.lower import step_fields

BASE = 100


@macro
def _filled(slots: Any, start: int, N: int) -> None:
    """Names of its own: `value` and `LAST` are the caller's too."""
    LAST = N - 1
    for i in static(N):
        value = start + i
        slots[i] = value * 10 if i == LAST else value


def _kernel(out: list[int], first: int, worker: int, lo: int, hi: int, *, N: int) -> int:
    LAST = 7
    value = BASE
    slots = lanes(N)
    _filled(slots, first + 1, N)
    for i in static(N):
        out.append(slots[i])
    _filled(slots, first, 1)
    out.append(slots[0])
    return value + LAST


@pytest.mark.parametrize("n", [1, 3])
def test_a_macro_is_its_body(n: int) -> None:
    plain: list[int] = []
    built: list[int] = []
    result = _kernel(plain, 4, 0, 0, 1, N=n)
    assert specialise(_kernel, {"N": n}, "built")(built, 4, 0, 0, 1) == result == 107
    assert built == plain == [*range(5, 4 + n), 10 * (4 + n), 40]


def test_a_name_that_means_two_things_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the macro's module and in the kernel's."""

    @macro
    def elsewhere(out: list[int]) -> None:
        out.append(in_group)  # type: ignore[name-defined]  # noqa: F821

    monkeypatch.setitem(globals(), "in_group", 5)
    with pytest.raises(TypeError, match="in_group is one thing in elsewhere"):
        Specialise({}, {"in_group": step_fields.in_group}).adopt(elsewhere)


def _float_later(n: int) -> int:
    held = n
    if n > 3:
        held = 0.5  # type: ignore[assignment]
    return int(held)


def _wider_later(n: Any) -> Any:
    held = n
    for _ in range(3):
        held = held + held
    return held


def test_a_name_holds_one_type() -> None:
    """Compiled, a number would else become a float64 and back; an integer of 32 bits is the same in 64."""
    from numba import types
    from numba.core.errors import TypingError

    with pytest.raises(TypingError, match="held is float64, and given int64: another name"):
        compiled(_float_later, types.int64(types.int64))
    assert compiled(_wider_later, types.int64(types.int32)).signatures == [(types.int32,)]
