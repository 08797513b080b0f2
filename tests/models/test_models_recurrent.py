"""Mamba, Mamba-2, RWKV, Jamba, Granite-4.0-H: sizes from their configs, and what is refused."""

from __future__ import annotations

import json
from contextlib import suppress
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memfirst import models
from memfirst.errors import MemfirstError
from memfirst.formats.open import open_checkpoint
from memfirst.graph import Graph, KVCache, decode
from memfirst.graph.ops.rope import Rope
from memfirst.models import ShapeOnly
from tests.support.recurrent_configs import (
    FALCON_H1_7B,
    FALCON_H1_500M,
    FALCON_MAMBA,
    GRANITE_1B,
    GRANITE_TINY,
    JAMBA,
    LFM2_350M,
    LFM2_MOE,
    MAMBA2_130M,
    MAMBA_130M,
    NATIVE,
    NATIVE_1,
    NEMOTRON_8B,
    NEMOTRON_30B,
    QWEN3_NEXT,
    QWEN35,
    QWEN35_MOE,
    RWKV6,
    RWKV7,
    Config,
    build,
    falcon_h1,
    lfm2,
    mamba,
    mamba2,
    price,
    rwkv6,
    rwkv7,
    states,
)
from tests.support.recurrent_files import SPECS

# Parameters; float32 values that a sequence keeps; channels of all convolutions; f16 bytes of K and V a token.
# The first six and Jamba's are published totals. RWKV-6 1.6B's is the count of its checkpoint's 582 tensors, and the
# closed form that gives it gives the others: 13·d²·L + (10·mix + 2·decay + 16)·d·L + 4·d + 2·d·V, mix and decay 32
# and 64, or 64 and 128 where d = 4096. RWKV-7's leave out the value residual of layer 0, which nothing reads
# ((2·rank + 1)·d in checkpoints that hold it). Falcon-H1's of 0.5B, 1.5B and 7B are
# published totals.
SIZES: dict[str, tuple[Config, int, int, int, int]] = {
    "mamba-130m": (MAMBA_130M, 129_135_360, 700_416, 36_864, 0),
    "mamba-370m": (mamba(1024, 48), 371_516_416, 1_867_776, 98_304, 0),
    "mamba-790m": (mamba(1536, 48), 793_204_224, 2_801_664, 147_456, 0),
    "mamba-1.4b": (mamba(2048, 48), 1_372_178_432, 3_735_552, 196_608, 0),
    "mamba-2.8b": (mamba(2560, 64), 2_768_345_600, 6_225_920, 327_680, 0),
    "falcon-mamba-7b": (FALCON_MAMBA, 7_272_665_088, 9_961_472, 524_288, 0),
    "mamba2-130m": (MAMBA2_130M, 128_989_632, 4_847_616, 43_008, 0),
    "mamba2-370m": (mamba2(1024, 48), 368_346_624, 12_914_688, 110_592, 0),
    "mamba2-780m": (mamba2(1536, 48), 780_161_280, 19_353_600, 159_744, 0),
    "mamba2-1.3b": (mamba2(2048, 48), 1_343_757_312, 25_792_512, 208_896, 0),
    "mamba2-2.7b": (mamba2(2560, 64), 2_702_599_680, 42_975_232, 344_064, 0),
    "rwkv6-1.6b": (RWKV6, 1_599_873_024, 3_244_032, 0, 0),
    "rwkv6-3b": (rwkv6(2560, 32), 3_099_863_040, 5_406_720, 0, 0),
    "rwkv6-7b": (rwkv6(4096, 32), 7_635_746_816, 8_650_752, 0, 0),
    "rwkv6-14b": (rwkv6(4096, 61), 14_069_088_256, 16_490_496, 0, 0),
    "rwkv7-0.1b": (RWKV7, 191_034_624, 608_256, 0, 0),
    "rwkv7-0.4b": (rwkv7(1024, 24, 64, 64, 32, 128), 450_767_872, 1_622_016, 0, 0),
    "rwkv7-1.5b": (rwkv7(2048, 24, 96, 96, 64, 256), 1_527_404_544, 3_244_032, 0, 0),
    "rwkv7-2.9b": (rwkv7(2560, 32, 96, 96, 64, 320), 2_947_735_040, 5_406_720, 0, 0),
    "rwkv7-7.2b": (rwkv7(4096, 32, 128, 128, 96, 480), 7_199_141_888, 8_650_752, 0, 0),
    "rwkv7-13.3b": (rwkv7(4096, 61, 128, 128, 96, 480), 13_237_526_528, 16_490_496, 0, 0),
    "jamba-v0.1": (JAMBA, 51_570_323_328, 4_358_144, 229_376, 16_384),
    "granite-4.0-h-tiny": (GRANITE_TINY, 6_939_037_248, 14_515_200, 119_808, 8_192),
    "granite-4.0-h-1b": (GRANITE_1B, 1_461_538_368, 14_515_200, 119_808, 8_192),
    "lfm2-350m": (LFM2_350M, 354_483_968, 20_480, 10_240, 12_288),
    "lfm2-700m": (lfm2(1536, 10_240), 742_489_344, 30_720, 15_360, 12_288),
    "lfm2-1.2b": (lfm2(2048, 12_288), 1_170_340_608, 40_960, 20_480, 12_288),
    "lfm2-8b-a1b": (LFM2_MOE, 8_339_930_560, 73_728, 36_864, 12_288),
    "nemotron-h-8b": (NEMOTRON_8B, 8_100_852_736, 25_903_104, 245_760, 16_384),
    "nemotron-3-nano-30b": (NEMOTRON_30B, 31_577_940_288, 12_482_560, 141_312, 6_144),
    "falcon-h1-0.5b": (FALCON_H1_500M, 521_411_104, 7_271_424, 64_512, 18_432),
    "falcon-h1-1.5b": (falcon_h1(2048, 24, 8, (48, 64), 4608, 65_537), 1_554_863_488, 19_132_416, 86_016, 24_576),
    "falcon-h1-1.5b-deep": (falcon_h1(1280, 66, 6, (24, 64), 3072, 65_537), 1_554_874_768, 26_357_760, 135_168, 67_584),
    "falcon-h1-3b": (falcon_h1(2560, 32, 10, (32, 128), 6144, 65_537), 3_149_392_384, 33_996_800, 147_456, 32_768),
    "falcon-h1-7b": (FALCON_H1_7B, 7_585_648_736, 44 * (24 * 128 * 256 + 3 * 3584), 44 * 3584, 45_056),
    "falcon-h1-34b": (
        falcon_h1(5120, 72, 20, (32, 128), 21_504, 261_120, num_key_value_heads=4, mamba_n_groups=2),
        33_642_516_224,
        76_603_392,
        368_640,
        147_456,
    ),
    "qwen3-next-80b-a3b": (QWEN3_NEXT, 79_674_391_296, 36 * (32 * 128 * 128 + 3 * 8192), 36 * 8192, 24_576),
    "qwen3.5-27b": (QWEN35, 26_895_998_464, 48 * (48 * 128 * 128 + 3 * 10_240), 48 * 10_240, 65_536),
    "qwen3.5-35b-a3b": (QWEN35_MOE, 34_660_610_688, 30 * (32 * 128 * 128 + 3 * 8192), 30 * 8192, 20_480),
}


@pytest.mark.parametrize("name", SIZES)
def test_parameters_state_and_kv(name: str) -> None:
    """To the last digit. A convolution of 4 taps keeps 3 inputs, LFM2's of 3 taps 2; tables that count 4 have one more
    a channel."""
    config, parameters, state, channels, kv = SIZES[name]
    graph = build(config)
    assert sum(prod(w.shape) for w in graph.weights().values()) == parameters
    found = states(graph)
    assert (sum(c.elements for c in found), {c.codec for c in found}) == (state, {"f32"})
    convolved = sum(c.elements for c in found if "conv" in c.name)
    assert convolved == (2 if "lfm2" in name else 3) * channels
    assert sum(c.position_bytes for c in graph.caches if isinstance(c, KVCache)) == kv


@pytest.mark.parametrize("name", ["rwkv6-1.6b", "rwkv6-3b", "rwkv6-7b", "rwkv6-14b"])
def test_rwkv6_follows_a_closed_form(name: str) -> None:
    """The closed form beside the sum over tensors."""
    config, parameters, *_ = SIZES[name]
    d, layers, vocab = config["hidden_size"], config["num_hidden_layers"], config["vocab_size"]
    mix, decay = (64, 128) if d == 4096 else (32, 64)
    assert parameters == 13 * d * d * layers + (10 * mix + 2 * decay + 16) * d * layers + 4 * d + 2 * d * vocab


def test_layers_of_gated_delta_nets() -> None:
    """Every fourth attends, with a gate beside each query; a sequence of the 27B keeps 156.9 MB of state."""
    graph = build(QWEN35)
    attending = [f"blk.{i}.kv" for i in range(3, 64, 4)]
    assert [c.name for c in graph.caches if isinstance(c, KVCache)] == attending
    weights = graph.weights()
    assert weights["blk.3.attn_q.weight"].shape == (2 * 24 * 256, 5120)
    assert weights["blk.0.attn_qkv.weight"].shape == (6144 + 2 * 16 * 128, 5120)
    ropes = [op for op in graph.ops if isinstance(op, Rope)]
    assert {2 * len(op.frequencies) for op in ropes} == {64} and len(ropes) == 32
    assert price(graph, decode(0))["state_read"] == 48 * 4 * (3 * (6144 + 2 * 16 * 128) + 128 * 6144) == 156_893_184


def test_falcon_mamba_is_not_as_wide_as_it_says() -> None:
    """Its config says "expand": 16; its channels are intermediate_size, 2 · 4096."""
    graph = build(FALCON_MAMBA)
    assert graph.weights()["blk.0.ssm_in.weight"].shape == (2 * 8192, 4096)
    widened = {k: v for k, v in FALCON_MAMBA.items() if k != "intermediate_size"}
    assert build(widened).weights()["blk.0.ssm_in.weight"].shape == (2 * 65536, 4096)


def test_ties_follow_the_class_where_the_config_is_silent() -> None:
    """Mamba's head is the embedding unless it says otherwise; Mamba-2's is not."""
    silent = {k: v for k, v in MAMBA2_130M.items() if k != "tie_word_embeddings"}
    assert "output.weight" not in build(MAMBA_130M).weights()
    assert "output.weight" in build(silent).weights()


def test_layers_of_the_hybrids() -> None:
    """Jamba attends in layers 4, 12, 20 and 28 and routes in every odd one; Granite attends in 5, 15, 25 and 35."""
    jamba, granite = build(JAMBA), build(GRANITE_TINY)
    assert [c.name for c in jamba.caches if isinstance(c, KVCache)] == [f"blk.{i}.kv" for i in (4, 12, 20, 28)]
    assert [c.name for c in granite.caches if isinstance(c, KVCache)] == [f"blk.{i}.kv" for i in (5, 15, 25, 35)]
    routed = {int(n.split(".")[1]) for n in jamba.weights() if "ffn_gate_inp" in n}
    assert routed == set(range(1, 32, 2))
    assert not [op for g in (jamba, granite) for op in g.ops if type(op).__name__ == "Rope"]


def changed(config: Config, change: Config) -> Config:
    """Of a wrapped model its text model."""
    inner = config.get("text_config")
    return {**config, **change} if inner is None else {**config, "text_config": {**inner, **change}}


@pytest.mark.parametrize(
    ("config", "change", "says"),
    [
        (MAMBA_130M, {"use_bias": True}, "use_bias"),
        (MAMBA_130M, {"use_conv_bias": False}, "use_conv_bias"),
        (MAMBA_130M, {"d_inner": 1024}, "d_inner"),
        (MAMBA_130M, {"n_layer": 23}, "n_layer"),
        (MAMBA_130M, {"hidden_act": "gelu"}, "hidden_act"),
        (MAMBA_130M, {"conv_kernel": 1}, "at least 2 taps"),
        (MAMBA_130M, {"hidden_size": -1}, "hidden_size"),
        (MAMBA_130M, {"num_hidden_layers": 10**9}, "num_hidden_layers"),
        (MAMBA_130M, {"new_option": 1}, "new_option"),
        (MAMBA2_130M, {"num_heads": 23}, "23 heads"),
        (MAMBA2_130M, {"n_groups": 5}, "5 groups"),
        (MAMBA2_130M, {"time_step_limit": [0.0, 0.1]}, "time_step_limit"),
        (RWKV6, {"head_size": 60}, "whole heads"),
        (RWKV6, {"attention_hidden_size": 1024}, "attention_hidden_size"),
        (RWKV6, {"head_size_divisor": 1}, "head_size_divisor"),
        (RWKV7, {"attn": {"layers": [1]}}, "attn"),
        (RWKV7, {"norm_bias": False}, "norm_bias"),
        (RWKV7, {"hidden_act": "silu"}, "hidden_act"),
        (RWKV7, {"value_dim": 1536}, "value_dim"),
        (JAMBA, {"sliding_window": 4096}, "sliding_window"),
        (JAMBA, {"attn_layer_offset": 8}, "attn_layer_offset"),
        (JAMBA, {"num_experts_per_tok": 17}, "17 experts"),
        (JAMBA, {"num_key_value_heads": 5}, "5 KV heads"),
        (GRANITE_TINY, {"layer_types": None}, "layer_types"),
        (GRANITE_TINY, {"layer_types": ["mamba"] * 39}, "layer_types"),
        (GRANITE_TINY, {"layer_types": ["attention"] * 40}, "40 of 40 layers attend"),
        (GRANITE_TINY, {"position_embedding_type": "rope"}, "position_embedding_type"),
        (GRANITE_TINY, {"mamba_d_head": 32}, "48 heads of 32"),
        (GRANITE_1B, {"shared_intermediate_size": 0}, "neither experts"),
        (FALCON_H1_500M, {"mamba_rms_norm": True, "mamba_norm_before_gate": True}, "mamba_norm_before_gate"),
        (FALCON_H1_500M, {"mamba_d_ssm": 1500}, "1500 channels of 24 heads"),
        (FALCON_H1_500M, {"mamba_d_head": 32}, "mamba_d_head"),
        (FALCON_H1_500M, {"mlp_multipliers": [1.0]}, "mlp_multipliers"),
        (FALCON_H1_500M, {"ssm_multipliers": [1.0, 1.0, "a", 1.0, 1.0]}, "a number"),
        (FALCON_H1_500M, {"key_multiplier": float("nan")}, "key_multiplier"),
        (FALCON_H1_500M, {"attn_layer_indices": [0]}, "attn_layer_indices"),
        (FALCON_H1_500M, {"projectors_bias": True}, "projectors_bias"),
        (FALCON_H1_500M, {"mamba_conv_bias": False}, "mamba_conv_bias"),
        (FALCON_H1_500M, {"num_key_value_heads": 3}, "KV heads"),
        (QWEN3_NEXT, {"linear_num_value_heads": 24}, "24 value heads over 16 key heads"),
        (QWEN3_NEXT, {"linear_conv_kernel_dim": 1}, "at least 2 taps"),
        (QWEN3_NEXT, {"layer_types": ["linear_attention"] * 47}, "layer_types"),
        (QWEN3_NEXT, {"layer_types": ["sliding_attention"] * 48}, "layer_types"),
        (QWEN3_NEXT, {"mlp_only_layers": [0]}, "mlp_only_layers"),
        (QWEN3_NEXT, {"norm_topk_prob": False}, "norm_topk_prob"),
        (QWEN3_NEXT, {"use_sliding_window": True}, "use_sliding_window"),
        (QWEN3_NEXT, {"head_dim": 0}, "head_dim"),
        (QWEN35, {"attn_output_gate": False}, "attn_output_gate"),
        (QWEN35, {"mamba_ssm_dtype": "float16"}, "mamba_ssm_dtype"),
        (QWEN35, {"new_option": 1}, "new_option"),
    ],
)
def test_what_would_be_another_model_is_refused(config: Config, change: Config, says: str) -> None:
    with pytest.raises(MemfirstError, match=says):
        build(changed(config, change))


@pytest.mark.parametrize(("native", "other"), [(NATIVE, MAMBA2_130M), (NATIVE_1, MAMBA_130M)])
def test_state_spaces_own_configs_are_the_same_models(native: Config, other: Config) -> None:
    """They name neither type nor heads, and a vocabulary that is padded."""
    assert build(native).weights() == build(other).weights()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"ssm_cfg": {"layer": "Mamba2", "headdim": 60}}, "heads of 60"),
        ({"ssm_cfg": {"layer": "Mamba2", "headdim": "64"}}, "head_dim"),
        ({"ssm_cfg": {"layer": "Mamba2", "rmsnorm": False}}, "rmsnorm"),
        ({"d_intermediate": 1024}, "d_intermediate"),
        ({"attn_layer_idx": [3]}, "attn_layer_idx"),
        ({"rms_norm": False}, "rms_norm"),
        ({"d_model": "wide"}, "hidden_size"),
    ],
)
def test_state_spaces_variants_are_refused(change: Config, says: str) -> None:
    with pytest.raises(MemfirstError, match=says):
        build({**NATIVE, **change})


JUNK: tuple[Any, ...] = (None, -1, 0, 3, 1.5, "x", [], [1], {"a": 1}, True, 10**30, float("nan"))
PUBLISHED = (MAMBA_130M, FALCON_MAMBA, MAMBA2_130M, NATIVE, RWKV6, RWKV7, JAMBA, GRANITE_TINY)
PUBLISHED += (QWEN3_NEXT, QWEN35, QWEN35_MOE)


@pytest.mark.parametrize("config", PUBLISHED, ids=lambda c: c.get("model_type", "native"))
def test_junk_in_a_config_is_an_error_of_ours(config: Config) -> None:
    """Each key with values of other kinds: a graph, or a MemfirstError; few layers, to be quick."""
    few = {"num_hidden_layers": 2, "n_layer": 2, "layer_types": ["mamba", "attention"]}
    inner = config.get("text_config", config)
    delta = {"layer_types": ["linear_attention", "full_attention"]} if "linear_num_key_heads" in inner else {}
    config = changed(config, {key: value for key, value in (few | delta).items() if key in inner})
    for key, junk in product(inner, JUNK):
        with suppress(MemfirstError):
            assert build(changed(config, {key: junk})).ops


@pytest.mark.parametrize("name", SPECS)
def test_junk_in_a_header_is_an_error_of_ours(name: str) -> None:
    """The same of GGUF's keys, arrays included."""
    spec = SPECS[name]
    architecture = models.ARCHITECTURES[spec.architecture]
    arrays = (np.array([2, 0, 2]), np.array([1.5, 2.5]), np.array([], np.uint32), np.array([10**9] * 4))
    for key, junk in product(spec.keys, (*JUNK, *arrays)):
        metadata = {f"{spec.architecture}.{k}": v for k, v in {**spec.keys, "vocab_size": 48, key: junk}.items()}
        with suppress(MemfirstError):
            assert architecture.build(architecture.from_gguf(metadata, spec.shapes, False), ShapeOnly("f16")).ops


@pytest.mark.parametrize("infinity", [float("inf"), "Infinity", {"__float__": "Infinity"}])
def test_infinity_as_json_files_write_it(infinity: Any) -> None:
    assert build({**MAMBA2_130M, "time_step_limit": [0.0, infinity]}).architecture == "mamba2"


def test_a_bare_config_is_opened_and_priced(tmp_path: Path) -> None:
    """Falcon-Mamba in bf16: 14.0 GB of weights, 39.8 MB of state read and as much written, whatever the context."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(FALCON_MAMBA))
    graph = models.build(open_checkpoint(path))
    prices = [price(graph, step) for step in (decode(10), decode(100_000))]
    assert prices[0] == prices[1]
    assert prices[0]["state_read"] == prices[0]["state_write"] == 4 * 9_961_472
    assert prices[0]["weights"] + prices[0]["head"] == 2 * (7_272_665_088 - 65024 * 4096) + _vectors(graph)


def _vectors(graph: Graph) -> int:
    """Vectors are f32 where matrices are bf16: 2 bytes more a value."""
    return 2 * sum(prod(w.shape) for w in graph.weights().values() if len(w.shape) == 1)
