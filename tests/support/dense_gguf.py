"""Dense models as llama.cpp's converter writes them, with the `gguf` package: keys, names, orders, folded ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors import safe_open

Arrays = dict[str, np.ndarray[Any, Any]]

PARTS = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.qkv_proj": "attn_qkv", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "mlp.gate_up_proj": "ffn_up", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
GEMMA = PARTS | {
    "post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}  # fmt: skip
GEMMA4 = GEMMA | {
    "per_layer_input_gate": "inp_gate", "per_layer_projection": "proj", "post_per_layer_input_norm": "post_norm",
}  # fmt: skip
AFTER = PARTS | {
    "post_attention_layernorm": "post_attention_norm", "post_feedforward_layernorm": "post_ffw_norm",
}  # fmt: skip
GLM4 = PARTS | {"post_self_attn_layernorm": "post_attention_norm", "post_mlp_layernorm": "post_ffw_norm"}
HUNYUAN = PARTS | {"self_attn.query_layernorm": "attn_q_norm", "self_attn.key_layernorm": "attn_k_norm"}
UNGATED = PARTS | {
    "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down", "mlp.fc1": "ffn_up", "mlp.fc2": "ffn_down",
    "self_attn.dense": "attn_output",
}  # fmt: skip
TENSORS = {
    "gemma2": GEMMA, "gemma3": GEMMA, "gemma4": GEMMA4, "olmo2": AFTER, "exaone4": AFTER, "seed_oss": AFTER,
    "glm4": GLM4, "hunyuan-dense": HUNYUAN, "starcoder2": UNGATED, "phi2": UNGATED,
}  # fmt: skip
NAMES = {
    "mistral": "llama", "gemma3_text": "gemma3", "gemma4_text": "gemma4", "ministral3": "mistral3", "olmo3": "olmo2",
    "phi": "phi2", "granitemoehybrid": "granite", "hunyuan_v1_dense": "hunyuan-dense", "cohere": "command-r",
}  # fmt: skip
PAIRED = ("llama", "granite", "smollm3", "mistral3", "arcee")
TOP = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "model.final_layernorm": "output_norm",
    "lm_head": "output", "model.embed_tokens_per_layer": "per_layer_token_embd",
    "model.per_layer_model_projection": "per_layer_model_proj",
    "model.per_layer_projection_norm": "per_layer_proj_norm",
}  # fmt: skip


def arrays(folder: Path) -> tuple[Arrays, str]:
    """A folder's tensors, of bf16 their bits as u16, and the type of the matrices."""
    with safe_open(folder / "model.safetensors", "numpy") as file:
        header = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        kind = str(header["model.embed_tokens.weight"].get_dtype())
        shapes = {name: header[name].get_shape() for name in header}
    raw = (folder / "model.safetensors").read_bytes()
    size = int.from_bytes(raw[:8], "little")
    table = json.loads(raw[8 : 8 + size])
    out: Arrays = {}
    for name, shape in shapes.items():
        start, end = table[name]["data_offsets"]
        out[name] = np.frombuffer(raw[8 + size + start : 8 + size + end], "<u2").reshape(shape)
    return out, kind


def floats(bits: np.ndarray[Any, Any], kind: str) -> np.ndarray[Any, Any]:
    """f32 of f16's or bf16's bits."""
    return bits.view("<f2").astype("f4") if kind == "F16" else (bits.astype("<u4") << 16).view("<f4")


def permuted(rows: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Llama's order: the two halves of each head row by row."""
    return np.concatenate([np.stack(np.split(head, 2), 1).reshape(head.shape) for head in np.split(rows, heads)])


def split(found: Arrays) -> Arrays:
    """Granite 4's gate and up, which are one matrix in the folder, as two."""
    out: Arrays = {}
    for hf, bits in found.items():
        if "shared_mlp.input_linear" in hf:
            for part, rows in zip(("gate", "up"), np.split(bits, 2), strict=True):
                out[hf.replace("shared_mlp.input_linear", f"mlp.{part}_proj")] = rows
        else:
            out[hf.replace("shared_mlp.output_linear", "mlp.down_proj")] = bits
    return out


def name_of(hf: str, names: dict[str, str]) -> str:
    """GGUF's name of a tensor."""
    module, _, what = hf.rpartition(".")
    if module in TOP:
        return f"{TOP[module]}.{what}"
    _, _, layer, rest = hf.split(".", 3)
    if rest == "layer_scalar":
        return f"blk.{layer}.layer_output_scale.weight"
    part, _, what = rest.rpartition(".")
    return f"blk.{layer}.{names[part]}.{what}"


def write(folder: Path, path: Path) -> Path:
    """`folder` as a GGUF file at `path`."""
    config = json.loads((folder / "config.json").read_text())
    arch = NAMES.get(config["model_type"], config["model_type"])
    if shared := config.get("shared_intermediate_size"):  # Granite 4, whose published files have both alike
        config["intermediate_size"] = shared
    out = gguf.GGUFWriter(path, arch)
    out.add_tokenizer_model("llama")
    out.add_token_list([f"t{i}" for i in range(config["vocab_size"])])
    _sizes(out, config)
    (_granite4 if "shared_intermediate_size" in config else WRITERS[arch])(out, config)
    found, kind = arrays(folder)
    for hf, bits in split(found).items():
        _tensor(out, name_of(hf, TENSORS.get(arch, PARTS)), bits, kind, config, arch)
    for step in (out.write_header_to_file, out.write_kv_data_to_file, out.write_tensors_to_file, out.close):
        step()
    return path


def _tensor(
    out: gguf.GGUFWriter, name: str, bits: np.ndarray[Any, Any], kind: str, config: dict[str, Any], arch: str
) -> None:
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    part = name.split(".")[-2]
    if arch in PAIRED and part in heads:
        bits = permuted(bits, heads[part])
    if bits.ndim == 1:
        shift = 1 if arch in ("gemma", "gemma2", "gemma3") and name.endswith("norm.weight") else 0
        out.add_tensor(name, floats(bits, kind) + np.float32(shift))
    elif kind == "F16":
        out.add_tensor(name, bits.view("<f2"))
    else:
        out.add_tensor(name, bits.view("u1"), raw_dtype=gguf.GGMLQuantizationType.BF16)


def _sizes(out: gguf.GGUFWriter, c: dict[str, Any]) -> None:
    """What every architecture has."""
    out.add_context_length(c["max_position_embeddings"])
    out.add_embedding_length(c["hidden_size"])
    out.add_block_count(c["num_hidden_layers"])
    out.add_feed_forward_length(c["intermediate_size"])
    out.add_head_count(c["num_attention_heads"])
    kv = c["num_key_value_heads"]
    out.add_head_count_kv([kv] * c["num_hidden_layers"] if "mamba_n_heads" in c else kv)
    if "rms_norm_eps" in c:
        out.add_layer_norm_rms_eps(c["rms_norm_eps"])
    else:
        out.add_layer_norm_eps(next(c[key] for key in ("norm_epsilon", "layer_norm_eps") if key in c))
    out.add_file_type(1)
    if c.get("head_dim") and "per_layer_config" not in c:
        out.add_key_length(c["head_dim"])
        out.add_value_length(c["head_dim"])


def _llama(out: gguf.GGUFWriter, c: dict[str, Any]) -> None:
    out.add_vocab_size(c["vocab_size"])
    out.add_rope_dimension_count(c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"])
    out.add_rope_freq_base(c["rope_parameters"]["rope_theta"])


def _granite(out: gguf.GGUFWriter, c: dict[str, Any]) -> None:
    _llama(out, c)
    out.add_attention_scale(c["attention_multiplier"])
    out.add_embedding_scale(c["embedding_multiplier"])
    out.add_residual_scale(c["residual_multiplier"])
    out.add_logit_scale(c["logits_scaling"])


def _granite4(out: gguf.GGUFWriter, c: dict[str, Any]) -> None:
    """Attention only: keys of the hybrids all the same, and KV heads as a list."""
    _granite(out, c)
    out.add_ssm_conv_kernel(c["mamba_d_conv"])
    out.add_ssm_state_size(c["mamba_d_state"])
    out.add_ssm_group_count(c["mamba_n_groups"])
    out.add_ssm_inner_size(c["mamba_expand"] * c["hidden_size"])
    out.add_ssm_time_step_rank(c["mamba_n_heads"])
    out.add_expert_shared_feed_forward_length(c["shared_intermediate_size"])
    out.add_expert_count(0)
    out.add_expert_used_count(0)
    out.add_rope_scaling_finetuned(True)


def _qwen(out: gguf.GGUFWriter, c: dict[str, Any]) -> None:
    out.add_rope_freq_base(c["rope_parameters"]["rope_theta"])


def _gemma2(out: gguf.GGUFWriter, c: dict[str, Any]) -> None:
    """Its theta is 10000 and not written: the fixture has another, which the general converter would write."""
    out.add_rope_freq_base(c["rope_parameters"]["rope_theta"])
    out.add_attn_logit_softcapping(c["attn_logit_softcapping"])
    out.add_final_logit_softcapping(c["final_logit_softcapping"])
    out.add_sliding_window(c["sliding_window"])


def _gemma3(out: gguf.GGUFWriter, c: dict[str, Any]) -> None:
    """A period other than 6, which the fixture has, is written by newer converters of other Gemmas."""
    full = c["rope_parameters"]["full_attention"]
    out.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    out.add_rope_scaling_factor(full["factor"])
    out.add_rope_freq_base(full["rope_theta"])
    out.add_rope_freq_base_swa(c["rope_parameters"]["sliding_attention"]["rope_theta"])
    out.add_sliding_window(c["sliding_window"])
    out.add_sliding_window_pattern([kind == "sliding_attention" for kind in c["layer_types"]])


def _gemma4(out: gguf.GGUFWriter, c: dict[str, Any]) -> None:
    """Heads by kind of layer; of the whole head's pairs those beyond the rotated ones have a divisor of 1e30."""
    kinds, rope = c["layer_types"], c["rope_parameters"]["full_attention"]
    full = next(iter(c["per_layer_config"].values()))
    wide, count = full["head_dim"], c["num_hidden_layers"]
    for size, suffix in ((wide, ""), (c["head_dim"], "_swa")):
        for what in ("add_key_length", "add_value_length", "add_rope_dimension_count"):
            getattr(out, f"{what}{suffix}")(size)
    out.add_rope_freq_base(rope["rope_theta"])
    out.add_rope_freq_base_swa(c["rope_parameters"]["sliding_attention"]["rope_theta"])
    out.add_final_logit_softcapping(c["final_logit_softcapping"])
    out.add_shared_kv_layers(c["num_kv_shared_layers"])
    out.add_embedding_length_per_layer_input(c["hidden_size_per_layer_input"])
    if "num_key_value_heads" in full:
        heads = {"sliding_attention": c["num_key_value_heads"], "full_attention": full["num_key_value_heads"]}
        _set(out, "attention.head_count_kv", [heads[kind] for kind in kinds])
    if c["use_double_wide_mlp"]:
        first = count - c["num_kv_shared_layers"]
        _set(out, "feed_forward_length", [c["intermediate_size"] * (1 + (i >= first)) for i in range(count)])
    _windows(out, c)
    turning = int(wide * rope["partial_rotary_factor"] / 2)
    out.add_tensor("rope_freqs.weight", np.array([1.0] * turning + [1e30] * (wide // 2 - turning), "f4"))


def _set(out: gguf.GGUFWriter, key: str, values: list[int]) -> None:
    """A key that was written before, now a list."""
    for data in out.kv_data:
        data.pop(f"{out.arch}.{key}", None)
    out.add_array(f"{out.arch}.{key}", values)


def _phi3(out: gguf.GGUFWriter, c: dict[str, Any]) -> None:
    rope, original = c["rope_parameters"], c["original_max_position_embeddings"]
    head = c["hidden_size"] // c["num_attention_heads"]
    out.add_rope_scaling_orig_ctx_len(original)
    out.add_rope_dimension_count(int(head * rope["partial_rotary_factor"]))
    out.add_rope_freq_base(rope["rope_theta"])
    out.add_sliding_window(c["sliding_window"] or 0)
    if "long_factor" in rope:
        scale = c["max_position_embeddings"] / original
        out.add_rope_scaling_attn_factors(float(np.sqrt(1 + np.log(scale) / np.log(original))))
        for kind in ("long", "short"):
            out.add_tensor(f"rope_factors_{kind}.weight", np.array(rope[f"{kind}_factor"], "f4"))


def _mistral3(out: gguf.GGUFWriter, c: dict[str, Any]) -> None:
    rope = c["rope_parameters"]
    _llama(out, c)
    _yarn(out, rope)
    out.add_rope_scaling_yarn_log_mul(rope["mscale_all_dim"])
    out.add_attn_temperature_scale(rope["llama_4_scaling_beta"])


def _yarn(out: gguf.GGUFWriter, rope: dict[str, Any]) -> None:
    out.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    out.add_rope_scaling_factor(rope["factor"])
    out.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if "beta_fast" in rope:
        out.add_rope_scaling_yarn_beta_fast(rope["beta_fast"])
        out.add_rope_scaling_yarn_beta_slow(rope["beta_slow"])


def _olmo2(out: gguf.GGUFWriter, c: dict[str, Any]) -> None:
    """OLMo 3 too, whose layers with and without a window have a theta each."""
    if c["model_type"] == "olmo2":
        _qwen(out, c)
        return
    full, local = (c["rope_parameters"][f"{kind}_attention"] for kind in ("full", "sliding"))
    _yarn(out, full)
    out.add_rope_freq_base(full["rope_theta"])
    out.add_rope_freq_base_swa(local["rope_theta"])
    _windows(out, c)


def _windows(out: gguf.GGUFWriter, c: dict[str, Any]) -> None:
    out.add_sliding_window(c["sliding_window"])
    out.add_sliding_window_pattern([kind == "sliding_attention" for kind in c["layer_types"]])


def _exaone4(out: gguf.GGUFWriter, c: dict[str, Any]) -> None:
    """Llama 3's scaling is a tensor of divisors."""
    rope = c["rope_parameters"]
    out.add_vocab_size(c["vocab_size"])
    out.add_rope_freq_base(rope["rope_theta"])
    if c["sliding_window"]:
        _windows(out, c)
    if rope["rope_type"] == "llama3":
        out.add_tensor("rope_freqs.weight", np.array(llama3_divisors(rope, c["head_dim"]), "f4"))


def llama3_divisors(rope: dict[str, Any], head_dim: int) -> list[float]:
    """By wavelength, as the converter has them: 1 below, the factor above, and between them the blend."""
    old, low, high = (rope[k] for k in ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor"))
    found = []
    for i in range(0, head_dim, 2):
        wave = 2 * np.pi * rope["rope_theta"] ** (i / head_dim)
        smooth = (old / wave - low) / (high - low)
        blend = 1 / ((1 - smooth) / rope["factor"] + smooth)
        found.append(1.0 if wave < old / high else rope["factor"] if wave > old / low else blend)
    return found


def _hunyuan(out: gguf.GGUFWriter, c: dict[str, Any]) -> None:
    """The fixed stretch is in the theta."""
    rope, dim = c["rope_parameters"], c["head_dim"]
    out.add_rope_freq_base(rope["rope_theta"] * rope["alpha"] ** (dim / (dim - 2)))
    out.add_rope_scaling_type(gguf.RopeScalingType.NONE)
    out.add_rope_scaling_factor(1)
    out.add_rope_scaling_orig_ctx_len(c["max_position_embeddings"])


def _partial(out: gguf.GGUFWriter, c: dict[str, Any]) -> None:
    """GLM-4 and Phi-2, whose converter writes no theta: that of the fixture is not 10000."""
    head = c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]
    out.add_rope_dimension_count(int(c["rope_parameters"]["partial_rotary_factor"] * head))
    _qwen(out, c)


def _stablelm(out: gguf.GGUFWriter, c: dict[str, Any]) -> None:
    _partial(out, c)
    out.add_parallel_residual(c["use_parallel_residual"])


def _cohere2(out: gguf.GGUFWriter, c: dict[str, Any]) -> None:
    """The period of the windows is not written: 4."""
    out.add_logit_scale(c["logit_scale"])
    out.add_sliding_window(c["sliding_window"])
    out.add_vocab_size(c["vocab_size"])
    out.add_rope_dimension_count(c["hidden_size"] // c["num_attention_heads"])
    out.add_rope_scaling_type(gguf.RopeScalingType.NONE)
    _qwen(out, c)


def _cohere(out: gguf.GGUFWriter, c: dict[str, Any]) -> None:
    out.add_logit_scale(c["logit_scale"])
    out.add_rope_scaling_type(gguf.RopeScalingType.NONE)
    _qwen(out, c)


WRITERS = {
    "gemma": _qwen, "command-r": _cohere, "arcee": _llama,
    "llama": _llama, "granite": _granite, "smollm3": _llama, "qwen2": _qwen, "qwen3": _qwen, "gemma2": _gemma2,
    "gemma3": _gemma3, "gemma4": _gemma4, "phi3": _phi3, "mistral3": _mistral3, "olmo2": _olmo2, "exaone4": _exaone4,
    "seed_oss": _qwen, "hunyuan-dense": _hunyuan, "ernie4_5": _qwen, "glm4": _partial, "cohere2": _cohere2,
    "starcoder2": _qwen, "stablelm": _stablelm, "phi2": _partial,
}  # fmt: skip
"""By GGUF's name: the keys that are an architecture's own."""
