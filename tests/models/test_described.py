"""Architectures that are priced and not run: tensors and caches as transformers makes them, and prices by hand."""

from __future__ import annotations

import json
from collections import Counter
from math import prod
from pathlib import Path
from typing import Any

import pytest

from memfirst import models
from memfirst.catalog.configs import catalog_checkpoint, find_config
from memfirst.errors import ConfigError, ModelNotFoundError
from memfirst.formats.hf import HFCheckpoint
from memfirst.graph import Graph, KVCache, Sequence, StateCache, Step, decode, prefill
from memfirst.hub.names import parse
from memfirst.ledger import price
from memfirst.models.unknown import FROM_TENSORS, unknown
from memfirst.plan import Options, make, place, subject
from memfirst.plan.fit.allocators import Exllama, LlamaCpp, Mlx, Vllm
from memfirst.plan.priced import Priced
from memfirst.transform.recode import with_kv

TABLE = json.loads((Path(__file__).parent.parent / "data" / "described.json").read_text())
ROWS = TABLE["models"]
RUNNING: dict[str, dict[str, Any]] = {
    "dots1": {"norm_topk_prob": True, "routed_scaling_factor": 2.5, "rope_theta": 1e7},
}
"""Architectures that run by now, and what of their arithmetic these configs leave to classes: what is priced must be
what it was."""
KINDS = [row["model_type"] for row in ROWS]


def graph_of(config: dict[str, Any]) -> Graph:
    """As it is priced; of an architecture that runs by now, its own graph."""
    checkpoint = HFCheckpoint("", config, [])
    if checkpoint.architecture in models.ARCHITECTURES:
        return models.build(checkpoint)
    return unknown(checkpoint).graph


def made(row: dict[str, Any]) -> Graph:
    config = {"model_type": row["model_type"], "torch_dtype": "bfloat16", **row["config"]}
    if row["model_type"] in RUNNING:
        return models.build(HFCheckpoint("", config | RUNNING[row["model_type"]], []))
    return graph_of(config)


def layer_of(name: str) -> int:
    return int(name.split(".")[1]) if name.startswith("blk.") else -1


def parameters(graph: Graph) -> Counter[int]:
    found: Counter[int] = Counter()
    for weight in graph.weights().values():
        if not weight.alias:
            found[layer_of(weight.name)] += prod(weight.shape)
    return found


@pytest.mark.parametrize("row", ROWS, ids=KINDS)
def test_parameters_by_layer_are_those_of_the_publishers_code(row: dict[str, Any]) -> None:
    found, size = parameters(made(row)), row["config"]["vocab_size"] * row["config"]["hidden_size"]
    ngrams = 0
    if row["model_type"] == "qwen4_exp_text":  # its tables stand outside, and have the next primes' rows
        ngrams = sum(prime * 12 for prime in (131, 137, 139, 149))
        found[1] += ngrams
        found[-1] -= 4 * 128 * 12
    assert [found[i] for i in range(len(row["layers"]))] == row["layers"]
    assert found[-1] == row["outside"] + (0 if row["head"] else size)


@pytest.mark.parametrize("row", ROWS, ids=KINDS)
def test_what_a_prompt_leaves_behind_is_what_the_publishers_code_keeps(row: dict[str, Any]) -> None:
    """A window keeps one position less there: the next token's takes its place."""
    kept: dict[int, list[list[int]]] = {i: [] for i in range(len(row["layers"]))}
    state: Counter[int] = Counter()
    for cache in made(row).caches:
        if isinstance(cache, StateCache):
            state[layer_of(cache.name)] += cache.elements
        elif count := cache.held_bytes(TABLE["tokens"]) // cache.position_bytes:
            parts = [cache.heads * dim for dim in (cache.k_dim, cache.v_dim) if dim]
            kept[layer_of(cache.name)] += [[count - (cache.window is not None), part] for part in parts]
    expected = [_latents_joined(layer) if row["model_type"] in LATENTS else layer for layer in row["kv"]]
    if row["model_type"] == "falcon":  # which keeps a key there for each of the three query heads that attend it
        expected = [[[count, part // 3] for count, part in layer] for layer in expected]
    assert [sorted(layer) for layer in kept.values()] == expected
    assert [state[i] for i in kept] == row["state"]


LATENTS = (
    *("deepseek_v32", "glm_moe_dsa", "mistral4", "kimi_linear", "bailing_hybrid"),
    *("longcat_flash", "minicpm3", "youtu"),
)


def _latents_joined(layer: list[list[int]]) -> list[list[int]]:
    """There a latent of 40 numbers and its 8 rotated ones are kept apart."""
    other = [part for part in layer if part[1] not in (8, 40)]
    joined = [[count, 48] for count, part in layer if part == 40]
    return sorted([*other, *joined])


# what is read, by hand


def reads(name: str, past: int, new: int = 1) -> float:
    """Bytes of keys and values that a step reads, f16."""
    graph = unknown(catalog_checkpoint(name)).graph
    return price(graph, Step((Sequence(past, new),))).by_purpose()["kv_read"].mean


def test_an_indexer_reads_all_of_its_keys_and_attention_what_it_picks() -> None:
    for length in (1000, 100_000):
        assert reads("deepseek-v3.2", length - 1) == 2 * 61 * (length * 128 + min(length, 2048) * 576)
    own = sum(max(i - 1, 0) % 4 == 0 for i in range(78))  # GLM 5.2: three of four layers use the last one's pick
    assert own == 21
    assert reads("glm-5.2", 99_999) == 2 * (own * 100_000 * 128 + 78 * 2048 * 576)


def test_entries_of_several_positions() -> None:
    """V4 Flash at 100,000: a window of 128 in each of 43 layers, 512 entries of 25,000 in 21, all 781 in 20."""
    window, picked, index, heavy = 43 * 128 * 512, 21 * 512 * 512, 21 * 25_000 * 128, 20 * 781 * 512
    assert reads("deepseek-v4-flash", 99_999) == 2 * (window + picked + index + heavy)


def test_blocks_of_positions() -> None:
    """M3: 57 layers attend 16 blocks of 128 and score all; three attend all. 3.8 Flash-Next: a budget and a tail."""
    assert reads("minimax-m3", 99_999) == 2 * (3 * 100_000 * 1024 + 57 * (2048 * 1024 + 100_000 * 128))
    assert reads("qwen3.8-flash-next", 99_999) == 2 * 12 * ((2048 + 3) * 1024 + 100_000 * 128)


def test_layers_that_read_what_earlier_ones_keep() -> None:
    """Gemma 3n E2B, 30 layers: 6 attend all, of 24 with a window of 512; 20 keep keys and values of their own."""
    graph = unknown(catalog_checkpoint("gemma3n:e2b")).graph
    assert reads("gemma3n:e2b", 8191) == 2 * 1024 * (6 * 8192 + 24 * 512)
    assert sum(c.held_bytes(8192) for c in graph.caches) == 2 * 1024 * (4 * 8192 + 16 * 512)


def test_per_layer_embeddings_and_ngrams_are_read_by_row() -> None:
    amounts = price(unknown(catalog_checkpoint("gemma3n:e4b")).graph, decode(9)).by_purpose()
    assert amounts["embedding"].mean == 2 * (2048 + 35 * 256)
    table = sum(prod(w.shape) for n, w in unknown(catalog_checkpoint("qwen3.8-flash-next")).graph.weights().items()
                if "per_layer_token_embd" in n)  # fmt: skip
    assert table == 20_000_000 * 2560
    amounts = price(unknown(catalog_checkpoint("qwen3.8-flash-next")).graph, decode(9)).by_purpose()
    assert amounts["embedding"].mean == 2 * 2 * 2560


def test_a_prompt_reads_entries_once_and_scores_each_pair() -> None:
    cache = KVCache("", 1, 8, 0, picked=16, every=4)
    assert [cache.attended(Sequence(past, new)) for past, new in ((2, 1), (3, 1), (99, 1), (60, 4), (0, 200))] == [
        0, 1, 16, 16, 50]  # fmt: skip
    assert [cache.write_bytes(Sequence(past, 1)) for past in (2, 3)] == [0, 16]
    assert cache.held_bytes(103) == 25 * 16 and cache.most_blocks(1024, 1) == 4
    graph = unknown(catalog_checkpoint("deepseek-v3.2")).graph
    pairs, top = 3000 * 3001 // 2, sum(min(end, 2048) for end in range(1, 3001))
    scored, attended = 64 * 128 * pairs, 128 * 2 * 576 * top
    ops = [op for op in graph.ops if op.name.startswith("blk.5.")]
    assert sum(op.attention_flops(prefill(3000)) for op in ops) == 2 * (scored + attended)  # type: ignore[attr-defined]


@pytest.mark.parametrize("allocator", [LlamaCpp(), Vllm(), Mlx(), Exllama()])
def test_engines_allocate_entries(allocator: Any) -> None:
    """Of V4 Flash at 65,536: windows aside, 21 layers of 16,384 entries and index keys, 20 of 512."""
    graph = unknown(catalog_checkpoint("deepseek-v4-flash")).graph
    entries = 2 * (21 * 16_384 * (512 + 128) + 20 * 512 * 512)
    windows = allocator.kv(graph, [65_536]) - entries
    assert 0 < windows <= 2 * 43 * 65_536 * 512


def test_caches_in_other_codecs() -> None:
    graph = unknown(catalog_checkpoint("gemma3n:e2b")).graph
    fewer = Priced(with_kv(graph, "q8_0", "q8_0")).amounts(decode(8191))["kv_read"].mean
    assert fewer == Priced(graph).amounts(decode(8191))["kv_read"].mean * 34 / 64


def test_a_token_of_context_adds_its_part_of_an_entry() -> None:
    """V4 Flash: beyond what is picked, index keys of a quarter entry in 21 layers, and 1/128 in 20."""
    found = make(subject("deepseek-v4-flash"), place("h200"), Options(context=100_000))
    assert found.growth == 2 * (21 * 128 * 32 + 20 * 512) // 128


# beside models that run


def test_a_described_latent_model_is_priced_as_the_same_one_that_runs() -> None:
    """DeepSeek-V3's config.json under the name of a described architecture that is the same without an indexer."""
    config = dict(find_config("deepseek-v3").config)
    del config["num_nextn_predict_layers"], config["quantization_config"]
    expected = Priced(models.build(HFCheckpoint("", config, []))).amounts(decode(999))
    found = Priced(graph_of(config | {"model_type": "mistral4"})).amounts(decode(999))
    assert found["kv_read"] == expected["kv_read"] and found["experts"] == expected["experts"]
    correction = 58 * 256 * 4  # of routers
    assert sum(a.mean for a in found.values()) == sum(a.mean for a in expected.values()) - correction


def test_recurrent_layers_are_counted_for_their_time() -> None:
    cost = Priced(unknown(catalog_checkpoint("kimi-linear")).graph).cost(decode(9))
    assert (cost.recurrent, cost.layers) == (20, 27)


# what is said, and refused


def test_a_described_model_says_that_it_does_not_run() -> None:
    found = subject("deepseek-v4-pro")
    assert found.spread == FROM_TENSORS
    assert any("does not run here" in note for note in found.notes)
    assert any("an engine that masks" in note for note in found.notes)
    assert not any("masks" in note for note in subject("muse-glimmer").notes)


@pytest.mark.parametrize(
    ("kind", "change", "says"),
    [
        ("deepseek_v4", {"compress_ratios": [0, 4]}, "a list for 4 layers"),
        ("deepseek_v4", {"compress_ratios": [0, 4, 8, 4]}, "0, 4 and 128"),
        ("deepseek_v4", {"compress_ratios": None}, "compress_ratios is missing"),
        ("deepseek_v4", {"o_groups": 1 << 30}, "o_groups"),
        ("kimi_linear", {"linear_attn_config": None}, "linear_attn_config"),
        ("kimi_linear", {"linear_attn_config": {"full_attn_layers": "all"}}, "a list of layers"),
        ("glm_moe_dsa", {"index_topk_pattern": "FS"}, "a letter for each of 6"),
        ("glm_moe_dsa", {"index_topk": None}, "index_topk is missing"),
        ("gemma3n_text", {"layer_types": ["full_attention"] * 2 + ["sliding_attention"] * 2}, "share keys and values"),
        ("gemma3n_text", {"intermediate_size": [136]}, "intermediate_size"),
        ("minimax_m3_vl_text", {"index_block_size": None}, "sparse_block_size"),
        ("minimax_m3_vl_text", {"sparse_attention_config": {"sparse_attention_freq": [1]}}, "a list for 3 layers"),
        ("laguna", {"num_attention_heads_per_layer": [6, 8, 0, 6]}, "num_attention_heads_per_layer"),
        ("nemotron-nas", {"block_configs": [{}, {}]}, "n_heads_in_group"),
        ("nemotron-nas", {"block_configs": [{"attention": {"no_op": True}, "ffn": {}}] * 2}, "ffn_mult"),
        ("nemotron-nas", {"block_configs": None}, "block_configs is missing"),
        ("step3p5", {"attention_other_setting": {"num_attention_heads": "many"}}, "attention_other_setting"),
        ("qwen4_exp_text", {"ple_embed_dim": 50}, "tables of n-grams"),
        ("qwen4_exp_text", {"ple_layer_ids": 2}, "ple_layer_ids"),
    ],
    ids=str,
)
def test_sizes_that_make_no_sense(kind: str, change: dict[str, Any], says: str) -> None:
    row = next((row for row in ROWS if row["model_type"] == kind), {"model_type": kind, "config": PLAIN})
    with pytest.raises(ConfigError, match=says):
        made(row | {"config": row["config"] | change})


PLAIN = {"hidden_size": 96, "num_attention_heads": 6, "num_hidden_layers": 2, "vocab_size": 211}


def test_layers_of_nemotron_super_differ() -> None:
    graph = unknown(catalog_checkpoint("nemotron-super")).graph
    kept = [c for c in graph.caches if isinstance(c, KVCache)]
    assert len(kept) == 49 and {c.heads for c in kept} == {8}
    widths = Counter(w.shape[0] for name, w in graph.weights().items() if name.endswith("ffn_up.weight"))
    assert widths == {28672: 49, 7168: 10, 5632: 8, 14336: 6, 2816: 6, 17920: 1}


@pytest.mark.parametrize(
    ("name", "says"),
    [("deepseek-v4-pro", "priced only: nothing here runs"), ("ling-3.0-mini", "could not be read anywhere")],
)
def test_running_one_says_that_it_is_priced_only(name: str, says: str) -> None:
    with pytest.raises(ModelNotFoundError, match=says):
        parse(name)
