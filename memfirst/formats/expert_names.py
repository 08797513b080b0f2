"""HF names of models with routed experts or latent attention, and where in GGUF (views of) their tensors go.

A row of a table is `HF name: ((GGUF name, view, part), …)`, with `{}` for the layer and `{e}` for an expert that
the folder stores by itself; one stored tensor may hold several of GGUF's (kv_b; gpt-oss's gate and up, whose
columns alternate). Names that need none of this are in `names`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from memfirst.formats import delta_names, recurrent_names
from memfirst.formats.counts import head_count as count_of
from memfirst.formats.joined import BLOCKS, SCALES, WHOLE, Place, View, whole

Config = Mapping[str, Any]
Row = tuple[tuple[str, View, str], ...]
Table = Mapping[str, Row]


def evens(x: NDArray[Any], config: Config) -> NDArray[Any]:
    """Rows 0, 2, … of each expert: gate, in gpt-oss's biases and MXFP4."""
    return x[:, 0::2]


def odds(x: NDArray[Any], config: Config) -> NDArray[Any]:
    """Rows 1, 3, …: up."""
    return x[:, 1::2]


def first_half(x: NDArray[Any], config: Config) -> NDArray[Any]:
    """gate of [experts, 2 · width, hidden]."""
    return x[:, : x.shape[1] // 2]


def second_half(x: NDArray[Any], config: Config) -> NDArray[Any]:
    """up of [experts, 2 · width, hidden]."""
    return x[:, x.shape[1] // 2 :]


def upper_rows(x: NDArray[Any], config: Config) -> NDArray[Any]:
    """gate of [2 · width, hidden]."""
    return x[: len(x) // 2]


def lower_rows(x: NDArray[Any], config: Config) -> NDArray[Any]:
    """up of [2 · width, hidden]."""
    return x[len(x) // 2 :]


def first_row(x: NDArray[Any], config: Config) -> NDArray[Any]:
    """The only row of a matrix."""
    return x.reshape(-1) if len(x) == 1 else x


def transposed(x: NDArray[Any], config: Config) -> NDArray[Any]:
    """[experts, columns, rows] -> [experts, rows, columns]."""
    return x.swapaxes(1, 2)


def transposed_evens(x: NDArray[Any], config: Config) -> NDArray[Any]:
    """gate of [experts, hidden, 2 · width]."""
    return transposed(x, config)[:, 0::2]


def transposed_odds(x: NDArray[Any], config: Config) -> NDArray[Any]:
    """up of [experts, hidden, 2 · width]."""
    return transposed(x, config)[:, 1::2]


def transposed_first_half(x: NDArray[Any], config: Config) -> NDArray[Any]:
    """gate of [experts, hidden, 2 · width], the halves of whose columns are gate and up."""
    return first_half(transposed(x, config), config)


def transposed_second_half(x: NDArray[Any], config: Config) -> NDArray[Any]:
    """up of the same."""
    return second_half(transposed(x, config), config)


def key_part(x: NDArray[Any], config: Config) -> NDArray[Any]:
    """kv_b [heads · (nope + v), rank] -> k_b [heads, rank, nope]."""
    return _heads(x, config)[:, : count_of(config, "qk_nope_head_dim")].swapaxes(1, 2)


def value_part(x: NDArray[Any], config: Config) -> NDArray[Any]:
    """kv_b [heads · (nope + v), rank] -> v_b [heads, v, rank]."""
    return _heads(x, config)[:, count_of(config, "qk_nope_head_dim") :]


def _heads(x: NDArray[Any], config: Config) -> NDArray[Any]:
    widths = count_of(config, "qk_nope_head_dim") + count_of(config, "v_head_dim")
    return x.reshape(count_of(config, "num_attention_heads"), widths, x.shape[1])


VECTOR = "vector"
"""In place of a part: a row that GGUF has as a vector, of f32."""


def _one(name: str, view: View = whole, part: str = WHOLE) -> Row:
    return ((f"blk.{{}}.{name}", view, part),)


def _experts(prefix: str, gate: str, up: str, down: str) -> Table:
    """Experts that are stored one by one."""
    parts = {"gate": gate, "up": up, "down": down}
    return {f"{prefix}experts.{{e}}.{hf}.weight": _one(f"ffn_{part}_exps.weight") for part, hf in parts.items()}


_MLP, _ATTN = "model.layers.{}.mlp.", "model.layers.{}.self_attn."
_PROJECTIONS = ("gate_proj", "up_proj", "down_proj")
_MIXTRAL = {
    "model.layers.{}.block_sparse_moe.gate.weight": _one("ffn_gate_inp.weight"),
    **_experts("model.layers.{}.block_sparse_moe.", "w1", "w3", "w2"),
}
_QWEN3MOE = {_MLP + "gate.weight": _one("ffn_gate_inp.weight"), **_experts(_MLP, *_PROJECTIONS)}


def _shared(name: str) -> Table:
    """The shared expert."""
    return {f"{_MLP}{name}.{hf}.weight": _one(f"ffn_{hf[:-5]}_shexp.weight") for hf in _PROJECTIONS}


_QWEN2MOE = {
    **_QWEN3MOE,
    **_shared("shared_expert"),
    _MLP + "shared_expert_gate.weight": _one("ffn_gate_inp_shexp.weight", first_row, VECTOR),
}
_STACKED = {
    _MLP + "experts.gate_up_proj": (
        *_one("ffn_gate_exps.weight", first_half), *_one("ffn_up_exps.weight", second_half),
    ),
    _MLP + "experts.down_proj": _one("ffn_down_exps.weight"),
}  # fmt: skip
"""Qwen3.5's experts, where they are stored together."""
_LINEAR = "model.layers.{}.linear_attn."
_QWEN3NEXT = {
    **_QWEN2MOE,
    _LINEAR + "in_proj_qkvz.weight": (
        *_one("attn_qkv.weight", delta_names.queries_keys_values), *_one("attn_gate.weight", delta_names.gates),
    ),
    _LINEAR + "conv1d.weight": _one("ssm_conv1d.weight", recurrent_names.taps),
}  # fmt: skip
_QWEN35 = {_LINEAR + "conv1d.weight": _one("ssm_conv1d.weight", delta_names.tiled_taps)}
_GLM4MOE = {**_QWEN3MOE, **_shared("shared_experts")}
_ERNIE = {**_GLM4MOE, _MLP + "moe_statics.e_score_correction_bias": _one("exp_probs_b.bias", first_row, VECTOR)}
_HUNYUAN = {**_QWEN3MOE, **_shared("shared_mlp"), _MLP + "gate.wg.weight": _one("ffn_gate_inp.weight")}
_GRANITE = {
    "model.layers.{}.block_sparse_moe.router.layer.weight": _one("ffn_gate_inp.weight"),
    "model.layers.{}.block_sparse_moe.input_linear.weight": (
        *_one("ffn_gate_exps.weight", first_half), *_one("ffn_up_exps.weight", second_half),
    ),
    "model.layers.{}.block_sparse_moe.output_linear.weight": _one("ffn_down_exps.weight"),
    "model.layers.{}.shared_mlp.input_linear.weight": (
        *_one("ffn_gate_shexp.weight", upper_rows), *_one("ffn_up_shexp.weight", lower_rows),
    ),
    "model.layers.{}.shared_mlp.output_linear.weight": _one("ffn_down_shexp.weight"),
}  # fmt: skip
_DEEPSEEK2 = {
    **_GLM4MOE,
    _ATTN + "q_a_proj.weight": _one("attn_q_a.weight"),
    _ATTN + "q_b_proj.weight": _one("attn_q_b.weight"),
    _ATTN + "kv_a_proj_with_mqa.weight": _one("attn_kv_a_mqa.weight"),
    _ATTN + "kv_b_proj.weight": (*_one("attn_k_b.weight", key_part), *_one("attn_v_b.weight", value_part)),
}
_JAMBA = _experts("model.layers.{}.feed_forward.", *_PROJECTIONS)
_GPT_OSS = {
    _MLP + "router.weight": _one("ffn_gate_inp.weight"),
    _MLP + "experts.gate_up_proj": (
        *_one("ffn_gate_exps.weight", transposed_evens), *_one("ffn_up_exps.weight", transposed_odds),
    ),
    _MLP + "experts.gate_up_proj_bias": (*_one("ffn_gate_exps.bias", evens), *_one("ffn_up_exps.bias", odds)),
    _MLP + "experts.down_proj": _one("ffn_down_exps.weight", transposed),
    _MLP + "experts.down_proj_bias": _one("ffn_down_exps.bias"),
    **{
        _MLP + f"experts.gate_up_proj_{part}": (
            *_one("ffn_gate_exps.weight", evens, part), *_one("ffn_up_exps.weight", odds, part),
        )
        for part in (BLOCKS, SCALES)
    },
    **{_MLP + f"experts.down_proj_{part}": _one("ffn_down_exps.weight", whole, part) for part in (BLOCKS, SCALES)},
}  # fmt: skip
_CONVOLUTION = {"model.layers.{}.conv.conv.weight": _one("shortconv.conv.weight", recurrent_names.taps)}
_FEED_FORWARD = "model.layers.{}.feed_forward."
_LFM2MOE = {
    **_CONVOLUTION,
    _FEED_FORWARD + "gate.weight": _one("ffn_gate_inp.weight"),
    **_experts(_FEED_FORWARD, "w1", "w3", "w2"),
    _FEED_FORWARD + "experts.gate_up_proj": (
        *_one("ffn_gate_exps.weight", first_half), *_one("ffn_up_exps.weight", second_half),
    ),
    _FEED_FORWARD + "experts.down_proj": _one("ffn_down_exps.weight"),
}  # fmt: skip
_LLAMA4 = {
    _FEED_FORWARD + "experts.gate_up_proj": (
        *_one("ffn_gate_exps.weight", transposed_first_half), *_one("ffn_up_exps.weight", transposed_second_half),
    ),
    _FEED_FORWARD + "experts.down_proj": _one("ffn_down_exps.weight", transposed),
}  # fmt: skip
_GEMMA4 = {
    "model.layers.{}.experts.gate_up_proj": (
        *_one("ffn_gate_exps.weight", first_half), *_one("ffn_up_exps.weight", second_half),
    ),
    "model.layers.{}.experts.down_proj": _one("ffn_down_exps.weight"),
}  # fmt: skip
_NEMOTRON_H = {
    f"{top}.layers.{{}}.mixer.experts.{{e}}.{part}_proj.weight": _one(f"ffn_{part}_exps.weight")
    for top in ("backbone", "model")
    for part in ("up", "down")
}
TABLES: Mapping[str, Table] = {
    "nemotron_h_moe": _NEMOTRON_H,
    "llama": _MIXTRAL, "qwen3moe": _QWEN3MOE, "deepseek2": _DEEPSEEK2, "gpt-oss": _GPT_OSS, "jamba": _JAMBA,
    "llama4": _LLAMA4,
    "gemma4": _GEMMA4, "qwen2moe": _QWEN2MOE, "olmoe": _QWEN3MOE, "glm4moe": _GLM4MOE, "minimax-m2": _MIXTRAL,
    "dots1": _GLM4MOE, "deepseek": _GLM4MOE,
    "ernie4_5-moe": _ERNIE, "granitemoe": _GRANITE, "hunyuan-moe": _HUNYUAN, "qwen3next": _QWEN3NEXT,
    "qwen35": _QWEN35, "lfm2": _CONVOLUTION, "lfm2moe": _LFM2MOE, "qwen35moe": {**_QWEN2MOE, **_STACKED, **_QWEN35},
}  # fmt: skip

_LAYER = re.compile(r"\.layers\.(0|[1-9]\d{0,4})\.")
_EXPERT = re.compile(r"\.experts\.(0|[1-9]\d{0,4})\.")


def places(architecture: str, name: str, config: Config) -> tuple[Place, ...]:
    """Where views of the tensor go; empty where `names` knows it, or nobody."""
    layer, expert = _LAYER.search(name), _EXPERT.search(name)
    key = _EXPERT.sub(".experts.{e}.", _LAYER.sub(".layers.{}.", name, count=1), count=1)
    rows = TABLES.get(architecture, {}).get(key, ()) if "{" not in name and layer else ()
    index, at = int(expert[1]) if expert else None, layer[1] if layer else ""
    if layer and not rows:
        found = recurrent_names.views(architecture, key, config)
        return tuple(Place(gguf.format(at), view, values=values) for gguf, view, values in found)
    return tuple(
        Place(gguf.format(at), view, values=recurrent_names.same) if part == VECTOR
        else Place(gguf.format(at), view, index, part)
        for gguf, view, part in rows
    )  # fmt: skip


PREDICTING = ("deepseek2", "glm4moe", "minimax-m2", "ernie4_5-moe", "qwen3next", "qwen35", "qwen35moe")


def left_out(architecture: str, name: str, config: Config) -> bool:
    """What some folders hold besides: layers that predict further tokens, and the scales of FP8 weights, which have no
    codec here: such a folder is priced, without the scales (0.02 %), and not run."""
    if architecture not in PREDICTING:
        return False
    if name.startswith(("model.mtp_", "mtp.")):
        return True
    layer = _LAYER.search(name)
    return name.endswith(".weight_scale_inv") or (
        layer is not None and int(layer[1]) >= count_of(config, "num_hidden_layers")
    )
