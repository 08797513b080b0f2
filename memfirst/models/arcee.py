"""Arcee (AFM 4.5B) is Llama with a feed-forward that is not gated, by the square of ReLU."""

from __future__ import annotations

from memfirst.graph import Graph
from memfirst.models import decoder, windows
from memfirst.models.base import WeightProvider
from memfirst.models.builder import Builder
from memfirst.models.decoder import PAIRS, SQUARED_RELU, Config, Family
from memfirst.models.reader import ConfigReader

FAMILY = Family(
    "arcee", windows.unused, PAIRS, activation=SQUARED_RELU, grouped=False, eps=("rms_norm_eps", 1e-5)
)  # fmt: skip


def read(r: ConfigReader) -> Config:
    """All as in Llama."""
    return decoder.read(r, FAMILY)


def layer(b: Builder, i: int, x: str, c: Config) -> str:
    """Llama's, but for the feed-forward."""
    at = f"blk.{i}"
    y = b.attention(f"{at}.attn", b.rms_norm(f"{at}.attn_norm", x), c.heads[i])
    x = b.residual(f"{at}.attn_residual", x, y)
    h = b.rms_norm(f"{at}.ffn_norm", x)
    y = b.mlp(f"{at}.ffn", h, c.intermediate_size[i], SQUARED_RELU, bias=c.mlp_bias)
    return b.residual(f"{at}.ffn_residual", x, y)


def build(c: Config, w: WeightProvider) -> Graph:
    """The model's operations in order."""
    return decoder.build(c, w, layer)


ARCHITECTURE = decoder.architecture("arcee", read, build)
