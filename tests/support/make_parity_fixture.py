"""Writes tests/fixtures/parity: tiny random models with the logits that `transformers` gives for them.

    python tests/support/make_parity_fixture.py [NAME ...]

Needs torch and transformers, which the project itself does not; `test_reference.py` also calls `make` where
they are installed, with another seed. Weights are drawn large enough that logits spread over several units:
with the usual 0.02 every model would agree with every other.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent.parent / "fixtures" / "parity"
TOKENS, VOCAB = 40, 48

SMALL = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
}  # fmt: skip
YARN = {
    "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32,
}  # fmt: skip
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}
LONG = {
    "rope_type": "longrope", "rope_theta": 500.0, "partial_rotary_factor": 0.5,
    "short_factor": [1.0, 1.25], "long_factor": [1.5, 3.7],
}  # fmt: skip
BY_LAYER = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
    "full_attention": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 8.0},
}
TOKENS_OF_ITS_OWN = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
PLAIN_ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}
PARTIAL = {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5}}
GROWING = {
    **YARN, "original_max_position_embeddings": 16, "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0,
    "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.5,
}  # fmt: skip
WINDOW = {"sliding_window": 9, **PLAIN_ROPE}
GEMMA4 = {
    "sliding_window": 9, "head_dim": 8, "global_head_dim": 16, "num_hidden_layers": 3, "hidden_size_per_layer_input": 0,
    "layer_types": ["sliding_attention", "full_attention", "full_attention"], "final_logit_softcapping": 9.0,
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
        "full_attention": {"rope_type": "proportional", "rope_theta": 1000.0, "partial_rotary_factor": 0.25},
    },
}  # fmt: skip

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama_tied": ("Llama", {"tie_word_embeddings": True}),
    "llama_3": ("Llama", {"rope_parameters": LLAMA3}),
    "llama_biases": ("Llama", {"attention_bias": True, "mlp_bias": True, "rope_parameters": LINEAR}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {"head_dim": 12, "tie_word_embeddings": True}),
    "qwen3_yarn": ("Qwen3", {"head_dim": 8, "rope_parameters": YARN}),
    "mistral_window": ("Mistral", {**WINDOW, "head_dim": 12}),
    "qwen2_window": ("Qwen2", {**WINDOW, "use_sliding_window": True, "max_window_layers": 1}),
    "gemma2": (
        "Gemma2",
        {
            **WINDOW,
            "head_dim": 12,
            "query_pre_attn_scalar": 20,
            "attn_logit_softcapping": 3.0,
            "final_logit_softcapping": 9.0,
        },
    ),
    "gemma3": (
        "Gemma3",
        {
            **WINDOW,
            "head_dim": 12,
            "query_pre_attn_scalar": 20,
            "num_hidden_layers": 3,
            "sliding_window_pattern": 3,
            "rope_parameters": BY_LAYER,
        },
    ),
    "gemma4": ("Gemma4", {**GEMMA4, "attention_k_eq_v": True, "num_global_key_value_heads": 1}),
    "gemma4_shared": (
        "Gemma4",
        {
            **GEMMA4,
            "num_hidden_layers": 5,
            "num_kv_shared_layers": 2,
            "use_double_wide_mlp": True,
            "layer_types": [
                "sliding_attention",
                "sliding_attention",
                "full_attention",
                "sliding_attention",
                "full_attention",
            ],
            "hidden_size_per_layer_input": 8,
            "vocab_size_per_layer_input": VOCAB,
        },
    ),
    "phi3_window": ("Phi3", {**WINDOW, **TOKENS_OF_ITS_OWN}),
    "phi3_short": ("Phi3", {**TOKENS_OF_ITS_OWN, "rope_parameters": LONG, "original_max_position_embeddings": 64}),
    "phi3_long": ("Phi3", {**TOKENS_OF_ITS_OWN, "rope_parameters": LONG, "original_max_position_embeddings": 32}),
    "granite": (
        "Granite",
        {
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.5,
            "attention_multiplier": 0.2,
            "logits_scaling": 0.5,
        },
    ),
    "smollm3": ("SmolLM3", {"num_hidden_layers": 4, "tie_word_embeddings": False, **TOKENS_OF_ITS_OWN, **PLAIN_ROPE}),
    "ministral3": ("Ministral3", {"head_dim": 8, "rope_parameters": GROWING, **TOKENS_OF_ITS_OWN}),
    "olmo2": ("Olmo2", {**TOKENS_OF_ITS_OWN, **PLAIN_ROPE}),
    "olmo3": (
        "Olmo3",
        {
            **TOKENS_OF_ITS_OWN,
            "sliding_window": 9,
            "layer_types": ["sliding_attention", "full_attention"],
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
                "full_attention": {**YARN, "rope_theta": 500.0},
            },
        },
    ),
    "exaone4": (
        "Exaone4",
        {"rope_parameters": LLAMA3, "sliding_window": None, "head_dim": 8, "layer_types": ["full_attention"] * 2},
    ),
    "exaone4_window": ("Exaone4", {**WINDOW, "head_dim": 8, "sliding_window_pattern": 2, "tie_word_embeddings": True}),
    "seed_oss": ("SeedOss", {"head_dim": 12, "attention_bias": True, **TOKENS_OF_ITS_OWN, **PLAIN_ROPE}),
    "hunyuan": (
        "HunYuanDenseV1",
        {
            "head_dim": 12,
            "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10.0, "alpha": 50.0, "factor": 1.0},
            **TOKENS_OF_ITS_OWN,
        },
    ),
    "ernie4_5": ("Ernie4_5", {"head_dim": 12, "use_bias": True, **PLAIN_ROPE}),
    "glm4": ("Glm4", {"head_dim": 12, "attention_bias": True, **TOKENS_OF_ITS_OWN, **PARTIAL}),
    "cohere2": ("Cohere2", {**WINDOW, "layer_norm_eps": 1e-5, "logit_scale": 0.5, "num_hidden_layers": 4}),
    "gemma": ("Gemma", {"head_dim": 12, "num_key_value_heads": 1, **PLAIN_ROPE}),
    "cohere": ("Cohere", {**PLAIN_ROPE, "layer_norm_eps": 1e-5, "logit_scale": 0.5, **TOKENS_OF_ITS_OWN}),
    "arcee": ("Arcee", {"head_dim": 12, **TOKENS_OF_ITS_OWN, **PLAIN_ROPE}),
    "starcoder2": ("Starcoder2", {**WINDOW, **TOKENS_OF_ITS_OWN}),
    "stablelm": ("StableLm", {"use_qkv_bias": True, **PARTIAL}),
    "phi2": ("Phi", {"num_key_value_heads": 4, "intermediate_size": 128, **PARTIAL}),
    "granite4": (
        "GraniteMoeHybrid",
        {
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.5,
            "attention_multiplier": 0.2,
            "logits_scaling": 0.5,
            "layer_types": ["attention"] * 2,
            "num_local_experts": 0,
            "num_experts_per_tok": 0,
            "shared_intermediate_size": 56,
            "position_embedding_type": "rope",
            "mamba_n_heads": 8,
            **TOKENS_OF_ITS_OWN,
            **PLAIN_ROPE,
        },
    ),
}
"""By name: transformers' family, and what its config changes of SMALL."""

LAYER_NORMS = ("Cohere", "Cohere2", "Starcoder2", "StableLm", "Phi")


def make(name: str, folder: Path, seed: int, dtype: str) -> None:
    """One model folder: config.json, model.safetensors in `dtype`, expected.npz (tokens, f32 logits)."""
    import torch
    import transformers

    family, changes = CASES[name]
    small = {key: value for key, value in SMALL.items() if key != "rms_norm_eps" or family not in LAYER_NORMS}
    torch.manual_seed(seed)
    text = "Text" if family in ("Gemma3", "Gemma4") else ""
    config = getattr(transformers, f"{family}{text}Config")(**{**small, **changes}, dtype="float32")
    config._attn_implementation = "eager"
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    _spread(model, dtype)
    tokens = torch.randint(0, VOCAB, (TOKENS,))
    with torch.no_grad():
        logits = model(tokens[None]).logits[0].float().numpy()
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    np.savez_compressed(folder / "expected.npz", tokens=tokens.numpy().astype(np.int32), logits=logits)


def _spread(model: Any, dtype: str) -> None:
    """Weights that `dtype` holds exactly: matrices N(0, 2/columns), norms near 1, biases N(0, 0.25)."""
    import torch

    factors = [(key, value) for key, value in model.named_buffers() if "layer_scalar" in key]
    with torch.no_grad():
        for key, value in [*model.named_parameters(), *factors]:
            drawn = torch.randn_like(value)
            if value.ndim == 2:
                drawn *= 1.0 if "embed" in key else (2 / value.shape[1]) ** 0.5
            elif "layer_scalar" in key:
                drawn = 0.5 + drawn.abs() / 2
            else:
                drawn = 1 + 0.3 * drawn if "norm" in key else 0.5 * drawn
            value.copy_(drawn.to(getattr(torch, dtype)))


def main() -> None:
    """All cases, or those that are named; the type of the weights alternates."""
    for i, name in enumerate(CASES):
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        folder = FOLDER / name
        folder.mkdir(parents=True, exist_ok=True)
        make(name, folder, seed=i, dtype=("float16", "bfloat16")[i % 2])
        size = sum(f.stat().st_size for f in folder.iterdir())
        spread = np.load(folder / "expected.npz")["logits"].std()
        line = {"case": name, "bytes": size, "logits_std": round(float(spread), 2)}
        print(json.dumps(line), file=sys.stderr)


if __name__ == "__main__":
    main()
