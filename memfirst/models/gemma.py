"""Gemma (1, 1.1, CodeGemma) is Llama with GELU, a scaled embedding and a tied head (arXiv:2403.08295).

Its norms multiply by 1 + weight; in GGUF, and as a folder is read here, the 1 is in the weight.
"""

from __future__ import annotations

from dataclasses import replace
from math import sqrt

from memfirst.graph import Graph
from memfirst.models import decoder, windows
from memfirst.models.base import WeightProvider
from memfirst.models.builder import Builder
from memfirst.models.decoder import Config, Family
from memfirst.models.reader import ConfigReader

FAMILY = Family("gemma", windows.unused, activation="gelu", tied=True)
ERF, TANH = "gelu", "gelu_pytorch_tanh"


def read(r: ConfigReader) -> Config:
    """The embedding's scale. The first config.json files say "gelu" and mean its tanh form, as Google's code has it."""
    if r.raw("hidden_act") == ERF:
        r = r.given({"hidden_act": TANH})
    c = decoder.read(r, FAMILY)
    return replace(c, embedding_multiplier=sqrt(c.hidden_size))


def layer(b: Builder, i: int, x: str, c: Config) -> str:
    """Llama's, with GELU."""
    at = f"blk.{i}"
    y = b.attention(f"{at}.attn", b.rms_norm(f"{at}.attn_norm", x), c.heads[i])
    x = b.residual(f"{at}.attn_residual", x, y)
    y = b.geglu(f"{at}.ffn", b.rms_norm(f"{at}.ffn_norm", x), c.intermediate_size[i])
    return b.residual(f"{at}.ffn_residual", x, y)


def build(c: Config, w: WeightProvider) -> Graph:
    """The model's operations in order."""
    return decoder.build(c, w, layer)


ARCHITECTURE = decoder.architecture("gemma", read, build)
