"""Phi-1.5 and Phi-2: one layer norm feeds attention and a feed-forward without a gate side by side; biases everywhere,
the head included.
"""

from __future__ import annotations

from memfirst.graph import Graph
from memfirst.models import decoder, starcoder2, windows
from memfirst.models.base import WeightProvider
from memfirst.models.builder import Builder
from memfirst.models.decoder import Config, Family
from memfirst.models.reader import ConfigReader
from memfirst.models.rope import Defaults

FAMILY = Family(
    "phi2", windows.unused, Defaults(partial=0.5), activation="gelu", grouped=False, eps=("layer_norm_eps", 1e-5),
    biases=(True, True, True),
)  # fmt: skip


def read(r: ConfigReader) -> Config:
    """The first part of a head is rotated (0.4 in Phi-2); GGUF files of 2023 have q, k and v in one tensor."""
    r.only("qk_layernorm", (False,))
    return decoder.read(r, FAMILY).attention(fused="blk.0.attn_qkv.weight" in r.tensors)


def layer(b: Builder, i: int, x: str, c: Config) -> str:
    """Attention and feed-forward read the same norm, and are added one after the other."""
    at = f"blk.{i}"
    h = b.layer_norm(f"{at}.attn_norm", x)
    x = b.residual(f"{at}.attn_residual", x, b.attention(f"{at}.attn", h, c.heads[i]))
    return b.residual(f"{at}.ffn_residual", x, b.mlp(f"{at}.ffn", h, c.intermediate_size[i], "gelu", bias=True))


def build(c: Config, w: WeightProvider) -> Graph:
    """The model's operations in order."""
    return decoder.build(c, w, layer, starcoder2.last_norm, head_bias=True)


ARCHITECTURE = decoder.architecture("phi2", read, build, decoder.LAYER_NORM_KEYS)
