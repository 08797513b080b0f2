"""HF names of models with state: plain ones, and those whose tensors GGUF has in another shape or as other values.

Decays are stored as logarithms of what they negate (A_log), convolutions with an axis of one channel, Mamba-2's
vectors by head without the axis that GGUF gives them, and Granite's gate and up in one matrix.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memfirst.codecs.base import F32
from memfirst.errors import FormatError
from memfirst.formats.joined import Values, View, whole

Config = Mapping[str, Any]
Plain = Mapping[str, str]
Row = tuple[tuple[str, View, Values | None], ...]


def taps(x: NDArray[Any], config: Config) -> NDArray[Any]:
    """[channels, 1, kernel] -> [channels, kernel]."""
    channels, one, kernel = x.shape
    if one != 1:
        raise ValueError("a convolution over one channel at a time")
    return x.reshape(channels, kernel)


def column(x: NDArray[Any], config: Config) -> NDArray[Any]:
    """[heads] -> [heads, 1]."""
    return x.reshape(len(x), 1)


def grouped(x: NDArray[Any], config: Config) -> NDArray[Any]:
    """[width] -> [groups, width / groups]."""
    groups = config.get("n_groups", config.get("mamba_n_groups", 1))
    if not isinstance(groups, int) or isinstance(groups, bool) or groups < 1:
        raise FormatError(f"n_groups is {str(groups)[:20]}", "a positive integer in config.json")
    return x.reshape(groups, -1)


def first_half(x: NDArray[Any], config: Config) -> NDArray[Any]:
    """gate of [..., 2 · width, hidden]."""
    return x[..., : _half(x), :]


def second_half(x: NDArray[Any], config: Config) -> NDArray[Any]:
    """up of [..., 2 · width, hidden]."""
    return x[..., _half(x) :, :]


def _half(x: NDArray[Any]) -> int:
    rows = int(x.shape[-2])
    if rows % 2:
        raise ValueError("gate and up have as many rows")
    return rows // 2


def decay(log: F32) -> F32:
    """A_log -> A = −e^A_log."""
    out: F32 = -np.exp(log)
    return out


def same(values: F32) -> F32:
    """What is f32 in GGUF, whatever it is stored as."""
    return values


def _block(rows: Plain, prefix: str) -> Plain:
    return {f"{prefix}.layers.{{}}.{hf}": f"blk.{{}}.{gguf}" for hf, gguf in rows.items()}


def _views(rows: Mapping[str, Row], prefix: str) -> Mapping[str, Row]:
    return {
        f"{prefix}.layers.{{}}.{hf}": tuple((f"blk.{{}}.{gguf}", view, values) for gguf, view, values in row)
        for hf, row in rows.items()
    }


def _mixer(at: str) -> Plain:
    """Both generations; a model has some of them."""
    linear = {f"{at}.{hf}.weight": f"ssm_{gguf}.weight" for hf, gguf in _LINEAR.items()}
    norms = {f"{at}.{n}_layernorm.weight": f"ssm_{n}_norm.weight" for n in ("dt", "b", "c")}
    biases = {f"{at}.{hf}": "ssm_dt.bias" for hf in ("dt_proj.bias", "dt_bias")}
    return {**linear, **norms, **biases, f"{at}.conv1d.bias": "ssm_conv1d.bias"}


_LINEAR = {"in_proj": "in", "x_proj": "x", "dt_proj": "dt", "out_proj": "out"}
_BACKBONE: Plain = {
    "backbone.embeddings.weight": "token_embd.weight",
    "backbone.embedding.weight": "token_embd.weight",
    "backbone.norm_f.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    **_block({"norm.weight": "attn_norm.weight", **_mixer("mixer")}, "backbone"),
}
_HYBRID: Plain = {
    "input_layernorm.weight": "attn_norm.weight",
    **{f"self_attn.{n}_proj.weight": f"attn_{n}.weight" for n in "qkv"},
    "self_attn.o_proj.weight": "attn_output.weight",
    **_mixer("mamba"),
}
_TOP = {"model.embed_tokens.weight": "token_embd.weight", "lm_head.weight": "output.weight"}
_JAMBA = {
    "pre_ff_layernorm.weight": "ffn_norm.weight",
    "feed_forward.router.weight": "ffn_gate_inp.weight",
    **{f"feed_forward.{n}_proj.weight": f"ffn_{n}.weight" for n in ("gate", "up", "down")},
}
_GRANITE = {
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "block_sparse_moe.router.layer.weight": "ffn_gate_inp.weight",
    "block_sparse_moe.output_linear.weight": "ffn_down_exps.weight",
}
_NEMOTRON = {
    "norm.weight": "attn_norm.weight",
    **_mixer("mixer"),
    **{f"mixer.{n}_proj.weight": f"attn_{n}.weight" for n in "qkv"},
    "mixer.o_proj.weight": "attn_output.weight",
    **{f"mixer.{n}_proj.weight": f"ffn_{n}.weight" for n in ("up", "down")},
    "mixer.gate.weight": "ffn_gate_inp.weight",
    "mixer.gate.e_score_correction_bias": "exp_probs_b.bias",
    **{f"mixer.experts.{n}_proj": f"ffn_{n}_exps.weight" for n in ("up", "down")},
    **{f"mixer.shared_experts.{n}_proj.weight": f"ffn_{n}_shexp.weight" for n in ("up", "down")},
    "mixer.fc1_latent_proj.weight": "ffn_latent_down.weight",
    "mixer.fc2_latent_proj.weight": "ffn_latent_up.weight",
}
_NEMOTRON_H: Plain = {
    "lm_head.weight": "output.weight",
    **{f"{top}.embeddings.weight": "token_embd.weight" for top in ("backbone", "model")},
    **{f"{top}.norm_f.weight": "output_norm.weight" for top in ("backbone", "model")},
    **_block(_NEMOTRON, "backbone"),
    **_block(_NEMOTRON, "model"),
}
_FALCON_H1 = {
    **_HYBRID,
    "pre_ff_layernorm.weight": "ffn_norm",
    **{f"feed_forward.{n}_proj.weight": f"ffn_{n}.weight" for n in ("gate", "up", "down")},
}
"""Its second norm has no ".weight" in GGUF."""
PLAIN: Mapping[str, Plain] = {
    "falcon-h1": {**_TOP, "model.final_layernorm.weight": "output_norm.weight", **_block(_FALCON_H1, "model")},
    "nemotron_h": _NEMOTRON_H,
    "nemotron_h_moe": _NEMOTRON_H,
    "mamba": _BACKBONE,
    "mamba2": {**_BACKBONE},
    "jamba": {**_TOP, "model.final_layernorm.weight": "output_norm.weight", **_block({**_HYBRID, **_JAMBA}, "model")},
    "granitehybrid": {**_TOP, "model.norm.weight": "output_norm.weight", **_block({**_HYBRID, **_GRANITE}, "model")},
}
"""HF name -> GGUF name of tensors that are the same in both."""


def _first(at: str) -> Mapping[str, Row]:
    """Mamba-1: A [channels, state], D [channels]."""
    return {
        f"{at}.A_log": (("ssm_a", whole, decay),),
        f"{at}.D": (("ssm_d", whole, same),),
        f"{at}.conv1d.weight": (("ssm_conv1d.weight", taps, None),),
    }


def _second(at: str) -> Mapping[str, Row]:
    """Mamba-2: A and D [heads], the norm by groups."""
    return {
        f"{at}.A_log": (("ssm_a", column, decay),),
        f"{at}.D": (("ssm_d", column, same),),
        f"{at}.norm.weight": (("ssm_norm.weight", grouped, same),),
        f"{at}.conv1d.weight": (("ssm_conv1d.weight", taps, None),),
    }


def _pair(hf: str, gate: str, up: str) -> Mapping[str, Row]:
    return {hf: ((gate, first_half, None), (up, second_half, None))}


_ROUTED = {
    **_pair("block_sparse_moe.input_linear.weight", "ffn_gate_exps.weight", "ffn_up_exps.weight"),
    **_pair("shared_mlp.input_linear.weight", "ffn_gate_shexp.weight", "ffn_up_shexp.weight"),
    "shared_mlp.output_linear.weight": (("ffn_down_shexp.weight", whole, None),),
}
_DENSE = {
    **_pair("shared_mlp.input_linear.weight", "ffn_gate.weight", "ffn_up.weight"),
    "shared_mlp.output_linear.weight": (("ffn_down.weight", whole, None),),
}
_VIEWS: Mapping[str, Mapping[str, Row]] = {
    "falcon-h1": _views(_second("mamba"), "model"),
    "mamba": _views(_first("mixer"), "backbone"),
    "mamba2": _views(_second("mixer"), "backbone"),
    "jamba": _views(_first("mamba"), "model"),
    "nemotron_h": {**_views(_second("mixer"), "backbone"), **_views(_second("mixer"), "model")},
    "granitehybrid": _views({**_second("mamba"), **_ROUTED}, "model"),
    "granitehybrid dense": _views({**_second("mamba"), **_DENSE}, "model"),
    "granite": _views(_DENSE, "model"),
}


def views(architecture: str, key: str, config: Config) -> Row:
    """What of GGUF's is in the tensor of that name (`{}` for the layer); Granite 4 without experts calls the
    feed-forward that every token passes by other names."""
    dense = architecture == "granitehybrid" and not config.get("num_local_experts")
    table = f"{architecture} dense" if dense else architecture.removesuffix("_moe")
    return _VIEWS.get(table, {}).get(key, ())
