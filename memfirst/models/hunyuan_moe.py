"""Hunyuan-A13B is Hunyuan's dense model with routed experts and a shared one in every layer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from memfirst.errors import ConfigError
from memfirst.models import decoder, experts, hunyuan_dense, llama
from memfirst.models import reader as limits
from memfirst.models.decoder import Config
from memfirst.models.reader import ConfigReader, Keys

FAMILY = replace(hunyuan_dense.FAMILY, architecture="hunyuan-moe")
USED = "moe_topk"
KEYS: Keys = decoder.KEYS | experts.KEYS | {USED: "expert_used_count", "num_shared_expert": "expert_shared_count"}
PER_LAYER = (USED, "moe_intermediate_size", "num_shared_expert")
"""Numbers that its files state for each layer, always the same."""
UNUSED = ("moe_drop_tokens", "moe_random_routing_dropped_token", "capacity_factor")
PLAIN = {
    "use_mixed_mlp_moe": (True,), "norm_topk_prob": (True,), "group_limited_greedy": (False,),
    "moe_layer_num_skipped": (0,),
}  # fmt: skip
"""Keys of its own files, and what its published models have there."""


def read(r: ConfigReader) -> Config:
    """The experts; in config.json they, and the shared one, are `intermediate_size` wide unless it says otherwise."""
    for key in UNUSED:
        r.raw(key)
    for key, allowed in PLAIN.items():
        r.only(key, allowed)
    if not r.gguf:
        r = r.given({key: _same(key, r.raw(key)) for key in PER_LAYER})
    c = hunyuan_dense.read(r, FAMILY)
    width = r.integer("moe_intermediate_size", limits.MAX_WIDTH, default=c.intermediate_size[0])
    shared = r.integer("num_shared_expert", experts.MAX_EXPERTS, default=1)
    whole = shared * c.intermediate_size[0]
    beside = r.integer("shared_expert_intermediate_size", limits.MAX_WIDTH, default=whole)
    return replace(c, moe=replace(experts.read(r, width, used=USED), shared=beside))


def _same(key: str, value: Any) -> Any:
    """A number, or what all items of a list of them are."""
    if not isinstance(value, list):
        return value
    if not value or any(v != value[0] for v in value):
        raise ConfigError(f"{key} is {str(value)[:60]}", "the same in every layer")
    return value[0]


ARCHITECTURE = decoder.architecture("hunyuan-moe", read, llama.build, KEYS)
