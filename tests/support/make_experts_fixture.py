"""Writes tests/fixtures/experts: tiny random models with routed experts and the logits that `transformers` gives.

    python -m tests.support.make_experts_fixture [NAME ...]

As tests/support/make_parity_fixture.py, in float16. Routers are drawn wide, so that a wrong choice of experts shows.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.make_parity_fixture import GEMMA4

FOLDER = Path(__file__).parent.parent / "fixtures" / "experts"
TOKENS, VOCAB = 40, 48

SMALL = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "rms_norm_eps": 1e-6,
}  # fmt: skip
YARN = {
    "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32,
    "beta_fast": 32, "beta_slow": 1,
}  # fmt: skip
DEEPSEEK = {
    "n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 12, "n_shared_experts": 2,
    "first_k_dense_replace": 1, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 6,
    "num_key_value_heads": 4, "q_lora_rank": 20, "n_group": 4, "topk_group": 2,
}  # fmt: skip
GLM = {
    "n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 12, "n_shared_experts": 1,
    "first_k_dense_replace": 1, "head_dim": 12, "attention_bias": True, "num_hidden_layers": 3,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5},
}  # fmt: skip
LLAMA4 = {
    "num_local_experts": 4, "num_experts_per_tok": 1, "intermediate_size_mlp": 40, "intermediate_size": 16,
    "head_dim": 8, "num_hidden_layers": 4, "attention_chunk_size": 7, "floor_scale": 5, "attn_scale": 0.4,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100.0}, "rms_norm_eps": 1e-2, "no_rope_layer_interval": 2,
}  # fmt: skip
"""40 tokens in six chunks; two layers that are not rotated."""
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("Mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None}),
    "qwen3_moe": (
        "Qwen3Moe",
        {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 12, "head_dim": 12,
         "norm_topk_prob": True, "tie_word_embeddings": True},
    ),
    "deepseek_v2_lite": (
        "DeepseekV2",
        {**DEEPSEEK, "q_lora_rank": None, "topk_method": "greedy", "n_group": 1, "topk_group": 1,
         "rope_parameters": {**YARN, "mscale": 0.707, "mscale_all_dim": 0.707}},
    ),
    "deepseek_v2": ("DeepseekV2", {**DEEPSEEK, "topk_method": "group_limited_greedy", "routed_scaling_factor": 16.0}),
    "deepseek_v3": (
        "DeepseekV3",
        {**DEEPSEEK, "routed_scaling_factor": 2.5,
         "rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0}},
    ),
    "deepseek_wide": (
        "DeepseekV3",
        {**DEEPSEEK, "routed_scaling_factor": 2.5, "kv_lora_rank": 48, "qk_nope_head_dim": 48, "qk_rope_head_dim": 16,
         "v_head_dim": 32, "rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0}},
    ),
    "glm4_moe_lite": (
        "Glm4MoeLite",
        {**DEEPSEEK, "n_shared_experts": 1, "n_group": 1, "topk_group": 1, "routed_scaling_factor": 1.8,
         "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}, "mlp_layer_types": ["dense", "sparse"]},
    ),
    "gpt_oss": (
        "GptOss",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8, "sliding_window": 5,
         "rope_parameters": {**YARN, "rope_theta": 150.0, "factor": 32.0, "truncate": False,
                             "original_max_position_embeddings": 40}},
    ),
    "qwen2_moe": (
        "Qwen2Moe",
        {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 12, "norm_topk_prob": False,
         "shared_expert_intermediate_size": 20},
    ),
    "olmoe": ("Olmoe", {"num_experts": 8, "num_experts_per_tok": 3, "norm_topk_prob": False}),
    "glm4_moe": ("Glm4Moe", {**GLM, "use_qk_norm": False}),
    "glm4_moe_large": ("Glm4Moe", {**GLM, "use_qk_norm": True, "routed_scaling_factor": 2.5}),
    "minimax_m2": (
        "MiniMaxM2",
        {"num_local_experts": 8, "num_experts_per_tok": 3, "head_dim": 12,
         "rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5}},
    ),
    "ernie4_5_moe": (
        "Ernie4_5_Moe",
        {"moe_num_experts": 8, "moe_k": 3, "moe_intermediate_size": 12, "moe_num_shared_experts": 2,
         "moe_layer_start_index": 1, "num_hidden_layers": 3, "tie_word_embeddings": True},
    ),
    "granitemoeshared": (
        "GraniteMoeShared",
        {"num_local_experts": 8, "num_experts_per_tok": 3, "shared_intermediate_size": 20,
         "embedding_multiplier": 3.0, "residual_multiplier": 0.5, "attention_multiplier": 0.2, "logits_scaling": 0.5},
    ),
    "hunyuan_moe": (
        "HunYuanMoEV1",
        {"num_experts": 8, "moe_topk": 3, "head_dim": 12,
         "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10.0, "alpha": 50.0, "factor": 1.0}},
    ),
    "gemma4_moe": (
        "Gemma4",
        {**GEMMA4, "enable_moe_block": True, "num_experts": 8, "top_k_experts": 3, "moe_intermediate_size": 12},
    ),
    "llama4": ("Llama4", LLAMA4),
    "llama4_large": (
        "Llama4", {**LLAMA4, "interleave_moe_layer_step": 2, "use_qk_norm": False, "num_local_experts": 6,
                   "num_experts_per_tok": 2, "attn_temperature_tuning": True},
    ),
    "dots1": (
        "Dots1",
        {"n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 12, "n_shared_experts": 2,
         "first_k_dense_replace": 1, "head_dim": 12, "num_hidden_layers": 3, "norm_topk_prob": True,
         "routed_scaling_factor": 2.5, "n_group": 1, "topk_group": 1},
    ),
}  # fmt: skip
"""By name: transformers' family, and what its config changes of SMALL. gpt-oss's ramp ends at 1.48 pairs, not at 2.
Widths of `deepseek_wide` are those that the CPU's kernels take."""


def make(name: str, folder: Path, seed: int) -> None:
    """One model folder: config.json, model.safetensors in float16, expected.npz (tokens, f32 logits)."""
    import torch
    import transformers

    family, changes = CASES[name]
    torch.manual_seed(seed)
    text = "Text" if family in ("Gemma4", "Llama4") else ""
    config = getattr(transformers, f"{family}{text}Config")(**{**SMALL, **changes}, dtype="float32")
    config._attn_implementation = config._experts_implementation = "eager"
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    _spread(model)
    tokens = torch.randint(0, VOCAB, (TOKENS,))
    with torch.no_grad():
        logits = model(tokens[None]).logits[0].float().numpy()
    model.to(torch.float16).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    np.savez_compressed(folder / "expected.npz", tokens=tokens.numpy().astype(np.int32), logits=logits)


def _spread(model: Any) -> None:
    """Weights that float16 holds: matrices N(0, 2/columns), norms near 1, biases, sinks, corrections N(0, 0.25)."""
    import torch

    corrections = [(key, value) for key, value in model.named_buffers() if "e_score" in key or "layer_scalar" in key]
    with torch.no_grad():
        for key, value in [*model.named_parameters(), *corrections]:
            drawn = torch.randn_like(value)
            if "bias" in key or "sinks" in key:
                drawn *= 0.5
            elif value.ndim == 1:
                drawn = 1 + 0.3 * drawn
            elif "embed" not in key:  # gpt-oss and Llama 4 keep their experts' columns before their rows
                turned = "experts" in key and type(model).__name__.startswith(("GptOss", "Llama4"))
                drawn *= (2 / value.shape[-2 if turned else -1]) ** 0.5
            value.copy_(drawn.to(torch.float16))


def main() -> None:
    """All cases, or those that are named."""
    for i, name in enumerate(CASES):
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        folder = FOLDER / name
        folder.mkdir(parents=True, exist_ok=True)
        make(name, folder, seed=i)
        spread = np.load(folder / "expected.npz")["logits"].std()
        size = sum(f.stat().st_size for f in folder.iterdir())
        print(json.dumps({"case": name, "bytes": size, "logits_std": round(float(spread), 2)}), file=sys.stderr)


if __name__ == "__main__":
    main()
