"""gpt-oss is Llama with attention sinks, a window in every other layer, and routed experts; biases everywhere."""

from __future__ import annotations

from dataclasses import replace

from memfirst.errors import UnsupportedError
from memfirst.graph import Graph
from memfirst.graph.ops.glu import ALPHA, CLAMPED, LIMIT
from memfirst.models import decoder, experts, windows
from memfirst.models.base import WeightProvider
from memfirst.models.builder import Builder
from memfirst.models.decoder import Config, Family
from memfirst.models.experts import MoE
from memfirst.models.reader import ConfigReader

FAMILY = Family("gpt-oss", windows.by_period(2), grouped=False)
"""Layers 0, 2, … have the window, 1, 3, … attend everything."""


def read(r: ConfigReader) -> Config:
    """Biases everywhere, sinks, the experts' clamped unit, and YaRN's ramp between fractions of pairs.

    llama.cpp rounds the ramp's ends to whole pairs here too, against config.json's `truncate: false`; this does not.
    """
    c = decoder.read(r, FAMILY)
    moe = c.moe if r.gguf else _experts(r, c)
    if moe is None:
        raise UnsupportedError("gpt-oss without experts", "gpt-oss.expert_count")
    rotation = c.heads[0].rotation
    if rotation and rotation.scaling:
        rotation = replace(rotation, scaling=replace(rotation.scaling, truncate=False))
    c = replace(c, moe=replace(moe, biases=True, activation=CLAMPED))
    return c.attention(rotation=rotation, bias=True, output_bias=True, sinks=True)


def _experts(r: ConfigReader, c: Config) -> MoE:
    """The keys of config.json that Llama has not, and those that other engines read."""
    r.require("head_dim", "rope_parameters" if r.raw("rope_scaling") is None else "rope_scaling")
    r.only("attention_bias", (True,))
    for key, allowed in (("swiglu_limit", float(LIMIT)), ("swiglu_alpha", round(float(ALPHA), 6))):
        r.only(key, (allowed,))
    moe = experts.read_hf(r, c.intermediate_size[0])
    r.only("experts_per_token", (moe.num_experts_per_tok,))
    r.raw("initial_context_length")  # rope_scaling says it too
    return moe


def layer(b: Builder, i: int, x: str, c: Config) -> str:
    """Llama's; the feed-forward's norm is called after what it follows."""
    at = f"blk.{i}"
    y = b.attention(f"{at}.attn", b.rms_norm(f"{at}.attn_norm", x), c.heads[i])
    x = b.residual(f"{at}.attn_residual", x, y)
    h = b.rms_norm(f"{at}.post_attention_norm", x)
    return b.residual(f"{at}.ffn_residual", x, experts.routed(b, f"{at}.ffn", h, c.moe) if c.moe else h)


def build(c: Config, w: WeightProvider) -> Graph:
    """The model's operations in order."""
    return decoder.build(c, w, layer)


ARCHITECTURE = decoder.architecture("gpt-oss", read, build)
