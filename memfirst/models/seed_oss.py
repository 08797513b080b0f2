"""Seed-OSS is Llama with biases on q, k and v; GGUF calls the feed-forward's norm after what it follows."""

from __future__ import annotations

from memfirst.graph import Graph
from memfirst.models import decoder, windows
from memfirst.models.base import WeightProvider
from memfirst.models.builder import Builder
from memfirst.models.decoder import Config, Family
from memfirst.models.reader import ConfigReader

FAMILY = Family("seed_oss", windows.unused, biases=("attention_bias", "attention_out_bias", "mlp_bias"))


def read(r: ConfigReader) -> Config:
    """All as in Llama; config.json says which biases there are."""
    if not r.gguf:
        r.require("attention_bias")
    return decoder.read(r, FAMILY)


def layer(b: Builder, i: int, x: str, c: Config) -> str:
    """Llama's."""
    at = f"blk.{i}"
    y = b.attention(f"{at}.attn", b.rms_norm(f"{at}.attn_norm", x), c.heads[i])
    x = b.residual(f"{at}.attn_residual", x, y)
    y = b.swiglu(f"{at}.ffn", b.rms_norm(f"{at}.post_attention_norm", x), c.intermediate_size[i], bias=c.mlp_bias)
    return b.residual(f"{at}.ffn_residual", x, y)


def build(c: Config, w: WeightProvider) -> Graph:
    """The model's operations in order."""
    return decoder.build(c, w, layer)


ARCHITECTURE = decoder.architecture("seed_oss", read, build)
