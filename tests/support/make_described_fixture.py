"""Write tests/data/described.json: what transformers makes of small configs of models that are priced and not run.

By layer its parameters (with the router's correction, which it keeps as a buffer), and what its cache holds after a
prompt: [entries, numbers of each] of keys and values, and the numbers of a recurrent state.

    python tests/support/make_described_fixture.py

where torch and transformers 5.24 are installed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TOKENS = 67
"""Of the prompt: more than each window, and no multiple of what entries are made of."""

SIZES: dict[str, Any] = {
    "vocab_size": 211, "hidden_size": 96, "num_attention_heads": 6, "max_position_embeddings": 512,
    "tie_word_embeddings": False, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
LATENT = {"kv_lora_rank": 40, "qk_nope_head_dim": 24, "qk_rope_head_dim": 8, "v_head_dim": 28}
MOE = {"intermediate_size": 136, "moe_intermediate_size": 44, "num_experts_per_tok": 2, "n_routed_experts": 5,
       "n_shared_experts": 1}  # fmt: skip
INDEX = {"index_head_dim": 16, "index_n_heads": 3, "index_topk": 12}
WINDOWED = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "deepseek_v32": (
        "DeepseekV32ForCausalLM",
        SIZES | LATENT | MOE | INDEX | {"num_hidden_layers": 3, "q_lora_rank": 52, "first_k_dense_replace": 1,
                                        "n_group": 1, "topk_group": 1, "num_key_value_heads": 6},
    ),
    "glm_moe_dsa": (
        "GlmMoeDsaForCausalLM",
        SIZES | LATENT | MOE | INDEX | {"num_hidden_layers": 6, "q_lora_rank": 52, "first_k_dense_replace": 2,
                                        "index_topk_freq": 2, "num_key_value_heads": 6},
    ),
    "mistral4": (
        "Mistral4ForCausalLM",
        SIZES | LATENT | MOE | {"num_hidden_layers": 2, "q_lora_rank": 52, "first_k_dense_replace": 1,
                                "num_key_value_heads": 6},
    ),
    "deepseek_v4": (
        "DeepseekV4ForCausalLM",
        SIZES | INDEX | {"num_hidden_layers": 4, "num_key_value_heads": 1, "head_dim": 32, "q_lora_rank": 52,
                         "o_lora_rank": 20, "o_groups": 3, "qk_rope_head_dim": 8, "moe_intermediate_size": 44,
                         "n_routed_experts": 5, "n_shared_experts": 1, "num_experts_per_tok": 2, "hc_mult": 3,
                         "sliding_window": 16, "compress_ratios": [0, 4, 128, 4], "num_hash_layers": 1},
    ),
    "kimi_linear": (
        "KimiLinearForCausalLM",
        SIZES | LATENT | {"num_hidden_layers": 4, "num_key_value_heads": 6, "intermediate_size": 136,
                          "moe_intermediate_size": 44, "num_experts": 5, "num_experts_per_token": 2,
                          "num_shared_experts": 1, "first_k_dense_replace": 1, "linear_attn_config": {
                              "full_attn_layers": [3], "kda_layers": [1, 2, 4], "head_dim": 20, "num_heads": 4,
                              "short_conv_kernel_size": 4}},
    ),
    "bailing_hybrid": (
        "BailingHybridForCausalLM",
        SIZES | LATENT | {"num_hidden_layers": 4, "num_key_value_heads": 6, "intermediate_size": 136, "head_dim": 20,
                          "moe_intermediate_size": 44, "num_experts": 5, "num_experts_per_token": 2, "n_group": 1,
                          "topk_group": 1, "num_shared_experts": 1, "first_k_dense_replace": 1, "layer_group_size": 3,
                          "short_conv_kernel_size": 4},
    ),
    "qwen4_exp_text": (
        "Qwen4ExpForCausalLM",
        SIZES | {"num_hidden_layers": 4, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 32,
                 "linear_conv_kernel_dim": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 12,
                 "linear_num_key_heads": 3, "linear_num_value_heads": 6, "moe_intermediate_size": 44,
                 "shared_expert_intermediate_size": 52, "num_experts_per_tok": 2, "num_experts": 5, "hc_count": 3,
                 "hc_lowrank": 14, "ple_layer_ids": [2], "ple_embed_dim": 48, "ple_conv_kernel_size": 4,
                 "ngram_size": 3, "heads_per_ngram": 2, "ngram_vocab_size_base": 128,
                 "split_ngram_parts": 1, "make_ngram_vocab_size_divisible_by": 1, "indexer_n_heads": 3,
                 "indexer_kv_heads": 1, "indexer_head_dim": 16, "indexer_budget": 12, "indexer_compress_ratio": 4,
                 "full_attention_interval": 4,
                 "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25}},
    ),
    "minimax_m3_vl_text": (
        "MiniMaxM3VLTextModel",
        SIZES | {"num_hidden_layers": 3, "num_key_value_heads": 2, "head_dim": 32, "intermediate_size": 44,
                 "dense_intermediate_size": 136, "shared_intermediate_size": 52, "num_local_experts": 5,
                 "rotary_dim": 16, "num_experts_per_tok": 2, "mlp_layer_types": ["dense", "sparse", "sparse"],
                 "layer_types": [
                     "full_attention", "minimax_m3_sparse", "minimax_m3_sparse"],
                 "index_n_heads": 2, "index_head_dim": 20, "index_block_size": 8, "index_topk_blocks": 3},
    ),
    "laguna": (
        "LagunaForCausalLM",
        SIZES | {"num_hidden_layers": 4, "num_key_value_heads": 2, "head_dim": 20, "intermediate_size": 136,
                 "moe_intermediate_size": 44, "shared_expert_intermediate_size": 52, "num_experts": 5,
                 "num_experts_per_tok": 2, "sliding_window": 16, "layer_types": WINDOWED,
                 "num_attention_heads_per_layer": [6, 8, 8, 6]},
    ),
    "step3p5": (
        "Step3p7TextModel",
        SIZES | {"num_hidden_layers": 4, "num_key_value_heads": 2, "head_dim": 20, "intermediate_size": 136,
                 "moe_intermediate_size": 44, "share_expert_dim": 52, "n_routed_experts": 5, "num_experts_per_tok": 2,
                 "sliding_window": 16, "layer_types": WINDOWED, "num_sliding_attention_heads": 8,
                 "moe_layers_enum": "2,3"},
    ),
    "muse_glimmer_text": (
        "MuseGlimmerTextModel",
        SIZES | {"num_hidden_layers": 4, "num_key_value_heads": 2, "head_dim": 20, "intermediate_size": 136,
                 "sliding_window": 16, "layer_types": WINDOWED},
    ),
    "gemma3n_text": (
        "Gemma3nForCausalLM",
        SIZES | {"num_hidden_layers": 4, "num_key_value_heads": 2, "head_dim": 32, "intermediate_size": [136] * 4,
                 "sliding_window": 16, "layer_types": ["sliding_attention", "full_attention", "sliding_attention",
                                                       "full_attention"],
                 "num_kv_shared_layers": 2, "altup_num_inputs": 3, "laurel_rank": 12, "hidden_size_per_layer_input": 28,
                 "vocab_size_per_layer_input": 200, "tie_word_embeddings": True,
                 "activation_sparsity_pattern": [0.0] * 4},
    ),
    "afmoe": (
        "AfmoeForCausalLM",
        SIZES | {"num_hidden_layers": 4, "num_key_value_heads": 2, "head_dim": 20, "intermediate_size": 136,
                 "moe_intermediate_size": 44, "num_experts_per_tok": 2, "num_experts": 5, "num_shared_experts": 2,
                 "num_dense_layers": 2, "sliding_window": 16, "global_attn_every_n_layers": 2},
    ),
    "apertus": (
        "ApertusForCausalLM",
        SIZES | {"num_hidden_layers": 2, "num_key_value_heads": 2, "intermediate_size": 136},
    ),
    "arcee": (
        "ArceeForCausalLM",
        SIZES | {"num_hidden_layers": 2, "num_key_value_heads": 2, "head_dim": 20, "intermediate_size": 136},
    ),
    "bamba": (
        "BambaForCausalLM",
        SIZES | {"num_hidden_layers": 3, "num_key_value_heads": 2, "intermediate_size": 136, "attn_layer_indices": [1],
                 "mamba_n_heads": 4, "mamba_d_head": 48, "mamba_d_state": 8, "mamba_n_groups": 2, "mamba_d_conv": 4,
                 "mamba_expand": 2},
    ),
    "cohere": (
        "CohereForCausalLM",
        SIZES | {"num_hidden_layers": 2, "num_key_value_heads": 2, "intermediate_size": 136, "use_qk_norm": True,
                 "tie_word_embeddings": True},
    ),
    "cohere2_moe": (
        "Cohere2MoeForCausalLM",
        SIZES | {"num_hidden_layers": 5, "num_key_value_heads": 2, "head_dim": 20, "intermediate_size": 44,
                 "num_experts": 5, "num_experts_per_tok": 2, "num_shared_experts": 1, "first_k_dense_replace": 1,
                 "prefix_dense_intermediate_size": 136, "prefix_dense_sliding_window_pattern": 1, "sliding_window": 16,
                 "sliding_window_pattern": 3, "tie_word_embeddings": True},
    ),
    "dots1": (
        "Dots1ForCausalLM",
        SIZES | MOE | {"num_hidden_layers": 3, "num_key_value_heads": 2, "head_dim": 20, "first_k_dense_replace": 1},
    ),
    "exaone_moe": (
        "ExaoneMoeForCausalLM",
        SIZES | {"num_hidden_layers": 5, "num_key_value_heads": 2, "head_dim": 20, "intermediate_size": 136,
                 "moe_intermediate_size": 44, "num_experts": 5, "num_experts_per_tok": 2, "num_shared_experts": 1,
                 "sliding_window": 16, "sliding_window_pattern": 3},
    ),
    "falcon": (
        "FalconForCausalLM",
        SIZES | {"num_hidden_layers": 2, "new_decoder_architecture": True, "num_kv_heads": 2, "ffn_hidden_size": 384,
                 "tie_word_embeddings": True},
    ),
    "gemma": (
        "GemmaForCausalLM",
        SIZES | {"num_hidden_layers": 2, "num_key_value_heads": 1, "head_dim": 20, "intermediate_size": 136,
                 "tie_word_embeddings": True},
    ),
    "gpt_neox": ("GPTNeoXForCausalLM", SIZES | {"num_hidden_layers": 2, "intermediate_size": 384}),
    "hy_v3": (
        "HYV3ForCausalLM",
        SIZES | {"num_hidden_layers": 3, "num_key_value_heads": 2, "head_dim": 20, "intermediate_size": 136,
                 "moe_intermediate_size": 44, "num_experts": 5, "num_experts_per_tok": 2, "num_shared_experts": 1},
    ),
    "longcat_flash": (
        "LongcatFlashForCausalLM",
        SIZES | LATENT | {"num_layers": 2, "q_lora_rank": 52, "ffn_hidden_size": 136, "expert_ffn_hidden_size": 44,
                          "moe_topk": 3, "n_routed_experts": 5, "zero_expert_num": 3, "head_dim": 8},
    ),
    "mimo_v2_flash": (
        "MiMoV2FlashForCausalLM",
        SIZES | {"num_hidden_layers": 4, "num_key_value_heads": 3, "head_dim": 20, "v_head_dim": 12,
                 "intermediate_size": 136, "moe_intermediate_size": 44, "n_routed_experts": 5,
                 "num_experts_per_tok": 2, "sliding_window": 16, "layer_types": WINDOWED},
    ),
    "minicpm3": (
        "MiniCPM3ForCausalLM",
        SIZES | LATENT | {"num_hidden_layers": 2, "num_key_value_heads": 6, "q_lora_rank": 52,
                          "intermediate_size": 136, "tie_word_embeddings": True},
    ),
    "nemotron": (
        "NemotronForCausalLM",
        SIZES | {"num_hidden_layers": 2, "num_key_value_heads": 2, "head_dim": 20, "intermediate_size": 136},
    ),
    "olmo": ("OlmoForCausalLM", SIZES | {"num_hidden_layers": 2, "num_key_value_heads": 2, "intermediate_size": 136}),
    "phimoe": (
        "PhimoeForCausalLM",
        SIZES | {"num_hidden_layers": 2, "num_key_value_heads": 2, "intermediate_size": 44, "num_local_experts": 5,
                 "num_experts_per_tok": 2, "attention_bias": True, "lm_head_bias": True},
    ),
    "solar_open": (
        "SolarOpenForCausalLM",
        SIZES | MOE | {"num_hidden_layers": 2, "num_key_value_heads": 2, "head_dim": 20},
    ),
    "youtu": (
        "YoutuForCausalLM",
        SIZES | LATENT | {"num_hidden_layers": 2, "num_key_value_heads": 6, "q_lora_rank": 52,
                          "intermediate_size": 136, "tie_word_embeddings": True},
    ),
}  # fmt: skip


KEPT = re.compile(r"^(?:keys|values|indexer_keys|idx_keys|compressed_kv)\b")


def made(kind: str, model_class: str, config: dict[str, Any]) -> dict[str, Any]:
    """A row of the file."""
    import torch
    import transformers

    cls = getattr(transformers, model_class)
    torch.manual_seed(0)
    model = cls(cls.config_class(**config)).eval()
    layers, outside = [0] * (config.get("num_hidden_layers") or config["num_layers"]), 0
    named = [*model.named_parameters(), *((n, b) for n, b in model.named_buffers() if "correction_bias" in n)]
    for name, tensor in named:
        count = tensor.numel()
        if kind == "longcat_flash" and name.endswith("experts.gate_up_proj"):  # with room for those without weights
            count = count // len(tensor) * config["n_routed_experts"]
        place = re.search(r"(?:layers|transformer\.h)\.(\d+)\.", name)
        if place:
            layers[int(place[1])] += count
        else:
            outside += count
    with torch.no_grad():
        cache = model(torch.arange(TOKENS)[None] + 3, use_cache=True).past_key_values
    every = len(cache.layers) // len(layers)  # LongCat's layers attend twice
    groups = [cache.layers[i : i + every] for i in range(0, len(cache.layers), every)]
    return {
        "model_type": kind, "config": config, "head": not model_class.endswith("Model"), "layers": layers,
        "outside": outside, "kv": [sorted(part for layer in group for part in _entries(layer)) for group in groups],
        "state": [sum(map(_state, group)) for group in groups],
    }  # fmt: skip


def _entries(layer: Any) -> list[list[int]]:
    """Keys that are values too (DeepSeek-V4's) are counted once."""
    found = {name: t for name, t in _tensors(layer) if KEPT.match(name) and t.numel()}
    if "values" in found and found["values"].equal(found["keys"]):
        del found["values"]
    return sorted([t.shape[-2], t.numel() // t.shape[-2]] for t in found.values())


def _state(layer: Any) -> int:
    """A convolution keeps the inputs before the newest; here there is a place for that one too, but of dilated ones."""
    total = 0
    for name, tensor in _tensors(layer):
        if name == "conv_states.0":
            total += tensor.numel() // tensor.shape[-1] * (tensor.shape[-1] - 1)
        elif name.startswith(("conv_states.1", "recurrent_states")):
            total += tensor.numel()
    return total


def _tensors(layer: Any) -> Iterator[tuple[str, Any]]:
    import torch

    for name, value in vars(layer).items():
        if isinstance(value, torch.Tensor):
            yield name, value
        elif isinstance(value, dict):
            yield from ((f"{name}.{key}", each) for key, each in value.items() if isinstance(each, torch.Tensor))


if __name__ == "__main__":
    made_rows = [made(kind, *case) for kind, case in CONFIGS.items()]
    path = Path(__file__).parent.parent / "data" / "described.json"
    rows = ",\n".join(json.dumps(row) for row in made_rows)
    path.write_text(f'{{"tokens": {TOKENS}, "models": [\n{rows}\n]}}\n')
