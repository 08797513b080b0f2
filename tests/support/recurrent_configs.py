"""Published configurations of recurrent and hybrid models, with the keys of their files; what they build and cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from memfirst import ledger, models
from memfirst.formats.architectures import architecture_of
from memfirst.graph import Graph, StateCache, Step
from memfirst.models import ShapeOnly

Config = dict[str, Any]

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
QWEN3_NEXT: Config = {  # Qwen/Qwen3-Next-80B-A3B-Instruct
    "architectures": ["Qwen3NextForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "bos_token_id": 151643, "decoder_sparse_step": 1, "eos_token_id": 151645, "full_attention_interval": 4,
    "head_dim": 256, "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 5120,
    "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_num_key_heads": 16,
    "linear_num_value_heads": 32, "linear_value_head_dim": 128, "max_position_embeddings": 262144,
    "mlp_only_layers": [], "model_type": "qwen3_next", "moe_intermediate_size": 512, "norm_topk_prob": True,
    "num_attention_heads": 16, "num_experts": 512, "num_experts_per_tok": 10, "num_hidden_layers": 48,
    "num_key_value_heads": 2, "output_router_logits": False, "partial_rotary_factor": 0.25, "rms_norm_eps": 1e-06,
    "rope_scaling": None, "rope_theta": 10000000, "router_aux_loss_coef": 0.001,
    "shared_expert_intermediate_size": 512, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "use_cache": True, "use_sliding_window": False, "vocab_size": 151936,
}  # fmt: skip
QWEN35_TEXT: Config = {  # the text model of Qwen/Qwen3.5-27B
    "attention_bias": False, "attn_output_gate": True, "dtype": "bfloat16", "eos_token_id": 248044,
    "full_attention_interval": 4, "head_dim": 256, "hidden_act": "silu", "hidden_size": 5120,
    "intermediate_size": 17408, "layer_types": [*["linear_attention"] * 3, "full_attention"] * 16,
    "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_num_key_heads": 16,
    "linear_num_value_heads": 48, "linear_value_head_dim": 128, "mamba_ssm_dtype": "float32",
    "max_position_embeddings": 262144, "mlp_only_layers": [], "model_type": "qwen3_5_text",
    "mtp_num_hidden_layers": 1, "mtp_use_dedicated_embeddings": False, "num_attention_heads": 24,
    "num_hidden_layers": 64, "num_key_value_heads": 4, "rms_norm_eps": 1e-06, "use_cache": True,
    "vocab_size": 248320,
    "rope_parameters": {"mrope_interleaved": True, "mrope_section": [11, 11, 10], "partial_rotary_factor": 0.25,
                        "rope_theta": 10000000, "rope_type": "default"},
}  # fmt: skip
QWEN35: Config = {  # Qwen/Qwen3.5-27B
    "architectures": ["Qwen3_5ForConditionalGeneration"], "image_token_id": 248056, "model_type": "qwen3_5",
    "text_config": QWEN35_TEXT, "tie_word_embeddings": False, "video_token_id": 248057,
    "vision_config": {"depth": 27, "hidden_size": 1152, "model_type": "qwen3_5"}, "vision_end_token_id": 248054,
    "vision_start_token_id": 248053,
}  # fmt: skip
QWEN35_MOE: Config = {  # Qwen/Qwen3.5-35B-A3B; its text model states no intermediate_size
    **QWEN35, "architectures": ["Qwen3_5MoeForConditionalGeneration"], "model_type": "qwen3_5_moe",
    "text_config": {
        **{key: value for key, value in QWEN35_TEXT.items() if key != "intermediate_size"},
        "hidden_size": 2048, "layer_types": [*["linear_attention"] * 3, "full_attention"] * 10,
        "linear_num_value_heads": 32, "model_type": "qwen3_5_moe_text", "moe_intermediate_size": 512,
        "num_attention_heads": 16, "num_experts": 256, "num_experts_per_tok": 8, "num_hidden_layers": 40,
        "num_key_value_heads": 2, "output_router_logits": False, "router_aux_loss_coef": 0.001,
        "shared_expert_intermediate_size": 512,
    },
}  # fmt: skip
LFM2_350M: Config = {  # LiquidAI/LFM2-350M
    "architectures": ["Lfm2ForCausalLM"], "block_auto_adjust_ff_dim": True, "block_dim": 1024, "block_ff_dim": 6656,
    "block_ffn_dim_multiplier": 1.0, "block_mlp_init_scale": 1.0, "block_multiple_of": 256, "block_norm_eps": 1e-05,
    "block_out_init_scale": 1.0, "block_use_swiglu": True, "block_use_xavier_init": True, "bos_token_id": 1,
    "conv_L_cache": 3, "conv_bias": False, "conv_dim": 1024, "conv_dim_out": 1024, "conv_use_xavier_init": True,
    "eos_token_id": 7, "full_attn_idxs": [2, 5, 8, 10, 12, 14], "hidden_size": 1024, "initializer_range": 0.02,
    "max_position_embeddings": 128000, "model_type": "lfm2", "norm_eps": 1e-05, "num_attention_heads": 16,
    "num_heads": 16, "num_hidden_layers": 16, "num_key_value_heads": 8, "pad_token_id": 0, "rope_theta": 1000000.0,
    "torch_dtype": "bfloat16", "use_cache": True, "use_pos_enc": True, "vocab_size": 65536,
}  # fmt: skip
LFM2_MOE: Config = {  # LiquidAI/LFM2-8B-A1B
    "architectures": ["Lfm2MoeForCausalLM"], "bos_token_id": 1, "conv_L_cache": 3, "conv_bias": False,
    "dtype": "bfloat16", "eos_token_id": 7, "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 7168,
    "layer_types": ["full_attention" if i in (2, 6, 10, 14, 18, 21) else "conv" for i in range(24)],
    "max_position_embeddings": 128000, "model_type": "lfm2_moe", "moe_intermediate_size": 1792, "norm_eps": 1e-05,
    "norm_topk_prob": True, "num_attention_heads": 32, "num_dense_layers": 2, "num_experts": 32,
    "num_experts_per_tok": 4, "num_hidden_layers": 24, "num_key_value_heads": 8, "pad_token_id": 0,
    "rope_theta": 1000000.0, "routed_scaling_factor": 1.0, "use_cache": True, "use_expert_bias": True,
    "vocab_size": 65536,
}  # fmt: skip
NEMOTRON_8B: Config = {  # nvidia/Nemotron-H-8B-Base-8K
    "architectures": ["NemotronHForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "attention_head_dim": 128, "bos_token_id": 1, "chunk_size": 256, "conv_kernel": 4, "eos_token_id": 2, "expand": 2,
    "hidden_dropout": 0.0, "hidden_size": 4096,
    "hybrid_override_pattern": "M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-",
    "initializer_range": 0.02, "intermediate_size": 21504, "layer_norm_epsilon": 1e-05, "mamba_head_dim": 64,
    "mamba_hidden_act": "silu", "mamba_num_heads": 128, "mamba_proj_bias": False, "max_position_embeddings": 8192,
    "mlp_bias": False, "mlp_hidden_act": "relu2", "model_type": "nemotron_h", "n_groups": 8,
    "num_attention_heads": 32, "num_hidden_layers": 52, "num_key_value_heads": 8, "num_logits_to_keep": 1,
    "num_query_groups": 8, "pad_token_id": 0, "rescale_prenorm_residual": True, "residual_in_fp32": False,
    "rms_norm_eps": 1e-05, "sliding_window": None, "ssm_state_size": 128, "tie_word_embeddings": False,
    "time_step_floor": 0.0001, "time_step_limit": [0.0, float("inf")], "time_step_max": 0.1, "time_step_min": 0.001,
    "torch_dtype": "bfloat16", "use_bias": False, "use_cache": True, "use_conv_bias": True, "use_mamba_kernels": True,
    "vocab_size": 131072,
}  # fmt: skip
NEMOTRON_30B: Config = {  # nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16
    **NEMOTRON_8B, "chunk_size": 128, "head_dim": 128, "hidden_size": 2688, "intermediate_size": 1856,
    "hybrid_override_pattern": "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME",
    "mamba_num_heads": 64, "mamba_ssm_cache_dtype": "float32", "max_position_embeddings": 262144,
    "moe_intermediate_size": 1856, "moe_shared_expert_intermediate_size": 3712, "n_group": 1,
    "n_routed_experts": 128, "n_shared_experts": 1, "norm_eps": 1e-05, "norm_topk_prob": True,
    "num_experts_per_tok": 6, "num_key_value_heads": 2, "partial_rotary_factor": 1.0, "rope_theta": 10000,
    "routed_scaling_factor": 2.5, "topk_group": 1,
}  # fmt: skip
FALCON_H1_500M: Config = {  # tiiuae/Falcon-H1-0.5B-Instruct
    "architectures": ["FalconH1ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "attention_in_multiplier": 1.0, "attention_out_multiplier": 0.9375, "attn_layer_indices": None, "bos_token_id": 1,
    "embedding_multiplier": 5.656854249492381, "eos_token_id": 11, "head_dim": 64, "hidden_act": "silu",
    "hidden_size": 1024, "initializer_range": 0.02, "intermediate_size": 2048, "key_multiplier": 0.39062499999999994,
    "lm_head_multiplier": 0.0390625, "mamba_chunk_size": 128, "mamba_conv_bias": True, "mamba_d_conv": 4,
    "mamba_d_head": 64, "mamba_d_ssm": 1536, "mamba_d_state": 128, "mamba_expand": 2, "mamba_n_groups": 1,
    "mamba_n_heads": 24, "mamba_norm_before_gate": False, "mamba_proj_bias": False, "mamba_rms_norm": False,
    "mamba_use_mlp": True, "max_position_embeddings": 16384, "mlp_bias": False, "mlp_expansion_factor": 8,
    "mlp_multipliers": [0.8838834764831844, 0.5859375], "model_type": "falcon_h1", "num_attention_heads": 8,
    "num_hidden_layers": 36, "num_key_value_heads": 2, "num_logits_to_keep": 1, "pad_token_id": 0,
    "projectors_bias": False, "rms_norm_eps": 1e-05, "rope_scaling": None, "rope_theta": 100000000000.0,
    "ssm_in_multiplier": 1.25, "ssm_multipliers": [0.3535533905932738, 0.25, 0.3535533905932738, 0.5,
    0.3535533905932738], "ssm_out_multiplier": 0.23570226039551587, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "use_cache": True, "vocab_size": 32784,
}  # fmt: skip
FALCON_H1_7B: Config = {  # tiiuae/Falcon-H1-7B-Instruct
    **FALCON_H1_500M, "attention_out_multiplier": 0.10416666666666667, "head_dim": 128, "hidden_size": 3072,
    "intermediate_size": 12288, "key_multiplier": 0.030690398488999456, "lm_head_multiplier": 0.013020833333333334,
    "mamba_chunk_size": 256, "mamba_d_head": 128, "mamba_d_ssm": 3072, "mamba_d_state": 256, "mamba_rms_norm": True,
    "max_position_embeddings": 262144, "num_attention_heads": 12, "num_hidden_layers": 44, "vocab_size": 130048,
    "ssm_in_multiplier": 0.4166666666666667, "ssm_multipliers": [0.3535533905932738, 0.25, 0.1767766952966369, 0.5,
    0.3535533905932738], "ssm_out_multiplier": 0.11785113019775793,
}  # fmt: skip
NATIVE: Config = {  # state-spaces/mamba2-130m, whole
    "d_model": 768, "d_intermediate": 0, "n_layer": 24, "vocab_size": 50277, "ssm_cfg": {"layer": "Mamba2"},
    "attn_layer_idx": [], "attn_cfg": {}, "rms_norm": True, "residual_in_fp32": True, "fused_add_norm": True,
    "pad_vocab_size_multiple": 16, "tie_embeddings": True,
}  # fmt: skip
NATIVE_1: Config = {  # state-spaces/mamba-130m, whole
    "d_model": 768, "n_layer": 24, "vocab_size": 50277, "ssm_cfg": {}, "rms_norm": True, "residual_in_fp32": True,
    "fused_add_norm": True, "pad_vocab_size_multiple": 8,
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


def lfm2(width: int, inner: int) -> Config:
    """`inner`: before it is adjusted."""
    sizes = dict.fromkeys(("hidden_size", "block_dim", "conv_dim", "conv_dim_out"), width)
    heads = dict.fromkeys(("num_attention_heads", "num_heads"), width // 64)
    return {**LFM2_350M, **sizes, **heads, "block_ff_dim": inner}


def falcon_h1(width: int, layers: int, heads: int, mixer: tuple[int, int], ffn: int, vocab: int, **more: int) -> Config:
    """`mixer`: its heads, and each one's size, with a norm; states of 256."""
    count, size = mixer
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads, "head_dim": 128}
    inner = {"mamba_n_heads": count, "mamba_d_head": size, "mamba_d_ssm": count * size, "mamba_d_state": 256}
    inner["mamba_rms_norm"] = True
    return {**FALCON_H1_500M, **sizes, **inner, "intermediate_size": ffn, "vocab_size": vocab, **more}


GRANITE_1B = {**GRANITE_TINY, "num_local_experts": 0, "num_experts_per_tok": 0, "shared_intermediate_size": 4096}


def build(config: Config) -> Graph:
    """From a config alone, f16."""
    architecture = models.find(architecture_of(config))
    return architecture.build(architecture.from_hf(config, False), ShapeOnly("f16"))


def states(graph: Graph) -> list[StateCache]:
    return [c for c in graph.caches if isinstance(c, StateCache)]


def price(graph: Graph, step: Step) -> Mapping[str, int]:
    found = dict(ledger.table(ledger.price(graph, step)))
    assert found.pop("activations") > 0
    return found
