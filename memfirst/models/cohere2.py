"""Cohere 2 (Command R7B, Command A): one layer norm without a bias feeds attention and feed-forward side by side; three
of four layers have a window, and only these rotate.
"""

from __future__ import annotations

from dataclasses import replace

from memfirst.graph import Graph
from memfirst.models import decoder, windows
from memfirst.models.base import WeightProvider
from memfirst.models.builder import Builder
from memfirst.models.decoder import PAIRS, Config, Family
from memfirst.models.reader import ConfigReader, Keys

FAMILY = Family(
    "cohere2", windows.by_period(4), PAIRS, tied=True, grouped=False, eps=("layer_norm_eps", 1e-5),
    biases=("attention_bias", "attention_bias", False),
)  # fmt: skip
KEYS: Keys = decoder.LAYER_NORM_KEYS | {"logit_scale": "logit_scale"}
PLAIN = {
    "use_parallel_block": (True,), "use_gated_activation": (True,), "use_embedding_sharing": (True,),
    "use_parallel_embedding": (False, True), "position_embedding_type": ("rope_gptj",), "rotary_pct": (1.0,),
    "order_of_interleaved_layers": ("local_attn_first",), "use_qk_norm": (False,),
}  # fmt: skip
"""Keys of its own files, and what its published models have there."""


def read(r: ConfigReader) -> Config:
    """The scale of the logits; windows, and where heads are rotated."""
    for key, allowed in PLAIN.items():
        r.only(key, allowed)
    r.raw("layer_switch")  # the period under a second name
    c = decoder.rotated_only_in_windows(decoder.read(r, FAMILY))
    return replace(c, logits_multiplier=r.single("logit_scale"))


def layer(b: Builder, i: int, x: str, c: Config) -> str:
    """Attention and feed-forward read the same norm, and are added one after the other."""
    at = f"blk.{i}"
    h = b.layer_norm(f"{at}.attn_norm", x, bias=False)
    x = b.residual(f"{at}.attn_residual", x, b.attention(f"{at}.attn", h, c.heads[i]))
    return b.residual(f"{at}.ffn_residual", x, b.swiglu(f"{at}.ffn", h, c.intermediate_size[i]))


def last_norm(b: Builder, x: str) -> str:
    """Layer norm without a bias."""
    return b.layer_norm("output_norm", x, head=True, bias=False)


def build(c: Config, w: WeightProvider) -> Graph:
    """The model's operations in order."""
    return decoder.build(c, w, layer, last_norm)


ARCHITECTURE = decoder.architecture("cohere2", read, build, KEYS)
