"""Granite 3 with experts (1B-A400M, 3B-A800M): Granite whose feed-forward is routed experts, perhaps a shared one."""

from __future__ import annotations

from dataclasses import replace

from memfirst.graph import Graph
from memfirst.models import decoder, experts, granite
from memfirst.models import reader as limits
from memfirst.models.base import WeightProvider
from memfirst.models.builder import Builder
from memfirst.models.granite import Config
from memfirst.models.reader import ConfigReader, Keys

FAMILY = replace(granite.FAMILY, architecture="granitemoe")
KEYS: Keys = granite.KEYS | experts.KEYS | {"shared_intermediate_size": "expert_shared_feed_forward_length"}


def read(r: ConfigReader) -> Config:
    """The multipliers and the experts, which are as wide as `intermediate_size` says."""
    c = granite.multiplied(r, FAMILY)
    shared = r.integer("shared_intermediate_size", limits.MAX_WIDTH, default=0, low=0)
    width = r.integer("moe_intermediate_size", limits.MAX_WIDTH, default=c.intermediate_size[0])
    return replace(c, moe=replace(experts.read(r, width), shared=shared))


def layer(b: Builder, i: int, x: str, c: Config) -> str:
    """Granite's."""
    at, scale = f"blk.{i}", c.residual_multiplier
    y = b.attention(f"{at}.attn", b.rms_norm(f"{at}.attn_norm", x), c.heads[i], scale)
    x = b.residual(f"{at}.attn_residual", x, y)
    h = b.rms_norm(f"{at}.ffn_norm", x)
    return b.residual(f"{at}.ffn_residual", x, experts.feed_forward(b, f"{at}.ffn", h, c.moe) if c.moe else h, scale)


def build(c: Config, w: WeightProvider) -> Graph:
    """The model's operations in order."""
    return decoder.build(c, w, layer)


ARCHITECTURE = decoder.architecture("granitemoe", read, build, KEYS)
