"""Phi-3, Phi-3.5-mini, Phi-4 and Phi-4-mini are Llama with q, k, v in one tensor, and gate and up in another.

Of Phi-4-mini's heads three quarters are rotated. The 128k models stretch by LongRoPE. Phi-3-mini-4k attends a window
of 2047 positions on all layers, which llama.cpp leaves out; the others state none, or one beyond their context.
"""

from __future__ import annotations

from dataclasses import replace

from memfirst.graph import Graph
from memfirst.models import decoder, windows
from memfirst.models import reader as limits
from memfirst.models.base import WeightProvider
from memfirst.models.builder import Builder
from memfirst.models.decoder import Config, Family
from memfirst.models.reader import ConfigReader
from memfirst.models.rope import RopeScaling

FAMILY = Family("phi3", windows.everywhere, grouped=False)


def read(r: ConfigReader) -> Config:
    """The fused tensors; what else config.json states is as in Llama."""
    c = decoder.read(r, FAMILY).attention(fused=True)
    if r.gguf:
        return _longrope(r.plain, c)
    r.raw("original_max_position_embeddings")  # used where there is LongRoPE, and read there
    for key, plain in (("lm_head_bias", False), ("full_attn_mod", 1), ("interpolate_factor", 1)):
        r.only(key, (plain,))
    return c


def _longrope(r: ConfigReader, c: Config) -> Config:
    """Of LongRoPE the converter writes the factor here, the divisors as tensors, and no type."""
    original = r.integer("rope.scaling.original_context_length", limits.MAX_CONTEXT, c.max_position_embeddings)
    rotation = c.heads[0].rotation
    if rotation is None or rotation.scaling is not None or r.raw("rope.scaling.attn_factor") is None:
        return c
    factor, context = r.single("rope.scaling.attn_factor"), c.max_position_embeddings
    scaling = RopeScaling("longrope", context / original, original, attention_factor=factor)
    return c.attention(rotation=replace(rotation, scaling=scaling))


def layer(b: Builder, i: int, x: str, c: Config) -> str:
    """Llama's, with fused tensors."""
    at = f"blk.{i}"
    y = b.attention(f"{at}.attn", b.rms_norm(f"{at}.attn_norm", x), c.heads[i])
    x = b.residual(f"{at}.attn_residual", x, y)
    y = b.swiglu(f"{at}.ffn", b.rms_norm(f"{at}.ffn_norm", x), c.intermediate_size[i], fused=True)
    return b.residual(f"{at}.ffn_residual", x, y)


def build(c: Config, w: WeightProvider) -> Graph:
    """The model's operations in order."""
    return decoder.build(c, w, layer)


ARCHITECTURE = decoder.architecture("phi3", read, build)
