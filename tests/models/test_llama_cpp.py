"""The files that memfirst writes mean for llama.cpp what they mean here: its logits, kept as numbers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from memfirst import models
from memfirst.backends.cpu.backend import CpuBackend, CpuOptions
from memfirst.backends.reference.backend import ReferenceBackend
from memfirst.graph import Op, Sequence, Step
from memfirst.graph.ops.attention import Attention
from memfirst.graph.ops.linear import Linear
from memfirst.graph.ops.rope import Rope
from memfirst.models.decoder import Config
from tests.models.test_models_dense import changed
from tests.support.make_llama_cpp_fixture import FIXTURE, HYBRID_FIXTURE, HYBRIDS, NAMES, ROUTED, ROWS, TOKENS, made
from tests.support.toy import F32, one

KEPT = {**np.load(FIXTURE), **np.load(HYBRID_FIXTURE)}
EXACT, STATE, TABLE, HALF = 3e-5, 6e-5, 4e-3, 1e-2
"""Of the logits' spread: float32 sums in another order; those of a state, which go on from token to token; GELU, which
llama.cpp looks up by values rounded to f16; keys and values in f16, which llama.cpp's were not."""
GELU = {
    "Gemma-7B": 1,
    "Gemma-2-2B": 1,
    "Gemma-3-1B": 1,
    "Gemma-4-31B": 1,
    "Gemma-4-E2B": 2,
    "StarCoder2-3B": 1,
    "Phi-2": 1,
}
"""How often in a layer."""


def logits(name: str, change: Callable[[Op], Op] = lambda op: op) -> F32:
    checkpoint = made(name)
    entry = models.entry(checkpoint)
    config = entry.from_gguf(checkpoint.metadata, checkpoint.tensors, False)
    if name == "gpt-oss-20b":
        config = rounded(config)
    graph = changed(entry.build(config, models.CheckpointWeights(checkpoint)), change)
    return ReferenceBackend(graph, checkpoint, context=len(TOKENS)).step(one(0, len(TOKENS), logits=ROWS), TOKENS)


def rounded(c: Config) -> Config:
    """YaRN's ramp between whole pairs: what llama.cpp does, against gpt-oss's config.json; see models/gpt_oss.py."""
    rotation = c.heads[0].rotation
    assert rotation is not None and rotation.scaling is not None and not rotation.scaling.truncate
    return c.attention(rotation=replace(rotation, scaling=replace(rotation.scaling, truncate=True)))


def apart(name: str, found: F32) -> float:
    """The largest difference from llama.cpp, in standard deviations of the logits."""
    return float(np.abs(found - KEPT[name]).max() / KEPT[name].std())


@pytest.mark.parametrize("name", [*NAMES, *ROUTED, *HYBRIDS])
def test_logits_are_those_of_llama_cpp(name: str) -> None:
    """60 positions: beyond windows of 20 and original contexts of 16, in layers of every kind."""
    exact = STATE if name in HYBRIDS else EXACT
    assert apart(name, logits(name)) < (TABLE * GELU[name] if name in GELU else exact)


@pytest.mark.parametrize("name", [*NAMES, *HYBRIDS])
def test_the_cpu_gives_the_logits_of_llama_cpp(name: str) -> None:
    """The same through kernels, with keys and values as f16."""
    checkpoint = made(name)
    with closing(CpuBackend(models.build(checkpoint), checkpoint, CpuOptions(1, 128))) as backend:
        step = Step((Sequence(0, len(TOKENS), backend.own_tables(0), logits=ROWS),))
        limit = HALF * GELU.get(name, 1)  # of E2B a rounded key counts in each layer that shares it
        assert apart(name, np.array(backend.step(step, TOKENS).logits)) < limit


def plain(op: Op) -> Op:
    return replace(op, factor=1.0) if isinstance(op, Rope) and op.factor != 1 else op


def steady(op: Op) -> Op:
    return replace(op, temperature=0.0) if isinstance(op, Rope) else op


def uncapped(op: Op) -> Op:
    return replace(op, softcap=0.0) if isinstance(op, Attention | Linear) and op.softcap else op


def unwindowed(op: Op) -> Op:
    return replace(op, cache=replace(op.cache, window=None)) if isinstance(op, Attention) else op


@pytest.mark.parametrize(
    ("name", "change"),
    [("OLMo-3-7B", plain), ("Ministral-3-8B", steady), ("Gemma-2-2B", uncapped), ("Command-R7B", unwindowed),
     ("Gemma-3-1B", unwindowed), ("Gemma-4-31B", unwindowed), ("Gemma-4-31B", uncapped), ("Gemma-4-E2B", unwindowed),
     ("EXAONE-4.0-32B", unwindowed)],
)  # fmt: skip
def test_the_fixture_sees_a_wrong_attribute(name: str, change: Callable[[Op], Op]) -> None:
    """Each several times what is tolerated."""
    assert apart(name, logits(name, change)) > 0.02
