"""The catalogue of models: every row is a graph with the published parameters, KV and state; users' rows too."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from math import prod
from pathlib import Path

import pytest

from memfirst import models
from memfirst.catalog.configs import KNOWN, catalog_checkpoint, configs, find_config, priced, unpriced, user_file
from memfirst.catalog.models import models as hub_models
from memfirst.cli.listing import catalogue_rows
from memfirst.errors import ConfigError, FormatError, MemfirstError, ModelNotFoundError
from memfirst.graph import Graph, KVCache, StateCache
from memfirst.graph.ops.conv import CausalConv1d
from memfirst.graph.traffic import ExpertTraffic, WeightTraffic
from memfirst.lower.cpu import lower
from memfirst.plan import subject

TABLE = json.loads((Path(__file__).parent.parent / "data" / "model_table.json").read_text())["models"]
NAMES = [row["name"] for row in TABLE]


@pytest.fixture(autouse=True)
def no_own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own models must not decide these tests."""
    monkeypatch.setenv("MEMFIRST_CONFIG_DIR", str(tmp_path))


@cache
def graph(name: str) -> Graph:
    return models.build(catalog_checkpoint(name))


def total(found: Graph) -> int:
    return sum(prod(w.shape) for w in found.weights().values())


def streamed(found: Graph) -> int:
    """Parameters that one token reads; looked-up rows of the embedding are none."""
    count = 0
    for op in found.ops:
        for read in op.traffic():
            if isinstance(read, WeightTraffic):
                count += prod(read.weight.shape)
            elif isinstance(read, ExpertTraffic):
                count += prod(read.weight.shape) * read.k // read.weight.shape[0]
    return count


def state_values(found: Graph) -> int:
    """A convolution keeps the inputs before the newest; the table counts a place for that one too."""
    newest = sum(op.width for op in found.ops if isinstance(op, CausalConv1d))
    return newest + sum(c.elements for c in found.caches if isinstance(c, StateCache))


def test_the_table_has_67_models_and_50_published_totals() -> None:
    assert len(set(NAMES)) == 67
    assert sum(row["published"] for row in TABLE) == 50


@pytest.mark.parametrize("name", [m.name for m in configs()])
def test_every_row_builds_with_the_parameters_that_it_states(name: str) -> None:
    row = find_config(name)
    assert row.source and row.known in KNOWN[:-1]
    assert total(graph(name)) == row.parameters


@pytest.mark.parametrize("row", TABLE, ids=NAMES)
def test_parameters_kv_and_state_are_those_of_the_table(row: dict[str, int]) -> None:
    found = graph(str(row["name"]))
    stated = find_config(str(row["name"]))
    assert (stated.parameters, stated.published) == (row["total"], row["published"])
    assert total(found) == row["total"]
    assert streamed(found) == row["streamed"]
    kv = [c for c in found.caches if isinstance(c, KVCache)]
    assert sum(c.position_bytes for c in kv) == 2 * row["kv_values"]
    assert state_values(found) == row["state_values"]


# ---- the traps of a config reader -----------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "head_dim", "implied"),
    [("qwen3:0.6b", 128, 64), ("mistral-nemo:12b", 128, 160), ("gpt-oss:20b", 64, 45), ("qwen3:30b-a3b", 128, 64)],
)
def test_head_dim_is_not_hidden_over_heads(name: str, head_dim: int, implied: int) -> None:
    config = find_config(name).config
    assert config["hidden_size"] // config["num_attention_heads"] == implied
    assert {c.k_dim for c in graph(name).caches if isinstance(c, KVCache)} == {head_dim}


def test_falcon_mambas_expand_is_wrong_by_eight() -> None:
    config = find_config("falcon-mamba:7b").config
    assert config["expand"] * config["hidden_size"] == 8 * config["intermediate_size"]
    assert graph("falcon-mamba:7b").weights()["blk.0.ssm_out.weight"].shape == (4096, 8192)


@pytest.mark.parametrize(
    ("name", "windows"),
    [
        ("qwen2.5:7b", {None}),
        ("mistral:7b-v0.3", {None}),
        ("mistral:7b-v0.1", {4096}),
        ("phi-3:mini-4k", {2047}),
        ("gemma-2:2b", {4096, None}),
        ("gpt-oss:20b", {128, None}),
    ],
)
def test_a_stated_window_may_be_off_and_a_used_one_is_kept(name: str, windows: set[int | None]) -> None:
    assert {c.window for c in graph(name).caches if isinstance(c, KVCache)} == windows


@pytest.mark.parametrize("name", ["phi-3.5:mini", "phi-4:mini"])
def test_a_window_beyond_the_context_hides_nothing(name: str) -> None:
    found = graph(name)
    assert all(c.window is None or c.window >= found.context for c in found.caches if isinstance(c, KVCache))


def test_gemma_3_has_one_global_layer_in_six() -> None:
    windows = [c.window for c in graph("gemma-3:4b").caches if isinstance(c, KVCache)]
    assert windows == [None if (i + 1) % 6 == 0 else 1024 for i in range(34)]


def test_vocabularies_are_padded_and_v2_lite_has_no_query_rank() -> None:
    assert [find_config(f"qwen2.5:{n}").config["vocab_size"] for n in ("3b", "7b")] == [151936, 152064]
    assert find_config("gemma-3:4b").config["vocab_size"] == 262144
    assert find_config("deepseek-v2:lite").config["q_lora_rank"] is None
    assert find_config("llama-2:7b").config["num_key_value_heads"] == 32


# ---- names ----------------------------------------------------------------------------------


def test_no_two_rows_share_a_name() -> None:
    rows = (*configs(), *priced())
    keys = ["".join(c for c in n.lower() if c.isalnum() or c == ".") for m in rows for n in (m.name, *m.aliases)]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("name", [m.name for m in priced()])
def test_models_of_unknown_architectures_are_priced_by_name(name: str) -> None:
    """The weights that the row states, near what their publisher says; a wider interval, and why in a note."""
    found, row = subject(name), find_config(name)
    described = row.parameters is not None
    assert found.parameters == pytest.approx(SAID[name] * 1e9, rel=0.03 if described else 0.12)
    assert row.parameters in (None, found.parameters)
    assert found.spread > 1
    assert any(("does not run here" if described else "not known") in note for note in found.notes)
    assert row.config["model_type"] not in models.ARCHITECTURES


SAID = {
    "deepseek-v3.2:671b": 671, "deepseek-v4-flash:284b": 284,
    "deepseek-v4-pro:1.6t": 1600, "glm-5.2:744b": 744, "glm-5:744b": 744, "kimi-linear:48b-a3b": 49,
    "kimi-k3:2.8t": 2800,
    "ling-3.0-flash:124b-a5.1b": 124, "qwen3.8-flash-next:177b": 125 + 51, "mistral-small-4:119b": 119,
    "minimax-m3:428b-a23b": 428, "laguna-xs:33b-a3b": 33, "laguna-s-2.1:118b-a8b": 118, "laguna-m:230b-a10b": 230,
    "step-3.7-flash:197b-a11b": 197, "muse-glimmer:30b": 28, "gemma-3n:e4b": 6.84, "gemma-3n:e2b": 4.44,
    "trinity-nano:6b-a1b": 6.1, "trinity-mini:26b-a3b": 26, "trinity-large:400b-a13b": 400, "apertus:8b": 8.05,
    "apertus:70b": 70.6, "command-r-plus:104b": 104,
    "north-mini-code:30b-a3b": 30, "mimo-v2-flash:309b-a15b": 309, "longcat-flash:560b-a27b": 560,
    "solar-open:100b": 102, "hy3:295b-a21b": 295, "k-exaone:236b-a23b": 236,
    "ling-mini-2.0:16b-a1.4b": 16.26, "ling-flash-2.0:100b-a6b": 103, "ling:1t-a50b": 1000,
    "ling-lite:16.8b-a2.75b": 16.8, "phi-3.5-moe:42b": 41.9,
    "nemotron-4:15b": 15.6, "nemotron-4:340b": 340, "nemotron-mini:4b": 4.19, "bamba:9b": 9.78, "internlm2:1.8b": 1.89,
    "internlm2:7b": 7.74, "internlm2:20b": 19.86, "internlm3:8b": 8.8, "exaone-3.5:2.4b": 2.4, "exaone-3.5:7.8b": 7.8,
    "exaone-3.5:32b": 32, "baichuan-2:7b": 7.5, "baichuan-2:13b": 13.9, "minicpm:2b": 2.72,
    "minicpm3:4b": 4.07, "minicpm4:8b": 8.19, "youtu-llm:2b": 1.96, "olmo:1b": 1.18, "olmo:7b": 6.9, "falcon:7b": 7,
    "falcon:40b": 41, "falcon:180b": 179, "falcon-2:11b": 11.1, "gpt-neox:20b": 20.6, "pythia:160m": 0.162,
    "pythia:410m": 0.405, "pythia:1b": 1.01, "pythia:1.4b": 1.41, "pythia:2.8b": 2.78, "pythia:6.9b": 6.86,
    "pythia:12b": 11.8, "nemotron-super:49b": 49.9, "minitron:8b": 8.27,
}  # fmt: skip
"""Billions of weights of the text model as published; of Gemma 3n and Muse Glimmer, whose totals are said with their
towers, those of the publishers' code."""


@pytest.mark.parametrize("name", [name for row in unpriced() for name in row.names])
def test_of_models_whose_sizes_are_not_public_it_says_what_is_missing(name: str) -> None:
    with pytest.raises(ModelNotFoundError, match=r"could not be read anywhere.*config\.json or a GGUF file"):
        find_config(name)


def test_whatever_can_be_pulled_can_be_planned() -> None:
    assert all(find_config(m.name).name == m.name for m in hub_models())


@pytest.mark.parametrize("name", ["llama-3:70b", "Llama3-70B", "llama3:70b-instruct", "LLAMA 3 70B"])
def test_names_are_found_without_case_or_separators(name: str) -> None:
    assert find_config(name).name == "llama-3:70b"


def test_an_unknown_name_lists_near_ones_and_says_where_to_add_it() -> None:
    with pytest.raises(ModelNotFoundError, match=r"'lama-3:70b'.*llama-3:70b.*models\.json"):
        find_config("lama-3:70b")


def test_the_catalogue_needs_no_network_and_no_kernel() -> None:
    code = (
        "import sys, socket\nsocket.socket.connect = None\n"
        "from memfirst import models\nfrom memfirst.catalog.configs import catalog_checkpoint\n"
        "models.build(catalog_checkpoint('llama-3:70b'))\n"
        "print([m for m in ('numba', 'llvmlite', 'huggingface_hub', 'matplotlib') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


# ---- a user's own rows ----------------------------------------------------------------------


def own(text: str) -> None:
    user_file().write_text(text)


def test_a_users_model_may_be_like_another_or_replace_it() -> None:
    own('{"models": [{"name": "Mine:deep", "aliases": ["deep"], "like": "llama-3:8b",'
        ' "config": {"num_hidden_layers": 48}}, {"name": "llama-3:70b", "like": "mine:deep"}]}')  # fmt: skip
    assert find_config("deep").config["num_hidden_layers"] == 48
    assert find_config("llama-3:70b").config["hidden_size"] == 4096
    layer = 8_030_261_248 - 2 * 128_256 * 4096 - 4096
    assert total(graph("mine:deep")) == layer // 32 * 48 + 2 * 128_256 * 4096 + 4096


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("[]", FormatError, "models.json holds a list"),
        ('{"models": 3}', FormatError, "no list of models"),
        ('{"models": [3]}', FormatError, "without a name"),
        ('{"models": [{"name": "-"}]}', FormatError, "without a name"),
        ('{"models": [{"name": "a", "layers": 3}]}', FormatError, "a says layers"),
        ('{"models": [{"name": "a", "config": []}]}', FormatError, "config is"),
        ('{"models": [{"name": "a", "parameters": true}]}', FormatError, "parameters is"),
        ('{"models": [{"name": "a", "aliases": [1]}]}', FormatError, "list of names"),
        ('{"models": [{"name": "a", "known": "yes"}]}', FormatError, "known is 'yes'"),
        ('{"models": [{"name": "a"}, {"name": "A"}]}', FormatError, "twice"),
        ('{"models": [{"name": "a"}]}', ConfigError, "no model_type"),
        ('{"models": [{"name": "a", "like": "b"}]}', ConfigError, "like 'b'"),
        ('{"models": [{"name": "a", "like": "b"}, {"name": "b", "like": "a"}]}', ConfigError, "is like"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(text: str, error: type[Exception], says: str) -> None:
    own(text)
    with pytest.raises(error, match=says):
        configs()


def test_a_file_that_cannot_be_read_or_is_huge_is_refused() -> None:
    user_file().mkdir()
    with pytest.raises(MemfirstError, match="cannot read"):
        configs()
    user_file().rmdir()
    own(" " * ((1 << 20) + 1))
    with pytest.raises(FormatError, match="larger than"):
        configs()


def test_what_runs_each_row_is_what_lowering_says() -> None:
    """`list --catalogue` has it as data; one row of each kind stands for all, as they have the same operations."""
    kinds = {str(row.config["model_type"]): row.name for row in reversed(configs())}
    said = {row["name"]: row["runs"] for row in catalogue_rows()}
    for name in kinds.values():
        graph = models.build(catalog_checkpoint(name))
        try:
            lower(graph, 1, 64, 1)
        except MemfirstError:
            assert said[name] == "reference", name
        else:
            assert said[name] == "cpu", name
