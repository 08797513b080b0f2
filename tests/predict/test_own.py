"""Speeds of memfirst itself where `memfirst machine` was never run: from rates of its kernels, not from others'."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

from memfirst.hardware.machines import catalogue, find_machine
from memfirst.plan import Options, Place, Plan, make, subject
from memfirst.plan.explain import explained
from memfirst.predict.fitted.pieces import OWN

ZEN_5 = replace(
    find_machine("epyc-turin"), name="two-cores", bandwidth=68e9, cores=2, compute={"f32": 0.51e12}, dies=1
)  # fmt: skip
"""Two cores of a shared server: what `bench --profile` says of its float32 operations, and what they read."""

MEASURED = {
    ("smollm2:135m", "q4_1"): (412, 4041), ("gemma-3:270m", "q4_k_m"): (165, 4127),
    ("olmo-2:1b", "q4_k_m"): (50.9, 455),
}  # fmt: skip
"""Decode and prompt, tokens/s, of README.md's table."""


known = cache(subject)
"""A model's graph is built once, not for each processor."""


def planned(model: str, codec: str, place: Place, prompt: int = 256) -> Plan:
    return make(known(model, codec), place, Options(engine=OWN, codec=codec, context=320, prompt=prompt))


@pytest.mark.parametrize(("model", "codec"), MEASURED)
def test_what_was_measured_is_near_what_is_said(model: str, codec: str) -> None:
    plan = planned(model, codec, Place(ZEN_5))
    decoded, read = MEASURED[model, codec]
    assert plan.decode and plan.prefill and plan.prefill.low and plan.prefill.high
    assert 0.85 < (plan.decode.tokens_per_second or 0) / decoded < 1.15
    assert 0.85 < (plan.prefill.tokens_per_second or 0) / read < 1.2
    assert (plan.decode.slowest or 0) < decoded < (plan.decode.fastest or 0)
    assert plan.prefill.low < 256 / read < plan.prefill.high
    assert plan.prefill.mfu and plan.prefill.mfu < 0.95, "of the units that it multiplies with"


@pytest.mark.parametrize("model", ["llama-3.2:1b", "qwen3:1.7b", "gemma-3:4b"])
def test_fewer_bytes_are_faster_on_every_processor(model: str) -> None:
    for machine in catalogue():
        if machine.kind in ("cpu", "board") and not machine.unknown:
            speeds = [planned(model, codec, Place(machine)).rate or 0 for codec in ("f16", "q8_0", "q6_k", "q4_k_m")]
            assert speeds == sorted(speeds) and speeds[1] > 0, machine.name  # f16: 0 where it does not fit


def test_parts_are_explained_as_they_are_computed() -> None:
    plan = planned("llama-3.2:1b", "q4_k_m", Place(ZEN_5))
    formulas = [part.formula for part in explained(plan).decode.parts]  # type: ignore[union-attr]
    assert "operations ÷ 60 % of int8's rate" in formulas and "10 µs a layer" in formulas
    assert not {"50 µs a layer", "300 µs a token"} & set(formulas)
