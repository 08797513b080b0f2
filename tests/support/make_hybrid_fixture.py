"""Writes tests/fixtures/recurrent/NAME: tiny random folders with the logits that `transformers` gives for them.

    python -m tests.support.make_hybrid_fixture [NAME ...]

Needs torch and transformers, which the project itself does not.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent.parent / "fixtures" / "recurrent"
TOKENS, VOCAB = 30, 48

SMALL: dict[str, Any] = {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2}
ATTENTION: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 24}
GRANITE: dict[str, Any] = {
    **ATTENTION, "num_hidden_layers": 3, "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 2, "embedding_multiplier": 3.0,
    "residual_multiplier": 0.6, "attention_multiplier": 0.3, "logits_scaling": 0.5, "shared_intermediate_size": 20,
    "tie_word_embeddings": True,
}  # fmt: skip
DELTA: dict[str, Any] = {
    "num_hidden_layers": 3, "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "intermediate_size": 24,
    "linear_num_key_heads": 2, "linear_num_value_heads": 6, "linear_key_head_dim": 32, "linear_value_head_dim": 16,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.25},
}  # fmt: skip
"""Heads of values in threes, which tells the orders of folders and of GGUF apart."""
EXPERTS = {
    "num_experts": 5,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 12,
    "shared_expert_intermediate_size": 20,
}

CONVOLUTIONS: dict[str, Any] = {
    **ATTENTION, "num_hidden_layers": 3, "layer_types": ["conv", "full_attention", "conv"], "conv_L_cache": 4,
    "norm_eps": 1e-3, "rope_parameters": {"rope_type": "default", "rope_theta": 100.0},
}  # fmt: skip

NEMOTRON: dict[str, Any] = {
    **ATTENTION, "head_dim": 16, "mamba_num_heads": 4, "mamba_head_dim": 16, "ssm_state_size": 8, "n_groups": 2,
    "layer_norm_epsilon": 1e-3, "num_nextn_predict_layers": 0,
}  # fmt: skip
FALCON: dict[str, Any] = {
    **ATTENTION, "num_hidden_layers": 2, "head_dim": 16, "mamba_d_ssm": 48, "mamba_n_heads": 3, "mamba_d_head": 16,
    "mamba_d_state": 8, "rms_norm_eps": 1e-3, "rope_parameters": {"rope_type": "default", "rope_theta": 100.0},
    "embedding_multiplier": 3.0, "lm_head_multiplier": 0.4, "attention_in_multiplier": 1.3, "key_multiplier": 0.6,
    "attention_out_multiplier": 0.7, "ssm_in_multiplier": 0.8, "ssm_out_multiplier": 0.5,
    "ssm_multipliers": [0.9, 1.4, 0.7, 1.6, 0.6], "mlp_multipliers": [1.2, 0.8],
}  # fmt: skip
"""Each multiplier another: which one belongs where shows."""

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "hf_mamba": ("Mamba", {"state_size": 8, "conv_kernel": 3, "time_step_rank": 5}),
    "hf_falcon_mamba": ("FalconMamba", {"state_size": 8, "tie_word_embeddings": False, "mixer_rms_eps": 1e-2}),
    "hf_mamba2": ("Mamba2", {"state_size": 8, "num_heads": 4, "head_dim": 16, "n_groups": 2}),
    "hf_jamba": ("Jamba", {
        **ATTENTION, "num_hidden_layers": 4, "attn_layer_period": 3, "attn_layer_offset": 1, "num_experts": 3,
        "mamba_d_state": 8, "mamba_dt_rank": 6, "use_mamba_kernels": False, "rms_norm_eps": 1e-3,
    }),
    "hf_granite": ("GraniteMoeHybrid", {**GRANITE, "num_local_experts": 3, "num_experts_per_tok": 2}),
    "hf_granite_dense": ("GraniteMoeHybrid", {**GRANITE, "num_local_experts": 0, "num_experts_per_tok": 0}),
    "hf_qwen3_next": ("Qwen3Next", {**DELTA, **EXPERTS}),
    "hf_qwen3_5": ("Qwen3_5", {**DELTA, "tie_word_embeddings": True, "linear_conv_kernel_dim": 3}),
    "hf_qwen3_5_moe": ("Qwen3_5Moe", {**DELTA, **EXPERTS}),
    "hf_lfm2": ("Lfm2", {
        **CONVOLUTIONS, "intermediate_size": 40, "block_multiple_of": 8, "block_ffn_dim_multiplier": 1.2,
    }),
    "hf_lfm2_moe": ("Lfm2Moe", {
        **CONVOLUTIONS, "num_dense_layers": 1, "num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 12,
        "routed_scaling_factor": 1.5,
    }),
    "hf_nemotron_h": ("NemotronH", {
        **NEMOTRON, "layers_block_type": ["linear_attention", "mlp", "full_attention", "linear_attention"],
    }),
    "hf_nemotron_h_moe": ("NemotronH", {
        **NEMOTRON, "layers_block_type": ["linear_attention", "moe", "full_attention", "moe"], "n_routed_experts": 6,
        "num_experts_per_tok": 2, "moe_intermediate_size": 12, "moe_shared_expert_intermediate_size": 20,
        "moe_latent_size": 24, "n_group": 2, "topk_group": 1, "routed_scaling_factor": 2.5,
    }),
    "hf_falcon_h1": ("FalconH1", FALCON),
    "hf_falcon_h1_normed": ("FalconH1", {
        **FALCON, "mamba_rms_norm": True, "mamba_norm_before_gate": False, "mamba_n_groups": 2, "mamba_n_heads": 2,
        "mamba_d_head": 32, "mamba_d_ssm": 64, "tie_word_embeddings": True,
    }),
}  # fmt: skip
"""By name: transformers' family, and what its config changes of SMALL."""


def make(name: str, folder: Path, seed: int, dtype: str) -> None:
    """One model folder: config.json, model.safetensors in `dtype`, expected.npz (tokens, f32 logits)."""
    import torch
    import transformers

    family, changes = CASES[name]
    torch.manual_seed(seed)
    text = "Text" if family.startswith("Qwen3_5") else ""
    config = getattr(transformers, f"{family}{text}Config")(**{**SMALL, **changes}, dtype="float32")
    config._attn_implementation = config._experts_implementation = "eager"
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    _spread(model, dtype)
    tokens = torch.randint(0, VOCAB, (TOKENS,))
    with torch.no_grad():
        logits = model(tokens[None]).logits[0].float().numpy()
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    np.savez_compressed(folder / "expected.npz", tokens=tokens.numpy().astype(np.int32), logits=logits)


def _spread(model: Any, dtype: str) -> None:
    """Weights that `dtype` holds exactly: matrices N(0, 2/columns), norms near 1, or near 0 where the model adds 1,
    logarithms and biases N(0, 0.25)."""
    import torch

    one_less = type(model).__name__.startswith("Qwen3")
    with torch.no_grad():
        biases = ((key, value) for key, value in model.named_buffers() if key.endswith("bias"))  # of routers
        for key, value in (*model.named_parameters(), *biases):
            drawn = torch.randn_like(value)
            if "norm" in key:
                drawn = 0.3 * drawn + (not one_less or "linear_attn" in key)
            elif value.ndim == 1 or key.endswith("A_log"):
                drawn = 0.5 * drawn
            else:
                drawn *= 1.0 if "embed" in key else (2 / value.shape[-1]) ** 0.5
            value.copy_(drawn.to(getattr(torch, dtype)))


def main() -> None:
    """All cases, or those that are named; the type of the weights alternates."""
    for i, name in enumerate(CASES):
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        (FOLDER / name).mkdir(parents=True, exist_ok=True)
        make(name, FOLDER / name, seed=i, dtype=("float16", "bfloat16")[i % 2])


if __name__ == "__main__":
    main()
