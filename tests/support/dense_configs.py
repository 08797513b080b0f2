"""Published dense models: config.json as its publisher has it, and the sizes that are known of each.

Sizes are those that the publishers state or that litgpt 0.5.13, mlc-llm and gemma_pytorch agree on: parameters
(a tied head once), parameters that a decoded token streams (without the looked-up embedding of an untied model),
and bytes of keys and values a token in f16. SmolLM3's are computed by hand from its fields.
"""

from __future__ import annotations

from typing import Any

PLAIN: dict[str, Any] = {
    "attention_dropout": 0.0, "initializer_range": 0.02, "use_cache": True, "torch_dtype": "bfloat16",
    "transformers_version": "4.45.0", "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def sized(base: dict[str, Any], d: int, layers: int, heads: int, kv: int, ffn: int, vocab: int, **more: Any) -> Any:
    """`base` at one size; a key given as None is published as null."""
    size = {"hidden_size": d, "num_hidden_layers": layers, "num_attention_heads": heads}
    size |= {"num_key_value_heads": kv, "intermediate_size": ffn, "vocab_size": vocab}
    return PLAIN | base | size | more


LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "rms_norm_eps": 1e-5,
    "pretraining_tp": 1, "rope_scaling": None, "tie_word_embeddings": False, "max_position_embeddings": 8192,
    "attention_bias": False, "rope_theta": 500000.0,
}  # fmt: skip
LLAMA2 = LLAMA | {"max_position_embeddings": 4096, "_name_or_path": "meta-llama/Llama-2-7b-hf"}
LLAMA2.pop("rope_theta")
STRETCHED = {
    "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}  # fmt: skip
LLAMA32 = LLAMA | {
    "tie_word_embeddings": True, "rope_scaling": STRETCHED, "max_position_embeddings": 131072, "mlp_bias": False,
}  # fmt: skip
SMOLLM = LLAMA | {
    "is_llama_config": True, "rope_interleaved": False, "tie_word_embeddings": True, "rope_theta": 100000,
    "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}}, "pad_token_id": 2, "unk_token_id": 0,
}  # fmt: skip
QWEN25 = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu", "rms_norm_eps": 1e-6,
    "max_position_embeddings": 32768, "max_window_layers": 21, "rope_theta": 1000000.0, "sliding_window": 32768,
    "use_sliding_window": False, "use_mrope": False, "tie_word_embeddings": True,
}  # fmt: skip
QWEN25_LARGE = QWEN25 | {"sliding_window": 131072, "max_position_embeddings": 131072, "tie_word_embeddings": False}
QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_act": "silu", "rms_norm_eps": 1e-6,
    "max_position_embeddings": 40960, "max_window_layers": 28, "rope_theta": 1000000, "rope_scaling": None,
    "sliding_window": None, "use_sliding_window": False, "attention_bias": False, "head_dim": 128,
    "tie_word_embeddings": True,
}  # fmt: skip
QWEN3_LARGE = QWEN3 | {"tie_word_embeddings": False}
MISTRAL = {
    "architectures": ["MistralForCausalLM"], "model_type": "mistral", "hidden_act": "silu", "rms_norm_eps": 1e-5,
    "max_position_embeddings": 32768, "rope_theta": 1000000.0, "sliding_window": None, "tie_word_embeddings": False,
}  # fmt: skip
GEMMA2 = {
    "architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "attention_bias": False, "head_dim": 256,
    "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "cache_implementation": "hybrid",
    "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh", "max_position_embeddings": 8192,
    "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "sliding_window": 4096,
    "pad_token_id": 0,
}  # fmt: skip
GEMMA3 = {
    "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "attention_bias": False, "head_dim": 256,
    "attn_logit_softcapping": None, "final_logit_softcapping": None, "cache_implementation": "hybrid",
    "hidden_activation": "gelu_pytorch_tanh", "max_position_embeddings": 32768, "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-6, "rope_local_base_freq": 10000, "rope_theta": 1000000, "rope_scaling": None,
    "sliding_window": 512, "sliding_window_pattern": 6, "pad_token_id": 0,
}  # fmt: skip


def gemma3(d: int, layers: int, ffn: int, **text: Any) -> dict[str, Any]:
    """From 4B on: the text model inside, with only what differs from transformers' defaults."""
    inner = {
        "hidden_size": d, "intermediate_size": ffn, "model_type": "gemma3_text", "num_hidden_layers": layers,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024, **text,
    }  # fmt: skip
    return {
        "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "boi_token_index": 255999,
        "eoi_token_index": 256000, "eos_token_id": [1, 106], "image_token_index": 262144, "mm_tokens_per_image": 256,
        "initializer_range": 0.02, "torch_dtype": "bfloat16", "transformers_version": "4.50.0.dev0",
        "text_config": inner, "vision_config": {"hidden_size": 1152, "model_type": "siglip_vision_model"},
    }  # fmt: skip


SMOLLM3 = {
    "architectures": ["SmolLM3ForCausalLM"], "model_type": "smollm3", "hidden_act": "silu", "rms_norm_eps": 1e-6,
    "attention_bias": False, "max_position_embeddings": 65536, "max_window_layers": 28, "mlp_bias": False,
    "no_rope_layer_interval": 4, "no_rope_layers": [1, 1, 1, 0] * 9, "layer_types": ["full_attention"] * 36,
    "pretraining_tp": 2, "rope_scaling": None, "rope_theta": 5000000.0, "sliding_window": None,
    "use_sliding_window": False, "pad_token_id": 128004,
}  # fmt: skip
PHI3 = {
    "architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "hidden_act": "silu", "rms_norm_eps": 1e-5,
    "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"}, "embd_pdrop": 0.0, "resid_pdrop": 0.0,
    "max_position_embeddings": 4096, "original_max_position_embeddings": 4096, "rope_scaling": None,
    "rope_theta": 10000.0, "sliding_window": 2047, "tie_word_embeddings": False, "attention_bias": False,
    "pad_token_id": 32000,
}  # fmt: skip
LONG = {"long_factor": [32.0] * 48, "short_factor": [1.0] * 48, "type": "longrope"}
PHI35 = PHI3 | {"max_position_embeddings": 131072, "sliding_window": 262144, "rope_scaling": LONG}
PHI4 = PHI3 | {
    "max_position_embeddings": 16384, "original_max_position_embeddings": 16384, "rope_theta": 250000,
    "sliding_window": None,
}  # fmt: skip
PHI4_MINI = PHI35 | {
    "full_attn_mod": 1, "interpolate_factor": 1, "lm_head_bias": False, "mlp_bias": False,
    "partial_rotary_factor": 0.75, "tie_word_embeddings": True,
}  # fmt: skip

MODELS: dict[str, tuple[dict[str, Any], int, int, int]] = {
    "Llama-2-7B": (sized(LLAMA2, 4096, 32, 32, 32, 11008, 32000), 6738415616, 6607343616, 524288),
    "Llama-3.1-8B": (sized(LLAMA, 4096, 32, 32, 8, 14336, 128256), 8030261248, 7504924672, 131072),
    "Llama-3.3-70B": (sized(LLAMA, 8192, 80, 64, 8, 28672, 128256), 70553706496, 69503033344, 327680),
    "Llama-3.1-405B": (sized(LLAMA, 16384, 126, 128, 8, 53248, 128256), 405853388800, 403752042496, 516096),
    "Llama-3.2-1B": (sized(LLAMA32, 2048, 16, 32, 8, 8192, 128256, head_dim=64), 1235814400, 1235814400, 32768),
    "Llama-3.2-3B": (sized(LLAMA32, 3072, 28, 24, 8, 8192, 128256, head_dim=128), 3212749824, 3212749824, 114688),
    "Qwen2.5-0.5B": (sized(QWEN25, 896, 24, 14, 2, 4864, 151936), 494032768, 494032768, 12288),
    "Qwen2.5-1.5B": (sized(QWEN25, 1536, 28, 12, 2, 8960, 151936), 1543714304, 1543714304, 28672),
    "Qwen2.5-3B": (sized(QWEN25, 2048, 36, 16, 2, 11008, 151936), 3085938688, 3085938688, 36864),
    "Qwen2.5-7B": (sized(QWEN25_LARGE, 3584, 28, 28, 4, 18944, 152064), 7615616512, 7070619136, 57344),
    "Qwen2.5-14B": (sized(QWEN25_LARGE, 5120, 48, 40, 8, 13824, 152064), 14770033664, 13991465984, 196608),
    "Qwen2.5-32B": (sized(QWEN25_LARGE, 5120, 64, 40, 8, 27648, 152064), 32763876352, 31985308672, 262144),
    "Qwen2.5-72B": (sized(QWEN25_LARGE, 8192, 80, 64, 8, 29568, 152064), 72706203648, 71460495360, 327680),
    "Qwen3-0.6B": (sized(QWEN3, 1024, 28, 16, 8, 3072, 151936), 596049920, 596049920, 114688),
    "Qwen3-1.7B": (sized(QWEN3, 2048, 28, 16, 8, 6144, 151936), 1720574976, 1720574976, 114688),
    "Qwen3-4B": (sized(QWEN3, 2560, 36, 32, 8, 9728, 151936), 4022468096, 4022468096, 147456),
    "Qwen3-8B": (sized(QWEN3_LARGE, 4096, 36, 32, 8, 12288, 151936), 8190735360, 7568405504, 147456),
    "Qwen3-14B": (sized(QWEN3_LARGE, 5120, 40, 40, 8, 17408, 151936), 14768307200, 13990394880, 163840),
    "Qwen3-32B": (sized(QWEN3_LARGE, 5120, 64, 64, 8, 25600, 151936), 32762123264, 31984210944, 262144),
    "Mistral-7B-v0.1": (
        sized(MISTRAL, 4096, 32, 32, 8, 14336, 32000, sliding_window=4096, rope_theta=10000.0),
        7241732096, 7110660096, 131072,
    ),
    "Mistral-7B-v0.3": (sized(MISTRAL, 4096, 32, 32, 8, 14336, 32768), 7248023552, 7113805824, 131072),
    "Mistral-Nemo-12B": (
        sized(MISTRAL, 5120, 40, 32, 8, 14336, 131072, head_dim=128, max_position_embeddings=131072),
        12247782400, 11576693760, 163840,
    ),
    "Gemma-2-2B": (sized(GEMMA2, 2304, 26, 8, 4, 9216, 256000), 2614341888, 2614341888, 106496),
    "Gemma-2-9B": (sized(GEMMA2, 3584, 42, 16, 8, 14336, 256000), 9241705984, 9241705984, 344064),
    "Gemma-2-27B": (
        sized(GEMMA2, 4608, 46, 32, 16, 36864, 256000, head_dim=128, query_pre_attn_scalar=144),
        27227128320, 27227128320, 376832,
    ),
    "Gemma-3-1B": (sized(GEMMA3, 1152, 26, 4, 1, 6912, 262144), 999885952, 999885952, 26624),
    "Gemma-3-4B": (gemma3(2560, 34, 10240), 3880263168, 3880263168, 139264),
    "Gemma-3-12B": (
        gemma3(3840, 48, 15360, num_attention_heads=16, num_key_value_heads=8), 11766034176, 11766034176, 393216,
    ),
    "Gemma-3-27B": (
        gemma3(5376, 62, 21504, num_attention_heads=32, num_key_value_heads=16, head_dim=128,
               query_pre_attn_scalar=168),
        27009346304, 27009346304, 507904,
    ),
    "SmolLM2-135M": (sized(SMOLLM, 576, 30, 9, 3, 1536, 49152), 134515008, 134515008, 23040),
    "SmolLM2-360M": (sized(SMOLLM, 960, 32, 15, 5, 2560, 49152), 361821120, 361821120, 40960),
    "SmolLM2-1.7B": (sized(SMOLLM, 2048, 24, 32, 32, 8192, 49152, rope_theta=130000), 1711376384, 1711376384, 196608),
    "SmolLM3-3B": (sized(SMOLLM3, 2048, 36, 16, 4, 11008, 128256), 3075098624, 3075098624, 73728),
    "Phi-3-mini": (sized(PHI3, 3072, 32, 32, 32, 8192, 32064), 3821079552, 3722578944, 393216),
    "Phi-3.5-mini": (sized(PHI35, 3072, 32, 32, 32, 8192, 32064), 3821079552, 3722578944, 393216),
    "Phi-4": (sized(PHI4, 5120, 40, 40, 10, 17920, 100352), 14659507200, 14145704960, 204800),
    "Phi-4-mini": (sized(PHI4_MINI, 3072, 32, 24, 8, 8192, 200064), 3836021760, 3836021760, 131072),
}  # fmt: skip
"""By name: config.json, parameters, parameters streamed for a token, bytes of keys and values a token.

The text models of Gemma 3 from 4B on have 262,208 rows in the head here, 64 more than the 262,144 in GGUF: with
those they have 3,880,099,328, 11,765,788,416 and 27,009,002,240 parameters.
"""
