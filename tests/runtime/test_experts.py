"""What answers and benchmarks of mixtures of experts say of their bytes: exact once the routing is recorded."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import memfirst
from memfirst.cli.bench_page import page
from memfirst.convert.mixes import MIXES
from memfirst.convert.synthetic import SyntheticCheckpoint
from memfirst.graph.traffic import EXPERTS
from memfirst.measure.bench import bench
from tests.support.tiny_experts import config_of

EXPERTS_OF_LAYER, PICKED = 20, 4


def checkpoint() -> SyntheticCheckpoint:
    return SyntheticCheckpoint(config_of("qwen3_moe", 64, 2, vocab_size=600), MIXES["q4_k_m"], 0, "tiny")


@pytest.fixture(scope="module")
def model() -> Iterator[memfirst.Model]:
    with memfirst.load(checkpoint(), threads=2) as loaded:
        yield loaded


def test_a_token_reads_the_experts_that_it_picks(model: memfirst.Model) -> None:
    answer = model.generate("Bytes first", max_tokens=4)
    assert len(list(answer)) == 4
    report, counted = answer.report(), {"layers": 2, "experts": 20, "expected": PICKED, "recorded": PICKED}
    assert "experts 4 of 20 a layer · " in answer.line()
    assert report["distinct_experts"] == counted
    predicted = {p: n for p, n in report["predicted_bytes"].items() if p != "activations"}
    assert predicted == report["recorded_bytes"] and predicted[EXPERTS] > 0


def test_shared_steps_are_priced_by_the_experts_that_were_read(model: memfirst.Model) -> None:
    """Three answers in the same steps pick other experts, or the same: expected is an average, recorded exact."""
    answers = model.generate(["One", "Two is another", "Three of them"], max_tokens=4)
    tokens = [token for answer in answers for token in answer]
    assert len(tokens) == 12
    for token in tokens:
        predicted = {p: int(a) for p, a in token.predicted.by_purpose().items() if p != "activations"}
        assert predicted == {p: int(a) for p, a in token.recorded.by_purpose().items()}
    found = answers[0].report()["distinct_experts"]
    assert found["expected"] == pytest.approx(EXPERTS_OF_LAYER * (1 - (1 - PICKED / EXPERTS_OF_LAYER) ** 3))
    assert PICKED <= found["recorded"] <= 3 * PICKED and (2 * found["recorded"]).is_integer()


def test_a_benchmark_says_how_many_experts_were_read() -> None:
    found = bench(checkpoint(), threads=1, prompt=20, generate=3, profile=True)
    assert found.experts and found.prompt_experts
    assert (found.experts.recorded, found.experts.expected) == (PICKED, PICKED)
    assert PICKED < found.prompt_experts.recorded <= EXPERTS_OF_LAYER
    assert f"4 of 20 a layer; a step of the prompt: {found.prompt_experts}" in page(found, 0)
    assert found.report()["distinct_experts_of_prompt"]["recorded"] == found.prompt_experts.recorded
    assert all(profile.bytes_as_predicted for profile in found.profiles)
    experts = [op for phase in found.profiles[0].phases for op in phase.ops if op.op == "ffn_exps" and op.values]
    assert sum(op.flops for op in experts) == 2 * 20 * PICKED * 3 * 256 * 256 * 2, "layers, tokens, experts, matrices"
