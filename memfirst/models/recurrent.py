"""What the files of recurrent models have in common: the vocabulary's size, and keys that mean nothing here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from memfirst.errors import ConfigError
from memfirst.models import decoder
from memfirst.models import reader as limits
from memfirst.models.builder import Heads
from memfirst.models.reader import ConfigReader

CONTEXT = 1 << 20
"""Positions that a model without positions is given, as llama.cpp's converter writes it."""

MAX_STATE, MAX_KERNEL = 1 << 12, 1 << 6
"""Larger than any model's, like the limits of `memfirst.models.reader`."""

HARMLESS_HF = decoder.HARMLESS_HF | frozenset(
    (
        *("num_logits_to_keep", "output_router_logits", "router_aux_loss_coef", "use_mamba_kernels"),
        *("fused_add_norm", "residual_in_fp32", "rescale_prenorm_residual", "pad_vocab_size_multiple"),
        *("time_step_floor", "time_step_init_scheme", "time_step_max", "time_step_min", "time_step_scale"),
        *("use_mambapy", "use_falcon_mambapy", "use_associative_scan", "chunk_size", "mamba_chunk_size"),
    )
)
"""Keys that training, initialization, sampling or another engine's kernels read."""

HARMLESS_GGUF = frozenset({"feed_forward_length", "attention.head_count", "tensor_data_layout"})
"""Keys that converters write for models that have no such thing."""


def rwkv_keys(hidden: int, layers: int, inner: int, vocab: int) -> dict[str, int]:
    """Keys of RWKV's GGUF files; a number of attention heads is asked for, and there are none; nor is the context
    limited, whatever a config.json says of the training's."""
    return {
        "vocab_size": vocab, "context_length": CONTEXT, "embedding_length": hidden, "block_count": layers,
        "feed_forward_length": inner, "attention.head_count": 0,
    }  # fmt: skip


Written = tuple[Mapping[str, Any], Mapping[str, tuple[int, ...]]]
"""Keys of a GGUF file, and tensors that no token reads."""


def attention_keys(h: Heads, attention: tuple[bool, ...]) -> dict[str, Any]:
    """Keys of heads between recurrent layers: those without attention have no KV heads."""
    kv = np.array([h.kv_heads if attends else 0 for attends in attention], np.int32)
    return {"attention.head_count": h.heads, "attention.head_count_kv": kv}


def from_native(config: Mapping[str, Any], renamed: Mapping[str, str]) -> Mapping[str, Any]:
    """A config of state-spaces' own (d_model, n_layer, ssm_cfg) in transformers' names; any other as it is.

    renamed  keys of ssm_cfg. Rows of the embedding are padded to whole multiples; the head is tied unless stated.
    """
    inner = config.get("ssm_cfg")
    if "d_model" not in config or "hidden_size" in config or not isinstance(inner, dict):
        return config
    r = ConfigReader(config)
    r.only("d_intermediate", (0,))
    r.only("attn_layer_idx", ([],))
    r.only("attn_cfg", ({},))
    multiple = r.integer("pad_vocab_size_multiple", limits.MAX_VOCAB, default=8)
    read = {
        "hidden_size": r.raw("d_model"),
        "num_hidden_layers": r.raw("n_layer"),
        "vocab_size": -(-r.integer("vocab_size", limits.MAX_VOCAB) // multiple) * multiple,
        "tie_word_embeddings": r.flag("tie_embeddings", True),
        "rms_norm": r.flag("rms_norm", True),
    }
    rest = {key: value for key, value in config.items() if key not in NATIVE}
    return {**rest, **read, **{renamed.get(k, k): v for k, v in inner.items() if k != "layer"}}


NATIVE = frozenset(
    (
        *("d_model", "n_layer", "vocab_size", "tie_embeddings", "rms_norm", "ssm_cfg", "pad_vocab_size_multiple"),
        *("d_intermediate", "attn_layer_idx", "attn_cfg"),
    )
)
"""Keys of state-spaces' own configs that `from_native` reads."""


def heads(hidden: int, count: int, kv: int, scale: float = 0.0) -> Heads:
    """Attention between state-space layers: positions show only in the order of what these give. ConfigError where
    heads do not fill the width."""
    if hidden % count:
        raise ConfigError(f"{count} attention heads for a width of {hidden}", "whole heads")
    return Heads(count, kv, hidden // count, rotation=None, scale=scale)


def check_time_step_limit(r: ConfigReader) -> None:
    """dt is not clamped: (0, infinity), in any of the ways that JSON files write infinity."""
    value = r.raw("time_step_limit")
    if value is None:
        return
    if not isinstance(value, list | tuple) or len(value) != 2 or value[0] != 0 or not _infinite(value[1]):
        raise ConfigError(f"time_step_limit is {str(value)[:60]}", "0 and infinity: dt is not clamped here")


def _infinite(value: Any) -> bool:
    if isinstance(value, dict):
        value = value.get("__float__")
    return value in ("Infinity", "inf") or value == float("inf")


def check_unknown(r: ConfigReader, allow_unknown: bool, more: frozenset[str] = frozenset()) -> None:
    """The last step of reading a config.json: every other key is harmless, these here and `more` included."""
    decoder.refuse_other_models(r)
    r.check_unknown(HARMLESS_HF | more, allow_unknown)
