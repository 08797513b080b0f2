"""Configs read strictly, weights checked against the tensor table, and the real model's sizes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import log, pi
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memfirst import models
from memfirst.errors import ConfigError, MemfirstError, UnsupportedError
from memfirst.formats.open import open_checkpoint
from memfirst.graph import Graph, decode
from memfirst.graph.ops.attention import Attention
from memfirst.graph.ops.linear import Linear
from memfirst.graph.ops.rope import Rope
from memfirst.ledger import price, table
from memfirst.models import CheckpointWeights, ShapeOnly, llama, qwen2, qwen3
from memfirst.models.rope import RopeScaling, frequencies
from tests.support import tiny_hf
from tests.support.make_parity_fixture import CASES, FOLDER
from tests.support.toy import ArrayCheckpoint

GGUF: dict[str, Any] = {
    "general.architecture": "llama", "general.name": "x", "tokenizer.ggml.model": "gpt2",
    "llama.embedding_length": 64, "llama.block_count": 2, "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2, "llama.feed_forward_length": 96, "llama.vocab_size": 128,
    "llama.context_length": 256, "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.dimension_count": 16, "llama.rope.freq_base": 5e5,
}  # fmt: skip
LLAMA = llama.ARCHITECTURE
F32 = ShapeOnly("f32")
HF: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 96, "vocab_size": 128, "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5, "rope_theta": 5e5, "hidden_act": "silu", "torch_dtype": "bfloat16",
}  # fmt: skip


def tensors_of(graph: Graph) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    return {name: np.ones(w.shape, np.float32) for name, w in graph.weights().items()}


def gguf(change: Mapping[str, Any] | None = None, **tensors: Any) -> ArrayCheckpoint:
    """A file that fits GGUF's config, with metadata changed (None removes) and tensors changed likewise."""
    config = LLAMA.from_gguf(GGUF, ("output.weight",), False)
    arrays: dict[str, Any] = tensors_of(llama.build(config, ShapeOnly("f32")))
    arrays |= {k.replace("__", "."): v for k, v in tensors.items()}
    metadata = {k: v for k, v in {**GGUF, **(change or {})}.items() if v is not None}
    return ArrayCheckpoint({k: v for k, v in arrays.items() if v is not None}, metadata)


def rope_of(graph: Graph) -> Rope:
    return next(op for op in graph.ops if isinstance(op, Rope))


def test_gguf_and_config_json_agree() -> None:
    """The same hyperparameters in both forms."""
    from_file = LLAMA.from_gguf(GGUF, ("output.weight",), False)
    assert from_file == LLAMA.from_hf(HF, False)
    assert (from_file.heads[0].head_dim, from_file.tie_word_embeddings) == (16, False)
    assert LLAMA.from_gguf(GGUF, (), False) == LLAMA.from_hf({**HF, "tie_word_embeddings": True}, False)


def test_a_file_that_fits_gives_its_graph() -> None:
    """Every tensor is used, and by the operation of its name."""
    checkpoint = gguf()
    graph = models.build(checkpoint)
    assert set(graph.weights()) == set(checkpoint.tensors)
    for op in graph.ops:
        assert all(w.name.startswith(op.name) for w in op.weights)
    assert [op.name for op in graph.ops][-3:] == ["select", "output_norm", "output"]


@pytest.mark.parametrize(
    "change",
    [
        {"llama.attention.head_count_kv": [2, 2]},
        {"llama.attention.head_count": [4, 4], "llama.feed_forward_length": [96, 96]},
        {"llama.pooling_type": 3},
    ],
)
def test_what_says_the_same_in_another_way_is_the_same_model(change: dict[str, Any]) -> None:
    """Lists by layer with equal values; how an embedding model's last states are pooled, which moves no byte."""
    assert models.build(gguf(change)) == models.build(gguf())


@pytest.mark.parametrize("length", [10**9, 2**32 - 1])
def test_a_context_length_that_means_no_limit(length: int) -> None:
    assert models.build(gguf({"llama.context_length": length})).context == 1 << 28


def test_errors_name_tensors_as_their_files_do(tmp_path: Path) -> None:
    arrays = tiny_hf.llama()
    more = {key: HF[key] for key in ("max_position_embeddings", "rms_norm_eps", "rope_theta", "hidden_act")}
    models.build(open_checkpoint(tiny_hf.save_folder(tmp_path, arrays, **more)))
    for name, change, says in (
        ("lm_head.weight", None, "the model has no tensor lm_head.weight"),
        ("model.layers.1.self_attn.q_proj.weight", None, "no tensor model.layers.1.self_attn.q_proj.weight"),
        ("model.norm.weight", np.ones(8, "f4"), r"tensor model.norm.weight has shape \(8,\)"),
        ("model.layers.2.mlp.up_proj.weight", np.ones((28, 20), "f4"), r"model: model\.layers\.2\.mlp"),
    ):
        changed = {k: v for k, v in {**arrays, name: change}.items() if v is not None}
        checkpoint = open_checkpoint(tiny_hf.save_folder(tmp_path, changed, **more))
        with pytest.raises(ConfigError, match=says):
            models.build(checkpoint)
        checkpoint.close()


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"llama.embedding_length": None}, ConfigError, "llama.embedding_length is missing"),
        ({"llama.block_count": 0}, ConfigError, "block_count is '0'"),
        ({"llama.block_count": 1 << 40}, ConfigError, "block_count"),
        ({"llama.block_count": "2"}, ConfigError, "block_count"),
        ({"llama.block_count": True}, ConfigError, "block_count"),
        ({"llama.block_count": 3}, ConfigError, "no tensor blk.2"),
        ({"llama.block_count": 1}, ConfigError, "tensors not part of this model: blk.1"),
        ({"llama.attention.head_count": 3}, ConfigError, "key_length is missing"),
        ({"llama.attention.head_count": [4, 4, 4]}, ConfigError, "head_count is .* 2 integers"),
        ({"llama.attention.head_count_kv": [2, 3]}, ConfigError, "4 attention heads over 3"),
        ({"llama.attention.head_count_kv": [2, "2"]}, ConfigError, "head_count_kv"),
        ({"llama.attention.head_count_kv": [2, 0]}, ConfigError, "head_count_kv"),
        ({"llama.attention.head_count_kv": 3}, ConfigError, "4 attention heads over 3"),
        ({"llama.attention.layer_norm_rms_epsilon": float("nan")}, ConfigError, "epsilon"),
        ({"llama.rope.freq_base": float("inf")}, ConfigError, "freq_base"),
        ({"llama.rope.freq_base": -1.0}, ConfigError, "freq_base"),
        ({"llama.rope.dimension_count": 15}, ConfigError, "15 of 16"),
        ({"llama.rope.dimension_count": 18}, ConfigError, "18 of 16"),
        ({"llama.rope.scaling.type": "dynamic"}, UnsupportedError, "dynamic"),
        ({"llama.rope.scaling.type": "longrope"}, ConfigError, "0 rope divisors; expected 8"),
        ({"llama.attention.value_length": 8}, UnsupportedError, "value_length"),
        ({"llama.expert_count": 8}, ConfigError, "expert_used_count is missing"),
        ({"llama.attention.sliding_window": -1}, ConfigError, "llama.attention.sliding_window"),
        ({"llama.vocab_size": 127}, ConfigError, r"token_embd.weight has shape \(128, 64\)"),
        ({"tokenizer.ggml.tokens": ["a"] * 127}, ConfigError, "127, the number of tokens"),
        ({"general.architecture": "mamba9"}, UnsupportedError, "one of llama, llama4, qwen2, "),
    ],
)  # fmt: skip
def test_bad_metadata_is_named(change: dict[str, Any], error: type[MemfirstError], says: str) -> None:
    """Missing, out of bounds, contradictory or unknown: the key and what was expected."""
    with pytest.raises(error, match=says):
        models.build(gguf(change))


NASTY = (
    None, 0, -1, 1, 7, 1 << 31, 1 << 63, 10**400, 1.5, 1e-320, 1e308, float("nan"), float("-inf"),
    True, "", "x", [], [1], {}, {"rope_type": "yarn", "factor": 1e-300},
    {"rope_type": "llama3", "factor": 10**400}, {"rope_type": "yarn", "factor": 2.0, "beta_slow": 1e-320},
)  # fmt: skip
GGUF_KEYS = (
    *list(GGUF)[1:], "tokenizer.ggml.tokens", "llama.rope.scaling.type", "llama.rope.scaling.factor",
    "llama.rope.scaling.original_context_length", "llama.rope.scale_linear", "llama.attention.key_length",
)  # fmt: skip
HF_KEYS = (*HF, "head_dim", "rope_scaling", "rope_parameters", "partial_rotary_factor", "dtype")


@pytest.mark.parametrize("key", GGUF_KEYS)
def test_any_gguf_value_builds_or_is_refused(key: str) -> None:
    """Values of every type and size under every key: a graph with finite angles, or a clear error."""
    for value in NASTY:
        for scaling in ("linear", "yarn"):
            try:
                found = rope_of(models.build(gguf({"llama.rope.scaling.type": scaling, key: value})))
            except MemfirstError:
                continue
            assert np.isfinite(found.frequencies).all() and np.isfinite(found.factor)


@pytest.mark.parametrize("key", HF_KEYS)
def test_any_config_json_value_builds_or_is_refused(key: str, tmp_path: Path) -> None:
    """The same for config.json, through its reader."""
    for value in NASTY:
        path = tmp_path / "config.json"
        path.write_text(json.dumps({**HF, key: value}))
        try:
            found = rope_of(models.build(open_checkpoint(path)))
        except MemfirstError:
            continue
        assert np.isfinite(found.frequencies).all() and np.isfinite(found.factor)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("blk__0__attn_q__weight", None, "no tensor blk.0.attn_q.weight"),
        ("blk__0__attn_q__weight", np.ones((64, 32), np.float32), "has shape"),
        ("blk__0__attn_q__bias", np.ones(64, np.float32), "no tensor blk.0.attn_k.bias"),
        ("blk__1__attn_q__bias", np.ones(64, np.float32), "not part of this model: blk.1.attn_q.bias"),
        ("rope_freqs__weight", np.ones(7, np.float32), "has shape"),
        ("rope_freqs__weight", np.array([1, 1, 0, 1, 1, 1, 1, 1], np.float32), "positive"),
        ("rope_freqs__weight", np.array([1, 1, np.nan, 1, 1, 1, 1, 1], np.float32), "positive"),
    ],
)
def test_bad_tensors_are_named(name: str, value: Any, says: str) -> None:
    """Missing, of another shape, or left over."""
    with pytest.raises(ConfigError, match=says):
        models.build(gguf(**{name: value}))


def test_unknown_keys_can_be_allowed() -> None:
    """Only when asked."""
    assert models.build(gguf({"llama.something.new": 1}), allow_unknown=True)
    with pytest.raises(ConfigError, match=r"llama\.something\.new.*--allow-unknown"):
        models.build(gguf({"llama.something.new": 1}))
    assert LLAMA.from_hf({**HF, "novelty": 1}, True) == LLAMA.from_hf(HF, False)
    with pytest.raises(ConfigError, match="novelty"):
        LLAMA.from_hf({**HF, "novelty": 1}, False)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"rope_interleaved": True}, "rope_interleaved"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"layer_types": ["sliding_attention", "full_attention"]}, "layer_types"),
        ({"layer_types": ["full_attention", 7]}, "layer_types"),
        ({"rope_scaling": {"type": "dynamic", "factor": 0.5}}, "factor"),
        ({"rope_scaling": {"type": "xpos", "factor": 2.0}}, "xpos"),
        ({"rope_scaling": {"type": "linear"}}, "factor is missing"),
        ({"rope_scaling": {"type": "linear", "factor": 0}}, "factor"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0, "extra": 1}}, "extra"),
        ({"rope_scaling": 2.0}, "an object"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps"),
        ({"attention_bias": 1}, "attention_bias"),
    ],
)
def test_config_json_variants_are_refused(change: dict[str, Any], says: str) -> None:
    """What would change the arithmetic is never ignored."""
    with pytest.raises(MemfirstError, match=says):
        LLAMA.from_hf({**HF, **change}, False)


def test_relatives_differ_as_stated() -> None:
    """Biases on q, k and v only; norms on q and k; halves that turn together."""
    two = llama.build(qwen2.ARCHITECTURE.from_hf(HF, False), ShapeOnly("f16"))
    three = llama.build(qwen3.ARCHITECTURE.from_hf({**HF, "head_dim": 32}, False), ShapeOnly("f16"))
    biased = [op.name for op in two.ops if isinstance(op, Linear) and op.bias]
    assert biased == [f"blk.{i}.attn_{p}" for i in (0, 1) for p in "qkv"]
    assert three.weights()["blk.0.attn_q_norm.weight"].shape == (32,)
    assert three.weights()["blk.0.attn_q.weight"].shape == (128, 64)
    assert [rope_of(g).style for g in (two, three)] == ["half", "half"]
    assert not any("bias" in name for name in three.weights())
    attention = next(op for op in three.ops if isinstance(op, Attention))
    assert attention.scale == pytest.approx(32**-0.5)


def test_a_tied_head_is_the_embedding() -> None:
    """Stored once; the head reads the embedding's bytes."""
    graph = models.build(gguf(output__weight=None))
    head = graph.ops[-1].weights[0]
    assert (head.name, head.alias) == ("output.weight", "token_embd.weight")
    assert "output.weight" not in graph.weights()


def test_llama3_scaling_by_hand() -> None:
    """Fast pairs stay, slow ones are divided, and between them the blend; GGUF's divisors give the same."""
    scaling = RopeScaling("llama3", 8.0, original=32, low=1.0, high=4.0)
    found = frequencies(500.0, 8, scaling)
    plain = [500.0 ** (-i / 4) for i in range(4)]
    turns = [32 * f / (2 * pi) for f in plain]
    assert turns[0] > 4 > turns[1] > 1 > turns[2]
    blend = (turns[1] - 1) / 3
    middle = plain[1] * (blend + (1 - blend) / 8)
    assert found == pytest.approx([plain[0], middle, plain[2] / 8, plain[3] / 8])
    divisors = np.array([1, 1, 1, 2, 2, 4, 8, 8], np.float32)
    turned = rope_of(models.build(gguf(rope_freqs__weight=divisors))).frequencies
    assert turned == pytest.approx([5e5 ** (-i / 8) / d for i, d in enumerate(divisors)])


def test_scaling_from_gguf() -> None:
    """Linear divides all; YaRN keeps the fastest, divides the slowest and raises the attention factor."""
    linear = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    plain, found = rope_of(models.build(gguf())), rope_of(models.build(gguf(linear)))
    assert found.frequencies == pytest.approx([f / 4 for f in plain.frequencies])
    yarn = {**linear, "llama.rope.scaling.type": "yarn", "llama.rope.scaling.original_context_length": 64}
    found = rope_of(models.build(gguf(yarn)))
    assert found.factor == pytest.approx(1 + 0.1 * log(4))
    assert found.frequencies[0] == plain.frequencies[0]
    assert found.frequencies[-1] == pytest.approx(plain.frequencies[-1] / 4)
    assert rope_of(models.build(gguf({"llama.rope.scaling.type": "none"}))) == plain


def test_dynamic_scaling_by_hand() -> None:
    """Plain within the trained context; beyond it by a theta that is raised for twice its length."""
    found = rope_of(LLAMA.build(LLAMA.from_hf({**HF, "rope_scaling": {"type": "dynamic", "factor": 2.0}}, False), F32))
    plain = rope_of(LLAMA.build(LLAMA.from_hf(HF, False), F32))
    theta = 5e5 * (2 * 512 / 256 - 1) ** (16 / 14)
    assert (found.frequencies, found.original) == (plain.frequencies, 256)
    assert found.long_frequencies == pytest.approx([theta ** (-i / 8) for i in range(8)])


@pytest.mark.parametrize("name", [n for n in CASES if n.startswith(("llama", "qwen")) and "window" not in n])
def test_both_forms_of_a_model_give_the_same_graph(name: str) -> None:
    """The tensors of a folder under GGUF metadata: same operations, same weights."""
    folder = open_checkpoint(FOLDER / name)
    config = models.find(folder.architecture).from_hf(folder.metadata, False)
    heads, p = config.heads[0], f"{folder.architecture}."
    scaling = heads.rotation.scaling
    metadata = {
        "general.architecture": folder.architecture, p + "embedding_length": config.hidden_size,
        p + "block_count": config.layers, p + "context_length": config.max_position_embeddings,
        p + "attention.head_count": heads.heads, p + "vocab_size": config.vocab_size,
        p + "attention.head_count_kv": heads.kv_heads, p + "rope.freq_base": heads.rotation.theta,
        p + "attention.key_length": heads.head_dim, p + "attention.value_length": heads.head_dim,
        p + "feed_forward_length": config.intermediate_size[0],
        p + "attention.layer_norm_rms_epsilon": config.eps,
    }  # fmt: skip
    if scaling and scaling.kind != "llama3":
        metadata |= {p + "rope.scaling.type": scaling.kind, p + "rope.scaling.factor": scaling.factor}
        metadata |= {p + "rope.scaling.original_context_length": scaling.original} if scaling.original else {}
    found = models.find(folder.architecture).from_gguf(metadata, folder.tensors, False)
    if scaling and scaling.kind == "llama3":  # in GGUF a tensor, which a folder does not have
        found = found.attention(rotation=heads.rotation)
    assert llama.build(found, CheckpointWeights(folder)) == models.build(folder)


def test_a_bare_config_is_priced(tmp_path: Path) -> None:
    """Without weights, in the type that it names: bf16."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(HF))
    graph = models.build(open_checkpoint(path))
    matrices = 2 * (64 * (64 + 32 + 32 + 64) + 3 * 64 * 96)
    assert table(price(graph, decode(0)))["weights"] == 2 * matrices + 2 * 2 * 64 * 4
    path.write_text(json.dumps({**HF, "torch_dtype": "int3"}))
    with pytest.raises(ConfigError, match="int3"):
        models.build(open_checkpoint(path))


def test_smollm2_counts(smollm2: Path) -> None:
    """The real file: 134,515,008 parameters; every tensor's bytes once a token, and a row; KV."""
    checkpoint = open_checkpoint(smollm2)
    graph = models.build(checkpoint)
    assert sum(int(np.prod(w.shape)) for w in graph.weights().values()) == 134_515_008
    assert sum(w.nbytes for w in graph.weights().values()) == 96_576_768
    for name, info in checkpoint.tensors.items():
        assert graph.weights()[name].nbytes == info.nbytes
    bytes_of = table(price(graph, decode(0)))
    assert bytes_of["embedding"] == 576 // 32 * 34
    assert bytes_of["head"] == 49_152 * 612 + 576 * 4
    assert bytes_of["weights"] + bytes_of["head"] == sum(info.nbytes for info in checkpoint.tensors.values())
    assert bytes_of["kv_read"] == bytes_of["kv_write"] == 23_040 == 30 * 3 * (64 + 64) * 2
    assert table(price(graph, decode(4095)))["kv_read"] == 4096 * 23_040
