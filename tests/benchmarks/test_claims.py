"""The article's statements: every test runs, its verdict follows from its figures, and the page is up to date."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from benchmarks.claims import __main__ as command_line
from benchmarks.claims import figures, measured, page, published
from benchmarks.claims.sections import SECTIONS, find
from benchmarks.claims.statement import Opinion, Outcome, Statement
from benchmarks.claims.verdict import Case, Scope, Verdict, at_least, at_most, inside, near, number, verdict
from benchmarks.noise import Window
from benchmarks.process import BenchmarkError
from memfirst.cli.app import call, command

PAGE = Path(__file__).parent.parent.parent / "docs" / "claims.md"
ENTRIES = [entry for section in SECTIONS for entry in section.entries]
STATEMENTS = [entry for entry in ENTRIES if isinstance(entry, Statement)]
PLANS = [s for s in STATEMENTS if s.shell.startswith("memfirst ")]


@pytest.fixture(scope="module")
def found() -> dict[int, Outcome]:
    return page.outcomes()


def case(holds: bool) -> Case:
    return Case("", "", holds)


# verdicts


@pytest.mark.parametrize(
    ("scope", "holds", "expected"),
    [
        (Scope.PLAIN, [1, 1], Verdict.RIGHT), (Scope.PLAIN, [0, 0], Verdict.WRONG),
        (Scope.PLAIN, [1, 0, 0, 0, 0], Verdict.CONDITIONS),
        (Scope.TYPICAL, [1, 1, 0], Verdict.RIGHT), (Scope.TYPICAL, [1, 0, 0], Verdict.CONDITIONS),
        (Scope.TYPICAL, [1, 0, 0, 0], Verdict.WRONG), (Scope.TYPICAL, [0], Verdict.WRONG),
        (Scope.UNIVERSAL, [1, 1, 0], Verdict.WRONG), (Scope.UNIVERSAL, [1], Verdict.RIGHT),
    ],
)  # fmt: skip
def test_a_verdict_follows_from_the_cases(scope: Scope, holds: list[int], expected: Verdict) -> None:
    assert verdict([case(bool(h)) for h in holds], scope) is expected


@pytest.mark.parametrize(
    ("made", "holds"),
    [
        (near("", 42.5, 38), False), (near("", 42, 38), True), (near("", 34.6, 38), True), (near("", 34.5, 38), False),
        (inside("", 2, 2, 4), True), (inside("", 4.2, 2, 4), True), (inside("", 4.21, 2, 4), False),
        (inside("", 1.89, 2, 4), False), (at_least("", 1, 1), True), (at_least("", 0.99, 1), False),
        (at_most("", 1, 1), True), (at_most("", 1.01, 1), False),
    ],
)  # fmt: skip
def test_a_case_holds_by_its_criterion(made: Case, holds: bool) -> None:
    assert made.holds is holds


def test_criteria_are_stated_with_their_numbers() -> None:
    made = near("the file", 42.512, 38, "GB")
    assert (made.figure, made.criterion) == ("the file: 42.5 GB, off by −11 %", "within 10 % of 38 GB")
    assert inside("x", 0.01, 0.3, 0.4, "%", of="of the peak").criterion == "of the peak in 30 to 40 %"
    assert [number(v) for v in (0, 0.0123, 0.5, 1.256, 42.51, 141.1, 57344)] == [
        "0", "0.012", "0.5", "1.26", "42.5", "141", "57,344",
    ]  # fmt: skip


# statements


def test_all_eighty_are_there_in_order() -> None:
    assert [entry.number for entry in ENTRIES] == list(range(1, 81))
    assert sum(isinstance(entry, Opinion) for entry in ENTRIES) == 6
    assert all(entry.quote.strip() and len(entry.quote.split()) <= 11 for entry in ENTRIES), "quotes are a few words"


@pytest.mark.parametrize("statement", STATEMENTS, ids=lambda s: str(s.number))
def test_every_statement_has_figures_and_a_verdict_that_follows(
    statement: Statement, found: dict[int, Outcome]
) -> None:
    outcome = found[statement.number]
    assert outcome.cases and all(c.criterion and any(d.isdigit() for d in c.figure) for c in outcome.cases)
    assert outcome.verdict is verdict(outcome.cases, statement.scope)
    assert statement.truth.endswith(".")


@pytest.fixture(scope="module")
def memfirst() -> Any:
    return command()


@pytest.mark.parametrize("statement", STATEMENTS, ids=lambda s: str(s.number))
def test_every_command_parses(statement: Statement, memfirst: Any) -> None:
    words = shlex.split(statement.shell)
    if words[0] == "memfirst":
        context = memfirst.make_context("memfirst", words[1:])
        assert memfirst.commands[words[1]].make_context(words[1], words[2:], parent=context)
    else:
        assert words[:3] == ["python", "-m", "benchmarks.claims"]
        assert command_line.parser().parse_args(words[3:]).claim == statement.number


@pytest.mark.parametrize("statement", PLANS, ids=lambda s: str(s.number))
def test_every_plan_can_be_made(statement: Statement, capsys: pytest.CaptureFixture[str]) -> None:
    assert call([*shlex.split(statement.shell)[1:], "--csv"]) == 0
    assert len(capsys.readouterr().out.splitlines()) >= 2


# Known beforehand, by hand or from the publishers: what the page's figures must be.
@pytest.mark.parametrize(
    ("figure", "expected"),
    [
        (lambda: figures.parameters("llama-3:70b"), 70_553_706_496),
        (lambda: figures.stored("llama-3:70b", "q4_k_m") / 2**30, pytest.approx(39.59, abs=0.005)),  # llama-bench
        (lambda: figures.stored("llama-3:70b", "q2_k") / 2**30, pytest.approx(24.56, abs=0.005)),
        (lambda: figures.kv("qwen2.5:7b", 1), 28 * 2 * 4 * 128 * 2),
        (lambda: figures.kv("llama-3:70b", 1024), 1024 * 80 * 2 * 8 * 128 * 2),
        (lambda: figures.matrices("llama-3:70b"), 80 * 7 + 1),
        (lambda: figures.parts("llama-3:70b"), (12_079_595_520, 56_371_445_760)),
        (lambda: figures.knee(figures.find_machine("a100-80gb")), pytest.approx(312e12 / 2.039e12)),
        (lambda: figures.mfu("llama-3:8b", 54.84, "rtx-4090"), pytest.approx(0.0050, abs=5e-5)),
        (lambda: figures.overtakes("llama-3:8b", "f16"), pytest.approx(114_500, rel=1e-3)),
        (lambda: figures.distinct(128, 8, 32), pytest.approx(111.8, abs=0.05)),
        (lambda: figures.ceiling("llama-3:8b", "f16", "rtx-4090"), pytest.approx(67, abs=0.5)),
    ],
)  # fmt: skip
def test_figures_are_those_known(figure: Any, expected: Any) -> None:
    assert figure() == expected


def test_known_verdicts(found: dict[int, Outcome]) -> None:
    right, wrong = (6, 9, 12, 14, 15, 28, 29, 39, 47, 51, 65), (5, 16, 19, 23, 25, 31, 33, 40, 41, 48, 49, 59, 70)
    assert [n for n in right if found[n].verdict is not Verdict.RIGHT] == []
    assert [n for n in wrong if found[n].verdict is not Verdict.WRONG] == []


# published rows


def test_published_rows_carry_their_source_and_were_read() -> None:
    row = published.one("XiongjieDai", "RTX 4090 24GB", "Llama-3-8B", "F16", "tg512")
    assert row.rate == 54.84
    assert "https://github.com/XiongjieDai" in row.source
    assert all("MEMORY" not in r["provenance"] for r in published.rows())


@pytest.mark.parametrize("quant", ["Q9", "Q4_K_M"])
def test_one_row_means_one(quant: str) -> None:
    with pytest.raises(BenchmarkError, match="published rows"):
        published.one("XiongjieDai", "RTX 4090 24GB", "Llama-3-8B", quant)  # none, or several lengths


# the page


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == page.render(), "run: make docs"


def test_the_page_counts_what_it_lists(found: dict[int, Outcome]) -> None:
    text = page.render({})
    for kind in Verdict:
        count = sum(o.verdict is kind for o in found.values())
        assert f"{count} {kind.value}" in text
        assert sum(line.startswith("| ") and f"| {kind.value} |" in line for line in text.splitlines()) == count


def test_the_page_begins_with_what_surprises(found: dict[int, Outcome]) -> None:
    first = PAGE.read_text(encoding="utf-8").partition("## How they are tested")[0]
    wrong = [o.statement for o in found.values() if o.verdict is Verdict.WRONG]
    assert all(f"| {s.number} | “{s.quote}” | {s.truth} |" in first for s in wrong)


def test_the_command_of_a_claim_prints_its_figures(found: dict[int, Outcome]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    for claim, outcome in found.items():
        assert f"`python -m benchmarks.claims --claim {claim}`" in text
        printed = page.alone(outcome)
        assert all(case.figure in printed and case.criterion in printed for case in outcome.cases)


def test_one_statement_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["--claim", "16"]) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("wrong", "42.5 GB", "within 10 % of 38 GB", find(16).quote))
    assert command_line.main(["--claim", "1"]) == 0
    assert "not testable" in capsys.readouterr().out
    assert command_line.main(["--claim", "81"]) == 1
    assert "no statement 81" in capsys.readouterr().err


# what is measured


KEPT = {
    "machine": "2 cores of a server", "date": "2026-01-01", "threads": 2,
    "codecs": {"f16": {"bytes": 800e6, "probe": 20e9, "seconds": 0.05},
               "q4_0": {"bytes": 200e6, "probe": 40e9, "seconds": 0.00625}},
    "batch": {"t1": 0.010, "t8": 0.020},
    "context": {"weights": 100, "rows": [{"context": 1, "bytes": 100, "kv": 0, "seconds": 1.0},
                                         {"context": 9, "bytes": 300, "kv": 200, "seconds": 3.5}]},
    "rounds": 30, "disturbed": 0,
}  # fmt: skip


def test_measured_figures_are_shown_as_ratios() -> None:
    text = measured.page(KEPT)
    assert "On 2 cores of a server, 2 threads, 2026-01-01" in text
    assert "80 % of the read loop; bytes ÷ 4, time ÷ 4 of F16's at equal reads" in text
    assert "2 times as long, 4 times the tokens/s" in text
    assert "9 tokens of context, KV 2 times the weights | bytes × 3, time × 3.5" in text
    assert "All 30 rounds were free of other programs" in text
    assert "In 7 of 30 rounds other programs ran" in measured.page({**KEPT, "disturbed": 7})
    assert "Nothing is kept" in measured.page({})


@pytest.mark.parametrize("text", ["{", "[]", '{"machine": "x"}'])
def test_a_broken_file_of_measured_figures_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "kept.json").write_text(text)
    with pytest.raises(BenchmarkError, match=r"kept\.json"):
        measured.load(tmp_path / "kept.json")
    assert measured.load(tmp_path / "none.json") == {}


def test_measuring_gives_what_the_page_shows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from benchmarks import rounds
    from benchmarks.claims import measure

    monkeypatch.setattr(rounds.noise, "watch", lambda work: (work(), Window(1.0, 0.0, 0.0)))
    monkeypatch.setattr(measure, "probe", lambda threads, seconds: 20.0)
    monkeypatch.setattr(measure, "SECONDS", 1e-3)
    monkeypatch.setattr(measure, "MIXES", ("f16", "q4_0"))
    monkeypatch.setattr(measure, "CONTEXTS", (1, 64))
    made = measure.measure(1, rounds.Goal(1, 1), lambda line: None, "a test", small=True)
    measure.keep(made, tmp_path / "kept.json")
    assert measured.load(tmp_path / "kept.json") == json.loads(json.dumps(made))
    assert made["codecs"]["f16"]["bytes"] > 3 * made["codecs"]["q4_0"]["bytes"]
    assert made["context"]["rows"][1]["kv"] == 64 * made["context"]["rows"][0]["kv"]
    assert "On a test, 1 threads" in measured.page(made)
