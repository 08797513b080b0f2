"""Llama (2, 3, SmolLM2, and relatives that differ by a Family): norm, attention, norm, gated feed-forward."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sized
from typing import Any

from memfirst.errors import ConfigError
from memfirst.graph.ops.rope import INTERLEAVED
from memfirst.models import experts, rope, windows
from memfirst.models import reader as limits
from memfirst.models.base import Architecture
from memfirst.models.decoder import Config, Family, build
from memfirst.models.reader import ConfigReader

__all__ = ["ARCHITECTURE", "LLAMA", "Config", "Family", "Own", "build", "from_gguf", "from_hf", "vocab_size"]

Own = Callable[[ConfigReader, Config], Config]
"""Reads the keys that a relative has besides Llama's."""

HARMLESS_GGUF = frozenset({"rope.scaling.finetuned", "tensor_data_layout"})
HARMLESS_HF = frozenset(
    (
        *("architectures", "model_type", "_name_or_path", "transformers_version", "transformers.js_config"),
        *("dtype", "torch_dtype", "attn_implementation", "_attn_implementation_autoset", "use_cache"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "max_length", "auto_map"),
        *("initializer_range", "attention_dropout", "pretraining_tp", "is_llama_config"),
        *("cache_implementation", "embd_pdrop", "resid_pdrop"),
        *("unsloth_fixed", "unsloth_version"),
    )
)
"""Keys that training, sampling or another engine reads: they change nothing here."""


ACTIVATIONS = {"silu": ("silu",), "gelu": ("gelu_pytorch_tanh",)}
"""By activation, what config.json calls it."""

LLAMA = Family("llama", INTERLEAVED)


def from_gguf(
    metadata: Mapping[str, Any],
    tensors: Container[str],
    allow_unknown: bool = False,
    family: Family = LLAMA,
    own: Own = windows.gguf,
) -> Config:
    """Read `<architecture>.*`; a tied head and biases show in which `tensors` there are.

    A Mistral with a window has lost it on the way: llama.cpp's converter writes none for this architecture.
    """
    r = ConfigReader(metadata, f"{family.architecture}.")
    hidden = r.integer("embedding_length", limits.MAX_WIDTH)
    heads = r.integer("attention.head_count", limits.MAX_HEADS)
    head_dim = r.integer("attention.key_length", limits.MAX_HEAD_DIM, default=_head_dim(hidden, heads))
    r.only("attention.value_length", (head_dim,))
    context = r.integer("context_length", limits.MAX_CONTEXT)
    theta, scaling = rope.read_gguf(r, context)
    inner = r.integer("feed_forward_length", limits.MAX_WIDTH)
    config = Config(
        family=family,
        hidden_size=hidden,
        num_hidden_layers=r.integer("block_count", limits.MAX_LAYERS),
        num_attention_heads=heads,
        num_key_value_heads=r.integer("attention.head_count_kv", limits.MAX_HEADS, default=heads),
        head_dim=head_dim,
        intermediate_size=inner,
        vocab_size=vocab_size(r, metadata),
        max_position_embeddings=context,
        rms_norm_eps=r.single("attention.layer_norm_rms_epsilon", high=1.0),
        rope_theta=theta,
        rope_scaling=scaling,
        rotary_dim=r.integer("rope.dimension_count", limits.MAX_HEAD_DIM, default=head_dim),
        tie_word_embeddings="output.weight" not in tensors,
        attention_bias=family.qkv_bias or "blk.0.attn_q.bias" in tensors,
        output_bias="blk.0.attn_output.bias" in tensors,
        mlp_bias="blk.0.ffn_gate.bias" in tensors,
        moe=experts.read_gguf(r, tensors, inner),
    )
    config = own(r, config)
    r.check_unknown(HARMLESS_GGUF, allow_unknown)
    return config


def _head_dim(hidden: int, heads: int) -> int | None:
    return hidden // heads if hidden % heads == 0 else None


def vocab_size(r: ConfigReader, metadata: Mapping[str, Any]) -> int:
    """Rows of the embedding: the vocabulary's length, where the file holds one."""
    tokens = metadata.get("tokenizer.ggml.tokens")
    count = len(tokens) if isinstance(tokens, Sized) and len(tokens) else None
    stated = r.integer("vocab_size", limits.MAX_VOCAB, default=count)
    if count is not None and count != stated:
        raise ConfigError(f"vocab_size is {stated}", f"{count}, the number of tokens in the file")
    return stated


def from_hf(
    config: Mapping[str, Any], allow_unknown: bool = False, family: Family = LLAMA, own: Own = windows.unused
) -> Config:
    """Read a config.json of a relative of Llama."""
    r = ConfigReader(config)
    _refuse_variants(r, family)
    hidden = r.integer("hidden_size", limits.MAX_WIDTH)
    heads = r.integer("num_attention_heads", limits.MAX_HEADS)
    head_dim = r.integer("head_dim", limits.MAX_HEAD_DIM, default=_head_dim(hidden, heads))
    context = r.integer("max_position_embeddings", limits.MAX_CONTEXT)
    theta, scaling = rope.read_hf(r, context)
    bias = r.flag("attention_bias")
    found = Config(
        family=family,
        hidden_size=hidden,
        num_hidden_layers=r.integer("num_hidden_layers", limits.MAX_LAYERS),
        num_attention_heads=heads,
        num_key_value_heads=r.integer("num_key_value_heads", limits.MAX_HEADS, None if family.grouped else heads),
        head_dim=head_dim,
        intermediate_size=r.integer("intermediate_size", limits.MAX_WIDTH),
        vocab_size=r.integer("vocab_size", limits.MAX_VOCAB),
        max_position_embeddings=context,
        rms_norm_eps=r.single("rms_norm_eps", high=1.0, default=1e-6),
        rope_theta=theta,
        rope_scaling=scaling,
        rotary_dim=rope.rotary_dim(r, head_dim),
        tie_word_embeddings=r.flag("tie_word_embeddings", family.tied),
        attention_bias=bias or family.qkv_bias,
        output_bias=bias and not family.qkv_bias,
        mlp_bias=r.flag("mlp_bias"),
    )
    found = own(r, found)
    r.check_unknown(HARMLESS_HF, allow_unknown)
    return found


def _refuse_variants(r: ConfigReader, family: Family) -> None:
    """Values that would mean another arithmetic."""
    for key in ("hidden_act", "hidden_activation"):
        r.only(key, ACTIVATIONS[family.activation])
    r.only("rope_interleaved", (False,))
    r.only("use_mrope", (False,))


ARCHITECTURE = Architecture("llama", from_gguf, from_hf, build)
