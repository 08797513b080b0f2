"""Mamba, Mamba-2, RWKV, Jamba, Granite-4.0-H: sizes from configs, prices of files, and what they compute."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise, product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import memfirst
from memfirst import ledger, models
from memfirst.backends.reference import ReferenceBackend
from memfirst.backends.slow import SlowBackend
from memfirst.cache import PagePool
from memfirst.cli.contents import describe
from memfirst.errors import BackendError, ConfigError, FormatError, MemfirstError, UnsupportedError
from memfirst.formats.names import architecture_of
from memfirst.formats.open import open_checkpoint
from memfirst.generate import Context
from memfirst.graph import Graph, KVCache, Sequence, StateCache, Step, decode, prefill
from memfirst.lower import cpu
from memfirst.lower.generic import lower
from memfirst.models import ShapeOnly
from memfirst.sampling import GREEDY
from tests.make_hybrid_fixture import CASES, FOLDER, make
from tests.make_recurrent_fixture import FILE, digest
from tests.recurrent_files import HIDDEN, SPECS, WKV_HEAD, Spec, random_arrays, write
from tests.slow_rwkv import Rwkv6, Rwkv7
from tests.toy import one, paged

Config = dict[str, Any]

# --- published configurations ------------------------------------------------------------------------------------

MAMBA_130M: Config = {  # state-spaces/mamba-130m-hf, whole
    "architectures": ["MambaForCausalLM"], "bos_token_id": 0, "conv_kernel": 4, "d_inner": 1536, "d_model": 768,
    "eos_token_id": 0, "expand": 2, "fused_add_norm": True, "hidden_act": "silu", "hidden_size": 768,
    "initializer_range": 0.1, "intermediate_size": 1536, "layer_norm_epsilon": 1e-05, "model_type": "mamba",
    "n_layer": 24, "num_hidden_layers": 24, "pad_token_id": 0, "pad_vocab_size_multiple": 8,
    "rescale_prenorm_residual": False, "residual_in_fp32": True, "rms_norm": True, "ssm_cfg": {}, "state_size": 16,
    "time_step_floor": 0.0001, "time_step_init_scheme": "random", "time_step_max": 0.1, "time_step_min": 0.001,
    "time_step_rank": 48, "time_step_scale": 1.0, "torch_dtype": "float32", "transformers_version": "4.39.0.dev0",
    "use_bias": False, "use_cache": True, "use_conv_bias": True, "vocab_size": 50280,
}  # fmt: skip
FALCON_MAMBA: Config = {  # tiiuae/falcon-mamba-7b, whole
    "_name_or_path": "./", "architectures": ["FalconMambaForCausalLM"], "bos_token_id": 0, "conv_kernel": 4,
    "eos_token_id": 11, "expand": 16, "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.1,
    "intermediate_size": 8192, "layer_norm_epsilon": 1e-05, "model_type": "falcon_mamba", "num_hidden_layers": 64,
    "pad_token_id": 11, "rescale_prenorm_residual": False, "residual_in_fp32": True, "state_size": 16,
    "tie_word_embeddings": False, "time_step_floor": 0.0001, "time_step_init_scheme": "random",
    "time_step_max": 0.1, "time_step_min": 0.001, "time_step_rank": 256, "time_step_scale": 1.0,
    "torch_dtype": "bfloat16", "transformers_version": "4.43.0.dev0", "use_bias": False, "use_cache": True,
    "use_conv_bias": True, "vocab_size": 65024,
}  # fmt: skip
MAMBA2_130M: Config = {  # the keys that transformers 4.44 writes, with the sizes of state-spaces/mamba2-130m
    "chunk_size": 256, "conv_kernel": 4, "expand": 2, "head_dim": 64, "hidden_act": "silu", "hidden_size": 768,
    "layer_norm_epsilon": 1e-05, "model_type": "mamba2", "n_groups": 1, "norm_before_gate": True, "num_heads": 24,
    "num_hidden_layers": 24, "residual_in_fp32": True, "rms_norm": True, "state_size": 128,
    "tie_word_embeddings": True, "time_step_limit": [0.0, float("inf")], "time_step_rank": 48, "use_bias": False,
    "use_conv_bias": True, "vocab_size": 50288,
}  # fmt: skip
RWKV6: Config = {  # RWKV/v6-Finch-1B6-HF; num_attention_heads is its other name of head_size
    "model_type": "rwkv6", "hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 64, "head_size": 64,
    "attention_hidden_size": 2048, "intermediate_size": None, "vocab_size": 65536, "layer_norm_epsilon": 1e-5,
    "head_size_divisor": 8, "rescale_every": 6, "tie_word_embeddings": False,
}  # fmt: skip
RWKV7: Config = {  # fla-hub/rwkv7-191M-world's keys; num_heads is not its number of heads (12)
    "a_low_rank_dim": 64, "attn": None, "attn_mode": "chunk", "bos_token_id": 0, "decay_low_rank_dim": 64,
    "eos_token_id": 0, "fuse_cross_entropy": True, "fuse_norm": False, "gate_low_rank_dim": 128, "head_dim": 64,
    "hidden_act": "sqrelu", "hidden_ratio": 4.0, "hidden_size": 768, "initializer_range": 0.006,
    "intermediate_size": 3072, "max_position_embeddings": 2048, "model_type": "rwkv7", "norm_bias": True,
    "norm_eps": 1e-05, "norm_first": True, "num_heads": 32, "num_hidden_layers": 12, "tie_word_embeddings": False,
    "use_cache": True, "v_low_rank_dim": 32, "vocab_size": 65536,
}  # fmt: skip
JAMBA: Config = {  # ai21labs/Jamba-v0.1
    "architectures": ["JambaForCausalLM"], "attention_dropout": 0.0, "attn_layer_offset": 4, "attn_layer_period": 8,
    "expert_layer_offset": 1, "expert_layer_period": 2, "hidden_act": "silu", "hidden_size": 4096,
    "intermediate_size": 14336, "mamba_conv_bias": True, "mamba_d_conv": 4, "mamba_d_state": 16,
    "mamba_dt_rank": 256, "mamba_expand": 2, "mamba_inner_layernorms": True, "mamba_proj_bias": False,
    "max_position_embeddings": 262144, "model_type": "jamba", "n_ctx": 262144, "num_attention_heads": 32,
    "num_experts": 16, "num_experts_per_tok": 2, "num_hidden_layers": 32, "num_key_value_heads": 8,
    "num_logits_to_keep": 1, "rms_norm_eps": 1e-06, "sliding_window": None, "tie_word_embeddings": False,
    "use_mamba_kernels": True, "vocab_size": 65536,
}  # fmt: skip
GRANITE_TINY: Config = {  # ibm-granite/granite-4.0-h-tiny
    "architectures": ["GraniteMoeHybridForCausalLM"], "attention_bias": False, "attention_multiplier": 0.0078125,
    "embedding_multiplier": 12, "hidden_act": "silu", "hidden_size": 1536, "init_method": "mup",
    "intermediate_size": 512, "layer_types": ["attention" if i % 10 == 5 else "mamba" for i in range(40)],
    "logits_scaling": 6, "mamba_chunk_size": 256, "mamba_conv_bias": True, "mamba_d_conv": 4, "mamba_d_head": 64,
    "mamba_d_state": 128, "mamba_expand": 2, "mamba_n_groups": 1, "mamba_n_heads": 48, "mamba_proj_bias": False,
    "max_position_embeddings": 131072, "model_type": "granitemoehybrid", "normalization_function": "rmsnorm",
    "num_attention_heads": 12, "num_experts_per_tok": 6, "num_hidden_layers": 40, "num_key_value_heads": 4,
    "num_local_experts": 64, "position_embedding_type": "nope", "residual_multiplier": 0.22, "rms_norm_eps": 1e-05,
    "rope_scaling": None, "rope_theta": 10000, "shared_intermediate_size": 1024, "tie_word_embeddings": True,
    "vocab_size": 100352,
}  # fmt: skip


def mamba(width: int, layers: int) -> Config:
    sizes = {"hidden_size": width, "d_model": width, "num_hidden_layers": layers, "n_layer": layers}
    inner = {"intermediate_size": 2 * width, "d_inner": 2 * width, "time_step_rank": "auto"}
    return {**MAMBA_130M, **sizes, **inner}


def mamba2(width: int, layers: int) -> Config:
    return {**MAMBA2_130M, "hidden_size": width, "num_hidden_layers": layers, "num_heads": width // 32}


def rwkv6(width: int, layers: int) -> Config:
    return {**RWKV6, "hidden_size": width, "attention_hidden_size": width, "num_hidden_layers": layers}


def rwkv7(width: int, layers: int, *ranks: int) -> Config:
    names = ("decay_low_rank_dim", "a_low_rank_dim", "v_low_rank_dim", "gate_low_rank_dim")
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "intermediate_size": None}
    return {**RWKV7, **sizes, **dict(zip(names, ranks, strict=True))}


GRANITE_1B = {**GRANITE_TINY, "num_local_experts": 0, "num_experts_per_tok": 0, "shared_intermediate_size": 4096}

# Parameters; float32 values that a sequence keeps; channels of all convolutions; f16 bytes of K and V a token.
# The first six and Jamba's are published totals. RWKV-6 1.6B's is the count of its checkpoint's 582 tensors; others
# follow the papers: 13·d²·L + (10·mix + 2·decay + 16)·d·L + 4·d + 2·d·V (arXiv:2404.05892, appendix), mix and decay
# 32 and 64, or 64 and 128 where d = 4096.
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
}


def build(config: Config) -> Graph:
    """From a config alone, f16."""
    architecture = models.find(architecture_of(config))
    return architecture.build(architecture.from_hf(config, False), ShapeOnly("f16"))


def states(graph: Graph) -> list[StateCache]:
    return [c for c in graph.caches if isinstance(c, StateCache)]


@pytest.mark.parametrize("name", SIZES)
def test_parameters_state_and_kv(name: str) -> None:
    """To the last digit. A convolution of 4 taps keeps 3 inputs; tables that count 4 have one more a channel."""
    config, parameters, state, channels, kv = SIZES[name]
    graph = build(config)
    assert sum(prod(w.shape) for w in graph.weights().values()) == parameters
    found = states(graph)
    assert (sum(c.elements for c in found), {c.codec for c in found}) == (state, {"f32"})
    convolved = sum(c.elements for c in found if "conv1d" in c.name)
    assert convolved == 3 * channels
    assert sum(c.position_bytes for c in graph.caches if isinstance(c, KVCache)) == kv


@pytest.mark.parametrize("name", ["rwkv6-1.6b", "rwkv6-3b", "rwkv6-7b", "rwkv6-14b"])
def test_rwkv6_follows_its_paper(name: str) -> None:
    """The closed form beside the sum over tensors."""
    config, parameters, *_ = SIZES[name]
    d, layers, vocab = config["hidden_size"], config["num_hidden_layers"], config["vocab_size"]
    mix, decay = (64, 128) if d == 4096 else (32, 64)
    assert parameters == 13 * d * d * layers + (10 * mix + 2 * decay + 16) * d * layers + 4 * d + 2 * d * vocab


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
    assert [c.name for c in jamba.caches if isinstance(c, KVCache)] == [f"blk.{i}.attn.kv" for i in (4, 12, 20, 28)]
    assert [c.name for c in granite.caches if isinstance(c, KVCache)] == [f"blk.{i}.attn.kv" for i in (5, 15, 25, 35)]
    routed = {int(n.split(".")[1]) for n in jamba.weights() if "ffn_gate_inp" in n}
    assert routed == set(range(1, 32, 2))
    assert not [op for g in (jamba, granite) for op in g.ops if type(op).__name__ == "Rope"]


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
    ],
)
def test_what_would_be_another_model_is_refused(config: Config, change: Config, says: str) -> None:
    with pytest.raises(MemfirstError, match=says):
        build({**config, **change})


NATIVE: Config = {  # state-spaces/mamba2-130m, whole
    "d_model": 768, "d_intermediate": 0, "n_layer": 24, "vocab_size": 50277, "ssm_cfg": {"layer": "Mamba2"},
    "attn_layer_idx": [], "attn_cfg": {}, "rms_norm": True, "residual_in_fp32": True, "fused_add_norm": True,
    "pad_vocab_size_multiple": 16, "tie_embeddings": True,
}  # fmt: skip
NATIVE_1: Config = {  # state-spaces/mamba-130m, whole
    "d_model": 768, "n_layer": 24, "vocab_size": 50277, "ssm_cfg": {}, "rms_norm": True, "residual_in_fp32": True,
    "fused_add_norm": True, "pad_vocab_size_multiple": 8,
}  # fmt: skip


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


@pytest.mark.parametrize("config", PUBLISHED, ids=lambda c: c.get("model_type", "native"))
def test_junk_in_a_config_is_an_error_of_ours(config: Config) -> None:
    """Each key with values of other kinds: a graph, or a MemfirstError; few layers, to be quick."""
    few = {"num_hidden_layers": 2, "n_layer": 2, "layer_types": ["mamba", "attention"]}
    config = {**config, **{key: few[key] for key in few.keys() & config.keys()}}
    for key, junk in product(config, JUNK):
        with suppress(MemfirstError):
            assert build({**config, key: junk}).ops


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


# --- files ---------------------------------------------------------------------------------------------------------


def price(graph: Graph, step: Step) -> Mapping[str, int]:
    found = dict(ledger.table(ledger.predict(lower(graph), step)))
    assert found.pop("activations") > 0
    return found


def opened(folder: Path, spec: Spec, kind: str = "f32") -> tuple[Graph, Any, dict[str, int]]:
    """A file of the spec, its graph, and the bytes of its tensors as they were written."""
    path = folder / f"{spec.architecture}.gguf"
    sizes = write(path, spec, random_arrays(spec), kind)
    checkpoint = open_checkpoint(path)
    return models.build(checkpoint), checkpoint, sizes


@pytest.mark.parametrize("kind", ["f32", "f16", "q8_0"])
@pytest.mark.parametrize("name", SPECS)
def test_the_price_of_a_file_is_the_count_of_its_tensors(name: str, kind: str, tmp_path: Path) -> None:
    """One token after 100: every tensor once, but one row of an untied embedding and 2 of 4 experts; state as f32,
    read and written; keys and values as f16."""
    spec = SPECS[name]
    graph, _, sizes = opened(tmp_path, spec, kind)
    tied = "output.weight" not in sizes
    table, experts = sizes["token_embd.weight"], sum(n for t, n in sizes.items() if "_exps." in t)
    head = {"output.weight", "output_norm.weight", "output_norm.bias"} & sizes.keys()
    expected = {
        "embedding": table // 48,
        "head": sum(sizes[t] for t in head) + (table if tied else 0),
        "weights": sum(sizes.values()) - table - experts - sum(sizes[t] for t in (*head, *spec.unused)),
        "experts": experts // 2,
        "state_read": 4 * spec.state, "state_write": 4 * spec.state,
        "kv_read": 101 * 2 * spec.kv, "kv_write": 2 * spec.kv,
    }  # fmt: skip
    assert price(graph, decode(100)) == {k: n for k, n in expected.items() if n}
    held = ledger.memory(lower(graph), [100])
    assert held.weights == sum(sizes.values()) - sum(sizes[t] for t in spec.unused)
    assert held.kv_held == 4 * spec.state + 100 * 2 * spec.kv


@pytest.mark.parametrize("name", SPECS)
def test_inspect_describes_what_it_cannot_run(name: str, tmp_path: Path) -> None:
    """Why not, the bytes of a token, and a group for every tensor."""
    _, checkpoint, sizes = opened(tmp_path, SPECS[name])
    facts = describe(checkpoint)
    assert "no kernel for" in facts["why_not"] and not facts["runs"]
    assert facts["bytes_per_token"]["state_read"] == 4 * SPECS[name].state
    assert facts["bytes_per_token_of_context"] == 2 * SPECS[name].kv
    assert facts["tensor_bytes"] == sum(sizes.values())
    assert "other" not in {group["name"] for group in facts["by_group"]}


@pytest.mark.parametrize("name", SPECS)
def test_a_chunk_moves_the_state_once_and_each_sequence_its_own(name: str, tmp_path: Path) -> None:
    """50 tokens of one sequence read what 1 does; 3 sequences read three times that; one that waits, nothing."""
    graph, _, _ = opened(tmp_path, SPECS[name])
    moved = 4 * SPECS[name].state
    for step, times in (
        (decode(7), 1),
        (prefill(50, past=7), 1),
        (decode(7, batch=3), 3),
        (Step((Sequence(9, 0),)), 0),
    ):
        found = ledger.table(ledger.predict(lower(graph), step))
        assert (found.get("state_read", 0), found.get("state_write", 0)) == (times * moved, times * moved)


@pytest.mark.parametrize("name", SPECS)
def test_parity_with_llama_cpp(name: str, tmp_path: Path) -> None:
    """24 positions of the same file, float32; llama.cpp keeps keys and values as f16, so the hybrids differ more."""
    expected, spec = np.load(FILE), SPECS[name]
    assert digest(random_arrays(spec)) == pytest.approx(float(expected[f"draw/{name}"]), rel=1e-9)
    graph, checkpoint, _ = opened(tmp_path, spec)
    found = ReferenceBackend(graph, checkpoint).step(one(0, 24, logits=tuple(range(24))), expected["tokens"])
    logits = expected[f"logits/{name}"]
    tolerance = 5e-3 if spec.kv else 5e-5
    np.testing.assert_allclose(found, logits, atol=tolerance * logits.std(), rtol=0)


def from_folder(folder: Path) -> float:
    """Largest difference of any logit from transformers', in standard deviations of its logits."""
    checkpoint, expected = open_checkpoint(folder), np.load(folder / "expected.npz")
    n, logits = len(expected["tokens"]), expected["logits"]
    run = ReferenceBackend(models.build(checkpoint), checkpoint)
    found = run.step(one(0, n, logits=tuple(range(n))), expected["tokens"])
    return float(np.abs(found - logits).max() / logits.std())


@pytest.mark.parametrize("name", CASES)
def test_parity_with_transformers(name: str) -> None:
    """30 positions of a folder as save_pretrained writes it."""
    assert from_folder(FOLDER / name) <= 1e-4


@pytest.mark.parametrize("name", CASES)
def test_parity_live(name: str, tmp_path: Path) -> None:
    """The same with other weights, where torch and transformers are installed."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    make(name, tmp_path, seed=1234, dtype="bfloat16")
    assert from_folder(tmp_path) <= 1e-4


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("hf_falcon_mamba", {"model_type": "mamba"}),
        ("hf_falcon_mamba", {"mixer_rms_eps": 1e-6}),
        ("hf_mamba", {"model_type": "falcon_mamba"}),
        ("hf_jamba", {"num_experts_per_tok": 1}),
        ("hf_jamba", {"rms_norm_eps": 1e-6}),
        ("hf_granite", {"num_experts_per_tok": 3}),
        ("hf_granite", {"attention_multiplier": 0.35}),
        ("hf_granite", {"embedding_multiplier": 3.1}),
        ("hf_granite_dense", {"residual_multiplier": 0.61}),
        ("hf_granite_dense", {"logits_scaling": 0.51}),
    ],
)
def test_parity_sees_another_config(name: str, change: Config, tmp_path: Path) -> None:
    """The fixtures are sharp enough: each of these numbers is used, and where it belongs."""
    for file in (FOLDER / name).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    assert {key: config[key] for key in change} != change
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    assert from_folder(tmp_path) > 1e-3


@pytest.mark.parametrize(
    ("name", "tensor", "shape", "says"),
    [
        ("hf_mamba", "backbone.layers.0.mixer.conv1d.weight", (64, 3), "conv1d.weight has shape"),
        ("hf_mamba", "backbone.layers.0.mixer.conv1d.weight", (32, 2, 3), "conv1d.weight has shape"),
        ("hf_mamba2", "backbone.layers.0.mixer.norm.weight", (63,), "norm.weight has shape"),
        ("hf_granite", "model.layers.0.shared_mlp.input_linear.weight", (39, 32), "input_linear.weight has shape"),
    ],
)
def test_folders_with_odd_shapes_are_refused(
    name: str, tensor: str, shape: tuple[int, ...], says: str, tmp_path: Path
) -> None:
    for file in (FOLDER / name).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    arrays = load_file(tmp_path / "model.safetensors")
    save_file({**arrays, tensor: np.zeros(shape, np.float16)}, tmp_path / "model.safetensors")
    with pytest.raises(FormatError, match=says):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("config", [RWKV6, RWKV7], ids=["rwkv6", "rwkv7"])
def test_folders_of_rwkv_are_refused_plainly(config: Config, tmp_path: Path) -> None:
    """Theirs name and turn tensors in several ways; GGUF files of them are read."""
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({"model.embeddings.weight": np.zeros((4, 4), np.float16)}, tmp_path / "model.safetensors")
    with pytest.raises(UnsupportedError, match=r"folders of rwkv. are not known; expected a GGUF file"):
        models.build(open_checkpoint(tmp_path))


def test_a_stored_head_is_the_embedding_where_the_class_ties_it(tmp_path: Path) -> None:
    """Mamba's old folders hold it twice, and do not say that it is tied."""
    for file in (FOLDER / "hf_mamba").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    del config["tie_word_embeddings"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    arrays = load_file(tmp_path / "model.safetensors")
    head = arrays["backbone.embeddings.weight"].copy()
    save_file({**arrays, "lm_head.weight": head}, tmp_path / "model.safetensors")
    assert from_folder(tmp_path) <= 1e-4


@pytest.mark.parametrize(("name", "slow"), [("rwkv6", Rwkv6), ("rwkv7", Rwkv7)])
def test_rwkv_as_its_paper_writes_it(name: str, slow: Any, tmp_path: Path) -> None:
    """Token by token in float64, by code that shares nothing; RWKV-6's stream halved after every layer, as in files."""
    spec = SPECS[name]
    graph, checkpoint, _ = opened(tmp_path, spec)
    layers, rescale = spec.keys["block_count"], spec.keys.get("rescale_every_n_layers", 0)
    expected = slow(random_arrays(spec), WKV_HEAD, layers, rescale).run(TOKENS)
    found = ReferenceBackend(graph, checkpoint).step(one(0, 24, logits=tuple(range(24))), TOKENS)
    assert HIDDEN // WKV_HEAD == 2  # heads are told apart
    np.testing.assert_allclose(found, expected, atol=5e-5, rtol=0)


def test_rwkv6_files_with_five_vectors_for_one(tmp_path: Path) -> None:
    """Files of 2024 keep w, k, v, r and g apart: the same bytes and the same logits."""
    spec, arrays = SPECS["rwkv6"], random_arrays(SPECS["rwkv6"])
    apart = {n: a for n, a in arrays.items() if "fused" not in n}
    for name, fused in ((n, a) for n, a in arrays.items() if "fused" in n):
        apart |= {name.replace("fused", part): fused[j, 0, 0] for j, part in enumerate("wkvrg")}
    write(tmp_path / "apart.gguf", spec, apart)
    write(tmp_path / "fused.gguf", spec, arrays)
    both = [open_checkpoint(tmp_path / f"{name}.gguf") for name in ("apart", "fused")]
    graphs = [models.build(checkpoint) for checkpoint in both]
    assert price(graphs[0], decode(3)) == price(graphs[1], decode(3))
    found, expected = (ReferenceBackend(g, c).step(one(0, 24), TOKENS) for g, c in zip(graphs, both, strict=True))
    np.testing.assert_allclose(found, expected, atol=1e-6, rtol=0)


TOKENS = np.random.default_rng(8).integers(0, 48, 24).astype(np.int32)
CLOSE = 1e-4
"""Logits are of the order of 1; float32 sums in another order differ by 4e-5 at most (Jamba, through its router)."""


@pytest.mark.parametrize("name", SPECS)
def test_chunks_and_single_steps_give_the_same(name: str, tmp_path: Path) -> None:
    """Whole; in chunks of 1 (shorter than the convolution), 2, 9 and 12; token by token."""
    graph, checkpoint, _ = opened(tmp_path, SPECS[name])
    whole = ReferenceBackend(graph, checkpoint).step(one(0, 24, logits=tuple(range(24))), TOKENS)
    for cuts in ((0, 1, 3, 12, 24), tuple(range(25))):
        run = ReferenceBackend(graph, checkpoint)
        parts = [run.step(one(a, b - a, logits=tuple(range(b - a))), TOKENS[a:b]) for a, b in pairwise(cuts)]
        np.testing.assert_allclose(np.concatenate(parts), whole, atol=CLOSE, rtol=0)


@pytest.mark.parametrize("name", SPECS)
def test_rollback_reads_the_old_slot(name: str, tmp_path: Path) -> None:
    """3 drafts are rejected: the slot from before them is read again; one that was overwritten gives another answer."""
    graph, checkpoint, _ = opened(tmp_path, SPECS[name])
    assert {c.slots for c in states(graph)} == {2}
    run, clean = ReferenceBackend(graph, checkpoint), ReferenceBackend(graph, checkpoint)
    run.step(one(0, 8, state_write=0), TOKENS[:8])
    run.step(one(8, 3, state_read=0, state_write=1), TOKENS[20:23])
    again = run.step(one(8, 2, state_read=0, state_write=1), TOKENS[8:10])
    expected = clean.step(one(0, 10), TOKENS[:10])
    np.testing.assert_allclose(again, expected, atol=CLOSE, rtol=0)
    spoiled = ReferenceBackend(graph, checkpoint)
    spoiled.step(one(0, 8), TOKENS[:8])
    spoiled.step(one(8, 3), TOKENS[20:23])
    assert np.abs(spoiled.step(one(8, 2), TOKENS[8:10]) - expected).max() > 100 * CLOSE


@pytest.mark.parametrize("name", ["mamba", "granite_1b"])
def test_turns_of_a_conversation(name: str, tmp_path: Path) -> None:
    """State is kept where a prompt goes on, begun again where it differs before its end, and not lost to a step that
    is interrupted after it computed."""
    graph, checkpoint, _ = opened(tmp_path, SPECS[name])
    backend, ids = SlowBackend(graph, checkpoint), TOKENS.tolist()

    def fresh(tokens: list[int]) -> Any:
        return SlowBackend(graph, checkpoint).step(one(0, len(tokens)), tokens)

    context = Context(PagePool(8), 64, 512, recurrent=True)
    context.run(backend, ids[:10])
    assert context.rewind(ids[:14]) == 10
    np.testing.assert_allclose(context.run(backend, ids[10:14])[1], fresh(ids[:14]), atol=CLOSE, rtol=0)
    with pytest.raises(KeyboardInterrupt):
        context.run(Interrupted(backend), ids[14:20])
    np.testing.assert_allclose(context.run(backend, ids[14:16])[1], fresh(ids[:16]), atol=CLOSE, rtol=0)
    other = [*ids[:12], 1, 2, 3]
    assert context.rewind(other) == 0
    np.testing.assert_allclose(context.run(backend, other)[1], fresh(other), atol=CLOSE, rtol=0)


@pytest.mark.parametrize("name", SPECS)
def test_the_reference_backend_generates(name: str, tmp_path: Path) -> None:
    """From a file alone, through the tokenizer: greedy tokens as one step over everything gives them, and priced."""
    path = tmp_path / "model.gguf"
    write(path, SPECS[name], random_arrays(SPECS[name]))
    with memfirst.load(path, backend="reference", ctx=64) as model:
        generation = model.generate("ABBA", params=GREEDY, max_tokens=5)
        found = [token.id for token in generation]
        assert generation.line()
        whole = [*model.encode("ABBA"), *found]
        assert found == model.logits(whole).argmax(axis=1)[-6:-1].tolist()
        assert model.price(context=10).by_purpose()["state_read"].low == 4 * SPECS[name].state


class Interrupted:
    """A backend that is stopped when its step is done and nobody has seen it."""

    def __init__(self, backend: SlowBackend) -> None:
        self.backend = backend

    def step(self, step: Step, tokens: Any) -> Any:
        self.backend.step(step, tokens)
        raise KeyboardInterrupt


@pytest.mark.parametrize("name", SPECS)
def test_a_batch_gives_what_each_gives_alone(name: str, tmp_path: Path) -> None:
    """Two sequences on slots and pages of their own, and one between them that waits."""
    graph, checkpoint, _ = opened(tmp_path, SPECS[name])
    lone = [ReferenceBackend(graph, checkpoint).step(one(0, n), TOKENS[s : s + n]) for s, n in ((0, 9), (9, 5))]
    sequences = (paged(0, 9), Sequence(3, 0), paged(0, 5, first=1, state_read=2, state_write=2))
    both = ReferenceBackend(graph, checkpoint).step(Step(sequences), TOKENS[:14])
    np.testing.assert_allclose(both, np.concatenate(lone), atol=CLOSE, rtol=0)


def test_a_tree_of_drafts_is_refused(tmp_path: Path) -> None:
    """A state has one past; a chain that is written out as a tree is one."""
    graph, checkpoint, _ = opened(tmp_path, SPECS["mamba"])
    run = ReferenceBackend(graph, checkpoint)
    run.step(one(0, 3, parents=(-1, 0, 1)), TOKENS[:3])
    with pytest.raises(BackendError, match="tree of drafts"):
        run.step(one(0, 3, parents=(-1, 0, 0)), TOKENS[:3])


@pytest.mark.parametrize("name", SPECS)
def test_the_cpu_backend_refuses_plainly(name: str, tmp_path: Path) -> None:
    graph, _, _ = opened(tmp_path, SPECS[name])
    with pytest.raises(UnsupportedError, match="no kernel for"):
        cpu.lower(graph, 1, 1024, 1)


@pytest.mark.parametrize(
    ("name", "key", "value", "says"),
    [
        ("mamba", "ssm.conv_kernel", 1, "at least 2 taps"),
        ("mamba", "ssm.inner_size", 128, "blk.0.ssm_in.weight has shape"),
        ("mamba2", "ssm.time_step_rank", 7, "for 7 heads"),
        ("mamba2", "ssm.group_count", 3, "3 groups"),
        ("rwkv6", "token_shift_count", 1, "token_shift_count"),
        ("rwkv7", "wkv.head_size", 60, "whole heads"),
        ("jamba", "attention.head_count_kv", [0, 2, 0], "4 integers"),
        ("jamba", "attention.head_count_kv", [0, 2, 0, 1], "KV heads by layer"),
        ("jamba", "attention.head_count_kv", 0, "KV heads by layer"),
        ("jamba", "expert_used_count", 5, "5 experts"),
        ("granite_tiny", "rope.scaling.finetuned", True, "rotary positions"),
        ("granite_1b", "mystery", 1, "mystery"),
    ],
)
def test_files_that_contradict_themselves_are_refused(
    name: str, key: str, value: Any, says: str, tmp_path: Path
) -> None:
    spec = SPECS[name]
    broken = replace(spec, keys={**spec.keys, key: value})
    with pytest.raises((ConfigError, UnsupportedError), match=says):
        opened(tmp_path, broken)


def test_a_stray_tensor_is_refused(tmp_path: Path) -> None:
    """A weight that the mixer does not have is no rounding error: the file means something else."""
    spec = SPECS["mamba"]
    with pytest.raises(ConfigError, match="ssm_b_norm"):
        opened(tmp_path, replace(spec, shapes={**spec.shapes, "blk.0.ssm_b_norm.weight": (16,)}))
