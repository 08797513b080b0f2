"""Llama (2, 3, SmolLM2, and relatives that differ by a Family): norm, attention, norm, gated feed-forward."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sized
from dataclasses import dataclass, replace
from functools import partial
from math import sqrt
from typing import Any

from memfirst.errors import ConfigError, UnsupportedError
from memfirst.graph import Graph, KVCache, Op, Weight
from memfirst.models import reader as limits
from memfirst.models import rope
from memfirst.models.base import Architecture, WeightProvider
from memfirst.models.reader import ConfigReader
from memfirst.ops.add import Add
from memfirst.ops.attention import Attention
from memfirst.ops.embed import Embed
from memfirst.ops.glu import Glu
from memfirst.ops.linear import Linear
from memfirst.ops.norm import RMSNorm
from memfirst.ops.rope import HALF, INTERLEAVED, Rope
from memfirst.ops.select import Select

HARMLESS_GGUF = frozenset({"expert_used_count", "rope.scaling.finetuned", "tensor_data_layout"})
HARMLESS_HF = frozenset(
    (
        *("architectures", "model_type", "_name_or_path", "transformers_version", "transformers.js_config"),
        *("dtype", "torch_dtype", "attn_implementation", "_attn_implementation_autoset", "use_cache"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "max_length", "max_window_layers"),
        *("initializer_range", "attention_dropout", "pretraining_tp", "is_llama_config"),
        *("unsloth_fixed", "unsloth_version"),
    )
)
"""Keys that training, sampling or another engine reads: they change nothing here."""


@dataclass(frozen=True)
class Family:
    """What a relative of Llama does differently.

    rope_style   pairs that turn together, in GGUF row order
    qkv_bias     q, k and v always have biases, and the output none (Qwen2)
    qk_norm      each head's q and k are normalised before they turn (Qwen3)
    """

    architecture: str
    rope_style: str = HALF
    qkv_bias: bool = False
    qk_norm: bool = False


LLAMA = Family("llama", INTERLEAVED)


@dataclass(frozen=True)
class Config:
    """Hyperparameters, named as in config.json.

    rotary_dim       values of a head that turn
    attention_bias   q, k and v have biases; output_bias: the attention's output too
    """

    family: Family
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: rope.RopeScaling | None = None
    rotary_dim: int = 0
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False

    def __post_init__(self) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            found = f"{self.num_attention_heads} attention heads over {self.num_key_value_heads} KV heads"
            raise ConfigError(found, "a whole number of attention heads for each KV head")
        if self.rotary_dim % 2 or not 0 < self.rotary_dim <= self.head_dim:
            raise ConfigError(f"{self.rotary_dim} of {self.head_dim} values turn", "an even number of them")


def from_gguf(
    metadata: Mapping[str, Any], tensors: Container[str], allow_unknown: bool = False, family: Family = LLAMA
) -> Config:
    """Read `<architecture>.*`; a tied head and biases show in which `tensors` there are."""
    r = ConfigReader(metadata, f"{family.architecture}.")
    if r.integer("expert_count", 1 << 16, default=0, low=0):
        raise UnsupportedError(f"{family.architecture} with routed experts", "a dense model")
    hidden = r.integer("embedding_length", limits.MAX_WIDTH)
    heads = r.integer("attention.head_count", limits.MAX_HEADS)
    head_dim = r.integer("attention.key_length", limits.MAX_HEAD_DIM, default=_head_dim(hidden, heads))
    r.only("attention.value_length", (head_dim,))
    context = r.integer("context_length", limits.MAX_CONTEXT)
    theta, scaling = rope.read_gguf(r, context)
    config = Config(
        family=family,
        hidden_size=hidden,
        num_hidden_layers=r.integer("block_count", limits.MAX_LAYERS),
        num_attention_heads=heads,
        num_key_value_heads=r.integer("attention.head_count_kv", limits.MAX_HEADS, default=heads),
        head_dim=head_dim,
        intermediate_size=r.integer("feed_forward_length", limits.MAX_WIDTH),
        vocab_size=_vocab_size(r, metadata),
        max_position_embeddings=context,
        rms_norm_eps=r.number("attention.layer_norm_rms_epsilon", high=1.0),
        rope_theta=theta,
        rope_scaling=scaling,
        rotary_dim=r.integer("rope.dimension_count", limits.MAX_HEAD_DIM, default=head_dim),
        tie_word_embeddings="output.weight" not in tensors,
        attention_bias=family.qkv_bias or "blk.0.attn_q.bias" in tensors,
        output_bias="blk.0.attn_output.bias" in tensors,
        mlp_bias="blk.0.ffn_gate.bias" in tensors,
    )
    r.check_unknown(HARMLESS_GGUF, allow_unknown)
    return config


def _head_dim(hidden: int, heads: int) -> int | None:
    return hidden // heads if hidden % heads == 0 else None


def _vocab_size(r: ConfigReader, metadata: Mapping[str, Any]) -> int:
    """Rows of the embedding: the vocabulary's length, where the file holds one."""
    tokens = metadata.get("tokenizer.ggml.tokens")
    count = len(tokens) if isinstance(tokens, Sized) and len(tokens) else None
    stated = r.integer("vocab_size", limits.MAX_VOCAB, default=count)
    if count is not None and count != stated:
        raise ConfigError(f"vocab_size is {stated}", f"{count}, the number of tokens in the file")
    return stated


def from_hf(config: Mapping[str, Any], allow_unknown: bool = False, family: Family = LLAMA) -> Config:
    """Read a config.json of a relative of Llama."""
    r = ConfigReader(config)
    _refuse_variants(r)
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
        num_key_value_heads=r.integer("num_key_value_heads", limits.MAX_HEADS, default=heads),
        head_dim=head_dim,
        intermediate_size=r.integer("intermediate_size", limits.MAX_WIDTH),
        vocab_size=r.integer("vocab_size", limits.MAX_VOCAB),
        max_position_embeddings=context,
        rms_norm_eps=r.number("rms_norm_eps", high=1.0, default=1e-6),
        rope_theta=theta,
        rope_scaling=scaling,
        rotary_dim=int(head_dim * r.number("partial_rotary_factor", 1.0, high=1.0)),
        tie_word_embeddings=r.flag("tie_word_embeddings"),
        attention_bias=bias or family.qkv_bias,
        output_bias=bias and not family.qkv_bias,
        mlp_bias=r.flag("mlp_bias"),
    )
    r.check_unknown(HARMLESS_HF, allow_unknown)
    return found


def _refuse_variants(r: ConfigReader) -> None:
    """Values that would mean another arithmetic."""
    r.only("hidden_act", ("silu",))
    r.only("rope_interleaved", (False,))
    r.only("use_mrope", (False,))
    if r.flag("use_sliding_window"):
        raise UnsupportedError("use_sliding_window is true", "attention over the whole context")
    r.raw("sliding_window")  # without use_sliding_window it is not used
    layers = r.raw("layer_types", [])
    if not isinstance(layers, list) or any(kind != "full_attention" for kind in layers):
        raise UnsupportedError(f"layer_types is {str(layers)[:60]}", "full_attention in every layer")


def build(c: Config, w: WeightProvider) -> Graph:
    """The model's operations in order."""
    embedding = w("token_embd.weight", (c.vocab_size, c.hidden_size))
    ops: list[Op] = [Embed("token_embd", ("tokens",), "token_embd", embedding)]
    caches = tuple(
        KVCache(f"blk.{i}.kv", c.num_key_value_heads, c.head_dim, c.head_dim)
        for i in range(c.num_hidden_layers)
    )
    layers = _Layers(c, w, _rope(c, w))
    for i, cache in enumerate(caches):
        ops += layers.attention(f"blk.{i}.attn", cache, ops[-1].output)
        ops += layers.feed_forward(f"blk.{i}.ffn", ops[-1].output)
    ops.append(Select("select", (ops[-1].output,), "select", c.hidden_size))
    norm = w("output_norm.weight", (c.hidden_size,))
    ops.append(RMSNorm("output_norm", ("select",), "output_norm", norm, c.rms_norm_eps, head=True))
    ops.append(Linear("output", ("output_norm",), "logits", _head(c, w, embedding), head=True))
    name, context = c.family.architecture, c.max_position_embeddings
    return Graph(name, tuple(ops), caches, c.vocab_size, c.hidden_size, context)


def _head(c: Config, w: WeightProvider, embedding: Weight) -> Weight:
    """The output matrix. Where tied, the embedding by another name: stored once, read in full as the head."""
    if c.tie_word_embeddings:
        return replace(embedding, name="output.weight", alias=embedding.name)
    return w("output.weight", (c.vocab_size, c.hidden_size))


def _rope(c: Config, w: WeightProvider) -> partial[Rope]:
    """RoPE but for its place and heads. GGUF has Llama 3's scaling as divisors of the frequencies."""
    plain = rope.frequencies(c.rope_theta, c.rotary_dim, c.rope_scaling)
    if w.has("rope_freqs.weight"):
        divisors = w.values("rope_freqs.weight", len(plain))
        plain = tuple(f / d for f, d in zip(plain, divisors, strict=True))
    factor = 1.0 if c.rope_scaling is None else c.rope_scaling.attention_factor
    return partial(Rope, head_dim=c.head_dim, frequencies=plain, style=c.family.rope_style, factor=factor)


@dataclass(frozen=True)
class _Layers:
    """Builds a layer's two halves; a value has the name of the operation that gives it."""

    c: Config
    w: WeightProvider
    rope: partial[Rope]

    def attention(self, at: str, cache: KVCache, x: str) -> list[Op]:
        """Norm, q k v, RoPE, attention, output, residual."""
        c, heads, kv = self.c, self.c.num_attention_heads, self.c.num_key_value_heads
        ops = [self._norm(f"{at}_norm", x)]
        for part, n in (("q", heads), ("k", kv), ("v", kv)):
            ops.append(self._linear(f"{at}_{part}", f"{at}_norm", n * c.head_dim, c.attention_bias))
        ops += self._turned(f"{at}_q", heads) + self._turned(f"{at}_k", kv)
        qkv = (f"{at}_q_rope", f"{at}_k_rope", f"{at}_v")
        ops.append(Attention(at, qkv, at, cache, heads, 1 / sqrt(c.head_dim)))
        ops.append(self._linear(f"{at}_output", at, c.hidden_size, c.output_bias, heads * c.head_dim))
        return [*ops, Add(f"{at}_residual", (x, f"{at}_output"), f"{at}_residual", c.hidden_size)]

    def feed_forward(self, at: str, x: str) -> list[Op]:
        """Norm, gate and up, gating, down, residual."""
        c, inner = self.c, self.c.intermediate_size
        return [
            self._norm(f"{at}_norm", x),
            self._linear(f"{at}_gate", f"{at}_norm", inner, c.mlp_bias),
            self._linear(f"{at}_up", f"{at}_norm", inner, c.mlp_bias),
            Glu(f"{at}_glu", (f"{at}_gate", f"{at}_up"), f"{at}_glu", inner),
            self._linear(f"{at}_down", f"{at}_glu", c.hidden_size, c.mlp_bias, inner),
            Add(f"{at}_residual", (x, f"{at}_down"), f"{at}_residual", c.hidden_size),
        ]

    def _norm(self, name: str, x: str) -> Op:
        weight = self.w(f"{name}.weight", (self.c.hidden_size,))
        return RMSNorm(name, (x,), name, weight, self.c.rms_norm_eps)

    def _linear(self, name: str, x: str, rows: int, bias: bool, columns: int = 0) -> Op:
        weight = self.w(f"{name}.weight", (rows, columns or self.c.hidden_size))
        return Linear(name, (x,), name, weight, self.w(f"{name}.bias", (rows,)) if bias else None)

    def _turned(self, name: str, heads: int) -> list[Op]:
        """RoPE of q or k, after its norm where the family has one."""
        if not self.c.family.qk_norm:
            return [self.rope(f"{name}_rope", (name,), f"{name}_rope", heads)]
        weight, normed = self.w(f"{name}_norm.weight", (self.c.head_dim,)), f"{name}_norm"
        norm = RMSNorm(normed, (name,), normed, weight, self.c.rms_norm_eps, heads=heads)
        return [norm, self.rope(f"{name}_rope", (normed,), f"{name}_rope", heads)]


ARCHITECTURE = Architecture("llama", from_gguf, from_hf, build)
