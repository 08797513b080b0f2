"""RWKV-7 (Goose) is RWKV-6 with a state that forgets by key, and values mixed with the first layer's."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

from memfirst.errors import ConfigError
from memfirst.graph import Graph
from memfirst.graph.ops.blend import Blend
from memfirst.graph.ops.multiply import Multiply
from memfirst.graph.ops.wkv7 import HeadBonus, ScaledKey, Wkv7
from memfirst.models import decoder, recurrent
from memfirst.models import reader as limits
from memfirst.models.base import Architecture, WeightProvider
from memfirst.models.builder import Builder
from memfirst.models.reader import ConfigReader
from memfirst.models.rwkv6 import LN_X_EPS


@dataclass(frozen=True)
class Config:
    """Hyperparameters, named as in the published config.json: ranks of what decay, a, v and the gate are made from."""

    hidden_size: int
    num_hidden_layers: int
    head_dim: int
    intermediate_size: int
    decay_low_rank_dim: int
    a_low_rank_dim: int
    v_low_rank_dim: int
    gate_low_rank_dim: int
    vocab_size: int
    norm_eps: float
    context: int = recurrent.CONTEXT

    def __post_init__(self) -> None:
        if self.hidden_size % self.head_dim:
            raise ConfigError(f"heads of {self.head_dim} for a width of {self.hidden_size}", "whole heads")

    @property
    def heads(self) -> int:
        """Heads of `head_dim`."""
        return self.hidden_size // self.head_dim


def from_gguf(metadata: Mapping[str, Any], tensors: Container[str], allow_unknown: bool = False) -> Config:
    """Read `rwkv7.*`."""
    r = ConfigReader(metadata, "rwkv7.")
    r.only("token_shift_count", (2,))
    config = Config(
        hidden_size=r.integer("embedding_length", limits.MAX_WIDTH),
        num_hidden_layers=r.integer("block_count", limits.MAX_LAYERS),
        head_dim=r.integer("wkv.head_size", limits.MAX_HEAD_DIM),
        intermediate_size=r.integer("feed_forward_length", limits.MAX_WIDTH),
        decay_low_rank_dim=r.integer("attention.decay_lora_rank", limits.MAX_WIDTH),
        a_low_rank_dim=r.integer("attention.iclr_lora_rank", limits.MAX_WIDTH),
        v_low_rank_dim=r.integer("attention.value_residual_mix_lora_rank", limits.MAX_WIDTH),
        gate_low_rank_dim=r.integer("attention.gate_lora_rank", limits.MAX_WIDTH),
        vocab_size=decoder.vocab_size(r),
        norm_eps=r.number("attention.layer_norm_epsilon", high=1.0),
        context=r.integer("context_length", limits.MAX_CONTEXT),
    )
    r.check_unknown(recurrent.HARMLESS_GGUF, allow_unknown)
    return config


HARMLESS_HF = recurrent.HARMLESS_HF | {
    *("attn_mode", "fuse_norm", "fuse_cross_entropy", "fuse_linear_cross_entropy", "use_l2warp"),
    *("num_heads", "num_attention_heads"),  # published ones say 32 also where the width has 12 heads of head_dim
}


def from_hf(config: Mapping[str, Any], allow_unknown: bool = False) -> Config:
    """Read a config.json of `rwkv7`, as flash-linear-attention writes it."""
    r = ConfigReader(config)
    hidden, layers = r.integer("hidden_size", limits.MAX_WIDTH), r.integer("num_hidden_layers", limits.MAX_LAYERS)
    _refuse_variants(r, hidden, layers)
    ratio = r.number("hidden_ratio", 4.0, high=64.0)
    inner = -(-int(hidden * ratio) // 32) * 32
    found = Config(
        hidden_size=hidden,
        num_hidden_layers=layers,
        head_dim=r.integer("head_dim", limits.MAX_HEAD_DIM, default=64),
        intermediate_size=r.integer("intermediate_size", limits.MAX_WIDTH, default=inner),
        decay_low_rank_dim=_rank(r, "decay_low_rank_dim", 1.8 * hidden**0.5),
        a_low_rank_dim=_rank(r, "a_low_rank_dim", 1.8 * hidden**0.5),
        v_low_rank_dim=_rank(r, "v_low_rank_dim", 1.3 * hidden**0.5),
        gate_low_rank_dim=_rank(r, "gate_low_rank_dim", 0.6 * hidden**0.8),
        vocab_size=r.integer("vocab_size", limits.MAX_VOCAB),
        norm_eps=r.number("norm_eps", 1e-5, high=1.0),
        context=r.integer("max_position_embeddings", limits.MAX_CONTEXT, default=recurrent.CONTEXT),
    )
    recurrent.check_unknown(r, allow_unknown, HARMLESS_HF)
    return found


def _refuse_variants(r: ConfigReader, hidden: int, layers: int) -> None:
    """Values that would mean another arithmetic. `attn` names layers with attention: none here."""
    r.only("hidden_act", ("sqrelu",))
    r.only("attn", ())
    r.only("norm_first", (True,))
    r.only("norm_bias", (True,))
    r.only("tie_word_embeddings", (False,))
    r.only("value_dim", (hidden, [hidden] * layers))


def _rank(r: ConfigReader, key: str, guide: float) -> int:
    """The stated rank, or the multiple of 32 nearest to `guide`, which is how they were chosen."""
    return r.integer(key, limits.MAX_WIDTH, default=max(1, round(guide / 32)) * 32)


def build(c: Config, w: WeightProvider) -> Graph:
    """The model's operations in order."""
    b = Builder(w, c.hidden_size, c.norm_eps)
    x, first = b.layer_norm("token_embd_norm", b.embed(c.vocab_size)), "blk.0.time_mix_value"
    for i in range(c.num_hidden_layers):
        normed = b.layer_norm(f"blk.{i}.attn_norm", x)
        mixed = _time_mix(b, f"blk.{i}.time_mix", normed, c, first if i else "")
        x = b.residual(f"blk.{i}.time_mix_residual", x, mixed)
        normed = b.layer_norm(f"blk.{i}.attn_norm_2", x)
        x = b.residual(f"blk.{i}.channel_mix_residual", x, _channel_mix(b, f"blk.{i}.channel_mix", normed, c))
    normed = b.layer_norm("output_norm", b.select(x), head=True)
    b.head(normed, c.vocab_size, tied=False)
    return b.graph("rwkv7", c.vocab_size, c.context)


def _time_mix(b: Builder, at: str, x: str, c: Config, first: str) -> str:
    """Mixes with the token before, the state, its norm, the bonus, the gate (arXiv:2503.14456, section 4)."""
    hidden = c.hidden_size
    previous = b.shift(f"{at}_shift", x)
    parts = b.lerp(f"{at}_lerp_fused", x, previous, parts=6)
    for_r, for_w, for_k, for_v, for_a, for_g = (
        b.slice(f"{at}_for_{n}", parts, j * hidden, hidden) for j, n in enumerate("rwkvag")
    )
    r, k = (b.linear(f"{at}_{n}", of, hidden) for n, of in (("receptance", for_r), ("key", for_k)))
    v = _value(b, at, for_v, c, first)
    w = _low_rank(b, at, "w", for_w, c.decay_low_rank_dim, hidden, inside="tanh")
    a = b.activate(f"{at}_a", _low_rank(b, at, "a", for_a, c.a_low_rank_dim, hidden), "sigmoid")
    gate = _low_rank(b, at, "g", for_g, c.gate_low_rank_dim, hidden, inside="sigmoid", bias=False)
    k_a, k_k, r_k = (b.w(f"{at}_{n}.weight", (hidden,)) for n in ("k_a", "k_k", "r_k"))
    scaled = b.add(ScaledKey(f"{at}_scaled_key", (k, a), f"{at}_scaled_key", k_a))
    state = b.state(f"{at}_wkv", hidden * c.head_dim)
    b.add(Wkv7(f"{at}_wkv", (r, w, k, scaled, v, a), f"{at}_wkv", state, k_k, c.head_dim))
    normed = b.layer_norm(f"{at}_ln", f"{at}_wkv", LN_X_EPS, groups=c.heads)
    b.add(HeadBonus(f"{at}_bonus", (normed, r, scaled, v), f"{at}_bonus", r_k, c.head_dim))
    gated = b.add(Multiply(f"{at}_gated", (f"{at}_bonus", gate), f"{at}_gated", hidden))
    return b.linear(f"{at}_output", gated, hidden)


def _value(b: Builder, at: str, x: str, c: Config, first: str) -> str:
    """The values, blended with the first layer's; the first layer's own need no weights for that.

    Checkpoints may have such weights there all the same (GGUF: copies of a's), which nothing reads.
    """
    hidden = c.hidden_size
    v = b.linear(f"{at}_value", x, hidden)
    if first:
        share = _low_rank(b, at, "v", x, c.v_low_rank_dim, hidden)
        share = b.activate(f"{at}_v", share, "sigmoid")
        return b.add(Blend(f"{at}_v_blend", (v, first, share), f"{at}_v_blend", hidden))
    for name in ("v0", "v1", "v2"):
        b.w.leave(f"{at}_{name}.")
    return v


def _low_rank(
    b: Builder, at: str, name: str, x: str, rank: int, hidden: int, inside: str = "", bias: bool = True
) -> str:
    """Two thin matrices, a function between them where `inside` names one, plus a vector."""
    low = b.linear(f"{at}_{name}1", x, rank)
    if inside:
        low = b.activate(f"{at}_{name}_low", low, inside)
    return b.linear(f"{at}_{name}2", low, hidden, bias=f"{at}_{name}0.weight" if bias else "")


def _channel_mix(b: Builder, at: str, x: str, c: Config) -> str:
    """A feed-forward with squared ReLU, which reads a mix with the token before."""
    previous = b.shift(f"{at}_shift", x)
    mixed = b.lerp(f"{at}_lerp_k", x, previous)
    inner = c.intermediate_size
    key = b.activate(f"{at}_relu2", b.linear(f"{at}_key", mixed, inner), "relu2")
    return b.linear(f"{at}_value", key, c.hidden_size)


def to_gguf(c: Config) -> tuple[Mapping[str, Any], Mapping[str, tuple[int, ...]]]:
    """The keys that llama.cpp's converter writes; the first layer's blend of values, which it asks for, as large as
    a's."""
    keys = {
        **recurrent.rwkv_keys(c.hidden_size, c.num_hidden_layers, c.intermediate_size, c.vocab_size),
        "attention.layer_norm_epsilon": c.norm_eps,
        "wkv.head_size": c.head_dim,
        "attention.decay_lora_rank": c.decay_low_rank_dim,
        "attention.iclr_lora_rank": c.a_low_rank_dim,
        "attention.value_residual_mix_lora_rank": c.v_low_rank_dim,
        "attention.gate_lora_rank": c.gate_low_rank_dim,
    }
    shapes = ((c.hidden_size,), (c.a_low_rank_dim, c.hidden_size), (c.hidden_size, c.a_low_rank_dim))
    return keys, {f"blk.0.time_mix_v{i}.weight": shape for i, shape in enumerate(shapes)}


ARCHITECTURE = Architecture("rwkv7", from_gguf, from_hf, build, to_gguf=to_gguf)
