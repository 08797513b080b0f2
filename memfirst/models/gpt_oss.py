"""gpt-oss is Llama with attention sinks, a window in every other layer, and routed experts; biases everywhere."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from memfirst.errors import UnsupportedError
from memfirst.graph import Graph, KVCache, Op
from memfirst.graph.ops.attention import Attention
from memfirst.graph.ops.glu import ALPHA, CLAMPED, LIMIT
from memfirst.models import decoder, experts, llama, quantized, windows
from memfirst.models.base import Architecture, WeightProvider
from memfirst.models.decoder import Config, Family
from memfirst.models.experts import MoE
from memfirst.models.reader import ConfigReader

FAMILY = Family("gpt-oss")
PERIOD = 2
"""Layers 0, 2, … have the window, 1, 3, … attend everything."""


def own_gguf(r: ConfigReader, c: Config) -> Config:
    """Windows and experts. What GGUF has no key for (the experts' unit, how YaRN rounds) is as published."""
    if c.moe is None:
        raise UnsupportedError("gpt-oss without experts", "gpt-oss.expert_count")
    return _with(windows.gguf(r, c, PERIOD), c.moe)


def own_hf(r: ConfigReader, c: Config) -> Config:
    """The keys that Llama has not, and those that other engines read."""
    r.require("head_dim", "rope_parameters" if r.raw("rope_scaling") is None else "rope_scaling")
    r.only("attention_bias", (True,))
    for key, allowed in (("swiglu_limit", float(LIMIT)), ("swiglu_alpha", round(float(ALPHA), 6))):
        r.only(key, (allowed,))
    moe = experts.read_hf(r, c.intermediate_size)
    r.only("experts_per_token", (moe.num_experts_per_tok,))
    r.raw("initial_context_length")  # rope_scaling says it too
    quantized.check(r, quantized.MXFP4)
    return _with(windows.patterned(r, c, PERIOD), moe)


def _with(c: Config, moe: MoE) -> Config:
    """Biases everywhere, the experts' clamped unit, and YaRN's ramp between fractions of pairs.

    llama.cpp rounds the ramp's ends to whole pairs here too, against config.json's `truncate: false`; this does not.
    """
    scaling = None if c.rope_scaling is None else replace(c.rope_scaling, truncate=False)
    moe = replace(moe, biases=True, activation=CLAMPED)
    return replace(c, moe=moe, rope_scaling=scaling, attention_bias=True, output_bias=True)


class Layers(decoder.Layers):
    """A layer's halves, which differ by sinks, and by what the second norm is called."""

    def attention(self, at: str, cache: KVCache, x: str) -> list[Op]:
        """Each head has a score of its own that takes its share of the softmax and gives nothing."""
        sinks = self.w(f"{at}_sinks.weight", (self.c.num_attention_heads,))
        ops = super().attention(at, cache, x)
        return [replace(op, sinks=sinks) if isinstance(op, Attention) else op for op in ops]

    def norm(self, name: str, x: str) -> Op:
        """The feed-forward's norm is called after what it follows."""
        op = super().norm(name.replace("ffn_norm", "post_attention_norm"), x)
        return replace(op, output=name)


def build(c: Config, w: WeightProvider) -> Graph:
    """The model's operations in order."""
    return decoder.build(c, w, Layers)


ARCHITECTURE = Architecture(
    "gpt-oss",
    partial(llama.from_gguf, family=FAMILY, own=own_gguf),
    partial(llama.from_hf, family=FAMILY, own=own_hf),
    build,
)
