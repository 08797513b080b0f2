"""Plans with a draft model: what it holds and gives, by the share of its proposals that is kept."""

from __future__ import annotations

import json

import pytest

from memfirst.errors import ConfigError
from memfirst.graph import decode
from memfirst.plan import Options, Plan, Speculation, make, place, subject
from memfirst.plan.draft import LEAST_RATIO, MOST, SHARES, DraftPlan, with_draft
from memfirst.runtime import draft
from tests.cli.test_cli import MEMFIRST, command

LARGE, SMALL = "llama-3:70b", "llama-3.2:1b"


def planned(name: str = LARGE, on: str = "epyc-genoa", **options: object) -> Plan:
    return make(subject(name), place(on), Options(engine="memfirst", **options))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def found() -> DraftPlan:
    return with_draft(planned(), SMALL)


def test_what_can_pay_is_the_same_before_and_after_loading() -> None:
    assert LEAST_RATIO == draft.LEAST_RATIO


def test_bytes_and_memory_are_those_of_both(found: DraftPlan) -> None:
    plain, small = planned(), subject(SMALL).priced("f16")
    assert found.nbytes == sum(a.mean for a in small.amounts(decode(plain.context - 1)).values())
    assert found.ratio == plain.step_bytes / found.nbytes > LEAST_RATIO
    weights = sum(w.nbytes for w in small.graph.weights().values() if not w.alias)
    assert weights < found.memory == found.plan.memory.needs.total - plain.memory.needs.total < 2.5 * weights


def test_more_kept_is_faster_and_the_number_of_proposals_is_the_best(found: DraftPlan) -> None:
    plain = planned()
    assert [row.share for row in found.rows] == list(SHARES)
    factors, counts = [row.factor for row in found.rows], [row.proposals for row in found.rows]
    assert factors == sorted(factors) and factors[0] >= 1
    assert counts == sorted(counts) and counts[-1] <= MOST
    for row in found.rows:
        others = [
            make(plain.subject, plain.place, Options(engine="memfirst", speculation=Speculation(k, row.share, SMALL)))
            for k in (max(1, row.proposals - 1), max(1, row.proposals), row.proposals + 1)
        ]
        rates = [other.rate or 0.0 for other in others]
        assert row.rate == pytest.approx(max(rates)) or row.proposals in (0, MOST)
        if row.proposals:
            assert row.nbytes == pytest.approx(others[1].nbytes)
            assert row.factor == pytest.approx((row.rate or 0) / (plain.rate or 1))
            kept = sum(row.share**i for i in range(row.proposals + 1))  # tokens a step: without cost, the factor
            assert 1 < row.factor < kept


@pytest.mark.parametrize(
    ("model", "draft", "says"),
    [
        ("llama-3.2:3b", "llama-3.2:1b", r"1/2\.\d of the model's bytes"),
        ("llama-3:70b", "smollm2:135m", "vocabulary of 49,152"),
        ("falcon-mamba:7b", "falcon-mamba:7b", "recurrent"),
    ],
)
def test_what_cannot_pay_or_draft_is_refused(model: str, draft: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        with_draft(planned(model), draft)


def test_the_command_shows_the_table_and_its_figures() -> None:
    args = ["plan", LARGE, "--on", "epyc-genoa", "--engine", "memfirst", "--draft", SMALL]
    page = command(MEMFIRST, *args)
    assert f"draft     {SMALL} reads" in page.stdout and "proposals" in page.stdout and "Exact." in page.stdout
    (one,) = json.loads(command(MEMFIRST, *args, "--json").stdout)["plans"]
    assert one["draft"]["model"] == SMALL and len(one["draft"]["kept"]) == len(SHARES)
    refused = command(MEMFIRST, "plan", "llama-3.2:3b", "--on", "epyc-genoa", "--draft", SMALL)
    assert refused.returncode == 1 and "1/8 or less" in refused.stderr
    assert command(MEMFIRST, "plan", "--draft", SMALL).returncode == 2
