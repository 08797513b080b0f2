"""RWKV-6 (Finch): layers of time mixing, with a matrix of state a head, and channel mixing. No attention."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

from memfirst.errors import ConfigError
from memfirst.graph import Graph
from memfirst.graph.ops.multiply import Multiply
from memfirst.graph.ops.scale import Scale
from memfirst.graph.ops.stacked_linear import StackedLinear
from memfirst.graph.ops.wkv6 import Wkv6
from memfirst.models import decoder, recurrent
from memfirst.models import reader as limits
from memfirst.models.base import Architecture, WeightProvider
from memfirst.models.builder import Builder
from memfirst.models.reader import ConfigReader

LN_X_EPS = 64e-5
"""Of the norm after the state: 1e-5 · 8², 8 being the published head_size_divisor."""


@dataclass(frozen=True)
class Config:
    """Hyperparameters, named as in config.json.

    time_mix_extra_dim    columns from which each of five mixes with the token before is made
    time_decay_extra_dim  columns from which the decay is made
    separate_lerps        each of the five mixes has a vector of its own, as in GGUF files before 2025
    rescale_every         > 0: a GGUF file has weights halved again after each that many layers, and so is the stream
    """

    hidden_size: int
    num_hidden_layers: int
    head_size: int
    intermediate_size: int
    time_mix_extra_dim: int
    time_decay_extra_dim: int
    vocab_size: int
    layer_norm_epsilon: float
    separate_lerps: bool = False
    rescale_every: int = 0
    context: int = recurrent.CONTEXT

    def __post_init__(self) -> None:
        if self.hidden_size % self.head_size:
            raise ConfigError(f"heads of {self.head_size} for a width of {self.hidden_size}", "whole heads")

    @property
    def heads(self) -> int:
        """Heads of `head_size`."""
        return self.hidden_size // self.head_size


def from_gguf(metadata: Mapping[str, Any], tensors: Container[str], allow_unknown: bool = False) -> Config:
    """Read `rwkv6.*`."""
    r = ConfigReader(metadata, "rwkv6.")
    r.only("token_shift_count", (2,))
    config = Config(
        hidden_size=r.integer("embedding_length", limits.MAX_WIDTH),
        num_hidden_layers=r.integer("block_count", limits.MAX_LAYERS),
        head_size=r.integer("wkv.head_size", limits.MAX_HEAD_DIM),
        intermediate_size=r.integer("feed_forward_length", limits.MAX_WIDTH),
        time_mix_extra_dim=r.integer("time_mix_extra_dim", limits.MAX_WIDTH),
        time_decay_extra_dim=r.integer("time_decay_extra_dim", limits.MAX_WIDTH),
        vocab_size=decoder.vocab_size(r),
        layer_norm_epsilon=r.number("attention.layer_norm_epsilon", high=1.0),
        separate_lerps="blk.0.time_mix_lerp_w.weight" in tensors,
        rescale_every=r.integer("rescale_every_n_layers", limits.MAX_LAYERS, default=0, low=0),
        context=r.integer("context_length", limits.MAX_CONTEXT),
    )
    r.check_unknown(recurrent.HARMLESS_GGUF, allow_unknown)
    return config


def from_hf(config: Mapping[str, Any], allow_unknown: bool = False) -> Config:
    """Read a config.json of `rwkv6` (RWKV/v6-Finch-…).

    Extra dimensions follow from the width, as in its code. `num_attention_heads` is not the number of heads there,
    but another name of head_size; `rescale_every` halves weights while they are loaded, and changes no logit.
    """
    r = ConfigReader(config)
    hidden = r.integer("hidden_size", limits.MAX_WIDTH)
    r.only("attention_hidden_size", (hidden,))
    r.only("tie_word_embeddings", (False,))
    r.only("head_size_divisor", (8,))
    widest = hidden == 4096
    found = Config(
        hidden_size=hidden,
        num_hidden_layers=r.integer("num_hidden_layers", limits.MAX_LAYERS),
        head_size=r.integer("head_size", limits.MAX_HEAD_DIM, default=64),
        intermediate_size=r.integer("intermediate_size", limits.MAX_WIDTH, default=hidden * 7 // 64 * 32),
        time_mix_extra_dim=64 if widest else 32,
        time_decay_extra_dim=128 if widest else 64,
        vocab_size=r.integer("vocab_size", limits.MAX_VOCAB),
        layer_norm_epsilon=r.number("layer_norm_epsilon", 1e-5, high=1.0),
        context=r.integer("context_length", limits.MAX_CONTEXT, default=recurrent.CONTEXT),
    )
    more = frozenset(("num_attention_heads", "rescale_every", "model_version"))
    recurrent.check_unknown(r, allow_unknown, more)
    return found


def build(c: Config, w: WeightProvider) -> Graph:
    """The model's operations in order."""
    b = Builder(w, c.hidden_size, c.layer_norm_epsilon)
    x = b.layer_norm("token_embd_norm", b.embed(c.vocab_size))
    for i in range(c.num_hidden_layers):
        normed = b.layer_norm(f"blk.{i}.attn_norm", x)
        x = b.residual(f"blk.{i}.time_mix_residual", x, _time_mix(b, f"blk.{i}.time_mix", normed, c))
        normed = b.layer_norm(f"blk.{i}.attn_norm_2", x)
        x = b.residual(f"blk.{i}.channel_mix_residual", x, _channel_mix(b, f"blk.{i}.channel_mix", normed, c))
        if c.rescale_every and (i + 1) % c.rescale_every == 0:
            x = b.add(Scale(f"blk.{i}.rescale", (x,), f"blk.{i}.rescale", c.hidden_size, 0.5))
    normed = b.layer_norm("output_norm", b.select(x), head=True)
    b.head(normed, c.vocab_size, tied=False)
    return b.graph("rwkv6", c.vocab_size, c.context)


def _time_mix(b: Builder, at: str, x: str, c: Config) -> str:
    """Five mixes with the token before, the state, its norm, the gate (arXiv:2404.05892, section 4.2)."""
    hidden = c.hidden_size
    for_w, for_k, for_v, for_r, for_g = _mixes(b, at, x, c)
    r = b.linear(f"{at}_receptance", for_r, hidden)
    k = b.linear(f"{at}_key", for_k, hidden)
    v = b.linear(f"{at}_value", for_v, hidden)
    gate = b.linear(f"{at}_gate", for_g, hidden)
    extra = c.time_decay_extra_dim
    low = b.activate(f"{at}_decay_low", b.linear(f"{at}_decay_w1", for_w, extra), "tanh")
    decay = b.linear(f"{at}_decay_w2", low, hidden, bias=f"{at}_decay.weight")
    first = b.w(f"{at}_first.weight", (c.heads, c.head_size))
    state = b.state(f"{at}_wkv", hidden * c.head_size)
    b.add(Wkv6(f"{at}_wkv", (r, k, v, decay), f"{at}_wkv", state, first))
    normed = b.layer_norm(f"{at}_ln", f"{at}_wkv", LN_X_EPS, groups=c.heads)
    gated = b.glu(f"{at}_gated", gate, normed)
    return b.linear(f"{at}_output", gated, hidden)


def _mixes(b: Builder, at: str, x: str, c: Config) -> list[str]:
    """What the decay, k, v, r and the gate read: each token says how much of the one before goes into it."""
    hidden, extra = c.hidden_size, c.time_mix_extra_dim
    previous = b.shift(f"{at}_shift", x)
    mixed = b.lerp(f"{at}_lerp_x", x, previous)
    low = b.activate(f"{at}_low", b.linear(f"{at}_w1", mixed, 5 * extra), "tanh")
    w2 = b.w(f"{at}_w2.weight", (5, hidden, extra))
    more = b.add(StackedLinear(f"{at}_w2", (low,), f"{at}_w2", w2))
    if c.separate_lerps:
        parts = ((n, b.slice(f"{at}_more_{n}", more, j * hidden, hidden)) for j, n in enumerate("wkvrg"))
        return [b.lerp(f"{at}_lerp_{n}", x, previous, (part,)) for n, part in parts]
    fused = b.lerp(f"{at}_lerp_fused", x, previous, (more,), parts=5)
    return [b.slice(f"{at}_for_{n}", fused, j * hidden, hidden) for j, n in enumerate("wkvrg")]


def _channel_mix(b: Builder, at: str, x: str, c: Config) -> str:
    """A feed-forward with squared ReLU, gated by a sigmoid; both read a mix with the token before."""
    hidden, inner = c.hidden_size, c.intermediate_size
    previous = b.shift(f"{at}_shift", x)
    for_k, for_r = (b.lerp(f"{at}_lerp_{n}", x, previous) for n in "kr")
    key = b.activate(f"{at}_relu2", b.linear(f"{at}_key", for_k, inner), "relu2")
    r = b.activate(f"{at}_gate", b.linear(f"{at}_receptance", for_r, hidden), "sigmoid")
    value = b.linear(f"{at}_value", key, hidden)
    return b.add(Multiply(f"{at}_gated", (r, value), f"{at}_gated", hidden))


def to_gguf(c: Config) -> tuple[Mapping[str, Any], Mapping[str, tuple[int, ...]]]:
    """The keys that llama.cpp's converter writes; no tensor that is not read."""
    return {
        **recurrent.rwkv_keys(c.hidden_size, c.num_hidden_layers, c.intermediate_size, c.vocab_size),
        "attention.layer_norm_epsilon": c.layer_norm_epsilon,
        "rescale_every_n_layers": c.rescale_every,
        "wkv.head_size": c.head_size,
        "time_mix_extra_dim": c.time_mix_extra_dim,
        "time_decay_extra_dim": c.time_decay_extra_dim,
    }, {}


ARCHITECTURE = Architecture("rwkv6", from_gguf, from_hf, build, to_gguf=to_gguf)
