"""Models with routed experts as llama.cpp's converter writes them, with the `gguf` package, from safetensors folders.

Written apart from memfirst's own reading of such folders: names, stacks, splits and keys are those of
conversion/{base,llama,qwen,deepseek,gpt_oss}.py in llama.cpp; `kv_b` in one tensor is how it was until April 2025.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import quants
from safetensors.numpy import load_file

from tests.support.dense_gguf import permuted

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]
ARCHITECTURES = {
    "mixtral": "llama", "qwen3_moe": "qwen3moe", "deepseek_v2": "deepseek2", "deepseek_v3": "deepseek2",
    "gpt_oss": "gpt-oss",
}  # fmt: skip
MXFP4 = gguf.GGMLQuantizationType.MXFP4
PLAIN = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "self_attn.q_a_proj": "attn_q_a", "self_attn.q_b_proj": "attn_q_b", "self_attn.q_a_layernorm": "attn_q_a_norm",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa", "self_attn.kv_a_layernorm": "attn_kv_a_norm",
    "self_attn.kv_b_proj": "attn_kv_b", "self_attn.sinks": "attn_sinks", "input_layernorm": "attn_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "mlp.gate": "ffn_gate_inp",
    "block_sparse_moe.gate": "ffn_gate_inp", "mlp.router": "ffn_gate_inp", "mlp.experts.down_proj": "ffn_down_exps",
    "mlp.shared_experts.gate_proj": "ffn_gate_shexp", "mlp.shared_experts.up_proj": "ffn_up_shexp",
    "mlp.shared_experts.down_proj": "ffn_down_shexp", "mlp.gate.e_score_correction": "exp_probs_b",
}  # fmt: skip
STACKED = {
    "w1": "ffn_gate_exps", "w2": "ffn_down_exps", "w3": "ffn_up_exps", "gate_proj": "ffn_gate_exps",
    "down_proj": "ffn_down_exps", "up_proj": "ffn_up_exps",
}  # fmt: skip
TOP = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
       "lm_head.weight": "output.weight"}  # fmt: skip


def tensors(folder: Path, config: dict[str, Any], older: bool = False) -> Arrays:
    """Everything under GGUF names, in GGUF's shapes; `older`: kv_b in one."""
    out: Arrays = {}
    stacks: dict[str, dict[int, Array]] = {}
    for hf, array in load_file(folder / "model.safetensors").items():
        if hf in TOP:
            out[TOP[hf]] = array
            continue
        _, _, layer, rest = hf.split(".", 3)
        words = rest.split(".")
        if "experts" in words and words[words.index("experts") + 1].isdigit():
            at = words.index("experts") + 1
            stacks.setdefault(f"blk.{layer}.{STACKED[words[at + 1]]}.weight", {})[int(words[at])] = array
        else:
            out |= {f"blk.{layer}.{n}": a for n, a in _one(rest, array, config, older).items()}
    return out | {name: np.stack([stack[e] for e in range(len(stack))]) for name, stack in stacks.items()}


def _one(rest: str, array: Array, c: dict[str, Any], older: bool) -> Arrays:
    """A layer's tensor that is stored whole."""
    rest = rest.replace("_bias", ".bias")
    if rest == "self_attn.sinks" or rest.endswith(("experts.gate_up_proj", "experts.down_proj")):
        rest += ".weight"
    part, _, what = rest.rpartition(".")
    if part == "post_attention_layernorm":
        return {f"{'post_attention_norm' if c['model_type'] == 'gpt_oss' else 'ffn_norm'}.weight": array}
    if c["model_type"] == "mixtral" and part in ("self_attn.q_proj", "self_attn.k_proj"):
        array = permuted(array, c["num_attention_heads" if "q_proj" in part else "num_key_value_heads"])
    if part.startswith("mlp.experts") and what == "weight":  # gpt-oss has columns before rows
        array = array.transpose(0, 2, 1)
    if part == "mlp.experts.gate_up_proj":
        return {f"ffn_gate_exps.{what}": array[:, ::2], f"ffn_up_exps.{what}": array[:, 1::2]}
    if part == "self_attn.kv_b_proj" and not older:
        heads = array.reshape(c["num_attention_heads"], -1, array.shape[1])
        k, v = heads[:, : c["qk_nope_head_dim"]], heads[:, c["qk_nope_head_dim"] :]
        return {"attn_k_b.weight": k.transpose(0, 2, 1), "attn_v_b.weight": v}
    return {f"{PLAIN[part]}.{what}": array}


def write(folder: Path, path: Path, older: bool = False, experts: Any = None, more: Arrays | None = None) -> Path:
    """`folder` as a GGUF file at `path`; `experts`: a type that their matrices are quantized to."""
    config = json.loads((folder / "config.json").read_text())
    out = gguf.GGUFWriter(path, ARCHITECTURES[config["model_type"]])
    out.add_tokenizer_model("gpt2")
    out.add_token_list([f"t{i}" for i in range(config["vocab_size"])])
    _keys(out, config)
    if config["model_type"].startswith("deepseek"):
        _deepseek(out, config, older)
    if config["model_type"] == "gpt_oss":
        out.add_sliding_window(config["sliding_window"])
        out.add_expert_feed_forward_length(config["intermediate_size"])
    for name, array in (tensors(folder, config, older) | (more or {})).items():
        floats = array.ndim == 1 or not name.endswith(".weight") or "ffn_gate_inp" in name
        if experts is not None and name.endswith("_exps.weight"):
            out.add_tensor(name, quants.quantize(np.float32(array), experts), raw_dtype=experts)
        else:
            out.add_tensor(name, np.ascontiguousarray(array, np.float32 if floats else np.float16))
    for step in (out.write_header_to_file, out.write_kv_data_to_file, out.write_tensors_to_file, out.close):
        step()
    return path


def _keys(out: gguf.GGUFWriter, c: dict[str, Any]) -> None:
    """What the converter's base writes of any model."""
    mla = c["model_type"].startswith("deepseek")
    out.add_context_length(c["max_position_embeddings"])
    out.add_embedding_length(c["hidden_size"])
    out.add_block_count(c["num_hidden_layers"])
    out.add_feed_forward_length(c["intermediate_size"])
    out.add_head_count(c["num_attention_heads"])
    out.add_layer_norm_rms_eps(c["rms_norm_eps"])
    out.add_file_type(1)
    out.add_expert_used_count(c["num_experts_per_tok"])
    if not mla:
        out.add_head_count_kv(c["num_key_value_heads"])
        out.add_expert_count(c["num_local_experts"])
    if c["model_type"] == "mixtral":
        out.add_rope_dimension_count(c["hidden_size"] // c["num_attention_heads"])
    if c["model_type"] == "qwen3_moe":
        out.add_expert_feed_forward_length(c["moe_intermediate_size"])
    if "head_dim" in c and not mla and c["head_dim"]:
        out.add_key_length(c["head_dim"])
        out.add_value_length(c["head_dim"])
    _rope(out, c["rope_parameters"])


def _rope(out: gguf.GGUFWriter, rope: dict[str, Any]) -> None:
    out.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "yarn":
        out.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        out.add_rope_scaling_factor(rope["factor"])
        out.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        out.add_rope_scaling_yarn_beta_fast(rope["beta_fast"])
        out.add_rope_scaling_yarn_beta_slow(rope["beta_slow"])
    if "mscale_all_dim" in rope:
        out.add_rope_scaling_yarn_log_mul(0.1 * rope["mscale_all_dim"])


def _deepseek(out: gguf.GGUFWriter, c: dict[str, Any], older: bool) -> None:
    rank, turned, qk = c["kv_lora_rank"], c["qk_rope_head_dim"], c["qk_nope_head_dim"] + c["qk_rope_head_dim"]
    third = c["model_type"] == "deepseek_v3"
    out.add_vocab_size(c["vocab_size"])
    out.add_leading_dense_block_count(c["first_k_dense_replace"])
    if c["q_lora_rank"]:
        out.add_q_lora_rank(c["q_lora_rank"])
    out.add_kv_lora_rank(rank)
    out.add_head_count_kv(c["num_attention_heads"] if older else 1)
    out.add_key_length(qk if older else rank + turned)
    out.add_value_length(c["v_head_dim"] if older else rank)
    if not older:
        out.add_key_length_mla(qk)
        out.add_value_length_mla(c["v_head_dim"])
    out.add_rope_dimension_count(turned)
    out.add_expert_feed_forward_length(c["moe_intermediate_size"])
    out.add_expert_count(c["n_routed_experts"])
    out.add_expert_shared_count(c["n_shared_experts"])
    out.add_expert_weights_scale(c["routed_scaling_factor"])
    if c.get("topk_method", "noaux_tc") != "greedy":
        out.add_expert_group_count(c["n_group"])
        out.add_expert_group_used_count(c["topk_group"])
    if third or not older:
        out.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID if third else gguf.ExpertGatingFuncType.SOFTMAX)
    if third:
        out.add_expert_weights_norm(True)
