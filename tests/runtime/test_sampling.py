"""The sampler against a slow one in float64 that follows the definition step by step."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memfirst.errors import BackendError, ConfigError
from memfirst.runtime.sampling import GREEDY, Sampler, SamplingParams, Uniforms, numpy_reduce, top_ids

VOCAB = 5000


def slow_distribution(logits: np.ndarray, params: SamplingParams, seen: list[int]) -> np.ndarray:
    """Probability of each token, float64: penalty, temperature, top-k, top-p, min-p over the whole array."""
    scores = logits.astype(np.float64)
    for id in set(seen[len(seen) - params.repetition_window :] if params.repetition_window else []):
        # The penalised logit is a float32, as in the sampler: at an edge the last bit decides.
        penalty, logit = np.float32(params.repetition_penalty), logits[id]
        scores[id] = logit / penalty if logit > 0 else logit * penalty
    scores /= params.temperature
    if 0 < params.top_k < len(scores):
        scores[scores < np.sort(scores)[-params.top_k]] = -np.inf
    scores = top_p(scores, params.top_p)
    probabilities = softmax(scores)
    probabilities[probabilities < params.min_p * probabilities.max() * (1 - 1e-12)] = 0
    return probabilities / probabilities.sum()


def top_p(scores: np.ndarray, p: float) -> np.ndarray:
    """Likeliest first, keep until the probabilities kept reach p."""
    if p >= 1:
        return scores
    order = np.argsort(-scores, kind="stable")
    reached = np.cumsum(softmax(scores)[order])
    kept = order[: int(np.count_nonzero(reached < p)) + 1]
    return np.where(np.isin(np.arange(len(scores)), kept), scores, -np.inf)


def softmax(scores: np.ndarray) -> np.ndarray:
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def some_logits(seed: int, vocab: int = VOCAB, spread: float = 3.0) -> np.ndarray:
    """Normal logits with a few that stand out, as a model's do."""
    rng = np.random.default_rng(seed)
    logits = (rng.standard_normal(vocab) * spread).astype(np.float32)
    logits[rng.integers(0, vocab, 8)] += np.float32(3 * spread)
    return logits


class Uniform:
    """Stands for the generator: gives one chosen number."""

    def __init__(self, number: float) -> None:
        self.number = number

    def random(self) -> float:
        return self.number


def support(logits: np.ndarray, params: SamplingParams, seen: list[int], points: int = 400) -> dict[int, float]:
    """Token -> share of the unit interval that draws it, on a grid."""
    sampler = Sampler(params, len(logits))
    sampler.accept_prompt(seen)
    shares: dict[int, float] = {}
    for at in range(points):
        sampler._random = Uniform((at + 0.5) / points)
        id = sampler.sample(logits)
        shares[id] = shares.get(id, 0) + 1 / points
    return shares


CHAINS = {
    "default": {},
    "only temperature": {"top_k": 0, "top_p": 1, "min_p": 0, "repetition_penalty": 1},
    "hot, all": {"temperature": 3.0, "top_k": 0, "top_p": 1, "min_p": 0},
    "top-k": {"top_k": 7, "top_p": 1, "min_p": 0},
    "top-k of nearly all": {"top_k": VOCAB - 3, "top_p": 0.9, "min_p": 0},
    "top-k beyond": {"top_k": VOCAB + 3, "top_p": 0.9, "min_p": 0},
    "top-p alone": {"top_k": 0, "top_p": 0.7, "min_p": 0},
    "top-p of nearly all": {"top_k": 0, "top_p": 0.99999, "min_p": 0, "temperature": 4.0},
    "tiny top-p": {"top_k": 0, "top_p": 1e-6, "min_p": 0},
    "min-p alone": {"top_k": 0, "top_p": 1, "min_p": 0.1},
    "min-p and top-p": {"top_k": 0, "top_p": 0.8, "min_p": 0.02, "temperature": 1.5},
    "min-p 1": {"top_k": 0, "top_p": 1, "min_p": 1.0},
    "cold": {"temperature": 0.05},
    "reward": {"repetition_penalty": 0.7, "repetition_window": 3},
    "strong penalty": {"repetition_penalty": 1.8, "repetition_window": 1000},
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("chain", CHAINS)
def test_every_token_has_its_share_of_the_definition(chain: str, seed: int) -> None:
    logits, params = some_logits(seed), SamplingParams(**CHAINS[chain])
    seen = [int(id) for id in np.argsort(-logits)[:5]] * 2 + [1, 2, 3]
    expected = slow_distribution(logits, params, seen)
    shares = support(logits, params, seen)
    assert all(expected[id] > 0 for id in shares)
    for id in np.flatnonzero(expected > 0.02):
        assert shares.get(int(id), 0) == pytest.approx(expected[id], abs=2.1 / 400)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=300),
    st.tuples(st.sampled_from([0.1, 0.8, 2.0]), st.integers(0, 400), st.floats(0.01, 1), st.floats(0, 1)),
    st.floats(0, 0.999),
)
def test_what_is_drawn_is_what_the_definition_keeps(
    values: list[float], chain: tuple[float, int, float, float], point: float
) -> None:
    logits = np.array(values, np.float32)
    params = SamplingParams(*chain, repetition_penalty=1.3)
    sampler = Sampler(params, len(logits))
    sampler.accept_prompt([0, len(logits) - 1])
    sampler._random = Uniform(point)
    near = [slow_distribution(logits, other, [0, len(logits) - 1]) for other in _neighbours(params)]
    assert any(distribution[sampler.sample(logits)] > 0 for distribution in near)


def _neighbours(params: SamplingParams) -> list[SamplingParams]:
    """The same, and with top-p off by a float32 sum's rounding: a cut exactly at p can fall either way."""
    rest = (params.repetition_penalty, params.repetition_window)
    near = (params.top_p, params.top_p * (1 - 1e-6), min(1, params.top_p * (1 + 1e-6)))
    return [SamplingParams(params.temperature, params.top_k, p, params.min_p, *rest) for p in near]


def test_chi_square_of_50000_draws() -> None:
    logits = some_logits(5, vocab=12, spread=1.0)
    params = SamplingParams(temperature=1.2, top_k=0, top_p=1, min_p=0, repetition_penalty=1, seed=7)
    sampler, draws = Sampler(params, 12), 50_000
    counts = np.bincount([sampler.sample(logits) for _ in range(draws)], minlength=12)
    expected = slow_distribution(logits, params, []) * draws
    statistic = float(((counts - expected) ** 2 / expected).sum())
    assert statistic < 31.26  # 99.9 % of chi-square with 11 degrees of freedom


@pytest.mark.parametrize("vocab", [1, 2, 63, 64, 65, 129, 49152, 50257, 128_003])
@pytest.mark.parametrize("k", [1, 2, 40, 1000])
def test_top_ids_are_the_largest_with_their_ties(vocab: int, k: int) -> None:
    rng = np.random.default_rng(vocab + k)
    logits = rng.integers(-300, 300, vocab).astype(np.float32)  # many ties
    k = min(k, vocab)
    least = np.sort(logits)[-k]
    assert top_ids(logits, k).tolist() == np.flatnonzero(logits >= least).tolist()


def test_same_seed_same_tokens_alone_or_among_others() -> None:
    rows = [some_logits(seed) for seed in range(20)]
    alone = Sampler(SamplingParams(seed=3), VOCAB)
    others = [Sampler(SamplingParams(seed=seed), VOCAB) for seed in (1, 2)]
    first = [alone.sample(row) for row in rows]
    again = Sampler(SamplingParams(seed=3), VOCAB)
    mixed = []
    for row in rows:
        for other in others:
            other.sample(row)
        mixed.append(again.sample(row))
    assert first == mixed
    assert len(set(first)) > 5


def test_one_draw_a_token_whatever_the_chain() -> None:
    generator = np.random.Generator(np.random.PCG64(11))
    sampler = Sampler(SamplingParams(seed=11), VOCAB)
    for seed in range(7):
        sampler.sample(some_logits(seed))
        generator.random()
    assert sampler._random.random() == generator.random()


def test_uniform_numbers_are_the_generators_across_blocks() -> None:
    generator, ours = np.random.Generator(np.random.PCG64(5)), Uniforms(5)
    count = 2 * Uniforms.BLOCK + 3
    assert [ours.random() for _ in range(count)] == [generator.random() for _ in range(count)]


def test_penalty_is_taken_back_and_read_only_arrays_work() -> None:
    logits = some_logits(1)
    before = logits.copy()
    sampler = Sampler(SamplingParams(seed=1), VOCAB)
    sampler.accept_prompt([1, 2, 2, 2, 3])
    sampler.sample(logits)
    assert np.array_equal(logits, before)
    logits.flags.writeable = False
    assert 0 <= sampler.sample(logits) < VOCAB


def test_penalty_forgets_what_left_the_window() -> None:
    logits = np.zeros(10, np.float32)
    logits[4] = 1.0
    sampler = Sampler(SamplingParams(temperature=0, repetition_penalty=2.0, repetition_window=3), 10)
    logits[5] = 0.9
    sampler.accept(4)
    assert sampler.sample(logits) == 5
    sampler.accept_prompt([0, 0, 0])
    assert sampler.sample(logits) == 4


def test_greedy_takes_the_first_of_the_largest_and_draws_nothing() -> None:
    logits = np.array([0, 3, 3, -1], np.float32)
    assert Sampler(GREEDY, 4).sample(logits) == 1


@pytest.mark.parametrize("top_p", [0, 5e-324, 1e-12])
@pytest.mark.parametrize("top_k", [0, 5])
def test_top_p_keeps_at_least_the_likeliest(top_p: float, top_k: int) -> None:
    for seed in range(20):
        logits = some_logits(seed)
        sampler = Sampler(SamplingParams(top_p=top_p, top_k=top_k, min_p=0, seed=seed), VOCAB)
        assert sampler.sample(logits) == int(logits.argmax())
        assert sampler._choose_among([7, 3], [2.0, 1.9]) == 7, "candidates that a backend found"


@pytest.mark.parametrize("params", [GREEDY, SamplingParams(), SamplingParams(top_k=0), SamplingParams(top_k=3000)])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("at", [0, VOCAB - 1, VOCAB // 2])
def test_broken_logits_are_refused(params: SamplingParams, bad: float, at: int) -> None:
    logits = some_logits(0)
    logits[at] = bad
    with pytest.raises(BackendError):
        Sampler(params, VOCAB).sample(logits)


def test_minus_infinity_excludes_a_token_and_all_of_them_is_an_error() -> None:
    logits = np.full(100, -np.inf, np.float32)
    with pytest.raises(BackendError):
        Sampler(SamplingParams(), 100).sample(logits)
    logits[17] = -3.0
    for chain in CHAINS.values():
        assert Sampler(SamplingParams(**chain), 100).sample(logits) == 17


@pytest.mark.parametrize("logits", [np.zeros(4, np.float64), np.zeros(5, np.float32), np.zeros((1, 4), np.float32)])
def test_logits_of_another_kind_are_refused(logits: np.ndarray) -> None:
    with pytest.raises(BackendError):
        Sampler(SamplingParams(), 4).sample(logits)


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"temperature": 1e-300},
        {"top_k": -1},
        {"top_k": 1.5},
        {"top_p": -0.1},
        {"top_p": 1.1},
        {"min_p": -1},
        {"repetition_penalty": 0},
        {"repetition_window": -1},
        {"seed": -1},
        {"seed": 1 << 64},
        {"temperature": "hot"},
    ],
)
def test_parameters_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        SamplingParams(**wrong)  # type: ignore[arg-type]


def test_a_given_reduce_is_used_and_changes_nothing() -> None:
    calls = []

    def reduce(logits: np.ndarray, inverse: float) -> tuple[float, float]:
        calls.append(inverse)
        best = float(logits.max())
        return best, float(np.exp((logits.astype(np.float64) - best) * inverse).sum())

    logits, params = some_logits(2), SamplingParams(top_k=0, seed=5)
    own, given = Sampler(params, VOCAB), Sampler(params, VOCAB, reduce)
    assert [own.sample(logits) for _ in range(50)] == [given.sample(logits) for _ in range(50)]
    assert calls == [1 / params.temperature] * 50
    assert numpy_reduce(logits, 1.25) == pytest.approx(reduce(logits, 1.25), rel=1e-6)


@pytest.mark.parametrize("id", [-1, 4])
def test_tokens_outside_the_vocabulary_are_refused(id: int) -> None:
    with pytest.raises(ConfigError):
        Sampler(SamplingParams(), 4).accept(id)


def test_biases_and_penalties_act_on_the_logits_and_leave_them_as_they_were() -> None:
    logits = np.array([1.0, 2.0, 3.0, 0.5], np.float32)
    kept = logits.copy()
    greedy = Sampler(SamplingParams(temperature=0, logit_bias={0: 2.5}), 4)
    assert greedy.sample(logits) == 0
    assert greedy.sample(logits, banned=[0, 2]) == 1
    excluded = Sampler(SamplingParams(temperature=0, logit_bias={2: -math.inf}), 4)
    assert excluded.sample(logits) == 1
    counted = Sampler(SamplingParams(temperature=0, frequency_penalty=0.4, presence_penalty=0.5), 4)
    counted.accept_prompt([2, 2, 2])  # a prompt is not counted
    assert counted.sample(logits) == 2
    counted.accept(2)  # 3 - 0.5 - 0.4 = 2.1
    assert counted.sample(logits) == 2
    counted.accept(2)  # 3 - 0.5 - 0.8 = 1.7
    assert counted.sample(logits) == 1
    assert np.array_equal(logits, kept)


@pytest.mark.parametrize(
    "wrong",
    [{"logit_bias": {-1: 1.0}}, {"logit_bias": {0: math.inf}}, {"logit_bias": {4: 1.0}}, {"frequency_penalty": 1e9}],
)
def test_biases_that_are_none_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Sampler(SamplingParams(**wrong), 4)
