"""Bytes are counted twice: by memfirst from its graphs, and by `tests/oracle` from config.json in plain integers."""

from __future__ import annotations

import ast
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from memfirst import models
from memfirst.catalog.configs import configs, find_config
from memfirst.formats.architectures import architecture_of
from tests import oracle
from tests.oracle import BLOCKS, Blocks, Sequence, chunks, describe, parameters, price
from tests.oracle.count import distinct
from tests.support.byte_cases import CONFIGS, Case, case, tiny
from tests.support.byte_comparison import differences, line_differences

SEEDS = range(6)
NO_WINDOW = {"sliding_window": None, "use_sliding_window": False}


@pytest.fixture(autouse=True)
def no_own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own models must not decide these tests."""
    monkeypatch.setenv("MEMFIRST_CONFIG_DIR", str(tmp_path))


def kinds(seed: int) -> dict[str, Any]:
    """Every third case has its KV cache quantized, every third the experts of its steps recorded."""
    found: list[dict[str, Any]] = [{}, {"kv": ("q8_0", "q4_0")}, {"recorded": True}]
    return found[seed % 3]


# ---- memfirst and the oracle ----------------------------------------------------------------------------------------


def test_every_architecture_is_counted_twice() -> None:
    """One that is new to the registry needs an entry in tests/oracle and in CONFIGS."""
    counted = {architecture_of(tiny(name, seed).config) for name in CONFIGS for seed in SEEDS}  # as the next test has
    assert counted == set(models.ARCHITECTURES)
    assert set(models.BY_MODEL_TYPE) <= set(CONFIGS)
    assert {m.config["model_type"] for m in configs()} <= set(CONFIGS)


@pytest.mark.parametrize("model_type", CONFIGS)
def test_random_models_have_the_bytes_that_the_oracle_counts(model_type: str) -> None:
    for seed in SEEDS:
        assert differences(tiny(model_type, seed, **kinds(seed))) == []


def test_a_granite_4_without_state_space_layers_has_the_bytes_that_the_oracle_counts() -> None:
    dense = {"layer_types": ["attention"] * 6, "num_local_experts": 0, "position_embedding_type": "rope"}
    for seed in SEEDS:
        assert differences(tiny("granitemoehybrid", seed, dense, **kinds(seed))) == []


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3"])
def test_models_packed_for_the_cpu_have_the_bytes_that_the_oracle_counts(model_type: str) -> None:
    for seed in SEEDS:
        assert differences(tiny(model_type, seed, NO_WINDOW, cpu=True)) == []


@pytest.mark.parametrize("name", [m.name for m in configs()])
def test_published_models_have_the_bytes_that_the_oracle_counts(name: str) -> None:
    assert differences(published(name, 0)) == []


def test_the_last_line_has_the_oracles_figures() -> None:
    assert line_differences(published("smollm2:135m", 0)) == []


def published(name: str, seed: int) -> Case:
    """A model of the catalogue, in random codecs."""
    return case(name, find_config(name).config, seed, context=4096)


# ---- the oracle by itself -------------------------------------------------------------------------------------------


def test_the_oracle_knows_nothing_of_memfirst() -> None:
    for path in Path(oracle.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] == "memfirst" for name in names), path.name


@pytest.mark.parametrize("name", [m.name for m in configs() if m.published])
def test_the_oracle_counts_the_published_parameters(name: str) -> None:
    found = find_config(name)
    assert parameters(describe(found.config)) == found.parameters


def half(kind: str, layer: int) -> Blocks:
    return BLOCKS["f16"]


@pytest.mark.parametrize(
    ("name", "past", "batch", "nbytes"),
    [
        ("llama-3.1:8b", 131071, 1, 16 << 30),
        ("qwen3:30b-a3b", 0, 1, 98_304),
        ("deepseek-v3:671b", 0, 1, 70_272),
        ("gpt-oss:20b", 8191, 32, 32 * 2 * 8 * 64 * 2 * (12 * 8192 + 12 * 128)),
        ("gemma-3:27b", 8191, 1, 2 * 16 * 128 * 2 * (10 * 8192 + 52 * 1024)),
        ("jamba:52b", 99, 1, 100 * 16_384),
    ],
)
def test_the_oracle_reads_known_kv(name: str, past: int, batch: int, nbytes: int) -> None:
    step = [Sequence(past)] * batch
    assert price(describe(find_config(name).config), step, half).kv_read == nbytes


def test_the_oracle_expects_known_numbers_of_experts() -> None:
    """128 experts of which a token picks 8: 16 tokens pick 82.4 (Qwen3-30B-A3B)."""
    mean, least, most = distinct(128, 8, 16)
    assert (round(float(mean), 1), least, most) == (82.4, 8, 128)
    assert distinct(8, 2, 1) == (Fraction(2), 2, 2)
    assert distinct(4, 1, 2) == (Fraction(7, 4), 1, 2)  # 4 of 16 pairs agree: 2 − 4/16


def test_the_oracle_counts_a_prompt_in_chunks_chunk_by_chunk() -> None:
    """10 tokens by 4 read 4, 8 and 10 positions; a window of 3: 4, then 2 + 4, then 2 + 2."""
    full, local = ({"model_type": "mistral", **SMALL, "sliding_window": window} for window in (None, 3))
    for config, positions in ((full, 4 + 8 + 10), (local, 4 + 6 + 4)):
        moved = [price(describe(config), [s], half) for s in chunks(10, 4)]
        assert sum(m.kv_read for m in moved) == positions * 2 * 8 * 2
        assert [m.head > 0 for m in moved] == [False, False, True]


SMALL = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
    "intermediate_size": 8, "vocab_size": 5,
}  # fmt: skip
