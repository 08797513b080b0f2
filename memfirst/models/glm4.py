"""GLM-4 (0414) has norms before and after attention and feed-forward, gate and up in one tensor, and rotates the first
half of a head by adjacent pairs.
"""

from __future__ import annotations

from memfirst.graph import Graph
from memfirst.graph.ops.rope import INTERLEAVED
from memfirst.models import decoder, windows
from memfirst.models.base import WeightProvider
from memfirst.models.builder import Builder
from memfirst.models.decoder import Config, Family
from memfirst.models.reader import ConfigReader
from memfirst.models.rope import Defaults

FAMILY = Family(
    "glm4", windows.unused, Defaults(INTERLEAVED, partial=0.5), eps=("rms_norm_eps", 1.5625e-7),
    biases=("attention_bias", False, False),
)  # fmt: skip


def read(r: ConfigReader) -> Config:
    """q, k and v have biases where config.json says so (the 9B), or where GGUF has them."""
    if not r.gguf:
        r.require("attention_bias")
    return decoder.read(r, FAMILY)


def layer(b: Builder, i: int, x: str, c: Config) -> str:
    """Gemma 2's, with a fused SwiGLU."""
    at = f"blk.{i}"
    y = b.attention(f"{at}.attn", b.rms_norm(f"{at}.attn_norm", x), c.heads[i])
    x = b.residual(f"{at}.attn_residual", x, b.rms_norm(f"{at}.post_attention_norm", y))
    y = b.swiglu(f"{at}.ffn", b.rms_norm(f"{at}.ffn_norm", x), c.intermediate_size[i], fused=True)
    return b.residual(f"{at}.ffn_residual", x, b.rms_norm(f"{at}.post_ffw_norm", y))


def build(c: Config, w: WeightProvider) -> Graph:
    """The model's operations in order."""
    return decoder.build(c, w, layer)


ARCHITECTURE = decoder.architecture("glm4", read, build)
