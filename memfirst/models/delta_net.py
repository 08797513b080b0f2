"""Hybrids of gated delta nets and attention (Qwen3-Next, Qwen3.5): what their sizes have in common, and their layers.

Most layers keep a matrix of state a head in place of keys and values (arXiv:2412.06464): one projection gives queries,
keys and values, which go through a convolution; two numbers a head and token say how fast the state decays and how much
of a value it takes in; what it gives is normalized and multiplied by a gate. The others attend everything, and a gate
multiplies what each head attended.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from memfirst.errors import ConfigError, UnsupportedError
from memfirst.graph import Graph
from memfirst.graph.ops.conv import CausalConv1d
from memfirst.graph.ops.gated_delta import GatedDelta
from memfirst.models import decoder, experts, llama, recurrent
from memfirst.models import reader as limits
from memfirst.models.base import WeightProvider
from memfirst.models.builder import HEAD, Builder
from memfirst.models.decoder import Family
from memfirst.models.reader import ConfigReader, Keys
from memfirst.models.rope import FULL, Defaults
from memfirst.models.windows import Windows

KEYS: Keys = decoder.KEYS | experts.KEYS | {
    "linear_conv_kernel_dim": "ssm.conv_kernel",
    "linear_key_head_dim": "ssm.state_size",
    "linear_num_key_heads": "ssm.group_count",
    "linear_num_value_heads": "ssm.time_step_rank",
    "full_attention_interval": "full_attention_interval",
    "num_nextn_predict_layers": "nextn_predict_layers",
}  # fmt: skip
LINEAR = "linear_attention"
PLAIN = {
    "attn_output_gate": (True,), "mamba_ssm_dtype": ("float32",), "decoder_sparse_step": (1,), "mlp_only_layers": ([],),
    "norm_topk_prob": (True,), "use_sliding_window": (False,), "mlp_bias": (False,),
}  # fmt: skip
"""Keys of config.json, and what published models have there."""
PREDICTING = ("mtp_num_hidden_layers", "mtp_use_dedicated_embeddings", "sliding_window", "max_window_layers")
"""Keys of layers that predict further tokens, which are no part of decoding, and of windows, which no layer has."""


SECTIONS = (11, 11, 10, 0)
"""Pairs of a head that each axis of an image rotates, in Qwen3.5's files; for text all axes have the same position."""


def family(architecture: str) -> Family:
    """Of one of the family's architectures: a quarter of each head is rotated."""
    return Family(
        architecture, no_windows, Defaults(partial=0.25), predicting=True, biases=("attention_bias",) * 2 + (False,)
    )


def no_windows(r: ConfigReader, layers: int) -> Windows:
    """`layer_types` say which layers attend, not how far."""
    return ()


@dataclass(frozen=True)
class Mixer:
    """A gated delta net's widths; `tiled`: see GatedDelta."""

    key_heads: int
    heads: int
    k_dim: int
    v_dim: int
    kernel: int
    tiled: bool

    def __post_init__(self) -> None:
        if self.heads % self.key_heads:
            raise ConfigError(f"{self.heads} value heads over {self.key_heads} key heads", "as many for each key head")
        if self.kernel < 2:
            raise ConfigError(f"a convolution of {self.kernel}", "at least 2 taps")

    @property
    def inner(self) -> int:
        """Values of all heads."""
        return self.heads * self.v_dim

    @property
    def convolved(self) -> int:
        """Channels that go through the convolution: queries, keys and values."""
        return 2 * self.key_heads * self.k_dim + self.inner


@dataclass(frozen=True, kw_only=True)
class Config(decoder.Config):
    """Besides what dense decoders have."""

    mixer: Mixer
    recurrent: tuple[bool, ...]
    """By layer whether it is a gated delta net."""

    @property
    def gguf_keys(self) -> dict[str, Any]:
        kinds = {"attention.recurrent_layers": np.array(self.recurrent)}
        sections = {"rope.dimension_sections": np.array(SECTIONS, np.int32)} if self.mixer.tiled else {}
        return {**kinds, **sections, "ssm.inner_size": self.mixer.inner}


def read(r: ConfigReader, of: Family, tiled: bool, routed: bool) -> Config:
    """The hyperparameters of either form; `routed`: experts in every layer, and a shared one."""
    for key, allowed in PLAIN.items():
        r.only(key, allowed)
    for key in PREDICTING:
        r.raw(key)
    if r.gguf:
        r.plain.raw("rope.dimension_sections")
    else:
        r.require("head_dim")
    width = r.integer("moe_intermediate_size", limits.MAX_WIDTH) if routed else 0
    if routed and r.raw("intermediate_size") is None:
        r = r.given({"intermediate_size": width})
    c = decoder.read(r, of).attention(qk_norm=HEAD, output_gate=True)
    if not routed and c.moe is not None:
        raise ConfigError(f"a dense {of.architecture} with experts", "none")
    if routed:
        shared = r.integer("shared_expert_intermediate_size", limits.MAX_WIDTH)
        moe = experts.read(r, width)
        c = replace(c, moe=replace(moe, shared=shared, shared_gate=True))
    return Config(**vars(c), mixer=_mixer(r, tiled), recurrent=_recurrent(r, c.layers))


def _mixer(r: ConfigReader, tiled: bool) -> Mixer:
    key_dim = r.integer("linear_key_head_dim", recurrent.MAX_STATE)
    heads = r.integer("linear_num_value_heads", limits.MAX_HEADS)
    if r.gguf:
        inner = r.plain.integer("ssm.inner_size", limits.MAX_WIDTH)
        if inner % heads:
            raise ConfigError(f"ssm.inner_size is {inner} for {heads} heads", "a whole number for each head")
        value_dim = inner // heads
    else:
        value_dim = r.integer("linear_value_head_dim", recurrent.MAX_STATE)
    return Mixer(
        key_heads=r.integer("linear_num_key_heads", limits.MAX_HEADS),
        heads=heads,
        k_dim=key_dim,
        v_dim=value_dim,
        kernel=r.integer("linear_conv_kernel_dim", recurrent.MAX_KERNEL),
        tiled=tiled,
    )


def _recurrent(r: ConfigReader, layers: int) -> tuple[bool, ...]:
    """By layer: as the file lists, else all but the last of each interval."""
    interval = r.integer("full_attention_interval", limits.MAX_LAYERS, default=4)
    kinds = r.plain.raw("attention.recurrent_layers") if r.gguf else r.raw("layer_types")
    if kinds is None:
        return tuple((i + 1) % interval != 0 for i in range(layers))
    if r.gguf:
        if not isinstance(kinds, np.ndarray | list) or len(kinds) < layers:  # those behind the last follow
            found = f"attention.recurrent_layers is {str(kinds)[:60]!r}"
            raise ConfigError(found, f"a flag for each of {layers} layers")
        return tuple(bool(kind) for kind in kinds[:layers])
    if not isinstance(kinds, list) or len(kinds) != layers or any(kind not in (LINEAR, FULL) for kind in kinds):
        raise UnsupportedError(f"layer_types is {str(kinds)[:60]}", f"{layers} times {LINEAR} or {FULL}")
    return tuple(kind == LINEAR for kind in kinds)


def layer(b: Builder, i: int, x: str, c: Config) -> str:
    """A gated delta net or attention, then a feed-forward, perhaps of experts."""
    at = f"blk.{i}"
    normed = b.rms_norm(f"{at}.attn_norm", x)
    y = mixer(b, at, normed, c.mixer) if c.recurrent[i] else b.attention(f"{at}.attn", normed, c.heads[i])
    x = b.residual(f"{at}.attn_residual", x, y)
    y = llama.feed_forward(b, i, b.rms_norm(f"{at}.post_attention_norm", x), c)
    return b.residual(f"{at}.ffn_residual", x, y)


def mixer(b: Builder, at: str, x: str, m: Mixer) -> str:
    """Projections, convolution, delta rule, gated norm, out: [n, hidden] -> [n, hidden]."""
    mixed = b.linear(f"{at}.attn_qkv", x, m.convolved)
    gate = b.linear(f"{at}.attn_gate", x, m.inner)
    beta, alpha = _gates(b, at, x, m)
    name = f"{at}.ssm_conv1d"
    tail = b.state(name, (m.kernel - 1) * m.convolved)
    mixed = b.add(CausalConv1d(name, (mixed,), name, tail, b.w(f"{name}.weight", (m.convolved, m.kernel))))
    name = f"{at}.ssm_delta"
    state = b.state(name, m.heads * m.k_dim * m.v_dim)
    a, dt_bias = b.w(f"{at}.ssm_a", (m.heads,)), b.w(f"{at}.ssm_dt.bias", (m.heads,))
    y = b.add(GatedDelta(name, (mixed, alpha, beta), name, state, m.key_heads, m.k_dim, m.v_dim, a, dt_bias, m.tiled))
    y = b.glu(f"{at}.ssm_gated", gate, b.head_norm(f"{at}.ssm_norm", y, m.heads))
    return b.linear(f"{at}.ssm_out", y, b.hidden_size)


def _gates(b: Builder, at: str, x: str, m: Mixer) -> tuple[str, str]:
    """beta and alpha of each head: of Qwen3-Next from one matrix, key head by key head, of Qwen3.5 from two."""
    if m.tiled:
        return b.linear(f"{at}.ssm_beta", x, m.heads), b.linear(f"{at}.ssm_alpha", x, m.heads)
    both, each = b.linear(f"{at}.ssm_ba", x, 2 * m.heads), m.heads // m.key_heads
    beta = b.slice(f"{at}.ssm_beta", both, 0, m.heads, m.key_heads)
    return beta, b.slice(f"{at}.ssm_alpha", both, each, m.heads, m.key_heads)


def build(c: Config, w: WeightProvider) -> Graph:
    """The model's operations in order."""
    old = next((i for i, kept in enumerate(c.recurrent) if kept and w.has(f"blk.{i}.ssm_in.weight")), None)
    if old is not None:
        found = f"this file has queries, keys, values and gates in one tensor (blk.{old}.ssm_in.weight)"
        expected = f"blk.{old}.attn_qkv.weight and blk.{old}.attn_gate.weight, as files since 2026 have"
        raise UnsupportedError(found, expected, "get or convert the model again")
    return decoder.build(c, w, layer)
