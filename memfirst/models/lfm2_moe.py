"""LFM2 with experts (8B-A1B, 24B-A2B): behind a few dense layers the feed-forward is routed, by sigmoids that a bias
corrects when picking.
"""

from __future__ import annotations

from dataclasses import replace

from memfirst.models import decoder, experts, lfm2
from memfirst.models import reader as limits
from memfirst.models.experts import SIGMOID
from memfirst.models.lfm2 import Config
from memfirst.models.reader import ConfigReader, Keys

DENSE = "num_dense_layers"
KEYS: Keys = lfm2.KEYS | experts.KEYS | {DENSE: "leading_dense_block_count"}


def read(r: ConfigReader) -> Config:
    """The experts beside what the dense models have; whether picked weights sum to 1 is not stated in GGUF."""
    c = lfm2.read(r, lfm2.family("lfm2moe"))
    r.only("use_expert_bias", (True,))
    r.plain.only("expert_gating_func", (2,))
    moe = replace(
        experts.read(r, r.integer("moe_intermediate_size", limits.MAX_WIDTH)),
        scoring=SIGMOID,
        correction=True,
        norm_topk_prob=r.flag("norm_topk_prob", True),
        routed_scaling_factor=r.single("routed_scaling_factor", 1.0),
        dense=frozenset(range(r.integer(DENSE, limits.MAX_LAYERS, default=0 if r.gguf else 2, low=0))),
    )
    return replace(c, moe=moe)


ARCHITECTURE = decoder.architecture("lfm2moe", read, lfm2.build, KEYS)
