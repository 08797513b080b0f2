"""Falcon-H1 (arXiv:2507.22448): attention and a Mamba-2 mixer side by side in each layer, then SwiGLU.

config.json has multipliers of what most matrices give (µP); in a GGUF file they are in the weights.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from memfirst.errors import ConfigError
from memfirst.graph import Graph
from memfirst.models import decoder, mamba2, recurrent
from memfirst.models import reader as limits
from memfirst.models.base import WeightProvider
from memfirst.models.builder import Builder
from memfirst.models.decoder import Family
from memfirst.models.delta_net import no_windows
from memfirst.models.reader import ConfigReader, Keys

KEYS: Keys = {key: gguf for key, gguf in decoder.KEYS.items() if key != "sliding_window"} | {
    "mamba_d_ssm": "ssm.inner_size",
    "mamba_n_heads": "ssm.time_step_rank",
    "mamba_d_state": "ssm.state_size",
    "mamba_n_groups": "ssm.group_count",
    "mamba_d_conv": "ssm.conv_kernel",
}  # fmt: skip
FAMILY = Family("falcon-h1", no_windows, biases=(False,) * 3, eps=("rms_norm_eps", 1e-5))
HARMLESS = ("mamba_chunk_size", "mamba_use_mlp", "mamba_expand", "mamba_norm_before_gate", "num_logits_to_keep",
            "attn_layer_indices", "mlp_expansion_factor")  # fmt: skip


@dataclass(frozen=True)
class Multipliers:
    """Of config.json, those that are not the attention's or the mixer's own.

    attention_out  of what attention gives
    gate, down     of what the feed-forward's first and last matrix give
    """

    attention_out: float = 1.0
    gate: float = 1.0
    down: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Config(decoder.Config):
    """Besides what dense decoders have."""

    mixer: mamba2.Mixer
    multipliers: Multipliers = field(default_factory=Multipliers)

    @property
    def gguf_keys(self) -> dict[str, Any]:
        return mamba2.mixer_keys(self.mixer)


def read(r: ConfigReader) -> Config:
    """Of either form; whether the mixer has a norm shows in GGUF's tensors."""
    if not r.gguf:
        _refuse_variants(r)
    c = decoder.read(r, FAMILY)
    rotation = c.heads[0].rotation
    if rotation is not None:  # a base of 1e11 as GGUF's float32 has it
        c = c.attention(rotation=replace(rotation, theta=float(np.float32(rotation.theta))))
    c = Config(**vars(c), mixer=_mixer(r, c.hidden_size))
    return c if r.gguf else _multiplied(r, c)


def _refuse_variants(r: ConfigReader) -> None:
    """Values that would mean another arithmetic, and what no token reads."""
    for key in ("attention_bias", "mlp_bias", "mamba_proj_bias", "projectors_bias"):
        r.only(key, (False,))
    r.only("mamba_conv_bias", (True,))
    r.only("mamba_use_mlp", (True,))
    r.only("attn_layer_indices", ())
    if r.flag("mamba_rms_norm"):
        r.require("mamba_norm_before_gate")
        r.only("mamba_norm_before_gate", (False,))
    recurrent.check_time_step_limit(r)
    for key in HARMLESS:
        r.raw(key)


def _mixer(r: ConfigReader, hidden: int) -> mamba2.Mixer:
    """The mixer, whose channels config.json states, or as a multiple of the width."""
    wide = None if r.gguf else hidden * r.integer("mamba_expand", 64, default=2)
    inner = r.integer("mamba_d_ssm", limits.MAX_WIDTH, default=wide)
    heads = r.integer("mamba_n_heads", limits.MAX_WIDTH)
    if inner % heads:
        raise ConfigError(f"{inner} channels of {heads} heads", "a whole number for each head")
    r.only("mamba_d_head", (inner // heads, "auto"))
    return mamba2.Mixer(
        hidden_size=hidden,
        num_heads=heads,
        head_dim=inner // heads,
        state_size=r.integer("mamba_d_state", recurrent.MAX_STATE),
        n_groups=r.integer("mamba_n_groups", limits.MAX_HEADS, default=None if r.gguf else 1),
        conv_kernel=r.integer("mamba_d_conv", recurrent.MAX_KERNEL, default=None if r.gguf else 4),
        normed="blk.0.ssm_norm.weight" in r.tensors if r.gguf else r.flag("mamba_rms_norm"),
    )


def _multiplied(r: ConfigReader, c: Config) -> Config:
    """With config.json's multipliers: those of an input are put on what its matrices give."""
    before = _number(r, "attention_in_multiplier")
    gate, down = _numbers(r, "mlp_multipliers", 2)
    into = _number(r, "ssm_in_multiplier")
    parts = tuple(into * part for part in _numbers(r, "ssm_multipliers", 5))
    c = c.attention(multipliers=(before, before * _number(r, "key_multiplier"), before))
    return replace(
        c,
        mixer=replace(c.mixer, multipliers=parts, out=_number(r, "ssm_out_multiplier")),
        multipliers=Multipliers(_number(r, "attention_out_multiplier"), gate, down),
        embedding_multiplier=_number(r, "embedding_multiplier"),
        logits_multiplier=_number(r, "lm_head_multiplier"),
    )


def _number(r: ConfigReader, key: str) -> float:
    return r.number(key, 1.0, low=-1e6, high=1e6)


def _numbers(r: ConfigReader, key: str, count: int) -> tuple[float, ...]:
    """A list of that many; absent: all 1."""
    found = r.raw(key, [1.0] * count)
    if not isinstance(found, list | tuple) or len(found) != count:
        raise ConfigError(f"{key} is {str(found)[:60]!r}", f"a list of {count} numbers")
    each = ConfigReader({str(i): value for i, value in enumerate(found)})
    return tuple(_number(each, str(i)) for i in range(count))


def layer(b: Builder, i: int, x: str, c: Config) -> str:
    """Attention and the mixer read the same norm and are added together; GGUF's second norm has no ".weight"."""
    at, m = f"blk.{i}", c.multipliers
    normed = b.rms_norm(f"{at}.attn_norm", x)
    mixed = mamba2.mixer(b, f"{at}.ssm", normed, c.mixer)
    attended = b.attention(f"{at}.attn", normed, c.heads[i], m.attention_out)
    x = b.residual(f"{at}.attn_residual", x, b.residual(f"{at}.mixed", attended, mixed))
    normed = b.rms_norm(f"{at}.ffn_norm", x, weight=f"{at}.ffn_norm")
    y = b.swiglu(f"{at}.ffn", normed, c.intermediate_size[i], scale=m.down, gate_scale=m.gate)
    return b.residual(f"{at}.ffn_residual", x, y)


def build(c: Config, w: WeightProvider) -> Graph:
    """The model's operations in order."""
    return decoder.build(c, w, layer)


ARCHITECTURE = decoder.architecture("falcon-h1", read, build, KEYS)
