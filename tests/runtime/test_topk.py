"""The compiled search for the likeliest tokens against NumPy, and samplers with and without it."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memfirst.backends.cpu.topk import COMPILED, TopK
from memfirst.errors import BackendError
from memfirst.kernels.cpu.thread_pool import native
from memfirst.runtime.allowed import Allowed
from memfirst.runtime.sampling import GREEDY, Sampler, SamplingParams
from tests.runtime.test_sampling import CHAINS, Uniform, some_logits
from tests.support.kernel_calls import call, guarded, library, zeros

BAD = {"nan": math.nan, "inf": math.inf}
REFUSED = "expected finite numbers; the weights or a kernel are broken"


def compiled_topk() -> TopK:
    entries = library().load(COMPILED)
    return TopK(*(native(entries[key]) for key in COMPILED))


def found(logits: np.ndarray, seen: list[int], k: int, penalty: float) -> tuple[list[int], list[float], int]:
    """What the kernel says of logits between guards, which must be as they were."""
    arrays = {"logits": guarded(logits), "kept": zeros("f32", max(len(seen), 1)), "values": zeros("f32", k + 1)}
    arrays |= {"seen": guarded(np.array(seen or [0], np.int32)), "ids": zeros("i32", k + 1)}
    ties = call("topk.topk", 0, 0, vocab=len(logits), count=len(seen), k=k, penalty=penalty, **arrays)
    assert arrays["logits"].tobytes() == logits.tobytes()
    ids = arrays["ids"].tolist()
    held = ids.index(-1) if -1 in ids else k + 1
    return ids[:held], arrays["values"][:held].tolist(), ties


def expected(logits: np.ndarray, seen: list[int], k: int, penalty: float) -> tuple[list[int], list[float], int]:
    """The same from its definition."""
    scores = logits.copy()
    for id in set(seen):
        scores[id] = logits[id] / np.float32(penalty) if logits[id] > 0 else logits[id] * np.float32(penalty)
    order = [int(id) for id in np.argsort(-scores, kind="stable") if scores[id] > -np.inf]
    ties = sum(scores[id] == scores[order[k - 1]] for id in order[k:])
    return order[:k], [float(scores[id]) for id in order[:k]], int(ties)


@pytest.mark.parametrize("k", [1, 2, 40, 256])
@pytest.mark.parametrize("vocab", [1, 2, 63, 64, 65, 257, 1000, 49152])
@pytest.mark.parametrize("spread", [2, 300, 1e9])
def test_the_largest_with_penalties_and_ties(vocab: int, k: int, spread: float) -> None:
    rng = np.random.default_rng(vocab + k)
    logits = rng.integers(-spread, spread, vocab).astype(np.float32)
    logits[rng.random(vocab) < 0.1] = -np.inf
    seen = rng.integers(0, vocab, 64).tolist()
    for used, penalty in (([], 1.0), (seen, 1.1), (seen, 0.5)):
        assert found(logits, used, k, penalty) == expected(logits, used, k, penalty)


@pytest.mark.parametrize("order", [1, -1])
def test_rising_and_falling(order: int) -> None:
    logits = np.arange(5000, dtype=np.float32)[::order].copy()
    assert found(logits, [], 40, 1.0) == expected(logits, [], 40, 1.0)


FEW = st.sampled_from([-np.inf, -2.0, -0.0, 0.0, 0.5, 3.0, 3.3])


@settings(max_examples=200, deadline=None)
@given(st.lists(FEW, min_size=1, max_size=200), st.integers(1, 30))
def test_few_values_many_ties(values: list[float], k: int) -> None:
    logits = np.array(values, np.float32)
    assert found(logits, [len(logits) - 1, 0, 0], k, 1.1) == expected(logits, [len(logits) - 1, 0, 0], k, 1.1)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("at", [0, 31, 63, 64, 4991, 4992, 4999])
def test_nan_and_infinity_are_met_and_the_penalty_is_taken_back(bad: str, at: int) -> None:
    logits = some_logits(0)
    logits[at] = BAD[bad]
    assert found(logits, [at, 1, 2], 40, 1.3)[2] == -1


def drawn(params: SamplingParams, logits: np.ndarray, compiled: bool, points: int = 60) -> list[int | str]:
    """What a grid of uniform numbers draws, a token after another; or the error."""
    sampler = Sampler(params, len(logits), top=compiled_topk() if compiled else None)
    assert compiled == (sampler._top is not None or sampler._all is not None)
    sampler.accept_prompt(int(id) for id in np.argsort(-logits)[:5])
    out: list[int | str] = []
    for at in range(points):
        sampler._random = Uniform((at + 0.5) / points)
        try:
            out.append(sampler.sample(logits))
        except BackendError as error:
            out.append(str(error))
        sampler.accept(at % len(logits))
    return out


COMBINED = [
    SamplingParams(t, k, p, m, r, w)
    for t, k, p, m, (r, w) in product(
        (0, 0.7, 3.0), (0, 1, 2, 40, 256), (0.3, 0.95, 1), (0, 0.05, 1), ((1, 0), (1.1, 64), (0.8, 7))
    )
]
ARRAYS = {
    "a model's": some_logits(1, 3001),
    "flat": some_logits(2, 3000, 0.01),
    "ties": np.round(some_logits(3, 3000)),
    "equal": np.zeros(300, np.float32),
    "few": np.where(np.arange(300) % 50, -np.inf, 1.5).astype(np.float32),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_both_ways_draw_the_same(name: str) -> None:
    for params in COMBINED:
        logits = ARRAYS[name].copy()
        assert drawn(params, logits, True, 12) == drawn(params, logits, False, 12), params
        assert np.array_equal(logits, ARRAYS[name])


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize(
    "params", [GREEDY, SamplingParams(), SamplingParams(temperature=0), SamplingParams(top_k=0, top_p=1, min_p=0)]
)
def test_both_ways_refuse_broken_logits(params: SamplingParams, bad: str) -> None:
    for at in (0, 2999):
        logits = some_logits(4, 3000)
        logits[at] = BAD[bad]
        ways = [drawn(params, logits, compiled, 1)[0] for compiled in (True, False)]
        assert ways == [f"the largest logit is {BAD[bad]}; {REFUSED}"] * 2
    none = np.full(300, -np.inf, np.float32)
    assert drawn(params, none, True, 1) == drawn(params, none, False, 1)


def test_numpy_serves_where_the_kernel_cannot() -> None:
    """More than it holds, a k of the whole vocabulary, no top-k; and arrays that it must not write or cannot read."""
    for k, vocab in ((257, 5000), (40, 40), (0, 5000)):
        assert Sampler(SamplingParams(top_k=k), vocab, top=compiled_topk())._top is None
    logits = some_logits(5)
    fixed, wide = logits.copy(), np.repeat(logits, 2)
    fixed.flags.writeable = False
    draws = []
    for array in (logits, fixed, wide[::2]):
        sampler = Sampler(SamplingParams(seed=2), len(logits), top=compiled_topk())
        sampler.accept_prompt([3, 5])
        draws.append([sampler.sample(array) for _ in range(20)])
    assert draws[0] == draws[1] == draws[2]


def test_a_chooser_follows_its_arrays() -> None:
    """Rows of another address and length, other windows, another k and penalty: nothing stale is used."""
    made = compiled_topk()
    for seed, vocab, k, penalty in ((0, 500, 3, 1.1), (1, 700, 9, 1.1), (2, 700, 9, 1.7), (0, 500, 3, 1.1)):
        logits, seen = some_logits(seed, vocab), [seed, 7, 7, vocab - 1]
        window = np.array(seen, np.int32)
        assert made(logits, window, 4, k, penalty) == expected(logits, seen, k, penalty)
    for k, count in ((257, 4), (0, 4), (3, 5), (3, -1)):
        with pytest.raises(BackendError):
            made(logits, window, count, k, 1.1)


@pytest.mark.parametrize("chain", CHAINS)
def test_a_seed_gives_the_same_tokens_both_ways(chain: str) -> None:
    rows = [some_logits(seed) for seed in range(20)]
    pair = [Sampler(SamplingParams(**CHAINS[chain], seed=3), 5000, top=top) for top in (None, compiled_topk())]
    for row in rows:
        ids = {sampler.sample(row) for sampler in pair}
        assert len(ids) == 1
        for sampler in pair:
            sampler.accept(next(iter(ids)))


@pytest.mark.parametrize("vocab", [1, 63, 64, 1023, 1024, 1025, 5000])
def test_masses_are_those_of_numpy(vocab: int) -> None:
    logits = some_logits(6, vocab)
    best, sums = compiled_topk().masses(logits, 1 / 0.7)
    weights = np.exp((logits.astype(np.float64) - logits.max()) / np.float32(0.7))
    assert best == logits.max()
    assert sums == pytest.approx([weights[i : i + 1024].sum() for i in range(0, vocab, 1024)], rel=2e-6)


def test_all_tokens_are_drawn_by_their_probabilities() -> None:
    logits = np.log(np.array([0.5, 0.25, 0.125, 0.125] + [0.0] * 3000, np.float32) + np.float32(1e-30))
    logits[2500] = logits[0]  # another part
    sampler = Sampler(SamplingParams(1.0, 0, 1, 0, seed=3), len(logits), top=compiled_topk())
    counts = np.bincount([sampler.sample(logits) for _ in range(6000)], minlength=len(logits)) / 6000
    assert counts[[0, 1, 2, 3, 2500]] == pytest.approx([1 / 3, 1 / 6, 1 / 12, 1 / 12, 1 / 3], abs=0.025)
    assert counts.sum() == pytest.approx(counts[[0, 1, 2, 3, 2500]].sum())


@pytest.mark.parametrize("vocab", [1, 31, 32, 33, 63, 64, 250, 4999])
def test_what_is_not_allowed_is_excluded(vocab: int) -> None:
    rng, logits = np.random.default_rng(vocab), some_logits(8, vocab)
    for share in (0.0, 0.02, 0.98, 1.0):
        ids = np.flatnonzero(rng.random(vocab) < share).tolist()
        allowed = Allowed.of(ids, vocab)
        arrays = {"logits": guarded(logits), "bits": guarded(allowed.bits), "out": zeros("f32", vocab)}
        call("topk.masked", 0, 0, vocab=vocab, **arrays)
        expected = np.where(np.isin(np.arange(vocab), ids), logits, -np.inf).astype(np.float32)
        assert arrays["out"].tobytes() == expected.tobytes()
        out = np.empty(vocab, np.float32)
        compiled_topk().masked(logits, allowed.bits, out)
        assert out.tobytes() == expected.tobytes()
    with pytest.raises(BackendError, match="bits and room"):
        compiled_topk().masked(np.zeros(64 * (vocab + 1), np.float32), allowed.bits, np.empty(vocab, np.float32))


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("share", [0.001, 0.1, 0.13, 0.9])
def test_a_choice_among_some_is_that_of_masked_logits(chain: str, share: float) -> None:
    rng = np.random.default_rng(5)
    rows = [some_logits(seed) for seed in range(20)]
    samplers = [
        Sampler(SamplingParams(**CHAINS[chain], seed=3), 5000, top=top) for top in (None, None, compiled_topk())
    ]
    for row in rows:
        ids = np.unique(np.append(np.flatnonzero(rng.random(5000) < share), rng.integers(0, 5000, 2)))
        masked = np.full(5000, -np.inf, np.float32)
        masked[ids] = row[ids]
        before = row.copy()
        found = [sampler.sample(row, (), Allowed.of(ids.tolist(), 5000)) for sampler in samplers[1:]]
        assert {samplers[0].sample(masked), *found} == {found[0]} and found[0] in ids
        assert row.tobytes() == before.tobytes()
        for sampler in samplers:
            sampler.accept(found[0])


@pytest.mark.parametrize("chain", CHAINS)
def test_a_token_without_a_choice_takes_a_number_as_others_do(chain: str) -> None:
    one, other = (Sampler(SamplingParams(**CHAINS[chain], seed=3), 5000) for _ in range(2))
    one.sample(some_logits(0), (), Allowed.of([7], 5000))
    other.skip()
    for sampler in (one, other):
        sampler.accept(7)
    assert [one.sample(some_logits(seed)) for seed in range(9)] == [
        other.sample(some_logits(seed)) for seed in range(9)
    ]
