"""HF tensor names and the exact transform to GGUF, per architecture, as data.

A row of a table is `HF name: (GGUF name, transform)`, with `{}` for the layer. To add an architecture,
add a table to TABLES, and its `model_type` in `architectures`. Tensors that are stacked, split or joined on the way
(experts, latent attention) are in `expert_names`.

Q and K of the Llama family change their row order. HF stores each head's rows as two halves that rotate
together (row i with row i + head_dim/2); GGUF's "llama" architecture stores them as adjacent pairs (2i with
2i + 1). Qwen's, Gemma's and Phi's files keep halves in both forms. Gemma's norms, which multiply by 1 + weight,
have the 1 in the weight in GGUF.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from memfirst.codecs.base import U8
from memfirst.errors import FormatError
from memfirst.formats import delta_names
from memfirst.formats.counts import head_count
from memfirst.formats.recurrent_names import PLAIN

Transform = Callable[[U8, Mapping[str, Any]], U8]
"""(u8 [rows, bytes per row], config) -> the rows as GGUF has them; a vector's rows are one f32 each."""


def identity(rows: U8, config: Mapping[str, Any]) -> U8:
    """The same order in both."""
    return rows


def pair_query_rows(rows: U8, config: Mapping[str, Any]) -> U8:
    """Halves to pairs, for each of `num_attention_heads`."""
    return pair_rows(rows, head_count(config, "num_attention_heads"))


def pair_key_rows(rows: U8, config: Mapping[str, Any]) -> U8:
    """Halves to pairs, for each of `num_key_value_heads` (absent: as many as query heads)."""
    key = "num_key_value_heads" if config.get("num_key_value_heads") is not None else "num_attention_heads"
    return pair_rows(rows, head_count(config, key))


def pair_rows(rows: U8, heads: int) -> U8:
    """[heads * (2, hd/2), bytes] -> [heads * (hd/2, 2), bytes]; FormatError where heads do not fit."""
    if len(rows) % (2 * heads):
        raise FormatError(f"{len(rows)} rows for {heads} heads", "an even number of rows for each head")
    halves = rows.reshape(heads, 2, len(rows) // heads // 2, rows.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)


def plus_one(rows: U8, config: Mapping[str, Any]) -> U8:
    """f32 [rows] + 1: Gemma's norm weights."""
    return (rows.view("<f4") + np.float32(1)).view(np.uint8)


Table = Mapping[str, tuple[str, Transform]]

_TOP: Table = {
    "model.embed_tokens.weight": ("token_embd.weight", identity),
    "model.norm.weight": ("output_norm.weight", identity),
    "lm_head.weight": ("output.weight", identity),
}
_BLOCK = "model.layers.{}."
_NORMS_AND_FFN: Table = {
    _BLOCK + "input_layernorm.weight": ("blk.{}.attn_norm.weight", identity),
    _BLOCK + "post_attention_layernorm.weight": ("blk.{}.ffn_norm.weight", identity),
    _BLOCK + "mlp.gate_proj.weight": ("blk.{}.ffn_gate.weight", identity),
    _BLOCK + "mlp.up_proj.weight": ("blk.{}.ffn_up.weight", identity),
    _BLOCK + "mlp.down_proj.weight": ("blk.{}.ffn_down.weight", identity),
}


def _attention(query: Transform, key: Transform) -> Table:
    """Projections and their biases (Llama with attention_bias, all Qwen2): a bias has its rows' order."""
    parts = {"q_proj": ("attn_q", query), "k_proj": ("attn_k", key)}
    parts |= {"v_proj": ("attn_v", identity), "o_proj": ("attn_output", identity)}
    return {
        f"{_BLOCK}self_attn.{hf}.{what}": (f"blk.{{}}.{gguf}.{what}", transform)
        for hf, (gguf, transform) in parts.items()
        for what in ("weight", "bias")
    }


_FFN_BIASES: Table = {
    _BLOCK + f"mlp.{hf}_proj.bias": (f"blk.{{}}.ffn_{hf}.bias", identity) for hf in ("gate", "up", "down")
}
_QK_NORMS: Table = {
    _BLOCK + "self_attn.q_norm.weight": ("blk.{}.attn_q_norm.weight", identity),
    _BLOCK + "self_attn.k_norm.weight": ("blk.{}.attn_k_norm.weight", identity),
}
_QWEN2: Table = {**_TOP, **_NORMS_AND_FFN, **_attention(identity, identity)}

_GEMMA_NORMS: Table = {
    _BLOCK + "input_layernorm.weight": ("blk.{}.attn_norm.weight", plus_one),
    _BLOCK + "post_attention_layernorm.weight": ("blk.{}.post_attention_norm.weight", plus_one),
    _BLOCK + "pre_feedforward_layernorm.weight": ("blk.{}.ffn_norm.weight", plus_one),
    _BLOCK + "post_feedforward_layernorm.weight": ("blk.{}.post_ffw_norm.weight", plus_one),
    "model.norm.weight": ("output_norm.weight", plus_one),
}
_GEMMA2: Table = {**_QWEN2, **_GEMMA_NORMS}
_GEMMA: Table = {hf: (gguf, plus_one if "norm" in hf else same) for hf, (gguf, same) in _QWEN2.items()}
_GEMMA3: Table = {**_GEMMA2, **{hf: (gguf, plus_one) for hf, (gguf, _) in _QK_NORMS.items()}}
_GEMMA4: Table = {
    **_GEMMA3,
    **{hf: (gguf, identity) for hf, (gguf, _) in {**_GEMMA_NORMS, **_QK_NORMS}.items()},
    "model.embed_tokens_per_layer.weight": ("per_layer_token_embd.weight", identity),
    "model.per_layer_model_projection.weight": ("per_layer_model_proj.weight", identity),
    "model.per_layer_projection_norm.weight": ("per_layer_proj_norm.weight", identity),
    _BLOCK + "per_layer_input_gate.weight": ("blk.{}.inp_gate.weight", identity),
    _BLOCK + "per_layer_projection.weight": ("blk.{}.proj.weight", identity),
    _BLOCK + "post_per_layer_input_norm.weight": ("blk.{}.post_norm.weight", identity),
    _BLOCK + "layer_scalar": ("blk.{}.layer_output_scale.weight", identity),
    _BLOCK + "post_feedforward_layernorm_1.weight": ("blk.{}.post_ffw_norm_1.weight", identity),
    _BLOCK + "post_feedforward_layernorm_2.weight": ("blk.{}.post_ffw_norm_2.weight", identity),
    _BLOCK + "pre_feedforward_layernorm_2.weight": ("blk.{}.pre_ffw_norm_2.weight", identity),
    _BLOCK + "router.scale": ("blk.{}.ffn_gate_inp.scale", identity),
    _BLOCK + "router.proj.weight": ("blk.{}.ffn_gate_inp.weight", identity),
    _BLOCK + "router.per_expert_scale": ("blk.{}.ffn_down_exps.scale", identity),
}
_PHI3: Table = {
    **_TOP,
    **_NORMS_AND_FFN,
    _BLOCK + "self_attn.qkv_proj.weight": ("blk.{}.attn_qkv.weight", identity),
    _BLOCK + "self_attn.o_proj.weight": ("blk.{}.attn_output.weight", identity),
    _BLOCK + "mlp.gate_up_proj.weight": ("blk.{}.ffn_up.weight", identity),
}

_DEEPSEEK2: Table = {
    **_QWEN2,
    _BLOCK + "self_attn.q_a_layernorm.weight": ("blk.{}.attn_q_a_norm.weight", identity),
    _BLOCK + "self_attn.kv_a_layernorm.weight": ("blk.{}.attn_kv_a_norm.weight", identity),
    _BLOCK + "mlp.gate.e_score_correction_bias": ("blk.{}.exp_probs_b.bias", identity),
}
_LLAMA4: Table = {
    **_QWEN2,
    **{
        _BLOCK + f"feed_forward.{hf}_proj.weight": (f"blk.{{}}.ffn_{hf}.weight", identity)
        for hf in ("gate", "up", "down")
    },
    **{
        _BLOCK + f"feed_forward.shared_expert.{hf}_proj.weight": (f"blk.{{}}.ffn_{hf}_shexp.weight", identity)
        for hf in ("gate", "up", "down")
    },
    _BLOCK + "feed_forward.router.weight": ("blk.{}.ffn_gate_inp.weight", identity),
}
_GPT_OSS: Table = {
    **_QWEN2,
    _BLOCK + "post_attention_layernorm.weight": ("blk.{}.post_attention_norm.weight", identity),
    _BLOCK + "self_attn.sinks": ("blk.{}.attn_sinks.weight", identity),
    _BLOCK + "mlp.router.bias": ("blk.{}.ffn_gate_inp.bias", identity),
}

_DOTS1: Table = {
    **_QWEN2,
    **_QK_NORMS,
    _BLOCK + "mlp.gate.e_score_correction_bias": ("blk.{}.exp_probs_b.bias", identity),
}
_GLM4_MOE: Table = {
    **_DOTS1,
    _BLOCK + "post_attention_layernorm.weight": ("blk.{}.post_attention_norm.weight", identity),
}
_MINIMAX_M2: Table = {
    **_QWEN2,
    **_QK_NORMS,
    _BLOCK + "block_sparse_moe.e_score_correction_bias": ("blk.{}.exp_probs_b.bias", identity),
}
_DELTA_NORMS: Table = {
    **{hf: (gguf, plus_one) for hf, (gguf, _) in _QK_NORMS.items()},
    _BLOCK + "input_layernorm.weight": ("blk.{}.attn_norm.weight", plus_one),
    _BLOCK + "post_attention_layernorm.weight": ("blk.{}.post_attention_norm.weight", plus_one),
    "model.norm.weight": ("output_norm.weight", plus_one),
}
_QWEN3_NEXT: Table = {**_QWEN2, **_DELTA_NORMS, **delta_names.rows(_BLOCK, delta_names.QWEN3_NEXT)}
_QWEN3_5: Table = {**_QWEN2, **_DELTA_NORMS, **delta_names.rows(_BLOCK, delta_names.QWEN3_5)}
_LFM2: Table = {
    **_TOP,
    "model.embedding_norm.weight": ("token_embd_norm.weight", identity),
    _BLOCK + "operator_norm.weight": ("blk.{}.attn_norm.weight", identity),
    _BLOCK + "ffn_norm.weight": ("blk.{}.ffn_norm.weight", identity),
    _BLOCK + "conv.in_proj.weight": ("blk.{}.shortconv.in_proj.weight", identity),
    _BLOCK + "conv.out_proj.weight": ("blk.{}.shortconv.out_proj.weight", identity),
    **{_BLOCK + f"self_attn.{n}_proj.weight": (f"blk.{{}}.attn_{n}.weight", identity) for n in "qkv"},
    **{_BLOCK + f"self_attn.{n}_layernorm.weight": (f"blk.{{}}.attn_{n}_norm.weight", identity) for n in "qk"},
    _BLOCK + "self_attn.out_proj.weight": ("blk.{}.attn_output.weight", identity),
    _BLOCK + "feed_forward.w1.weight": ("blk.{}.ffn_gate.weight", identity),
    _BLOCK + "feed_forward.w3.weight": ("blk.{}.ffn_up.weight", identity),
    _BLOCK + "feed_forward.w2.weight": ("blk.{}.ffn_down.weight", identity),
    _BLOCK + "feed_forward.expert_bias": ("blk.{}.exp_probs_b.bias", identity),
}
_NAMED_AFTER: Table = {
    _BLOCK + "post_attention_layernorm.weight": ("blk.{}.post_attention_norm.weight", identity),
    _BLOCK + "post_feedforward_layernorm.weight": ("blk.{}.post_ffw_norm.weight", identity),
}
_POST_NORMS: Table = {**_QWEN2, **_QK_NORMS, **_NAMED_AFTER}
_GLM4: Table = {
    **_QWEN2,
    _BLOCK + "post_self_attn_layernorm.weight": ("blk.{}.post_attention_norm.weight", identity),
    _BLOCK + "post_mlp_layernorm.weight": ("blk.{}.post_ffw_norm.weight", identity),
    _BLOCK + "mlp.gate_up_proj.weight": ("blk.{}.ffn_up.weight", identity),
}
_HUNYUAN: Table = {
    **_QWEN2,
    **_FFN_BIASES,
    _BLOCK + "self_attn.query_layernorm.weight": ("blk.{}.attn_q_norm.weight", identity),
    _BLOCK + "self_attn.key_layernorm.weight": ("blk.{}.attn_k_norm.weight", identity),
}


def _biased(rows: Mapping[str, str]) -> Table:
    """Weights and biases of these modules."""
    return {f"{hf}.{what}": (f"{gguf}.{what}", identity) for hf, gguf in rows.items() for what in ("weight", "bias")}


_LAYER_NORMS: Table = {
    **_QWEN2,
    **_biased({_BLOCK + "input_layernorm": "blk.{}.attn_norm", _BLOCK + "post_attention_layernorm": "blk.{}.ffn_norm"}),
    **_biased({"model.norm": "output_norm"}),
}
_STARCODER2: Table = {
    **_LAYER_NORMS,
    **_biased({_BLOCK + "mlp.c_fc": "blk.{}.ffn_up", _BLOCK + "mlp.c_proj": "blk.{}.ffn_down"}),
}
_PHI2: Table = {
    **_LAYER_NORMS,
    **_biased({_BLOCK + "mlp.fc1": "blk.{}.ffn_up", _BLOCK + "mlp.fc2": "blk.{}.ffn_down"}),
    **_biased({_BLOCK + "self_attn.dense": "blk.{}.attn_output"}),
    **_biased({"model.final_layernorm": "output_norm", "lm_head": "output"}),
}

_LLAMA: Table = {**_TOP, **_NORMS_AND_FFN, **_FFN_BIASES, **_attention(pair_query_rows, pair_key_rows)}

TABLES: Mapping[str, Table] = {
    "llama": _LLAMA,
    "granite": _LLAMA,
    "smollm3": _LLAMA,
    "qwen2": _QWEN2,
    "qwen3": {**_QWEN2, **_QK_NORMS},
    "gemma": _GEMMA,
    "gemma2": _GEMMA2,
    "gemma3": _GEMMA3,
    "gemma4": _GEMMA4,
    "phi2": _PHI2,
    "phi3": _PHI3,
    "mistral3": _LLAMA,
    "olmo2": _POST_NORMS,
    "exaone4": _POST_NORMS,
    "seed_oss": {**_QWEN2, **_FFN_BIASES, **_NAMED_AFTER},
    "hunyuan-dense": _HUNYUAN,
    "ernie4_5": {**_QWEN2, **_FFN_BIASES},
    "glm4": _GLM4,
    "cohere2": _QWEN2,
    "command-r": _QWEN2,
    "arcee": _LLAMA,
    "starcoder2": _STARCODER2,
    "stablelm": _LAYER_NORMS,
    "qwen2moe": _QWEN2,
    "qwen3moe": {**_QWEN2, **_QK_NORMS},
    "qwen3next": _QWEN3_NEXT,
    "qwen35": _QWEN3_5,
    "qwen35moe": _QWEN3_5,
    "lfm2": _LFM2,
    "lfm2moe": _LFM2,
    "olmoe": {**_QWEN2, **_QK_NORMS},
    "glm4moe": _GLM4_MOE,
    "minimax-m2": _MINIMAX_M2,
    "dots1": _DOTS1,
    "deepseek": _LLAMA,
    "ernie4_5-moe": {**_QWEN2, **_FFN_BIASES},
    "granitemoe": _LLAMA,
    "hunyuan-moe": _HUNYUAN,
    "deepseek2": _DEEPSEEK2,
    "gpt-oss": _GPT_OSS,
    "llama4": _LLAMA4,
    **{name: {hf: (gguf, identity) for hf, gguf in rows.items()} for name, rows in PLAIN.items()},
}

TIED = frozenset({"mamba"})
"""Architectures whose head is the embedding where config.json does not say."""

HARMLESS = re.compile(r"(^|\.)rotary_emb\.inv_freq$")
"""Buffers that old checkpoints stored and that the config implies."""

WRAPPED = re.compile(r"^(model\.language_model\.|language_model\.model\.)")
"""Where a multimodal model keeps its text model, as newer and older transformers save it."""

_TEXT = re.compile(r"^(model\.language_model\.|language_model\.|lm_head\.)")
_TOWER = re.compile(
    r"^(model\.)?(visual|vision_\w+|audio_\w+|embed_(vision|audio)|multi_modal_projector|mm_projector)\."
)


def beside_text(name: str, config: Mapping[str, Any]) -> bool:
    """Whether a tensor of a multimodal model is no part of its text model: towers for images and sound, projectors."""
    return not _TEXT.match(name) if "text_config" in config else bool(_TOWER.match(name))


def inside(name: str) -> str:
    """A wrapped text model's own name of a tensor."""
    return WRAPPED.sub("model.", name).removeprefix("language_model.")


_LAYER = re.compile(r"\.layers\.(0|[1-9]\d{0,4})\.")


def gguf_name(architecture: str, name: str) -> tuple[str, Transform]:
    """(GGUF name, transform) of an HF tensor; FormatError names one that the architecture does not have."""
    layer = _LAYER.search(name)
    key = _LAYER.sub(".layers.{}.", name, count=1)
    row = TABLES[architecture].get(key) if "{" not in name else None
    if row is None:
        raise FormatError(f"tensor {name} is not part of the {architecture} architecture", "known tensors")
    return row[0].format(layer[1] if layer else ""), row[1]


def hf_name(architecture: str, name: str) -> str:
    """The name under which a safetensors folder has GGUF's tensor `name`; `name` where there is no single one."""
    layer = re.search(r"^blk\.(\d+)\.", name)
    wanted = re.sub(r"^blk\.\d+\.", "blk.{}.", name)
    found = (hf for hf, (gguf, _) in TABLES.get(architecture, {}).items() if gguf == wanted)
    return next(found, name).replace("{}", layer[1] if layer else "")
