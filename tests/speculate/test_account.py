"""The account: it cannot lose more than it may, and takes the drafts that are worth most."""

from __future__ import annotations

import random
from itertools import product

import pytest

from memfirst.speculate.account import GRANT, LOSS, SLOPES, UNITS, Account, Costs, Offer, sizes

SEVERAL = 8


def plain(costs: Costs, rows: int, tokens: float) -> float:
    """Tokens a time."""
    return tokens / costs.of(rows)


@pytest.mark.parametrize("kind", ["misleading", "random", "good, then misleading"])
def test_it_never_loses_more_than_it_may(kind: str) -> None:
    """Whatever comes, and whatever a row costs: half a step and 1 % of the answer, in its own units."""
    rng = random.Random(kind)
    for _ in range(60):
        costs, account = Costs(rng.choice((0.02, 0.1, 0.27, 0.5, 1.0, 2.0))), Account()
        took = tokens = 0.0
        for i in range(300):
            match, there = rng.choice((0, 1, 2, 4, 30)), rng.randrange(8)
            (n,) = sizes([Offer(account, match, there)], 1, SEVERAL, costs)
            assert n <= there and (match or not n)
            good = {"misleading": 0, "random": rng.randrange(n + 1), "good, then misleading": n if i < 100 else 0}[kind]
            account.learn(match, n, good, 1.0, costs.of(1 + n) - 1)
            took, tokens = took + costs.of(1 + n), tokens + good + 1
            assert took <= tokens * (1 + LOSS) + GRANT + 1e-9
            assert account.won >= -(GRANT + LOSS * account.plain) - 1e-9


def test_one_sequence_gets_what_gives_most_tokens_a_time() -> None:
    for slope, match in product((0.05, 0.13, 0.27, 0.6), (1, 2, 3, 6, 12, 40)):
        costs, account = Costs(slope), Account(grant=100)
        share = account.share(match)
        rates = [plain(costs, 1 + k, sum(share**j for j in range(k + 1))) for k in range(SEVERAL)]
        (n,) = sizes([Offer(account, match, 7)], 1, SEVERAL, costs)
        assert rates[n] >= max(rates) / 1.01**7
        assert n == 0 or rates[n] > rates[0]


def test_rows_go_where_they_are_likeliest_right() -> None:
    """Several sequences share a step's rows: none where they would cost more than they give, none beyond the tile."""
    costs = Costs(0.13)
    accounts = [Account(grant=100) for _ in range(3)]
    for _ in range(40):
        accounts[0].learn(20, 4, 4, 1.0, 0.5)
        accounts[1].learn(20, 4, 0, 1.0, 0.5)
    offers = [Offer(account, 20, 7) for account in accounts]
    first, second, third = sizes(offers, 3, SEVERAL, costs)
    assert first > third >= second == 0
    assert first + second + third <= SEVERAL - 3
    assert sizes(offers, SEVERAL, SEVERAL, costs) == [0, 0, 0]
    assert sizes(offers[1:2], 3, SEVERAL, costs) == [0]
    assert sizes([Offer(accounts[0], 0, 7)], 1, SEVERAL, costs) == [0]


def test_costs_follow_the_steps_that_it_sees() -> None:
    """Medians: a step that a neighbour held up changes nothing."""
    rng, costs = random.Random(4), Costs()
    for i in range(4 * SLOPES):
        rows = rng.choice((1, 1, 2, 4, 8))
        seconds = 0.02 * (1 + 0.4 * (rows - 0.7) if rows > 1 else 1) * (1 + 0.02 * rng.random())
        costs.learn(rows, rows - 1, seconds * (30 if i % 7 == 0 else 1))
    assert costs.slope == pytest.approx(0.4, rel=0.05)
    assert [costs.of(n) for n in (1, 2, 8)] == pytest.approx([1, 1.52, 3.92], rel=0.05)
    assert UNITS < SLOPES


def test_it_learns_what_is_accepted() -> None:
    account = Account()
    before = account.share(4)
    account.learn(4, 7, 0, 1.0, 1.0)
    lower = account.share(4)
    account.learn(4, 7, 7, 1.0, 1.0)
    assert lower < before < account.share(4)
    assert account.share(1) < account.share(2) < account.share(17) == account.share(4000)
