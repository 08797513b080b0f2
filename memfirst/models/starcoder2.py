"""StarCoder2: layer norms, biases everywhere, and a feed-forward without a gate (arXiv:2402.19173)."""

from __future__ import annotations

from memfirst.graph import Graph
from memfirst.models import decoder, windows
from memfirst.models.base import WeightProvider
from memfirst.models.builder import Builder
from memfirst.models.decoder import Config, Family
from memfirst.models.reader import ConfigReader

FAMILY = Family(
    "starcoder2", windows.everywhere, activation="gelu", tied=True, eps=("norm_epsilon", 1e-5),
    biases=(True, True, True),
)  # fmt: skip


def read(r: ConfigReader) -> Config:
    """A window where config.json states one, which llama.cpp's converter leaves out."""
    r.only("use_bias", (True,))
    r.only("mlp_type", ("default",))
    r.only("norm_type", ("layer_norm",))
    return decoder.read(r, FAMILY)


def layer(b: Builder, i: int, x: str, c: Config) -> str:
    """Attention and a feed-forward, each of a layer norm of the residual."""
    at = f"blk.{i}"
    y = b.attention(f"{at}.attn", b.layer_norm(f"{at}.attn_norm", x), c.heads[i])
    x = b.residual(f"{at}.attn_residual", x, y)
    y = b.mlp(f"{at}.ffn", b.layer_norm(f"{at}.ffn_norm", x), c.intermediate_size[i], "gelu", bias=True)
    return b.residual(f"{at}.ffn_residual", x, y)


def last_norm(b: Builder, x: str) -> str:
    """Layer norm before the head."""
    return b.layer_norm("output_norm", x, head=True)


def build(c: Config, w: WeightProvider) -> Graph:
    """The model's operations in order."""
    return decoder.build(c, w, layer, last_norm)


ARCHITECTURE = decoder.architecture("starcoder2", read, build, decoder.LAYER_NORM_KEYS)
