"""The benchmark of quantized KV caches, on a tiny model."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import kv
from memfirst.convert.synthetic import synthetic
from memfirst.models import build


def test_times_of_a_synthetic_model(capsys: pytest.CaptureFixture[str]) -> None:
    """Every codec, the first of which is f16 with a ratio of 1."""
    arguments = ["tiny-llama:q8_0", "--kv", "q8_0,q8_0/q4_0", "--depth", "320", "--threads", "1", "--rounds", "1"]
    assert kv.main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["times"]) == ["f16", "q8_0", "q8_0/q4_0"]
    assert found["times"]["f16"]["ratio"] == 1.0 and all(t["ms"] > 0 for t in found["times"].values())


def test_divergence_grows_with_fewer_bits() -> None:
    """Of dequantized weights: nothing for the same cache, more for 4 bits than for 8."""
    floats = kv.Floats(synthetic("tiny-llama", "q8_0"))
    graph = build(floats)
    assert {info.codec for info in floats.tensors.values()} == {"f32"}
    models = [kv.Kept(graph, floats, codec, 1, kv.CONTEXT) for codec in ("f16", "q8_0", "q4_0")]
    tokens = np.random.default_rng(0).integers(0, graph.vocab_size, kv.CONTEXT + 1).tolist()
    found = kv.quality(models, tokens, kv.CONTEXT)
    assert found["f16"]["kl_mean"] == 0 and found["f16"]["same_first_choice"] == 1
    assert 0 < found["q8_0"]["kl_mean"] < found["q4_0"]["kl_mean"]
