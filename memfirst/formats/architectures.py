"""Which architecture a config.json describes, by GGUF's name for it, and where its text model stands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from memfirst.errors import ConfigError

ARCHITECTURES: Mapping[str, str] = {
    "mistral": "llama",
    "ministral": "llama",
    "mixtral": "llama",
    "ministral3": "mistral3",
    "phi": "phi2",
    "cohere": "command-r",
    "olmo3": "olmo2",
    "hunyuan_v1_dense": "hunyuan-dense",
    "hunyuan_v1_moe": "hunyuan-moe",
    "qwen2_moe": "qwen2moe",
    "qwen3_moe": "qwen3moe",
    "qwen3_next": "qwen3next",
    "qwen3_5": "qwen35",
    "qwen3_5_text": "qwen35",
    "qwen3_5_moe": "qwen35moe",
    "qwen3_5_moe_text": "qwen35moe",
    "glm4_moe": "glm4moe",
    "minimax_m2": "minimax-m2",
    "lfm2_moe": "lfm2moe",
    "ernie4_5_moe": "ernie4_5-moe",
    "granitemoeshared": "granitemoe",
    "deepseek_v2": "deepseek2",
    "deepseek_v3": "deepseek2",
    "kimi_k2": "deepseek2",
    "glm4_moe_lite": "deepseek2",
    "gpt_oss": "gpt-oss",
    "llama4_text": "llama4",
    "gemma3_text": "gemma3",
    "gemma4_text": "gemma4",
    "gemma4_unified": "gemma4",
    "gemma4_unified_text": "gemma4",
    "qwen2_vl": "qwen2",
    "qwen2_vl_text": "qwen2",
    "qwen2_5_vl": "qwen2",
    "qwen2_5_vl_text": "qwen2",
    "qwen3_vl_text": "qwen3",
    "qwen3_vl_moe_text": "qwen3moe",
    "falcon_mamba": "mamba",
    "falcon_h1": "falcon-h1",
    "granitemoehybrid": "granitehybrid",
}
"""config.json `model_type` -> `general.architecture`; others keep their own name."""

CLASSES: Mapping[str, str] = {
    "LlamaForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Qwen2MoeForCausalLM": "qwen2moe",
    "Qwen3MoeForCausalLM": "qwen3moe",
    "Qwen3NextForCausalLM": "qwen3next",
    "Qwen3_5ForCausalLM": "qwen35",
    "Qwen3_5ForConditionalGeneration": "qwen35",
    "Qwen3_5MoeForCausalLM": "qwen35moe",
    "Qwen3_5MoeForConditionalGeneration": "qwen35moe",
    "OlmoeForCausalLM": "olmoe",
    "Lfm2ForCausalLM": "lfm2",
    "NemotronHForCausalLM": "nemotron_h",
    "NemotronHMoeForCausalLM": "nemotron_h_moe",
    "Lfm2MoeForCausalLM": "lfm2moe",
    "Glm4MoeForCausalLM": "glm4moe",
    "MiniMaxM2ForCausalLM": "minimax-m2",
    "Dots1ForCausalLM": "dots1",
    "DeepseekForCausalLM": "deepseek",
    "Ernie4_5_MoeForCausalLM": "ernie4_5-moe",
    "GraniteMoeForCausalLM": "granitemoe",
    "GraniteMoeSharedForCausalLM": "granitemoe",
    "HunYuanMoEV1ForCausalLM": "hunyuan-moe",
    "DeepseekV2ForCausalLM": "deepseek2",
    "DeepseekV3ForCausalLM": "deepseek2",
    "Glm4MoeLiteForCausalLM": "deepseek2",
    "GptOssForCausalLM": "gpt-oss",
    "Llama4ForCausalLM": "llama4",
    "Llama4ForConditionalGeneration": "llama4",
    "MambaForCausalLM": "mamba",
    "FalconMambaForCausalLM": "mamba",
    "Mamba2ForCausalLM": "mamba2",
    "FalconH1ForCausalLM": "falcon-h1",
    "Rwkv6ForCausalLM": "rwkv6",
    "RWKV7ForCausalLM": "rwkv7",
    "JambaForCausalLM": "jamba",
    "GraniteMoeHybridForCausalLM": "granitehybrid",
    "GemmaForCausalLM": "gemma",
    "Gemma2ForCausalLM": "gemma2",
    "Gemma3ForCausalLM": "gemma3",
    "Gemma3ForConditionalGeneration": "gemma3",
    "Gemma4ForCausalLM": "gemma4",
    "Gemma4ForConditionalGeneration": "gemma4",
    "Gemma4UnifiedForConditionalGeneration": "gemma4",
    "Phi3ForCausalLM": "phi3",
    "GraniteForCausalLM": "granite",
    "MistralForCausalLM": "llama",
    "Ministral3ForCausalLM": "mistral3",
    "Olmo2ForCausalLM": "olmo2",
    "Olmo3ForCausalLM": "olmo2",
    "Exaone4ForCausalLM": "exaone4",
    "SeedOssForCausalLM": "seed_oss",
    "HunYuanDenseV1ForCausalLM": "hunyuan-dense",
    "Ernie4_5ForCausalLM": "ernie4_5",
    "Glm4ForCausalLM": "glm4",
    "CohereForCausalLM": "command-r",
    "Cohere2ForCausalLM": "cohere2",
    "ArceeForCausalLM": "arcee",
    "Starcoder2ForCausalLM": "starcoder2",
    "StableLmForCausalLM": "stablelm",
    "PhiForCausalLM": "phi2",
    "SmolLM3ForCausalLM": "smollm3",
}
"""config.json `architectures[0]`, for configs without a `model_type`."""


def multimodal(config: Mapping[str, Any]) -> bool:
    """Whether a config.json describes more than a text model: in `text_config`, or with towers beside its own keys."""
    return any(config.get(key) is not None for key in ("text_config", "vision_config", "audio_config"))


def text_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of the text model: of a multimodal model what its `text_config` has, else all of it.

    Keys that are null say nothing; what wrappers state beside it (types, quantization, a tied head) counts.
    """
    text = config.get("text_config")
    if text is None:
        return dict(config)
    if not isinstance(text, Mapping):
        raise ConfigError(f"text_config is {str(text)[:60]!r}", "an object")
    beside = {key: config[key] for key in BESIDE if config.get(key) is not None}
    return beside | {key: value for key, value in text.items() if value is not None}


NEMOTRON_LAYERS = ("linear_attention", "full_attention", "mlp", "moe")
"""Kinds of Nemotron-H's layers, as transformers 5 calls them."""


def nemotron_layers(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Each layer's kind, from a list or from a pattern of letters (M, *, - and E); ConfigError without any."""
    letters = dict(zip("M*-E", NEMOTRON_LAYERS, strict=True))
    older = {"mamba": NEMOTRON_LAYERS[0], "attention": NEMOTRON_LAYERS[1]}
    stated = config.get("hybrid_override_pattern") or config.get("layers_block_type") or config.get("layer_types")
    if isinstance(stated, str | list):
        found = tuple((letters if isinstance(stated, str) else older).get(kind, kind) for kind in map(str, stated))
        if found and all(kind in NEMOTRON_LAYERS for kind in found):
            return found
    raise ConfigError(f"layers_block_type is {str(stated)[:60]}", f"a list of {', '.join(NEMOTRON_LAYERS)}")


def attention_only(config: Mapping[str, Any]) -> bool:
    """Whether a Granite 4 hybrid has no state-space layer and no experts: then it is a dense Granite."""
    kinds = config.get("layer_types")
    every = isinstance(kinds, list) and bool(kinds) and all(kind in ("attention", "full_attention") for kind in kinds)
    return every and not config.get("num_local_experts")


BESIDE = ("model_type", "architectures", "dtype", "torch_dtype", "quantization_config", "tie_word_embeddings")


def architecture_of(config: Mapping[str, Any]) -> str:
    """GGUF's name for a config's architecture ("llama"), or its raw `model_type`; ConfigError without any.

    A wrapper around a text model has that model's.
    """
    config = text_of(config)
    kind = config.get("model_type")
    if kind == "granitemoehybrid" and attention_only(config):
        return "granite"
    if kind == "cohere" and config.get("use_qk_norm") is True:  # Command R+
        return "command-r-plus"
    if kind == "nemotron_h" and NEMOTRON_LAYERS[3] in nemotron_layers(config):
        return "nemotron_h_moe"
    if isinstance(kind, str) and kind:
        return ARCHITECTURES.get(kind, kind)
    if isinstance(config.get("ssm_cfg"), dict):  # state-spaces' own configs name no type
        return "mamba2" if config["ssm_cfg"].get("layer") == "Mamba2" else "mamba"
    classes = config.get("architectures")
    first = classes[0] if isinstance(classes, list) and classes else None
    if not isinstance(first, str):
        raise ConfigError("config.json has neither model_type nor architectures", "a model's config")
    return CLASSES.get(first, first)
