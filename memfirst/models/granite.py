"""Granite (dense, 3.x) is Llama with four multipliers: of the embedding, the scores, what a layer adds, the logits.

In GGUF its heads rotate in adjacent pairs, as Llama's do.
"""

from __future__ import annotations

from dataclasses import dataclass

from memfirst.errors import ConfigError
from memfirst.graph import Graph
from memfirst.models import decoder, windows
from memfirst.models.base import WeightProvider
from memfirst.models.builder import Builder
from memfirst.models.decoder import PAIRS, Family
from memfirst.models.reader import ConfigReader, Keys

FAMILY = Family("granite", windows.unused, PAIRS, tied=True)
KEYS: Keys = decoder.KEYS | {
    "embedding_multiplier": "embedding_scale",
    "residual_multiplier": "residual_scale",
    "attention_multiplier": "attention.scale",
    "logits_scaling": "logit_scale",
}


@dataclass(frozen=True)
class Config(decoder.Config):
    """Besides what dense decoders have."""

    residual_multiplier: float = 1.0
    """Of what attention and feed-forward add."""


def read(r: ConfigReader) -> Config:
    """The multipliers, all of them stated; GGUF's `rope.scaling.finetuned` false: heads are not rotated."""
    c = decoder.read(r, FAMILY)
    if c.moe is not None:
        raise ConfigError("a dense granite with experts", "none")
    found = Config(
        **vars(c)
        | {
            "embedding_multiplier": r.single("embedding_multiplier"),
            "residual_multiplier": r.single("residual_multiplier"),
            "logits_multiplier": 1 / r.single("logits_scaling"),
        }
    ).attention(scale=r.single("attention_multiplier"))
    if r.gguf and not r.plain.flag("rope.scaling.finetuned", True):
        return found.attention(rotation=None)
    return found


def layer(b: Builder, i: int, x: str, c: Config) -> str:
    """Llama's, its outputs scaled before they are added."""
    at, scale = f"blk.{i}", c.residual_multiplier
    y = b.attention(f"{at}.attn", b.rms_norm(f"{at}.attn_norm", x), c.heads[i], scale)
    x = b.residual(f"{at}.attn_residual", x, y)
    h = b.rms_norm(f"{at}.ffn_norm", x)
    y = b.swiglu(f"{at}.ffn", h, c.intermediate_size[i], bias=c.mlp_bias, scale=scale)
    return b.residual(f"{at}.ffn_residual", x, y)


def build(c: Config, w: WeightProvider) -> Graph:
    """The model's operations in order."""
    return decoder.build(c, w, layer)


ARCHITECTURE = decoder.architecture("granite", read, build, KEYS)
