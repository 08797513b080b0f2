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
NAMES = {"mistral": "llama", "gemma3_text": "gemma3"}


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


def name_of(hf: str, names: dict[str, str]) -> str:
    """GGUF's name of a tensor."""
    top = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    if hf in top or hf == "lm_head.weight":
        return top.get(hf, "output.weight")
    _, _, layer, rest = hf.split(".", 3)
    part, _, what = rest.rpartition(".")
    return f"blk.{layer}.{names[part]}.{what}"


def write(folder: Path, path: Path) -> Path:
    """`folder` as a GGUF file at `path`."""
    config = json.loads((folder / "config.json").read_text())
    arch = NAMES.get(config["model_type"], config["model_type"])
    out = gguf.GGUFWriter(path, arch)
    out.add_tokenizer_model("llama")
    out.add_token_list([f"t{i}" for i in range(config["vocab_size"])])
    _sizes(out, config)
    writers = {
        "llama": _llama, "granite": _granite, "smollm3": _llama, "qwen2": _qwen, "gemma2": _gemma2,
        "gemma3": _gemma3, "phi3": _phi3,
    }  # fmt: skip
    writers[arch](out, config)
    found, kind = arrays(folder)
    for hf, bits in found.items():
        _tensor(out, name_of(hf, GEMMA if "gemma" in arch else PARTS), bits, kind, config, arch)
    for step in (out.write_header_to_file, out.write_kv_data_to_file, out.write_tensors_to_file, out.close):
        step()
    return path


def _tensor(
    out: gguf.GGUFWriter, name: str, bits: np.ndarray[Any, Any], kind: str, config: dict[str, Any], arch: str
) -> None:
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    part = name.split(".")[-2]
    if arch in ("llama", "granite", "smollm3") and part in heads:
        bits = permuted(bits, heads[part])
    if bits.ndim == 1:
        shift = 1 if "gemma" in arch and "norm" in name else 0
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
    out.add_head_count_kv(c["num_key_value_heads"])
    out.add_layer_norm_rms_eps(c["rms_norm_eps"])
    out.add_file_type(1)
    if c.get("head_dim"):
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
