"""LFM2 and LFM2.5 (arXiv:2511.23404): short convolutions between two gates, grouped attention in a few layers, SwiGLU
in each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from memfirst.errors import ConfigError, UnsupportedError
from memfirst.graph import Graph
from memfirst.graph.ops.conv import CausalConv1d
from memfirst.graph.ops.multiply import Multiply
from memfirst.models import decoder, llama, recurrent
from memfirst.models import reader as limits
from memfirst.models.base import WeightProvider
from memfirst.models.builder import HEAD, Builder
from memfirst.models.decoder import Family
from memfirst.models.delta_net import no_windows
from memfirst.models.jamba import only_kv
from memfirst.models.reader import ConfigReader, Keys
from memfirst.models.rope import FULL

KEYS: Keys = {key: gguf for key, gguf in decoder.KEYS.items() if key not in ("rms_norm_eps", "sliding_window")} | {
    "norm_eps": "attention.layer_norm_rms_epsilon",
    "conv_L_cache": "shortconv.l_cache",
}  # fmt: skip
CONVOLVES = "conv"
"""What `layer_types` call the other layers."""


@dataclass(frozen=True, kw_only=True)
class Config(decoder.Config):
    """Besides what dense decoders have."""

    kernel: int
    """Inputs that a convolution sees."""
    attends: tuple[bool, ...]
    """By layer, whether it is attention."""

    @property
    def gguf_keys(self) -> dict[str, Any]:
        kv = [h.kv_heads if attends else 0 for h, attends in zip(self.heads, self.attends, strict=True)]
        dense = {"leading_dense_block_count": len(self.moe.dense)} if self.moe else {}
        return {"attention.head_count_kv": np.array(kv, np.int32), "shortconv.l_cache": self.kernel, **dense}


def family(architecture: str) -> Family:
    """Of the dense models, or of those with experts."""
    return Family(architecture, no_windows, biases=(False,) * 3, tied=True, eps=("norm_eps", 1e-5))


DENSE = family("lfm2")


def read(r: ConfigReader, of: Family = DENSE) -> Config:
    """Which layers attend: in GGUF those that have KV heads."""
    attends = _attends(r, r.integer("num_hidden_layers", limits.MAX_LAYERS))
    if r.gguf:
        kv = r.by_layer("num_key_value_heads", len(attends), limits.MAX_HEADS, low=0)
        r = r.given({"num_key_value_heads": only_kv(kv) if any(kv) else r.raw("num_attention_heads")})
    else:
        _refuse_variants(r)
        r = r.given(_renamed(r))
        if of is DENSE:
            r = r.given({"intermediate_size": _adjusted(r)})
    c = decoder.read(r, of).attention(qk_norm=HEAD)
    kernel = r.integer("conv_L_cache", recurrent.MAX_KERNEL)
    if kernel < 2:
        raise ConfigError(f"a convolution of {kernel}", "at least 2 taps")
    return Config(**vars(c), kernel=kernel, attends=attends)


def _refuse_variants(r: ConfigReader) -> None:
    """Values that would mean another arithmetic, second names that contradict the first, and what initializes."""
    r.only("conv_bias", (False,))
    r.only("block_use_swiglu", (True,))
    r.only("use_pos_enc", (True,))
    for key in ("block_dim", "conv_dim", "conv_dim_out"):
        r.only(key, (r.raw("hidden_size"),))
    r.only("num_heads", (r.raw("num_attention_heads"),))
    r.only("block_norm_eps", (r.raw("norm_eps"),))
    for key in ("block_mlp_init_scale", "block_out_init_scale", "block_use_xavier_init", "conv_use_xavier_init"):
        r.raw(key)


def _attends(r: ConfigReader, layers: int) -> tuple[bool, ...]:
    if r.gguf:
        return tuple(n > 0 for n in r.by_layer("num_key_value_heads", layers, limits.MAX_HEADS, low=0))
    kinds, listed = r.raw("layer_types"), r.raw("full_attn_idxs")
    if kinds is None and isinstance(listed, list):
        kinds = [FULL if i in listed else CONVOLVES for i in range(layers)]
    if not isinstance(kinds, list) or len(kinds) != layers or any(kind not in (FULL, CONVOLVES) for kind in kinds):
        raise UnsupportedError(f"layer_types is {str(kinds)[:60]}", f"{layers} times {FULL} or {CONVOLVES}")
    return tuple(kind == FULL for kind in kinds)


def _renamed(r: ConfigReader) -> dict[str, Any]:
    """Keys of the first models by the names of later ones; RoPE's theta where config.json is silent."""
    found: dict[str, Any] = {}
    if (tied := r.raw("tie_embedding")) is not None:
        found["tie_word_embeddings"] = tied
    if (width := r.raw("block_ff_dim")) is not None:
        found["intermediate_size"] = width
    if r.raw("rope_theta") is None and r.raw("rope_parameters") is None:
        found["rope_theta"] = 1e6
    return found


def _adjusted(r: ConfigReader) -> int:
    """The width of the feed-forward: two thirds of the stated one, times a factor, in whole multiples, unless
    config.json says that it is already that."""
    stated = r.integer("intermediate_size", limits.MAX_WIDTH)
    factor = r.number("block_ffn_dim_multiplier", 1.0, high=64.0)
    multiple = r.integer("block_multiple_of", limits.MAX_WIDTH, default=256)
    if not r.flag("block_auto_adjust_ff_dim", True):
        return stated
    return -(-int(factor * int(2 * stated / 3)) // multiple) * multiple


def layer(b: Builder, i: int, x: str, c: Config) -> str:
    """A short convolution or attention, then a feed-forward, perhaps of experts."""
    at = f"blk.{i}"
    normed = b.rms_norm(f"{at}.attn_norm", x)
    y = b.attention(f"{at}.attn", normed, c.heads[i]) if c.attends[i] else convolution(b, at, normed, c.kernel)
    x = b.residual(f"{at}.attn_residual", x, y)
    y = llama.feed_forward(b, i, b.rms_norm(f"{at}.ffn_norm", x), c)
    return b.residual(f"{at}.ffn_residual", x, y)


def convolution(b: Builder, at: str, x: str, kernel: int) -> str:
    """out(C · conv(B · x)), where B, C and x are parts of one projection: [n, hidden] -> [n, hidden]."""
    hidden, name = b.hidden_size, f"{at}.shortconv.conv"
    both = b.linear(f"{at}.shortconv.in_proj", x, 3 * hidden)
    before, after, x = b.cut({f"{name}_{part}": hidden for part in ("b", "c", "x")}, both)
    gated = b.add(Multiply(f"{name}_gated", (before, x), f"{name}_gated", hidden))
    tail, taps = b.state(name, (kernel - 1) * hidden), b.w(f"{name}.weight", (hidden, kernel))
    mixed = b.add(CausalConv1d(name, (gated,), name, tail, taps, activation=""))
    y = b.add(Multiply(f"{name}_out", (after, mixed), f"{name}_out", hidden))
    return b.linear(f"{at}.shortconv.out_proj", y, hidden)


def last_norm(b: Builder, x: str) -> str:
    """GGUF calls the norm before the head after the embedding."""
    return b.rms_norm("token_embd_norm", x, head=True)


def build(c: Config, w: WeightProvider) -> Graph:
    """The model's operations in order."""
    return decoder.build(c, w, layer, last_norm)


ARCHITECTURE = decoder.architecture("lfm2", read, build, KEYS)
