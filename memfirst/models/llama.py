"""Llama (2, 3, SmolLM2): norm, attention, norm, gated feed-forward; the layer of most decoders."""

from __future__ import annotations

from memfirst.graph import Graph
from memfirst.models import decoder, experts, windows
from memfirst.models.base import WeightProvider
from memfirst.models.builder import Builder
from memfirst.models.decoder import PAIRS, Config, Family
from memfirst.models.reader import ConfigReader

FAMILY = Family("llama", windows.unused, PAIRS, grouped=False)


def read(r: ConfigReader) -> Config:
    """In GGUF a Mixtral is a llama too, with experts, and a Mistral one that has lost its window: llama.cpp's converter
    writes none for this architecture."""
    return decoder.read(r, FAMILY)


def layer(b: Builder, i: int, x: str, c: Config) -> str:
    """Attention and a feed-forward, each of a norm of the residual, each added to it."""
    at = f"blk.{i}"
    y = b.attention(f"{at}.attn", b.rms_norm(f"{at}.attn_norm", x), c.heads[i])
    x = b.residual(f"{at}.attn_residual", x, y)
    y = feed_forward(b, i, b.rms_norm(f"{at}.ffn_norm", x), c)
    return b.residual(f"{at}.ffn_residual", x, y)


def feed_forward(b: Builder, i: int, x: str, c: Config) -> str:
    """Routed experts where the model has them, else SwiGLU."""
    if c.moe is not None and i not in c.moe.dense:
        return experts.feed_forward(b, f"blk.{i}.ffn", x, c.moe)
    return b.swiglu(f"blk.{i}.ffn", x, c.intermediate_size[i], bias=c.mlp_bias)


def build(c: Config, w: WeightProvider) -> Graph:
    """The model's operations in order."""
    return decoder.build(c, w, layer)


ARCHITECTURE = decoder.architecture("llama", read, build)
