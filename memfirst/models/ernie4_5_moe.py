"""ERNIE 4.5 with experts: the dense model's layers, then routed experts and shared ones, from a layer on.

Experts are picked by the softmax's scores with a correction.
"""

from __future__ import annotations

from dataclasses import replace

from memfirst.errors import ConfigError
from memfirst.models import decoder, ernie4_5, experts, llama
from memfirst.models import reader as limits
from memfirst.models.decoder import Config
from memfirst.models.reader import ConfigReader, Keys

FAMILY = replace(ernie4_5.FAMILY, architecture="ernie4_5-moe")
COUNT, USED = "moe_num_experts", "moe_k"
KEYS: Keys = (
    decoder.KEYS
    | experts.KEYS
    | {
        COUNT: "expert_count",
        USED: "expert_used_count",
        "moe_num_shared_experts": "expert_shared_count",
        "moe_layer_start_index": "leading_dense_block_count",
        "moe_layer_interval": "interleave_moe_layer_step",
    }
)
UNUSED = ("moe_norm_min", "moe_capacity", "moe_use_hard_gate", "moe_dense_experts_token_type_id", "mlp_layer_types")
"""Keys of training, of images, and a floor of 1e-12 under a sum that is larger."""


def read(r: ConfigReader) -> Config:
    """Which layers have experts, and how many are shared."""
    for key in UNUSED:
        r.raw(key)
    r.only("moe_gate", ("topk",))
    r.only("moe_use_aux_free", (True,))
    r.only("moe_gate_act", ("softmax",))
    c = ernie4_5.read(r, FAMILY)
    start = r.integer("moe_layer_start_index", limits.MAX_LAYERS, low=0)
    step = r.integer("moe_layer_interval", limits.MAX_LAYERS, default=1)
    r.only("moe_layer_end_index", (-1, c.layers - 1))
    width = r.integer("moe_intermediate_size", limits.MAX_WIDTH)
    shared = width * r.integer("moe_num_shared_experts", experts.MAX_EXPERTS, default=0, low=0)
    r.plain.raw("expert_shared_feed_forward_length")  # llama.cpp's converter takes it from intermediate_size
    if c.layers <= start:
        raise ConfigError(f"experts from layer {start} on, of {c.layers}", "some layers with experts")
    moe = experts.read(r, width, (COUNT, *experts.COUNTS), USED)
    dense = frozenset(i for i in range(c.layers) if i < start or (i + 1) % step)
    return replace(c, moe=replace(moe, correction=True, shared=shared, dense=dense))


ARCHITECTURE = decoder.architecture("ernie4_5-moe", read, llama.build, KEYS)
