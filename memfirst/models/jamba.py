"""Jamba is Mamba with attention in every eighth layer, and a feed-forward in each, every second one routed."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

from memfirst.errors import ConfigError
from memfirst.graph import Graph
from memfirst.models import decoder, experts, mamba, recurrent
from memfirst.models import reader as limits
from memfirst.models.base import Architecture, WeightProvider
from memfirst.models.builder import Builder, Heads
from memfirst.models.experts import MoE
from memfirst.models.reader import ConfigReader

HARMLESS_GGUF = frozenset({"tensor_data_layout"})


@dataclass(frozen=True)
class Config:
    """Hyperparameters, named as in config.json.

    attention, routed  for each layer whether it attends (else it is a state-space layer), whether it has experts
    """

    hidden_size: int
    mixer: mamba.Mixer
    heads: Heads
    moe: MoE
    intermediate_size: int
    attention: tuple[bool, ...]
    routed: tuple[bool, ...]
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    tie_word_embeddings: bool


def from_gguf(metadata: Mapping[str, Any], tensors: Container[str], allow_unknown: bool = False) -> Config:
    """Read `jamba.*`: a layer without KV heads is a state-space layer, one with a router has experts."""
    r = ConfigReader(metadata, "jamba.")
    hidden, layers = r.integer("embedding_length", limits.MAX_WIDTH), r.integer("block_count", limits.MAX_LAYERS)
    eps = r.number("attention.layer_norm_rms_epsilon", high=1.0)
    kv = r.by_layer("attention.head_count_kv", layers, limits.MAX_HEADS, low=0)
    width = r.integer("feed_forward_length", limits.MAX_WIDTH)
    config = Config(
        hidden_size=hidden,
        mixer=mamba.read_mixer(r, hidden, mamba.WEIGHTED, eps),
        heads=recurrent.heads(hidden, r.integer("attention.head_count", limits.MAX_HEADS), only_kv(kv)),
        moe=_moe(r, "expert_count", "expert_used_count", width),
        intermediate_size=width,
        attention=tuple(n > 0 for n in kv),
        routed=tuple(f"blk.{i}.ffn_gate_inp.weight" in tensors for i in range(layers)),
        vocab_size=decoder.vocab_size(r),
        max_position_embeddings=r.integer("context_length", limits.MAX_CONTEXT),
        rms_norm_eps=eps,
        tie_word_embeddings="output.weight" not in tensors,
    )
    r.check_unknown(HARMLESS_GGUF, allow_unknown)
    return config


def only_kv(by_layer: tuple[int, ...]) -> int:
    """The number of KV heads of the layers that have any; ConfigError where they differ."""
    found = {n for n in by_layer if n}
    if len(found) != 1:
        raise ConfigError(f"KV heads by layer are {sorted(set(by_layer))}", "0 and one other number")
    return found.pop()


def _moe(
    r: ConfigReader, count: str, used: str, width: int, defaults: tuple[int | None, int | None] = (None, None)
) -> MoE:
    n = r.integer(count, experts.MAX_EXPERTS, default=defaults[0])
    return MoE(n, r.integer(used, experts.MAX_EXPERTS, default=defaults[1]), width, norm_topk_prob=False)


def from_hf(config: Mapping[str, Any], allow_unknown: bool = False) -> Config:
    """Read a config.json of `jamba`; defaults as in transformers, which are Jamba-v0.1's."""
    r = ConfigReader(config)
    _refuse_variants(r)
    hidden, layers = r.integer("hidden_size", limits.MAX_WIDTH), r.integer("num_hidden_layers", limits.MAX_LAYERS)
    heads = r.integer("num_attention_heads", limits.MAX_HEADS)
    eps = r.number("rms_norm_eps", 1e-6, high=1.0)
    width = r.integer("intermediate_size", limits.MAX_WIDTH)
    moe = _moe(r, "num_experts", "num_experts_per_tok", width, (16, 2))
    found = Config(
        hidden_size=hidden,
        mixer=_mixer(r, hidden, eps),
        heads=recurrent.heads(hidden, heads, r.integer("num_key_value_heads", limits.MAX_HEADS, default=heads)),
        moe=moe,
        intermediate_size=width,
        attention=_every(r, "attn_layer_period", "attn_layer_offset", (8, 4), layers),
        routed=_routed(r, moe, layers),
        vocab_size=r.integer("vocab_size", limits.MAX_VOCAB),
        max_position_embeddings=r.integer("max_position_embeddings", limits.MAX_CONTEXT, default=1 << 18),
        rms_norm_eps=eps,
        tie_word_embeddings=r.flag("tie_word_embeddings"),
    )
    r.raw("n_ctx")  # the context under a second name
    recurrent.check_unknown(r, allow_unknown)
    return found


def _refuse_variants(r: ConfigReader) -> None:
    """Values that would mean another arithmetic."""
    r.only("hidden_act", ("silu",))
    r.only("sliding_window", ())
    r.only("mamba_conv_bias", (True,))
    r.only("mamba_proj_bias", (False,))
    r.only("mamba_inner_layernorms", (True,))


def _mixer(r: ConfigReader, hidden: int, eps: float) -> mamba.Mixer:
    auto = r.raw("mamba_dt_rank", "auto") == "auto"
    return mamba.Mixer(
        hidden_size=hidden,
        intermediate_size=hidden * r.integer("mamba_expand", 64, default=2),
        state_size=r.integer("mamba_d_state", recurrent.MAX_STATE, default=16),
        conv_kernel=r.integer("mamba_d_conv", recurrent.MAX_KERNEL, default=4),
        time_step_rank=-(-hidden // 16) if auto else r.integer("mamba_dt_rank", limits.MAX_WIDTH),
        inner_norms=mamba.WEIGHTED,
        inner_eps=eps,
    )


def _routed(r: ConfigReader, moe: MoE, layers: int) -> tuple[bool, ...]:
    """One expert is a plain feed-forward."""
    placed = _every(r, "expert_layer_period", "expert_layer_offset", (2, 1), layers)
    return tuple(place and moe.num_experts > 1 for place in placed)


def _every(r: ConfigReader, period: str, offset: str, default: tuple[int, int], layers: int) -> tuple[bool, ...]:
    """For each layer whether it is `offset`, or any number of `period`s after it."""
    step = r.integer(period, limits.MAX_LAYERS, default=default[0])
    first = r.integer(offset, limits.MAX_LAYERS, default=default[1], low=0)
    if first >= step:
        raise ConfigError(f"{offset} is {first}", f"less than {period}, which is {step}")
    return tuple(i % step == first for i in range(layers))


def build(c: Config, w: WeightProvider) -> Graph:
    """The model's operations in order."""
    b = Builder(w, c.hidden_size, c.rms_norm_eps)
    x = b.embed(c.vocab_size)
    for i, (attends, routed) in enumerate(zip(c.attention, c.routed, strict=True)):
        normed = b.rms_norm(f"blk.{i}.attn_norm", x)
        mixed = (
            b.attention(f"blk.{i}.attn", normed, c.heads)
            if attends
            else mamba.mixer(b, f"blk.{i}.ssm", normed, c.mixer)
        )
        x = b.residual(f"blk.{i}.attn_residual", x, mixed)
        normed, at = b.rms_norm(f"blk.{i}.ffn_norm", x), f"blk.{i}.ffn"
        mixed = experts.routed(b, at, normed, c.moe) if routed else b.swiglu(at, normed, c.intermediate_size)
        x = b.residual(f"{at}_residual", x, mixed)
    normed = b.rms_norm("output_norm", b.select(x), head=True)
    b.head(normed, c.vocab_size, c.tie_word_embeddings)
    return b.graph("jamba", c.vocab_size, c.max_position_embeddings)


def to_gguf(c: Config) -> recurrent.Written:
    """The keys that llama.cpp's converter writes."""
    return {
        **mamba.mixer_keys(c.mixer), **recurrent.attention_keys(c.heads, c.attention),
        "vocab_size": c.vocab_size, "context_length": c.max_position_embeddings, "block_count": len(c.attention),
        "feed_forward_length": c.intermediate_size, "attention.layer_norm_rms_epsilon": c.rms_norm_eps,
        "expert_count": c.moe.num_experts, "expert_used_count": c.moe.num_experts_per_tok,
    }, {}  # fmt: skip


ARCHITECTURE = Architecture("jamba", from_gguf, from_hf, build, to_gguf=to_gguf)
