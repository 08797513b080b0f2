"""Published dense models: config.json as its publisher has it, and the sizes that are known of each.

Sizes are those that the publishers state or that litgpt 0.5.13, mlc-llm and gemma_pytorch agree on: parameters
(a tied head once), parameters that a decoded token streams (without the looked-up embedding of an untied model),
and bytes of keys and values a token in f16. SmolLM3's, and those from OLMo 2 on, are computed by hand from the fields.
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


def gemma4(kind: str, d: int, layers: int, ffn: int, heads: int, kv: int, **text: Any) -> dict[str, Any]:
    """The text model, as its publisher wraps it, with towers that are not described here."""
    inner = {
        "attention_bias": False, "attention_dropout": 0.0, "attention_k_eq_v": True, "bos_token_id": 2,
        "dtype": "bfloat16", "enable_moe_block": False, "eos_token_id": 1, "final_logit_softcapping": 30.0,
        "global_head_dim": 512, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh", "hidden_size": d,
        "hidden_size_per_layer_input": 0, "initializer_range": 0.02, "intermediate_size": ffn,
        "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * (layers // 6),
        "max_position_embeddings": 262144, "model_type": f"{kind}_text", "moe_intermediate_size": None,
        "num_attention_heads": heads, "num_experts": None, "num_global_key_value_heads": None,
        "num_hidden_layers": layers, "num_key_value_heads": kv, "num_kv_shared_layers": 0, "pad_token_id": 0,
        "rms_norm_eps": 1e-6, "rope_parameters": {
            "full_attention": {"partial_rotary_factor": 0.25, "rope_theta": 1000000.0, "rope_type": "proportional"},
            "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"},
        },
        "sliding_window": 1024, "tie_word_embeddings": True, "top_k_experts": None,
        "use_bidirectional_attention": "vision", "use_cache": True, "use_double_wide_mlp": False,
        "vocab_size": 262144, "vocab_size_per_layer_input": 262144, **text,
    }  # fmt: skip
    return {
        "architectures": ["Gemma4ForConditionalGeneration"], "model_type": kind, "audio_config": None,
        "audio_token_id": 258881, "boa_token_id": 256000, "boi_token_id": 255999, "eoa_token_index": 258883,
        "eoi_token_id": 258882, "eos_token_id": [1, 106], "image_token_id": 258880, "video_token_id": 258884,
        "initializer_range": 0.02, "text_config": inner, "tie_word_embeddings": True, "dtype": "bfloat16",
        "vision_config": {"model_type": f"{kind}_vision"}, "vision_soft_tokens_per_image": 280,
    }  # fmt: skip


SMALL_GEMMA4 = {
    "attention_k_eq_v": False, "hidden_size_per_layer_input": 256, "sliding_window": 512,
    "max_position_embeddings": 131072, "use_bidirectional_attention": None,
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

OLMO2 = {
    "architectures": ["Olmo2ForCausalLM"], "model_type": "olmo2", "hidden_act": "silu", "rms_norm_eps": 1e-6,
    "attention_bias": False, "max_position_embeddings": 4096, "rope_scaling": None, "rope_theta": 500000,
    "tie_word_embeddings": False, "pad_token_id": 100277,
}  # fmt: skip
OLMO3 = OLMO2 | {
    "architectures": ["Olmo3ForCausalLM"], "model_type": "olmo3", "max_position_embeddings": 65536,
    "layer_types": ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"] * 8,
    "rope_scaling": {"attention_factor": 1.2079441541679836, "beta_fast": 32, "beta_slow": 1, "factor": 8.0,
                     "original_max_position_embeddings": 8192, "rope_type": "yarn"},
    "sliding_window": 4096,
}  # fmt: skip
SEED_OSS = {
    "architectures": ["SeedOssForCausalLM"], "model_type": "seed_oss", "attention_bias": True, "head_dim": 128,
    "attention_out_bias": False, "attention_dropout": 0.1, "residual_dropout": 0.1, "hidden_act": "silu",
    "max_position_embeddings": 524288, "mlp_bias": False, "rms_norm_eps": 1e-6, "rope_theta": 10000000.0,
    "rope_scaling": {"rope_type": "default"}, "tie_word_embeddings": False, "pretraining_tp": 1, "pad_token_id": 1,
}  # fmt: skip
EXAONE4 = {
    "architectures": ["Exaone4ForCausalLM"], "model_type": "exaone4", "hidden_act": "silu", "rms_norm_eps": 1e-5,
    "max_position_embeddings": 65536, "rope_theta": 1000000, "head_dim": 64, "tie_word_embeddings": True,
    "rope_scaling": STRETCHED, "sliding_window": None, "sliding_window_pattern": None,
    "layer_types": ["full_attention"] * 30, "pad_token_id": 0,
}  # fmt: skip
EXAONE4_32B = EXAONE4 | {
    "max_position_embeddings": 131072, "tie_word_embeddings": False, "rope_scaling": STRETCHED | {"factor": 16.0},
    "sliding_window": 4096, "sliding_window_pattern": "LLLG", "head_dim": 128,
    "layer_types": ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"] * 16,
}  # fmt: skip
GLM4 = {
    "architectures": ["Glm4ForCausalLM"], "model_type": "glm4", "attention_bias": True, "head_dim": 128,
    "hidden_act": "silu", "max_position_embeddings": 32768, "partial_rotary_factor": 0.5, "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0, "tie_word_embeddings": False, "pad_token_id": 151329,
}  # fmt: skip
COHERE2 = {
    "architectures": ["Cohere2ForCausalLM"], "model_type": "cohere2", "attention_bias": False, "hidden_act": "silu",
    "cache_implementation": "hybrid", "head_dim": 128, "layer_norm_eps": 1e-5, "layer_switch": 4, "logit_scale": 0.25,
    "max_position_embeddings": 8192, "order_of_interleaved_layers": "local_attn_first", "rope_scaling": None,
    "position_embedding_type": "rope_gptj", "rope_theta": 50000, "rotary_pct": 1.0, "sliding_window": 4096,
    "sliding_window_pattern": 4, "use_embedding_sharing": True, "use_gated_activation": True,
    "use_parallel_block": True, "use_parallel_embedding": True, "pad_token_id": 0,
}  # fmt: skip
GEMMA = {
    "architectures": ["GemmaForCausalLM"], "model_type": "gemma", "attention_bias": False, "head_dim": 256,
    "hidden_act": "gelu", "hidden_activation": None, "max_position_embeddings": 8192, "rms_norm_eps": 1e-6,
    "rope_scaling": None, "rope_theta": 10000.0, "pad_token_id": 0,
}  # fmt: skip
COHERE = {
    "architectures": ["CohereForCausalLM"], "model_type": "cohere", "attention_bias": False, "hidden_act": "silu",
    "layer_norm_eps": 1e-5, "logit_scale": 0.0625, "max_position_embeddings": 8192, "model_max_length": 131072,
    "rope_theta": 8000000.0, "use_qk_norm": False, "pad_token_id": 0,
}  # fmt: skip
ARCEE = {
    "architectures": ["ArceeForCausalLM"], "model_type": "arcee", "attention_bias": False, "mlp_bias": False,
    "head_dim": 128, "hidden_act": "relu2", "max_position_embeddings": 65536, "rms_norm_eps": 1e-5,
    "rope_scaling": {"rope_type": "yarn", "factor": 20.0, "original_max_position_embeddings": 4096, "beta_fast": 32.0,
                     "beta_slow": 1.0, "mscale": 1.0},
    "rope_theta": 10000.0, "tie_word_embeddings": False,
}  # fmt: skip
ERNIE = {
    "architectures": ["Ernie4_5ForCausalLM"], "model_type": "ernie4_5", "hidden_act": "silu", "head_dim": 128,
    "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 500000, "use_bias": False,
    "tie_word_embeddings": True, "pad_token_id": 0,
}  # fmt: skip
HUNYUAN = {
    "architectures": ["HunYuanDenseV1ForCausalLM"], "model_type": "hunyuan_v1_dense", "attention_bias": False,
    "attention_head_dim": 128, "head_dim": 128, "hidden_act": "silu", "max_position_embeddings": 32768,
    "mlp_bias": False, "norm_type": "rms", "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "use_cla": False,
    "rope_scaling": {"alpha": 1000.0, "beta_fast": 32, "beta_slow": 1, "factor": 1.0, "mscale": 1.0,
                     "mscale_all_dim": 1.0, "type": "dynamic"},
    "tie_word_embeddings": True, "use_qk_norm": True, "use_rotary_pos_emb": True, "pad_token_id": 127961,
}  # fmt: skip
STARCODER2 = {
    "architectures": ["Starcoder2ForCausalLM"], "model_type": "starcoder2", "activation_function": None,
    "embedding_dropout": 0.1, "residual_dropout": 0.1, "attention_dropout": 0.1, "hidden_act": "gelu_pytorch_tanh",
    "max_position_embeddings": 16384, "mlp_type": "default", "norm_epsilon": 1e-5, "norm_type": "layer_norm",
    "rope_theta": 999999.4420358813, "sliding_window": 4096, "use_bias": True,
}  # fmt: skip
STABLELM2 = {
    "architectures": ["StableLmForCausalLM"], "model_type": "stablelm", "hidden_act": "silu", "layer_norm_eps": 1e-5,
    "max_position_embeddings": 4096, "partial_rotary_factor": 0.25, "rope_theta": 10000, "use_qkv_bias": True,
    "tie_word_embeddings": False, "hidden_dropout": 0.0, "use_parallel_residual": False, "qk_layernorm": False,
}  # fmt: skip
PHI2 = {
    "architectures": ["PhiForCausalLM"], "model_type": "phi", "hidden_act": "gelu_new", "layer_norm_eps": 1e-5,
    "embd_pdrop": 0.0, "resid_pdrop": 0.1, "max_position_embeddings": 2048, "partial_rotary_factor": 0.4,
    "qk_layernorm": False, "rope_scaling": None, "rope_theta": 10000.0, "tie_word_embeddings": False,
}  # fmt: skip
GRANITE4 = {
    "architectures": ["GraniteMoeHybridForCausalLM"], "model_type": "granitemoehybrid", "attention_bias": False,
    "attention_multiplier": 0.015625, "embedding_multiplier": 12, "hidden_act": "silu", "init_method": "mup",
    "layer_types": ["attention"] * 40, "logits_scaling": 10, "mamba_chunk_size": 256, "mamba_conv_bias": True,
    "mamba_d_conv": 4, "mamba_d_head": 32, "mamba_d_state": 256, "mamba_expand": 2, "mamba_n_groups": 1,
    "mamba_n_heads": 128, "mamba_proj_bias": False, "max_position_embeddings": 131072, "rope_theta": 10000000,
    "normalization_function": "rmsnorm", "num_experts_per_tok": 0, "num_local_experts": 0, "rope_scaling": None,
    "output_router_logits": False, "position_embedding_type": "rope", "residual_multiplier": 0.22,
    "rms_norm_eps": 1e-5, "router_aux_loss_coef": 0.01, "shared_intermediate_size": 8192,
    "tie_word_embeddings": True, "pad_token_id": 100256,
}  # fmt: skip


def mistral3(kind: str, layers: int, d: int, ffn: int, **more: Any) -> dict[str, Any]:
    """Mistral Small 3.1 and Ministral 3: a text model beside a vision tower."""
    text = {
        "model_type": kind, "hidden_size": d, "num_hidden_layers": layers, "num_attention_heads": 32, "head_dim": 128,
        "num_key_value_heads": 8, "intermediate_size": ffn, "vocab_size": 131072, "hidden_act": "silu",
        "rms_norm_eps": 1e-5, "sliding_window": None, "attention_dropout": 0.0, "use_cache": True,
        "initializer_range": 0.02, **more,
    }  # fmt: skip
    return {
        "architectures": ["Mistral3ForConditionalGeneration"], "model_type": "mistral3", "image_token_index": 10,
        "multimodal_projector_bias": False, "projector_hidden_act": "gelu", "spatial_merge_size": 2,
        "text_config": text, "torch_dtype": "bfloat16", "transformers_version": "4.50.0.dev0",
        "vision_config": {"model_type": "pixtral"}, "vision_feature_layer": -1,
    }  # fmt: skip


SMALL_31 = {"max_position_embeddings": 131072, "rope_theta": 1000000000.0}
MINISTRAL3 = {
    "max_position_embeddings": 262144, "tie_word_embeddings": False,
    "rope_parameters": {"rope_type": "yarn", "rope_theta": 1000000.0, "factor": 16.0, "beta_fast": 32.0,
                        "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1,
                        "original_max_position_embeddings": 16384, "type": "yarn"},
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
    "Gemma-4-12B": (
        gemma4("gemma4_unified", 3840, 48, 15360, 16, 8, num_global_key_value_heads=1),
        11907350272, 11907350272, 344064,
    ),
    "Gemma-4-31B": (
        gemma4("gemma4", 5376, 60, 21504, 32, 16, num_global_key_value_heads=4), 30697345280, 30697345280, 901120,
    ),
    "Gemma-4-E2B": (
        gemma4("gemma4", 1536, 35, 6144, 8, 1, **SMALL_GEMMA4, num_kv_shared_layers=20, use_double_wide_mlp=True,
               layer_types=(["sliding_attention"] * 4 + ["full_attention"]) * 7),
        4628569344, 2279759104, 18432,
    ),
    "Gemma-4-E4B": (
        gemma4("gemma4", 2560, 42, 10240, 8, 2, **SMALL_GEMMA4, num_kv_shared_layers=18),
        7463013376, 4644441088, 57344,
    ),
    "SmolLM2-135M": (sized(SMOLLM, 576, 30, 9, 3, 1536, 49152), 134515008, 134515008, 23040),
    "SmolLM2-360M": (sized(SMOLLM, 960, 32, 15, 5, 2560, 49152), 361821120, 361821120, 40960),
    "SmolLM2-1.7B": (sized(SMOLLM, 2048, 24, 32, 32, 8192, 49152, rope_theta=130000), 1711376384, 1711376384, 196608),
    "SmolLM3-3B": (sized(SMOLLM3, 2048, 36, 16, 4, 11008, 128256), 3075098624, 3075098624, 73728),
    "Phi-3-mini": (sized(PHI3, 3072, 32, 32, 32, 8192, 32064), 3821079552, 3722578944, 393216),
    "Phi-3.5-mini": (sized(PHI35, 3072, 32, 32, 32, 8192, 32064), 3821079552, 3722578944, 393216),
    "Phi-4": (sized(PHI4, 5120, 40, 40, 10, 17920, 100352), 14659507200, 14145704960, 204800),
    "OLMo-2-1B": (sized(OLMO2, 2048, 16, 16, 16, 8192, 100352), 1484916736, 1279395840, 131072),
    "OLMo-2-7B": (sized(OLMO2, 4096, 32, 32, 32, 11008, 100352), 7298617344, 6887575552, 524288),
    "OLMo-2-13B": (sized(OLMO2, 5120, 40, 40, 40, 13824, 100352), 13716198400, 13202396160, 819200),
    "OLMo-3-7B": (sized(OLMO3, 4096, 32, 32, 32, 11008, 100278), 7298011136, 6887272448, 524288),
    "Mistral-Small-3.1": (mistral3("mistral", 40, 5120, 32768, **SMALL_31), 23572403200, 22901314560, 163840),
    "Ministral-3-8B": (mistral3("ministral3", 34, 4096, 14336, **MINISTRAL3), 8489553920, 7952683008, 139264),
    "Seed-OSS-36B": (sized(SEED_OSS, 5120, 64, 80, 8, 27648, 155136), 36151104512, 35356808192, 262144),
    "EXAONE-4.0-1.2B": (sized(EXAONE4, 2048, 30, 32, 8, 4096, 102400), 1279391488, 1279391488, 61440),
    "EXAONE-4.0-32B": (sized(EXAONE4_32B, 5120, 64, 40, 8, 27392, 102400), 32003216384, 31478928384, 262144),
    "GLM-4-9B": (sized(GLM4, 4096, 40, 32, 2, 13696, 151552), 9400279040, 8779522048, 40960),
    "Gemma-7B": (sized(GEMMA, 3072, 28, 16, 16, 24576, 256000), 8537680896, 8537680896, 458752),
    "Command-R": (sized(COHERE, 8192, 40, 64, 64, 22528, 256000), 34980831232, 34980831232, 1310720),
    "AFM-4.5B": (sized(ARCEE, 2560, 36, 20, 4, 18432, 128000), 4619164160, 4291484160, 73728),
    "Command-R7B": (sized(COHERE2, 4096, 32, 32, 8, 14336, 256000), 8028033024, 8028033024, 131072),
    "ERNIE-4.5-0.3B": (sized(ERNIE, 1024, 18, 16, 2, 3072, 103424), 360748032, 360748032, 18432),
    "Hunyuan-7B": (sized(HUNYUAN, 4096, 32, 32, 8, 14336, 128167), 7504568320, 7504568320, 131072),
    "StarCoder2-3B": (sized(STARCODER2, 3072, 30, 24, 2, 12288, 49152), 3030371328, 3030371328, 30720),
    "StableLM-2-1.6B": (sized(STABLELM2, 2048, 24, 32, 32, 5632, 100352), 1644515328, 1438994432, 196608),
    "Phi-2": (sized(PHI2, 2560, 32, 32, 32, 10240, 51200), 2779683840, 2648611840, 327680),
    "Granite-4.0-micro": (sized(GRANITE4, 2560, 40, 40, 8, 8192, 100352), 3402836480, 3402836480, 81920),
    "Phi-4-mini": (sized(PHI4_MINI, 3072, 32, 24, 8, 8192, 200064), 3836021760, 3836021760, 131072),
}  # fmt: skip
"""By name: config.json, parameters, parameters streamed for a token, bytes of keys and values a token.

The text models of Gemma 3 from 4B on have 262,208 rows in the head here, 64 more than the 262,144 in GGUF: with
those they have 3,880,099,328, 11,765,788,416 and 27,009,002,240 parameters.
"""
