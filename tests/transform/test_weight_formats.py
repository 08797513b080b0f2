"""Formats of weights by the names that people write, and their bytes against published checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from memfirst.catalog.configs import find_config
from memfirst.convert.mixes import PRICED
from memfirst.errors import UnsupportedError
from memfirst.plan import Options, make, place, subject
from memfirst.plan.subject import DYNAMIC_NOTE
from memfirst.transform.weight_formats import NAMES, SCHEMES, format_name

WRITTEN = {
    "Q4_K_M": "q4_k_m", "UD-Q4_K_XL": "ud-q4_k_xl", "ud_q8_k_xl": "ud-q8_k_xl", "IQ2-XXS": "iq2_xxs", "TQ1_0": "tq1_0",
    "AWQ INT4": "awq", "awq-4bit": "awq", "INT4 AutoRound g128": "gptq-int4", "GPTQ": "gptq-int4",
    "GPTQ-Int8": "gptq-int8", "INT8 W8A8": "w8a8", "quantized.w4a16": "w4a16", "FP8": "fp8", "FP8-dynamic": "fp8",
    "FP8-block": "fp8-block", "NVFP4": "nvfp4", "modelopt-fp4": "nvfp4", "4bit": "mlx-4bit", "MLX 8-bit": "mlx-8bit",
    "nf4": "bnb-4bit", "BFloat16": "bf16", "fp16": "f16", "IQ3_S": "iq3_s", "Q2_K_S": "q2_k_s",
}  # fmt: skip


@pytest.mark.parametrize("text", WRITTEN)
def test_formats_are_called_as_people_write_them(text: str) -> None:
    assert format_name(text) == WRITTEN[text]


@pytest.mark.parametrize("name", NAMES)
def test_every_format_prices_a_model_and_keeps_its_name(name: str) -> None:
    assert format_name(name) == name
    dense, plain = subject("llama-3.1:8b", name), subject("llama-3.1:8b", "bf16")
    assert dense.codec == name and dense.parameters == plain.parameters
    total = sum(w.nbytes for w in dense.graph.weights().values())
    assert 0.1 < total / sum(w.nbytes for w in plain.graph.weights().values()) <= 2.0


@pytest.mark.parametrize("text", ["q9_k", "", "awq-9bit", "x" * 10_000, "fp8 please", "mlx-7bit"])
def test_what_is_none_gets_the_nearest_names(text: str) -> None:
    with pytest.raises(UnsupportedError, match=r"something like|one of"):
        format_name(text)


@pytest.mark.parametrize(
    ("model", "name", "gb"),
    [  # model.safetensors as the hub lists it; GB of 1e9
        ("llama-3.1:8b", "awq", 5.73),  # hugging-quants/Meta-Llama-3.1-8B-Instruct-AWQ-INT4
        ("llama-3.1:8b", "gptq-int4", 5.74),  # hugging-quants/Meta-Llama-3.1-8B-Instruct-GPTQ-INT4
        ("llama-3.1:8b", "fp8", 9.08),  # RedHatAI/Meta-Llama-3.1-8B-Instruct-FP8-dynamic
        ("llama-3.1:8b", "w8a8", 9.08),  # RedHatAI/Meta-Llama-3.1-8B-Instruct-quantized.w8a8
        ("llama-3.1:8b", "mlx-4bit", 4.52),  # mlx-community/Meta-Llama-3.1-8B-Instruct-4bit
        ("llama-3.1:8b", "mlx-8bit", 8.53),
    ],
)
def test_checkpoints_have_their_published_sizes(model: str, name: str, gb: float) -> None:
    found = sum(w.nbytes for w in subject(model, name).graph.weights().values()) / 1e9
    assert found == pytest.approx(gb, rel=0.01)


def test_a_scheme_runs_on_the_engine_that_reads_it() -> None:
    model = subject("qwen3:8b", "awq")
    assert make(model, place("rtx-3090"), Options(codec="awq")).engine == "vllm"
    assert make(subject("qwen3:8b", "mlx-4bit"), place("m3 max"), Options(codec="4bit")).engine == "mlx"
    with pytest.raises(UnsupportedError, match="mix of GGUF files"):
        make(model, place("rtx-3090"), Options(codec="awq", engine="llama.cpp"))


def test_a_config_that_states_its_scheme_is_priced_in_it_whatever_the_engine(tmp_path: Path) -> None:
    config = dict(find_config("qwen3:8b").config) | {"quantization_config": dict(SCHEMES["awq"])}
    (tmp_path / "config.json").write_text(json.dumps(config))
    plan = make(subject(str(tmp_path / "config.json")), place("rtx-4090"), Options(engine="llama.cpp"))
    assert plan.subject.codec == "awq" and plan.fits and plan.rate


def test_dynamic_mixes_say_so_and_widen_the_interval() -> None:
    plain, dynamic = (
        make(subject("qwen3:8b", mix), place("rtx-3090"), Options(codec=mix)) for mix in ("q4_k_m", "ud-q4_k_xl")
    )
    assert DYNAMIC_NOTE in dynamic.notes and DYNAMIC_NOTE not in plain.notes
    assert dynamic.decode and plain.decode and dynamic.decode.fastest and plain.decode.fastest
    assert dynamic.rate == plain.rate and dynamic.decode.fastest > plain.decode.fastest


def test_mixes_and_schemes_have_names_of_their_own() -> None:
    assert set(SCHEMES).isdisjoint(PRICED) and len(NAMES) == len(set(NAMES))
