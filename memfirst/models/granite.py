"""Granite (dense, 3.x) is Llama with four multipliers: of the embedding, the scores, what a layer adds, the logits.

In GGUF its heads rotate in adjacent pairs, as Llama's do. Granite 4's models without state-space layers (micro, 1B,
350M) are the same, with the config.json and the keys of its hybrids.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from memfirst.errors import ConfigError
from memfirst.graph import Graph
from memfirst.models import decoder, windows
from memfirst.models.base import WeightProvider
from memfirst.models.builder import Builder
from memfirst.models.decoder import PAIRS, Family
from memfirst.models.reader import ConfigReader, Keys

FAMILY = Family("granite", windows.unused, PAIRS, tied=True)
HYBRID_HF = (
    *("mamba_chunk_size", "mamba_conv_bias", "mamba_d_conv", "mamba_d_head", "mamba_d_state", "mamba_expand"),
    *("mamba_n_groups", "mamba_n_heads", "mamba_proj_bias", "num_experts_per_tok", "output_router_logits"),
    *("router_aux_loss_coef", "time_step_limit", "time_step_min", "time_step_max", "layer_types", "num_local_experts"),
    *("attention_head_type", "shared_intermediate_size"),
)
HYBRID_GGUF = (*("conv_kernel", "state_size", "group_count", "inner_size", "time_step_rank"),)
"""Keys of parts that an attention-only Granite 4 has not."""
KEYS: Keys = decoder.KEYS | {
    "embedding_multiplier": "embedding_scale",
    "residual_multiplier": "residual_scale",
    "attention_multiplier": "attention.scale",
    "logits_scaling": "logit_scale",
}


MULTIPLIERS = ("embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling")


@dataclass(frozen=True)
class Config(decoder.Config):
    """Besides what dense decoders have."""

    residual_multiplier: float = 1.0
    """Of what attention and feed-forward add."""


def read(r: ConfigReader) -> Config:
    """The multipliers; no experts."""
    c = multiplied(r, FAMILY)
    if c.moe is not None:
        raise ConfigError("a dense granite with experts", "none")
    return c


def multiplied(r: ConfigReader, family: Family) -> Config:
    """The multipliers, all of them stated; GGUF's `rope.scaling.finetuned` false: heads are not rotated."""
    if r.gguf:
        for key in HYBRID_GGUF:
            r.plain.raw(f"ssm.{key}")
        r.plain.raw("expert_shared_feed_forward_length")
    else:
        r.only("position_embedding_type", ("rope", "nope"))
        r.only("normalization_function", ("rmsnorm",))
        r.only("init_method", ("mup",))
    c = decoder.read(r, family)
    found = Config(
        **vars(c)
        | {
            "embedding_multiplier": r.single("embedding_multiplier"),
            "residual_multiplier": r.single("residual_multiplier"),
            "logits_multiplier": 1 / r.single("logits_scaling"),
        }
    ).attention(scale=r.single("attention_multiplier"))
    still = not r.plain.flag("rope.scaling.finetuned", True) if r.gguf else r.raw("position_embedding_type") == "nope"
    return found.attention(rotation=None) if still else found


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


def from_hf(config: Mapping[str, Any], allow_unknown: bool = False) -> Config:
    """Read a config.json of `granite`, or of a `granitemoehybrid` in which every layer attends."""
    if config.get("model_type") == "granitemoehybrid":
        shared = config.get("shared_intermediate_size", config.get("intermediate_size"))
        rest = {key: value for key, value in config.items() if key not in HYBRID_HF}
        config = dict.fromkeys(MULTIPLIERS, 1.0) | rest | {"intermediate_size": shared}
    return ENTRY.from_hf(config, allow_unknown)


ENTRY = decoder.architecture("granite", read, build, KEYS)
ARCHITECTURE = replace(ENTRY, from_hf=from_hf)
