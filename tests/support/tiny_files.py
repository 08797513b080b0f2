"""Every architecture as a small model that GGUF files can hold: published configs, shrunk, with random weights.

Narrow models have rows of 64, which whole blocks of 32 weights fill; wide ones rows of 256, as K-quants want.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from memfirst.codecs import get
from memfirst.convert.mixes import MIXES
from memfirst.convert.synthetic import SyntheticCheckpoint
from memfirst.formats.architectures import architecture_of
from memfirst.models import quantized
from tests.support.experts_configs import MODELS as EXPERTS
from tests.support.make_llama_cpp_fixture import NAMES, ROUTED, shrunk
from tests.support.recurrent_configs import QWEN3_NEXT, QWEN35_MOE, QWEN35_TEXT, RWKV6, rwkv7

VOCABULARY = 300
K_MIXES = tuple(name for name, mix in MIXES.items() if get(mix.codec).block == 256)
"""Whose blocks have 256 weights."""
LATENT = ("DeepSeek-V2", "DeepSeek-V3")
DELTA = {"Qwen3-Next-80B": QWEN3_NEXT, "Qwen3.5-27B": QWEN35_TEXT, "Qwen3.5-35B-A3B": QWEN35_MOE["text_config"]}
WKV = ("RWKV-6", "RWKV-7")
FILES = (*NAMES, *ROUTED, "Hunyuan-A13B", *LATENT, *DELTA, *WKV)
"""Names of models, at least one of each architecture whose GGUF files are written here."""

_HEADS = ("num_attention_heads", "num_key_value_heads", "num_global_key_value_heads")
_OF_ROWS = ("shared_intermediate_size", "moe_intermediate_size", "shared_expert_intermediate_size")
_PATTERNED = ("Gemma", "OLMo-3", "Command", "EXAONE-4.0-32B", "SmolLM3")
"""Models whose layers differ: all six, where others have two."""


def config_of(name: str, wide: bool = False) -> dict[str, Any]:
    """The published config.json of one of FILES, small."""
    width = 256 if wide else 64
    if name in WKV:
        small = rwkv7(width, 2, 32, 32, 32, 32) if name == "RWKV-7" else _rwkv6(width)
        return small | {"vocab_size": VOCABULARY}
    if name in DELTA:
        return _delta(DELTA[name], width)
    if name in LATENT:
        return _latent(quantized.without(EXPERTS[name].config), width)
    small = _hunyuan() if name == "Hunyuan-A13B" else shrunk(name)
    return _layers(_wide(small) if wide else small, name)


def _layers(config: dict[str, Any], name: str) -> dict[str, Any]:
    count = 6 if name.startswith(_PATTERNED) else 2
    if name == "EXAONE-4.0-32B":  # as other loaders see it: by its 64 layers
        return config
    cut = {key: value[:count] for key, value in config.items() if isinstance(value, list) and len(value) == 6}
    return config | cut | {"num_hidden_layers": count} | ({"moe_layer_end_index": 1} if "moe_k" in config else {})


def _wide(config: dict[str, Any]) -> dict[str, Any]:
    """Rows of 256 everywhere: four times as many heads of the same size, for the same kernels of attention."""
    wide: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 256}
    wide |= {key: 4 * config[key] for key in _HEADS if config.get(key)}
    wide |= {key: 256 for key in _OF_ROWS if config.get(key)}
    wide |= {"hidden_size_per_layer_input": 256} if config.get("hidden_size_per_layer_input") else {}
    return config | wide


def _hunyuan() -> dict[str, Any]:
    sizes = {
        "hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 6, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "attention_head_dim": 16, "vocab_size": VOCABULARY,
        "max_position_embeddings": 256, "num_experts": 8, "moe_topk": [2] * 6, "moe_intermediate_size": [32] * 6,
        "num_shared_expert": [1] * 6,
    }  # fmt: skip
    return quantized.without(EXPERTS["Hunyuan-A13B"].config) | sizes


def _latent(config: Mapping[str, Any], width: int) -> dict[str, Any]:
    head = width // 4
    sizes = {
        "hidden_size": width, "intermediate_size": width, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 4, "vocab_size": VOCABULARY, "max_position_embeddings": 256, "kv_lora_rank": 256,
        "q_lora_rank": width, "qk_nope_head_dim": head, "qk_rope_head_dim": 16, "v_head_dim": head,
        "first_k_dense_replace": 1, "moe_intermediate_size": width, "n_routed_experts": 8, "num_experts_per_tok": 2,
        "n_group": 2, "topk_group": 1, "num_nextn_predict_layers": 0,
    }  # fmt: skip
    if config["model_type"] == "deepseek_v2":  # whose groups llama.cpp scores as V3's: see models/deepseek2.py
        sizes |= {"n_group": 1, "topk_group": 1}
    scaling = {**config["rope_scaling"], "original_max_position_embeddings": 16}
    return {**config, **sizes, "rope_scaling": scaling}


def _delta(config: Mapping[str, Any], width: int) -> dict[str, Any]:
    sizes: dict[str, Any] = {
        "hidden_size": width, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 64, "vocab_size": VOCABULARY, "max_position_embeddings": 256, "linear_num_key_heads": 2,
        "linear_num_value_heads": 4, "linear_key_head_dim": 64, "linear_value_head_dim": 64,
    }  # fmt: skip
    few = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": width}
    sizes |= few | {"shared_expert_intermediate_size": width} if config.get("num_experts") else {}
    sizes |= {"intermediate_size": width} if config.get("intermediate_size") else {}
    cut = {key: value[:4] for key, value in config.items() if isinstance(value, list) and len(value) > 4}
    rope = config.get("rope_parameters")
    if isinstance(rope, Mapping):
        sizes["rope_parameters"] = {**rope, "partial_rotary_factor": 0.5, "mrope_section": [8, 4, 4]}
    elif "partial_rotary_factor" in config:
        sizes["partial_rotary_factor"] = 0.5
    return {**config, **cut, **sizes}


def _rwkv6(width: int) -> dict[str, Any]:
    heads = {"num_attention_heads": width // 64, "attention_hidden_size": width}
    return {**RWKV6, "hidden_size": width, "num_hidden_layers": 2, **heads}


def tiny_file(name: str, mix: str, seed: int = 0) -> SyntheticCheckpoint:
    """The model in a codec mix; `tests.support.tiny_files.FILES` has the names."""
    return SyntheticCheckpoint(config_of(name, mix in K_MIXES), MIXES[mix], seed, f"tiny {name} {mix}")


def architecture(name: str) -> str:
    """As GGUF calls it."""
    return architecture_of(config_of(name))
