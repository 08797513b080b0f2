"""Wrong formulas, planted one by one in memfirst's own functions: the second count of bytes must see each of them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from memfirst.catalog.configs import find_config
from tests.support.byte_cases import Case, case
from tests.support.byte_comparison import Difference, Expected, differences, expected, line_differences
from tests.support.mutants import HARMLESS, MUTANTS
from tests.support.planting import PROBES, Mutant, function, planted


@pytest.fixture(autouse=True)
def no_own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own models must not decide these tests."""
    monkeypatch.setenv("MEMFIRST_CONFIG_DIR", str(tmp_path))


@cache
def probe(name: str) -> tuple[Case, Expected]:
    """A case, and what the oracle says of it: no mistake of memfirst changes that."""
    found = PROBES[name]()
    return found, expected(found)


@cache
def of_the_line() -> Case:
    """A model whose megabytes have digits."""
    return case("smollm2:135m", find_config("smollm2:135m").config, 0, context=4096)


def shown(name: str) -> list[Difference]:
    """What differs in the probe of that name, as memfirst is just now."""
    return line_differences(of_the_line()) if name == "line" else differences(*probe(name))


def test_there_are_many_and_no_two_are_the_same() -> None:
    assert len(MUTANTS) >= 20
    assert len({m.name for m in MUTANTS}) == len(MUTANTS)
    assert len({(m.where, m.old, m.new, m.probe) for m in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize("name", [*PROBES, "line"])
def test_without_a_mistake_nothing_differs(name: str) -> None:
    assert shown(name) == []


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_each_mistake_is_seen_where_it_is(mutant: Mutant) -> None:
    with planted(mutant):
        found = {d.figure for d in shown(mutant.probe)}
    assert found >= set(mutant.figures.split()), f"{mutant.name}: seen in {sorted(found)}"
    assert shown(mutant.probe) == []


@pytest.mark.parametrize("mutant", HARMLESS, ids=lambda m: m.name)
def test_a_right_formula_written_otherwise_is_no_mistake(mutant: Mutant) -> None:
    with planted(mutant):
        assert shown(mutant.probe) == []


def test_a_mistake_is_taken_back_whatever_happens() -> None:
    mutant = MUTANTS[0]
    before = function(mutant.where).__code__
    with pytest.raises(KeyError), planted(mutant):
        assert function(mutant.where).__code__ is not before
        raise KeyError
    assert function(mutant.where).__code__ is before
