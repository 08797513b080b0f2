"""Gemma 2 is Llama with a norm after attention and feed-forward too, GELU, a scaled embedding, softcaps, and a window
of 4096 positions on every other layer (arXiv:2408.00118).

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
from memfirst.models.reader import ConfigReader, Keys

DEEPEST, PERIOD = 46, 2
"""Layers of the 27B, the one size whose scores are scaled by hidden_size / heads; every other layer is local."""
FAMILY = Family("gemma2", windows.by_period(PERIOD), activation="gelu", tied=True)
KEYS: Keys = decoder.KEYS | {
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}


def read(r: ConfigReader) -> Config:
    """Softcaps (null: none) and the scales."""
    r.only("use_bidirectional_attention", (False,))
    c = scaled(r, decoder.read(r, FAMILY), DEEPEST)
    return c.attention(softcap=softcap(r, "attn_logit_softcapping"))


def softcap(r: ConfigReader, key: str) -> float:
    """0 where there is none: absent or null."""
    return r.single(key) if r.raw(key) is not None else 0.0


def scaled(r: ConfigReader, c: Config, deepest: int) -> Config:
    """Gemma's scales: the embedding by sqrt(hidden_size), scores by 1 / sqrt(query_pre_attn_scalar), logits capped.

    GGUF has no key for the second; llama.cpp goes by the published sizes: head_dim, in the deepest hidden_size / heads.
    """
    h = c.heads[0]
    queries = c.hidden_size // h.heads if c.layers == deepest else h.head_dim
    queries = queries if r.gguf else r.number("query_pre_attn_scalar")  # type: ignore[assignment]
    cap = softcap(r, "final_logit_softcapping")
    return replace(c, embedding_multiplier=sqrt(c.hidden_size), softcap=cap).attention(scale=1 / sqrt(queries))


def layer(b: Builder, i: int, x: str, c: Config) -> str:
    """Norms before and after attention and feed-forward."""
    at = f"blk.{i}"
    y = b.attention(f"{at}.attn", b.rms_norm(f"{at}.attn_norm", x), c.heads[i])
    x = b.residual(f"{at}.attn_residual", x, b.rms_norm(f"{at}.post_attention_norm", y))
    y = b.geglu(f"{at}.ffn", b.rms_norm(f"{at}.ffn_norm", x), c.intermediate_size[i])
    return b.residual(f"{at}.ffn_residual", x, b.rms_norm(f"{at}.post_ffw_norm", y))


def build(c: Config, w: WeightProvider) -> Graph:
    """The model's operations in order."""
    return decoder.build(c, w, layer)


ARCHITECTURE = decoder.architecture("gemma2", read, build, KEYS)
