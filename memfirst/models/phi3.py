"""Phi-3, Phi-3.5-mini, Phi-4 and Phi-4-mini are Llama with q, k, v in one tensor, and gate and up in another.

Of Phi-4-mini's heads three quarters turn. The 128k models stretch by LongRoPE. Phi-3-mini-4k attends a window
of 2047 positions on all layers, which llama.cpp leaves out; the others state none, or one beyond their context.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from memfirst.graph import KVCache, Op
from memfirst.graph.ops.slice import Slice
from memfirst.models import decoder, llama, windows
from memfirst.models import reader as limits
from memfirst.models.base import Architecture
from memfirst.models.decoder import Config, Layers
from memfirst.models.reader import ConfigReader
from memfirst.models.rope import RopeScaling

FAMILY = decoder.Family("phi3")


@dataclass(frozen=True)
class FusedLayers(Layers):
    """One product gives q, k and v; one gives gate and up."""

    def qkv(self, at: str, cache: KVCache) -> tuple[list[Op], tuple[str, str, str]]:
        c = self.c
        heads = {"q": c.num_attention_heads, "k": c.num_key_value_heads, "v": c.num_key_value_heads}
        ops = self.cut(f"{at}_qkv", at, {part: n * c.head_dim for part, n in heads.items()})
        turned, q, k = self.turned(at, cache)
        return [*ops, *turned], (q, k, f"{at}_v")

    def gate_up(self, at: str) -> tuple[list[Op], tuple[str, str]]:
        inner = self.c.intermediate_size
        return self.cut(f"{at}_up", at, {"gate_part": inner, "up_part": inner}), (f"{at}_gate_part", f"{at}_up_part")

    def cut(self, name: str, at: str, widths: dict[str, int]) -> list[Op]:
        """The product `name`, and its parts one after another, each called at_part."""
        ops: list[Op] = [self.linear(name, f"{at}_norm", sum(widths.values()))]
        start = 0
        for part, width in widths.items():
            ops.append(Slice(f"{at}_{part}", (name,), f"{at}_{part}", start, width))
            start += width
        return ops


def own_hf(r: ConfigReader, c: Config) -> Config:
    """The window; what else its files state is as in Llama."""
    r.raw("original_max_position_embeddings")  # used where there is LongRoPE, and read there
    for key, plain in (("lm_head_bias", False), ("full_attn_mod", 1), ("interpolate_factor", 1)):
        r.only(key, (plain,))
    return windows.everywhere(r, c)


def own_gguf(r: ConfigReader, c: Config) -> Config:
    """The window (0: none), and LongRoPE: of it the converter writes the factor here, the divisors as tensors."""
    original = r.integer("rope.scaling.original_context_length", limits.MAX_CONTEXT, c.max_position_embeddings)
    if c.rope_scaling is None and r.raw("rope.scaling.attn_factor") is not None:
        factor, context = r.single("rope.scaling.attn_factor"), c.max_position_embeddings
        c = replace(c, rope_scaling=RopeScaling("longrope", context / original, original, attention_factor=factor))
    return windows.gguf(r, c)


build = partial(decoder.build, layers=FusedLayers)
GGUF = partial(llama.from_gguf, family=FAMILY, own=own_gguf)
HF = partial(llama.from_hf, family=FAMILY, own=own_hf)
ARCHITECTURE = Architecture("phi3", GGUF, HF, build)
