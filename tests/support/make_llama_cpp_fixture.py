"""Writes tests/fixtures/llama_cpp/dense.npz: logits that llama.cpp gives for small models of each architecture.

    python -m tests.support.make_llama_cpp_fixture [NAME ...]

Needs llama-cpp-python (made with 0.3.36), which the project itself does not. The models are GGUF files that memfirst
writes from shrunk published configs, with float32 weights of a fixed seed; keys and values are float32 too.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memfirst.convert.mixes import MIXES
from memfirst.convert.synthetic import SyntheticCheckpoint, write
from memfirst.models import quantized
from tests.support.dense_configs import MODELS
from tests.support.experts_configs import MODELS as EXPERTS
from tests.support.recurrent_configs import QWEN3_NEXT, QWEN35, QWEN35_MOE

FIXTURE = Path(__file__).parent.parent / "fixtures" / "llama_cpp" / "dense.npz"
HYBRID_FIXTURE = FIXTURE.with_name("hybrids.npz")
TOKENS = np.random.default_rng(1).integers(0, 256, 60).astype(np.int32)
ROWS = (0, 15, 21, 40, 59)
"""Positions whose logits are kept: below and beyond the window of 20 and the original context of 16."""

SIZES: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "vocab_size": 300, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 16, "max_position_embeddings": 256,
}  # fmt: skip
SHARPER = {
    "shared_intermediate_size": 96, "attention_head_dim": 16, "query_pre_attn_scalar": 16,
    "attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0, "global_head_dim": 32,
    "num_global_key_value_heads": 1, "hidden_size_per_layer_input": 32, "vocab_size_per_layer_input": 300,
    "num_kv_shared_layers": 3, "intermediate_size_mlp": 128,
}  # fmt: skip
"""Where a config has these: sizes that follow, and caps low enough to show."""
ROUTED = (
    *("Mixtral-8x7B", "Qwen3-30B-A3B", "gpt-oss-20b", "Qwen1.5-MoE-A2.7B", "OLMoE-1B-7B", "GLM-4.5-Air", "GLM-4.6"),
    *("MiniMax-M2", "ERNIE-4.5-21B-A3B", "Granite-3.1-3B-A800M", "Llama-4-Scout", "Llama-4-Maverick"),
    *("dots.llm1", "DeepSeekMoE-16B"),
)
FEW: dict[str, Any] = {
    "num_experts": 8, "num_local_experts": 8, "num_experts_per_tok": 2, "experts_per_token": 2,
    "moe_intermediate_size": 32, "n_routed_experts": 8, "moe_num_experts": 8, "moe_k": 2, "moe_layer_end_index": 5,
    "shared_expert_intermediate_size": 48, "rotary_dim": 8, "num_nextn_predict_layers": 0,
}  # fmt: skip
HYBRIDS: dict[str, dict[str, Any]] = {
    "Qwen3-Next-80B-A3B": QWEN3_NEXT, "Qwen3.5-27B": QWEN35, "Qwen3.5-35B-A3B": QWEN35_MOE,
}  # fmt: skip
STATES: dict[str, Any] = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 32, "linear_value_head_dim": 32,
}  # fmt: skip
NAMES = (
    *("Llama-3.2-1B", "Qwen2.5-0.5B", "Qwen3-0.6B", "Gemma-2-2B", "Gemma-3-1B", "SmolLM3-3B", "Phi-4", "OLMo-2-1B"),
    *("OLMo-3-7B", "Ministral-3-8B", "Seed-OSS-36B", "EXAONE-4.0-1.2B", "EXAONE-4.0-32B", "GLM-4-9B", "Command-R7B"),
    *("Gemma-7B", "Command-R", "AFM-4.5B"),
    *("Gemma-4-31B", "Gemma-4-E2B"),
    *("ERNIE-4.5-0.3B", "Hunyuan-7B", "StarCoder2-3B", "StableLM-2-1.6B", "Phi-2", "Granite-4.0-micro"),
)


def shrunk(name: str) -> dict[str, Any]:
    """The published config with few layers and small sizes; of EXAONE's, llama.cpp knows the 32B by its 64 layers."""
    published = HYBRIDS[name] if name in HYBRIDS else EXPERTS[name].config if name in ROUTED else MODELS[name][0]
    config = quantized.without(published.get("text_config", published))
    layers = 64 if name == "EXAONE-4.0-32B" else 6
    config |= {key: value[:layers] for key, value in config.items() if isinstance(value, list) and len(value) > layers}
    config |= SIZES | {"num_hidden_layers": layers}
    for key in ("rope_parameters", "rope_scaling"):
        if isinstance(config.get(key), dict) and "original_max_position_embeddings" in config[key]:
            config[key] = config[key] | {"original_max_position_embeddings": 16}
    config |= {key: value for key, value in (SHARPER | FEW | STATES).items() if config.get(key)}
    if config.get("sliding_window"):  # llama.cpp knows no window of StarCoder 2
        config["sliding_window"] = None if config["model_type"] == "starcoder2" else 20
    if config.get("num_kv_shared_layers"):  # of both kinds, before and among those that share
        config["layer_types"] = ["sliding_attention", "sliding_attention", "full_attention"] * 2
    if config["model_type"] in ("olmoe", "dots1"):  # llama.cpp takes as many KV heads as heads
        config["num_key_value_heads"] = 4
    if name == "Llama-4-Maverick":  # which llama.cpp tells by its number of experts
        config["num_local_experts"] = 128
    if config["model_type"] == "phi":
        config |= {"num_key_value_heads": 4, "intermediate_size": 256}
    if name in HYBRIDS:  # a quarter of which the sections of Qwen3.5's files fill
        config["head_dim"] = 256
    return config


def made(name: str) -> SyntheticCheckpoint:
    """The model, always with the same weights."""
    return SyntheticCheckpoint(shrunk(name), MIXES["f32"], 3, name)


def logits(path: Path, tokens: Sequence[int]) -> NDArray[np.float32]:
    """[tokens, vocabulary] of llama.cpp."""
    import llama_cpp.llama_cpp as lib

    params = lib.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = 128
    params.type_k = params.type_v = 0  # float32
    params.flash_attn_type = 0
    model = lib.llama_model_load_from_file(str(path).encode(), lib.llama_model_default_params())
    context, count = lib.llama_init_from_model(model, params), len(tokens)
    batch = lib.llama_batch_init(count, 0, 1)
    batch.n_tokens = count
    for i, token in enumerate(tokens):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = int(token), i, 1, 0, 1
    if lib.llama_decode(context, batch) != 0:
        raise RuntimeError(f"llama.cpp cannot run {path}")
    width = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
    rows = [np.ctypeslib.as_array(lib.llama_get_logits_ith(context, i), shape=(width,)).copy() for i in range(count)]
    lib.llama_free(context)
    lib.llama_model_free(model)
    return np.stack(rows)


def main() -> None:
    """All models; or those that are named, beside what is there."""
    if sys.argv[1:]:
        for fixture in (FIXTURE, HYBRID_FIXTURE):
            if names := [name for name in sys.argv[1:] if (name in HYBRIDS) == (fixture == HYBRID_FIXTURE)]:
                keep(fixture, names, dict(np.load(fixture)))
    else:
        keep(FIXTURE, (*NAMES, *ROUTED), {})
        keep(HYBRID_FIXTURE, HYBRIDS, {})


def keep(fixture: Path, names: Iterable[str], found: dict[str, Any]) -> None:
    """Logits of these models into a file, beside those that were found there."""
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.gguf"
            write(made(name), path)
            found[name] = logits(path, TOKENS.tolist())[list(ROWS)]
        print(name, round(float(found[name].std()), 3), file=sys.stderr)
    fixture.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(fixture, **found)


if __name__ == "__main__":
    main()
