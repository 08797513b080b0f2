"""Models loaded with their KV cache in other codecs."""

from __future__ import annotations

import numpy as np
import pytest

import memfirst
from memfirst.convert.synthetic import synthetic
from memfirst.errors import ConfigError, UnsupportedError
from memfirst.graph import KVCache
from tests.support.tiny_models import tiny

TOKENS = list(range(5, 70))


def logits(kv: str) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    with memfirst.load(synthetic("tiny-llama", "f32"), ctx=128, kv=kv, threads=1) as model:
        return np.array(model.logits(TOKENS))


def test_fewer_bits_are_further_from_float32() -> None:
    """By codec: f16 is nearly exact, q8_0 close, q4_0 rough; keys matter more than values."""
    exact = logits("f32")
    off = {kv: float(np.abs(logits(kv) - exact).max() / exact.std()) for kv in ("f16", "q8_0", "q8_0/q4_0", "q4_0")}
    assert 0 < off["f16"] < 0.005 < off["q8_0"] < off["q8_0/q4_0"] < off["q4_0"] < 2


def test_memory_is_that_of_the_codec() -> None:
    held = {}
    for kv in ("f16", "q8_0", "Q8_0/Q4_0"):
        with memfirst.load(synthetic("tiny-llama", "q8_0"), ctx=128, kv=kv, threads=1) as model:
            held[kv] = model.memory([64]).kv_held
            caches = [c for c in model.graph.caches if isinstance(c, KVCache)]
    assert (held["q8_0"] * 64, held["Q8_0/Q4_0"] * 64) == (held["f16"] * 34, held["f16"] * 26)
    assert all((c.k_codec, c.v_codec, c.rotate) == ("q8_0", "q4_0", True) for c in caches)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="KV cache of 'q3_0'"):
        memfirst.load(synthetic("tiny-llama", "q8_0"), kv="q3_0")
    with pytest.raises(ConfigError, match="reference backend"):
        memfirst.load(synthetic("tiny-llama", "q8_0"), kv="q8_0", backend="reference")
    with pytest.raises(UnsupportedError, match="multiples of 32"):
        memfirst.load(tiny("llama", "f32", head_dim=40)[1], kv="q4_0", ctx=64)
