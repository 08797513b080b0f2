"""Wrong formulas, planted one by one in memfirst's own functions: the second count of bytes must see each of them."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from memfirst import models
from memfirst.catalog.configs import find_config
from memfirst.formats.architectures import architecture_of
from memfirst.graph import ops
from tests.oracle import Moved
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


def wronged() -> set[str]:
    """Architectures in whose probes a mistake is planted."""
    probes = {mutant.probe for mutant in MUTANTS} - {"line"}
    return {architecture_of(PROBES[name]().config) for name in probes}


def test_every_architecture_has_a_mistake_planted_in_it() -> None:
    """One that is new to the registry needs a probe in tests/support/planting.py, and what is easily got wrong in it in
    tests/support/mutants_models.py."""
    assert set(models.ARCHITECTURES) - wronged() == set()


def test_a_new_architecture_without_a_probe_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "ARCHITECTURES", {**models.ARCHITECTURES, "brand-new": object()})
    assert set(models.ARCHITECTURES) - wronged() == {"brand-new"}


def test_every_figure_is_wronged() -> None:
    """Each purpose of traffic, what is held, and what is compared besides."""
    figures = {*Moved.__dataclass_fields__, "parameters", "stored", "held", "allocated", "tensors", "by_layer"}
    assert {*figures, "streamed", "by_token", "growth"} == {f for m in MUTANTS for f in m.figures.split()}


UNCOUNTED = {"opaque"}
"""Of models that are priced only: tests/models/test_described.py counts it."""


def test_every_operation_that_reads_weights_or_caches_is_wronged() -> None:
    reads = re.compile(r"(Weight|Row|Head|Expert|KV|State)Traffic\(|state_traffic\(")
    folder = Path(ops.__path__[0])
    reading = {path.stem for path in folder.glob("*.py") if reads.search(path.read_text(encoding="utf-8"))}
    planted_in = {m.where.partition(":")[0].rpartition(".")[2] for m in MUTANTS if ".graph.ops." in m.where}
    assert reading - planted_in == UNCOUNTED


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
