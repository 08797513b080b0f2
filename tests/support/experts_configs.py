"""Published models with routed experts: config.json as its publisher has it, and the sizes that are known of each.

Sizes: parameters, those that a decoded token streams (routers, shared experts, the picked experts and the head, but
not the looked-up embedding), and bytes of keys and values a token in f16. Checked against litgpt 0.5.13 (Qwen3),
mlc-llm's model_preset.py at 79d603f (Mixtral), deepseek-ai/DeepSeek-V3's inference/configs at 9b4e978 and
openai/gpt-oss's torch/model.py. From Qwen1.5-MoE on parameters are the publishers' or computed by the oracle of
tests/oracle from the same fields, and what is streamed is computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

COMMON: dict[str, Any] = {
    "attention_dropout": 0.0, "hidden_act": "silu", "initializer_range": 0.02, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "use_cache": True, "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip

MIXTRAL = {
    **COMMON, "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "hidden_size": 4096,
    "intermediate_size": 14336, "max_position_embeddings": 32768, "num_attention_heads": 32,
    "num_experts_per_tok": 2, "num_hidden_layers": 32, "num_key_value_heads": 8, "num_local_experts": 8,
    "output_router_logits": False, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "router_aux_loss_coef": 0.02,
    "sliding_window": None, "transformers_version": "4.36.0.dev0", "vocab_size": 32000,
}  # fmt: skip

QWEN3_30B = {
    **COMMON, "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "attention_bias": False,
    "decoder_sparse_step": 1, "head_dim": 128, "hidden_size": 2048, "intermediate_size": 6144,
    "max_position_embeddings": 40960, "max_window_layers": 48, "mlp_only_layers": [], "moe_intermediate_size": 768,
    "norm_topk_prob": True, "num_attention_heads": 32, "num_experts": 128, "num_experts_per_tok": 8,
    "num_hidden_layers": 48, "num_key_value_heads": 4, "output_router_logits": False, "rms_norm_eps": 1e-06,
    "rope_scaling": None, "rope_theta": 1000000.0, "router_aux_loss_coef": 0.001, "sliding_window": None,
    "transformers_version": "4.51.0", "use_sliding_window": False, "vocab_size": 151936,
}  # fmt: skip
QWEN3_235B = {
    **QWEN3_30B, "hidden_size": 4096, "intermediate_size": 12288, "max_window_layers": 94,
    "moe_intermediate_size": 1536, "num_attention_heads": 64, "num_hidden_layers": 94,
}  # fmt: skip

GPT_OSS_20B = {
    **COMMON, "architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss", "attention_bias": True,
    "experts_per_token": 4, "head_dim": 64, "hidden_size": 2880, "initial_context_length": 4096,
    "intermediate_size": 2880, "layer_types": ["sliding_attention", "full_attention"] * 12,
    "max_position_embeddings": 131072, "num_attention_heads": 64, "num_experts_per_tok": 4,
    "num_hidden_layers": 24, "num_key_value_heads": 8, "num_local_experts": 32, "output_router_logits": False,
    "quantization_config": {
        "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens",
                                   "lm_head"],
        "quant_method": "mxfp4",
    },
    "rms_norm_eps": 1e-05,
    "rope_scaling": {"beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0, "rope_type": "yarn", "truncate": False,
                     "original_max_position_embeddings": 4096},
    "rope_theta": 150000, "router_aux_loss_coef": 0.9, "sliding_window": 128, "swiglu_limit": 7.0,
    "transformers_version": "4.55.0.dev0", "vocab_size": 201088,
}  # fmt: skip
GPT_OSS_120B = {
    **GPT_OSS_20B, "layer_types": ["sliding_attention", "full_attention"] * 18, "num_hidden_layers": 36,
    "num_local_experts": 128,
}  # fmt: skip

YARN = {
    "beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 0.707, "mscale_all_dim": 0.707,
    "original_max_position_embeddings": 4096, "type": "yarn",
}  # fmt: skip
V2_LITE = {
    **COMMON, "architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2", "attention_bias": False,
    "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV2Config"}, "aux_loss_alpha": 0.001,
    "first_k_dense_replace": 1, "hidden_size": 2048, "intermediate_size": 10944, "kv_lora_rank": 512,
    "max_position_embeddings": 163840, "moe_intermediate_size": 1408, "moe_layer_freq": 1, "n_group": 1,
    "n_routed_experts": 64, "n_shared_experts": 2, "norm_topk_prob": False, "num_attention_heads": 16,
    "num_experts_per_tok": 6, "num_hidden_layers": 27, "num_key_value_heads": 16, "pretraining_tp": 1,
    "q_lora_rank": None, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "rms_norm_eps": 1e-06,
    "rope_scaling": YARN, "rope_theta": 10000, "routed_scaling_factor": 1.0, "scoring_func": "softmax",
    "seq_aux": True, "topk_group": 1, "topk_method": "greedy", "transformers_version": "4.33.1",
    "v_head_dim": 128, "vocab_size": 102400,
}  # fmt: skip
V2 = {
    **V2_LITE, "ep_size": 1, "hidden_size": 5120, "intermediate_size": 12288, "moe_intermediate_size": 1536,
    "n_group": 8, "n_routed_experts": 160, "num_attention_heads": 128, "num_hidden_layers": 60,
    "num_key_value_heads": 128, "q_lora_rank": 1536, "routed_scaling_factor": 16.0, "topk_group": 3,
    "topk_method": "group_limited_greedy", "rope_scaling": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0},
}  # fmt: skip
V3 = {
    **V2, "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "first_k_dense_replace": 3,
    "hidden_size": 7168, "intermediate_size": 18432, "moe_intermediate_size": 2048, "n_routed_experts": 256,
    "n_shared_experts": 1, "norm_topk_prob": True, "num_experts_per_tok": 8, "num_hidden_layers": 61,
    "num_nextn_predict_layers": 1, "routed_scaling_factor": 2.5, "scoring_func": "sigmoid", "topk_group": 4,
    "topk_method": "noaux_tc", "vocab_size": 129280,
    "quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
                            "weight_block_size": [128, 128]},
}  # fmt: skip

DEEPSEEK_MOE = {
    **COMMON, "architectures": ["DeepseekForCausalLM"], "model_type": "deepseek", "attention_bias": False,
    "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekConfig"}, "aux_loss_alpha": 0.001,
    "first_k_dense_replace": 1, "hidden_size": 2048, "intermediate_size": 10944, "max_position_embeddings": 4096,
    "moe_intermediate_size": 1408, "moe_layer_freq": 1, "n_routed_experts": 64, "n_shared_experts": 2,
    "norm_topk_prob": False, "num_attention_heads": 16, "num_experts_per_tok": 6, "num_hidden_layers": 28,
    "num_key_value_heads": 16, "pretraining_tp": 1, "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 10000,
    "scoring_func": "softmax", "seq_aux": True, "transformers_version": "4.36.2", "vocab_size": 102400,
}  # fmt: skip
DOTS1 = {
    **COMMON, "architectures": ["Dots1ForCausalLM"], "model_type": "dots1", "attention_bias": False,
    "first_k_dense_replace": 1, "hidden_size": 4096, "intermediate_size": 10944, "max_position_embeddings": 32768,
    "moe_intermediate_size": 1408, "moe_layer_freq": 1, "n_routed_experts": 128, "n_shared_experts": 2,
    "norm_topk_prob": True, "num_attention_heads": 32, "num_experts_per_tok": 6, "num_hidden_layers": 62,
    "num_key_value_heads": 32, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": None,
    "rope_theta": 10000000, "routed_scaling_factor": 2.5, "scoring_func": "noaux_tc", "sliding_window": None,
    "use_sliding_window": False, "vocab_size": 152064,
}  # fmt: skip

QWEN15_MOE = {
    **COMMON, "architectures": ["Qwen2MoeForCausalLM"], "model_type": "qwen2_moe", "decoder_sparse_step": 1,
    "hidden_size": 2048, "intermediate_size": 5632, "max_position_embeddings": 32768, "max_window_layers": 21,
    "moe_intermediate_size": 1408, "norm_topk_prob": False, "num_attention_heads": 16, "num_experts": 60,
    "num_experts_per_tok": 4, "num_hidden_layers": 24, "num_key_value_heads": 16, "output_router_logits": False,
    "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "router_aux_loss_coef": 0.001, "sliding_window": 32768,
    "shared_expert_intermediate_size": 5632, "use_sliding_window": False, "vocab_size": 151936,
}  # fmt: skip
OLMOE = {
    **COMMON, "architectures": ["OlmoeForCausalLM"], "model_type": "olmoe", "attention_bias": False, "clip_qkv": None,
    "hidden_size": 2048, "intermediate_size": 1024, "max_position_embeddings": 4096, "norm_topk_prob": False,
    "num_attention_heads": 16, "num_experts": 64, "num_experts_per_tok": 8, "num_hidden_layers": 16,
    "num_key_value_heads": 16, "output_router_logits": False, "rms_norm_eps": 1e-05, "rope_scaling": None,
    "rope_theta": 10000.0, "router_aux_loss_coef": 0.01, "vocab_size": 50304,
}  # fmt: skip
GLM45_AIR = {
    **COMMON, "architectures": ["Glm4MoeForCausalLM"], "model_type": "glm4_moe", "attention_bias": True,
    "first_k_dense_replace": 1, "head_dim": 128, "hidden_size": 4096, "intermediate_size": 10944,
    "max_position_embeddings": 131072, "moe_intermediate_size": 1408, "n_group": 1, "n_routed_experts": 128,
    "n_shared_experts": 1, "norm_topk_prob": True, "num_attention_heads": 96, "num_experts_per_tok": 8,
    "num_hidden_layers": 46, "num_key_value_heads": 8, "num_nextn_predict_layers": 1, "partial_rotary_factor": 0.5,
    "rms_norm_eps": 1e-05, "rope_scaling": None, "rope_theta": 1000000, "routed_scaling_factor": 1.0, "topk_group": 1,
    "use_qk_norm": False, "vocab_size": 151552,
}  # fmt: skip
GLM46 = {
    **GLM45_AIR, "first_k_dense_replace": 3, "hidden_size": 5120, "intermediate_size": 12288,
    "max_position_embeddings": 202752, "moe_intermediate_size": 1536, "n_routed_experts": 160, "num_hidden_layers": 92,
    "routed_scaling_factor": 2.5, "use_qk_norm": True,
}  # fmt: skip
MINIMAX_M2 = {
    **COMMON, "architectures": ["MiniMaxM2ForCausalLM"], "model_type": "minimax_m2", "attn_type_list": [1] * 62,
    "auto_map": {"AutoConfig": "configuration_minimax_m2.MiniMaxM2Config"}, "head_dim": 128, "hidden_size": 3072,
    "intermediate_size": 1536, "max_position_embeddings": 196608, "mtp_transformer_layers": 1,
    "num_attention_heads": 48, "num_experts_per_tok": 8, "num_hidden_layers": 62, "num_key_value_heads": 8,
    "num_local_experts": 256, "num_mtp_modules": 3, "qk_norm_type": "per_layer", "rms_norm_eps": 1e-06,
    "rope_theta": 5000000, "rotary_dim": 64, "scoring_func": "sigmoid", "shared_intermediate_size": 0, "use_mtp": True,
    "use_qk_norm": True, "use_routing_bias": True, "vocab_size": 200064,
    "quantization_config": {"quant_method": "fp8", "fmt": "float8_e4m3fn", "weight_block_size": [128, 128],
                            "activation_scheme": "dynamic",
                            "modules_to_not_convert": ["gate", "e_score_correction_bias", "lm_head"]},
}  # fmt: skip
ERNIE_21B = {
    **COMMON, "architectures": ["Ernie4_5_MoeForCausalLM"], "model_type": "ernie4_5_moe", "head_dim": None,
    "hidden_size": 2560, "intermediate_size": 12288, "max_position_embeddings": 131072, "moe_capacity": [64, 64, 64],
    "moe_gate": "topk", "moe_intermediate_size": 1536, "moe_k": 6, "moe_layer_end_index": 27, "moe_layer_interval": 1,
    "moe_layer_start_index": 1, "moe_num_experts": 64, "moe_num_shared_experts": 2, "moe_use_aux_free": True,
    "num_attention_heads": 20, "num_hidden_layers": 28, "num_key_value_heads": 4, "rms_norm_eps": 1e-05,
    "rope_scaling": None, "rope_theta": 500000.0, "tie_word_embeddings": True, "use_bias": False, "use_rmsnorm": True,
    "vocab_size": 103424,
}  # fmt: skip
GRANITE_3B = {
    **COMMON, "architectures": ["GraniteMoeForCausalLM"], "model_type": "granitemoe", "attention_bias": False,
    "attention_multiplier": 0.015625, "embedding_multiplier": 12.0, "hidden_size": 1536, "intermediate_size": 512,
    "logits_scaling": 6.0, "max_position_embeddings": 131072, "num_attention_heads": 24, "num_experts_per_tok": 8,
    "num_hidden_layers": 32, "num_key_value_heads": 8, "num_local_experts": 40, "output_router_logits": False,
    "residual_multiplier": 0.22, "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 10000000.0,
    "router_aux_loss_coef": 0.0, "tie_word_embeddings": True, "vocab_size": 49155,
}  # fmt: skip
HUNYUAN_A13B = {
    **COMMON, "architectures": ["HunYuanMoEV1ForCausalLM"], "model_type": "hunyuan_v1_moe", "attention_bias": False,
    "attention_head_dim": 128, "capacity_factor": 1.0, "cla_share_factor": 2, "head_dim": 128, "hidden_size": 4096,
    "intermediate_size": 3072, "max_position_embeddings": 32768, "mlp_bias": False, "moe_drop_tokens": False,
    "moe_intermediate_size": [3072] * 32, "moe_layer_num_skipped": 0, "moe_random_routing_dropped_token": False,
    "moe_topk": [8] * 32, "norm_topk_prob": True, "norm_type": "rms", "num_attention_heads": 32, "num_experts": 64,
    "num_hidden_layers": 32, "num_key_value_heads": 8, "num_shared_expert": [1] * 32, "rms_norm_eps": 1e-05,
    "rope_scaling": {"alpha": 1000.0, "beta_fast": 32, "beta_slow": 1, "factor": 1.0, "mscale": 1.0,
                     "mscale_all_dim": 1.0, "type": "dynamic"},
    "rope_theta": 10000.0, "tie_word_embeddings": True, "use_cla": False, "use_mixed_mlp_moe": True,
    "use_qk_norm": True, "use_rotary_pos_emb": True, "vocab_size": 128167,
}  # fmt: skip

SCOUT = {  # the text model of meta-llama/Llama-4-Scout-17B-16E-Instruct
    **COMMON, "model_type": "llama4_text", "attention_bias": False, "attention_chunk_size": 8192, "attn_scale": 0.1,
    "attn_temperature_tuning": 4, "floor_scale": 8192, "for_llm_compressor": False, "head_dim": 128,
    "hidden_size": 5120, "interleave_moe_layer_step": 1, "intermediate_size": 8192, "intermediate_size_mlp": 16384,
    "max_position_embeddings": 10485760, "no_rope_layers": [], "num_attention_heads": 40, "num_experts_per_tok": 1,
    "num_hidden_layers": 48, "num_key_value_heads": 8, "num_local_experts": 16, "output_router_logits": False,
    "pad_token_id": 200018, "rms_norm_eps": 1e-05, "rope_theta": 500000.0, "router_aux_loss_coef": 0.001,
    "router_jitter_noise": 0.0, "use_qk_norm": True, "vocab_size": 202048,
    "rope_scaling": {"factor": 16.0, "high_freq_factor": 1.0, "low_freq_factor": 1.0, "rope_type": "llama3",
                     "original_max_position_embeddings": 8192},
}  # fmt: skip
MAVERICK = {  # the text model of meta-llama/Llama-4-Maverick-17B-128E-Instruct
    **SCOUT, "interleave_moe_layer_step": 2, "max_position_embeddings": 1048576, "num_local_experts": 128,
    "rope_scaling": None, "use_qk_norm": False,
}  # fmt: skip


@dataclass(frozen=True)
class Published:
    """A config and what is known of the model: parameters, those streamed a token, KV bytes a token in f16."""

    config: dict[str, Any]
    params: int
    streamed: int
    kv_bytes: int


MODELS = {
    "Mixtral-8x7B": Published(MIXTRAL, 46_702_792_704, 12_748_853_248, 131_072),
    "Qwen3-30B-A3B": Published(QWEN3_30B, 30_532_122_624, 3_041_867_776, 98_304),
    "Qwen3-235B-A22B": Published(QWEN3_235B, 235_093_634_560, 21_568_433_664, 192_512),
    "gpt-oss-20b": Published(GPT_OSS_20B, 20_914_757_184, 3_608_307_264, 49_152),
    "gpt-oss-120b": Published(GPT_OSS_120B, 116_829_156_672, 5_132_849_472, 73_728),
    "DeepSeek-V2-Lite": Published(V2_LITE, 15_706_484_224, 2_451_435_008, 31_104),
    "DeepSeek-V2": Published(V2, 235_741_434_880, 20_851_512_320, 69_120),
    "DeepSeek-V3": Published(V3, 671_026_419_200, 36_625_618_432, 70_272),
    "Qwen1.5-MoE-A2.7B": Published(QWEN15_MOE, 14_315_784_192, 2_378_008_576, 196_608),
    "dots.llm1": Published(DOTS1, 142_774_381_696, 13_393_734_784, 1_015_808),
    "DeepSeekMoE-16B": Published(DEEPSEEK_MOE, 16_375_728_128, 2_618_935_296, 229_376),
    "OLMoE-1B-7B": Published(OLMOE, 6_919_161_856, 1_178_994_688, 131_072),
    "GLM-4.5-Air": Published(GLM45_AIR, 106_852_251_264, 12_803_372_672, 188_416),
    "GLM-4.6": Published(GLM46, 352_797_829_024, 32_856_319_904, 376_832),
    "MiniMax-M2": Published(MINIMAX_M2, 228_689_764_864, 10_415_956_480, 253_952),
    "ERNIE-4.5-21B-A3B": Published(ERNIE_21B, 21_825_437_888, 3_352_150_208, 57_344),
    "Granite-3.1-3B-A800M": Published(GRANITE_3B, 3_298_793_472, 882_874_368, 65_536),
    "Llama-4-Scout": Published(SCOUT, 107_769_861_120, 16_138_408_960, 196_608),
    "Llama-4-Maverick": Published(MAVERICK, 400_711_848_960, 16_150_205_440, 196_608),
    "Hunyuan-A13B": Published(HUNYUAN_A13B, 80_393_183_232, 12_747_448_320, 131_072),
}
