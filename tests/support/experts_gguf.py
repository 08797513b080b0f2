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

from tests.support import dense_gguf
from tests.support.dense_gguf import permuted

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]
ARCHITECTURES = {
    "mixtral": "llama", "qwen3_moe": "qwen3moe", "deepseek_v2": "deepseek2", "deepseek_v3": "deepseek2",
    "glm4_moe_lite": "deepseek2", "gpt_oss": "gpt-oss", "qwen2_moe": "qwen2moe",
    "olmoe": "olmoe", "glm4_moe": "glm4moe", "minimax_m2": "minimax-m2",
    "ernie4_5_moe": "ernie4_5-moe", "granitemoeshared": "granitemoe", "hunyuan_v1_moe": "hunyuan-moe",
    "gemma4_text": "gemma4", "llama4_text": "llama4", "dots1": "dots1", "deepseek": "deepseek",
}  # fmt: skip
PAIRED = ("mixtral", "granitemoeshared", "deepseek")
GEMMA4 = dense_gguf.GEMMA4 | {
    "post_feedforward_layernorm_1": "post_ffw_norm_1", "post_feedforward_layernorm_2": "post_ffw_norm_2",
    "pre_feedforward_layernorm_2": "pre_ffw_norm_2", "router.proj": "ffn_gate_inp", "router": "ffn_gate_inp",
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
    "mlp.moe_statics.e_score_correction": "exp_probs_b", "block_sparse_moe.e_score_correction": "exp_probs_b",
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp", "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp", "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
    "mlp.shared_mlp.gate_proj": "ffn_gate_shexp", "mlp.shared_mlp.up_proj": "ffn_up_shexp",
    "mlp.shared_mlp.down_proj": "ffn_down_shexp", "mlp.gate.wg": "ffn_gate_inp",
    "self_attn.query_layernorm": "attn_q_norm", "self_attn.key_layernorm": "attn_k_norm",
    "block_sparse_moe.router.layer": "ffn_gate_inp", "block_sparse_moe.output_linear": "ffn_down_exps",
    "shared_mlp.output_linear": "ffn_down_shexp",
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
    if c["model_type"] == "gemma4_text":
        return _gemma4(rest, array)
    if rest.endswith("input_linear.weight"):  # Granite's gate and up
        gate, up = np.split(array, 2, axis=-2)
        kind = "exps" if array.ndim == 3 else "shexp"
        return {f"ffn_gate_{kind}.weight": gate, f"ffn_up_{kind}.weight": up}
    if "shared_expert_gate" in rest or "moe_statics" in rest:
        array = array.reshape(-1)
    if c["model_type"] == "llama4_text":
        rest = rest.replace("feed_forward.", "mlp.")
    rest = rest.replace("_bias", ".bias")
    if rest == "self_attn.sinks" or rest.endswith(("experts.gate_up_proj", "experts.down_proj")):
        rest += ".weight"
    part, _, what = rest.rpartition(".")
    if part == "post_attention_layernorm":
        after = c["model_type"] in ("gpt_oss", "glm4_moe")
        return {f"{'post_attention_norm' if after else 'ffn_norm'}.weight": array}
    if c["model_type"] in PAIRED and part in ("self_attn.q_proj", "self_attn.k_proj"):
        array = permuted(array, c["num_attention_heads" if "q_proj" in part else "num_key_value_heads"])
    if part.startswith("mlp.experts") and what == "weight":  # columns before rows
        array = array.transpose(0, 2, 1)
    if part == "mlp.experts.gate_up_proj":
        halves = np.split(array, 2, axis=1) if c["model_type"] == "llama4_text" else (array[:, ::2], array[:, 1::2])
        return {f"ffn_{name}_exps.{what}": part for name, part in zip(("gate", "up"), halves, strict=True)}
    if part == "self_attn.kv_b_proj" and not older:
        heads = array.reshape(c["num_attention_heads"], -1, array.shape[1])
        k, v = heads[:, : c["qk_nope_head_dim"]], heads[:, c["qk_nope_head_dim"] :]
        return {"attn_k_b.weight": k.transpose(0, 2, 1), "attn_v_b.weight": v}
    return {f"{PLAIN[part]}.{what}": array}


def _gemma4(rest: str, array: Array) -> Arrays:
    """Its converter leaves gate and up of experts in one tensor."""
    if rest.startswith("experts."):
        return {f"ffn_{'gate_up' if 'gate_up' in rest else 'down'}_exps.weight": array}
    renamed = {"layer_scalar": "layer_output_scale.weight", "router.per_expert_scale": "ffn_down_exps.scale"}
    part, _, what = rest.rpartition(".")
    return {renamed.get(rest) or f"{GEMMA4[part]}.{what}": array}


def write(folder: Path, path: Path, older: bool = False, experts: Any = None, more: Arrays | None = None) -> Path:
    """`folder` as a GGUF file at `path`; `experts`: a type that their matrices are quantized to."""
    config = json.loads((folder / "config.json").read_text())
    out = gguf.GGUFWriter(path, ARCHITECTURES[config["model_type"]])
    out.add_tokenizer_model("gpt2")
    out.add_token_list([f"t{i}" for i in range(config["vocab_size"])])
    _keys(out, config)
    if "kv_lora_rank" in config:
        _deepseek(out, config, older)
    if config["model_type"] in OWN:
        OWN[config["model_type"]](out, config)
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
    mla = "kv_lora_rank" in c
    out.add_context_length(c["max_position_embeddings"])
    out.add_embedding_length(c["hidden_size"])
    out.add_block_count(c["num_hidden_layers"])
    out.add_feed_forward_length(c.get("intermediate_size_mlp") or c["intermediate_size"])
    out.add_head_count(c["num_attention_heads"])
    out.add_layer_norm_rms_eps(c["rms_norm_eps"])
    out.add_file_type(1)
    used = ("num_experts_per_tok", "moe_k", "moe_topk", "top_k_experts")
    out.add_expert_used_count(next(c[key] for key in used if key in c))
    if not mla:
        out.add_head_count_kv(c["num_key_value_heads"])
        counts = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
        out.add_expert_count(next(c[key] for key in counts if c.get(key)))
    if c["model_type"] == "mixtral":
        out.add_rope_dimension_count(c["hidden_size"] // c["num_attention_heads"])
    if c["model_type"] == "qwen3_moe":
        out.add_expert_feed_forward_length(c["moe_intermediate_size"])
    if c["model_type"] == "gemma4_text":
        return
    if "head_dim" in c and not mla and c["head_dim"]:
        out.add_key_length(c["head_dim"])
        out.add_value_length(c["head_dim"])
    if c["rope_parameters"]["rope_type"] == "dynamic":
        dense_gguf._hunyuan(out, c)
    else:
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


def _qwen2_moe(out: gguf.GGUFWriter, c: dict[str, Any]) -> None:
    out.add_expert_feed_forward_length(c["moe_intermediate_size"])
    out.add_expert_shared_feed_forward_length(c["shared_expert_intermediate_size"])


def _glm4_moe(out: gguf.GGUFWriter, c: dict[str, Any]) -> None:
    _partial(out, c)
    out.add_expert_feed_forward_length(c["moe_intermediate_size"])
    out.add_expert_shared_count(c["n_shared_experts"])
    out.add_leading_dense_block_count(c["first_k_dense_replace"])
    out.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    out.add_expert_weights_scale(c["routed_scaling_factor"])
    out.add_expert_weights_norm(c["norm_topk_prob"])


def _dots1(out: gguf.GGUFWriter, c: dict[str, Any]) -> None:
    """What publishers state as `scoring_func` transformers does not save."""
    out.add_expert_feed_forward_length(c["moe_intermediate_size"])
    out.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    out.add_leading_dense_block_count(c["first_k_dense_replace"])
    out.add_expert_shared_count(c["n_shared_experts"])
    out.add_expert_weights_scale(c["routed_scaling_factor"])
    out.add_expert_weights_norm(c["norm_topk_prob"])


def _first_deepseek(out: gguf.GGUFWriter, c: dict[str, Any]) -> None:
    out.add_rope_dimension_count(c["hidden_size"] // c["num_attention_heads"])
    out.add_rope_scaling_type(gguf.RopeScalingType.NONE)
    out.add_leading_dense_block_count(c["first_k_dense_replace"])
    out.add_vocab_size(c["vocab_size"])
    out.add_expert_feed_forward_length(c["moe_intermediate_size"])
    out.add_expert_weights_scale(1.0)
    out.add_expert_shared_count(c["n_shared_experts"])


def _partial(out: gguf.GGUFWriter, c: dict[str, Any]) -> None:
    out.add_rope_dimension_count(int(c["head_dim"] * c["rope_parameters"]["partial_rotary_factor"]))


def _minimax_m2(out: gguf.GGUFWriter, c: dict[str, Any]) -> None:
    """What publishers state as `scoring_func` transformers does not save."""
    _partial(out, c)
    out.add_expert_feed_forward_length(c["intermediate_size"])
    out.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)


def _ernie(out: gguf.GGUFWriter, c: dict[str, Any]) -> None:
    """The shared width is taken from intermediate_size / num_key_value_heads, which is right for published sizes."""
    out.add_expert_feed_forward_length(c["moe_intermediate_size"])
    out.add_expert_shared_count(c["moe_num_shared_experts"])
    out.add_expert_shared_feed_forward_length(c["intermediate_size"] // c["num_key_value_heads"])
    out.add_leading_dense_block_count(c["moe_layer_start_index"])
    out.add_interleave_moe_layer_step(c["moe_layer_interval"])


def _granite(out: gguf.GGUFWriter, c: dict[str, Any]) -> None:
    out.add_expert_shared_feed_forward_length(c["shared_intermediate_size"])
    out.add_rope_dimension_count(c["hidden_size"] // c["num_attention_heads"])
    out.add_attention_scale(c["attention_multiplier"])
    out.add_embedding_scale(c["embedding_multiplier"])
    out.add_residual_scale(c["residual_multiplier"])
    out.add_logit_scale(c["logits_scaling"])


def _hunyuan(out: gguf.GGUFWriter, c: dict[str, Any]) -> None:
    out.add_expert_feed_forward_length(c["intermediate_size"])
    out.add_expert_shared_feed_forward_length(c["intermediate_size"])
    out.add_expert_shared_count(1)


def _gemma4_keys(out: gguf.GGUFWriter, c: dict[str, Any]) -> None:
    dense_gguf._gemma4(out, c)
    out.add_expert_feed_forward_length(c["moe_intermediate_size"])


def _llama4(out: gguf.GGUFWriter, c: dict[str, Any]) -> None:
    out.add_rope_dimension_count(c["head_dim"])
    out.add_vocab_size(c["vocab_size"])
    out.add_interleave_moe_layer_step(c["interleave_moe_layer_step"])
    out.add_expert_feed_forward_length(c["intermediate_size"])


OWN = {
    "qwen2_moe": _qwen2_moe, "glm4_moe": _glm4_moe, "minimax_m2": _minimax_m2, "ernie4_5_moe": _ernie,
    "dots1": _dots1, "deepseek": _first_deepseek,
    "granitemoeshared": _granite, "hunyuan_v1_moe": _hunyuan, "gemma4_text": _gemma4_keys, "llama4_text": _llama4,
}  # fmt: skip
"""By model_type: the keys that a converter of its own writes."""


def _deepseek(out: gguf.GGUFWriter, c: dict[str, Any], older: bool) -> None:
    rank, turned, qk = c["kv_lora_rank"], c["qk_rope_head_dim"], c["qk_nope_head_dim"] + c["qk_rope_head_dim"]
    third = c["model_type"] in ("deepseek_v3", "glm4_moe_lite")
    out.add_vocab_size(c["vocab_size"])
    out.add_leading_dense_block_count(c.get("first_k_dense_replace", 1))
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
