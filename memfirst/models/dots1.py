"""dots.llm1 is Qwen3 with DeepSeek-V3's experts behind a dense layer: picked by corrected sigmoids, from no groups,
beside shared ones (arXiv:2506.05767).
"""

from __future__ import annotations

from dataclasses import replace

from memfirst.models import decoder, experts, llama, windows
from memfirst.models import reader as limits
from memfirst.models.builder import HEAD
from memfirst.models.decoder import Config, Family
from memfirst.models.experts import SIGMOID, MoE
from memfirst.models.reader import ConfigReader, Keys

FAMILY = Family("dots1", windows.unused, biases=("attention_bias", False, False))
COUNT = "n_routed_experts"
KEYS: Keys = decoder.KEYS | experts.KEYS | {COUNT: "expert_count"}
SCORING = ("noaux_tc", SIGMOID)
"""Its config.json states how experts are picked where others state the function: both mean sigmoids."""


def read(r: ConfigReader) -> Config:
    """Heads are normalized; no published model has a window."""
    c = decoder.read(r, FAMILY)
    if not r.gguf:
        r.require("n_shared_experts", "first_k_dense_replace", "norm_topk_prob", "routed_scaling_factor")
    return replace(c.attention(qk_norm=HEAD), moe=_experts(r))


def _experts(r: ConfigReader) -> MoE:
    for key, allowed in (("scoring_func", SCORING), ("topk_method", SCORING[:1]), ("moe_layer_freq", (1,))):
        r.only(key, allowed)
    r.plain.only("expert_gating_func", (2,))
    width = r.integer("moe_intermediate_size", limits.MAX_WIDTH)
    first = r.integer("first_k_dense_replace", limits.MAX_LAYERS, default=0, low=0)
    return replace(
        experts.read(r, width, (COUNT, "num_local_experts")),
        scoring=SIGMOID,
        correction=True,
        norm_topk_prob=r.flag("norm_topk_prob"),
        routed_scaling_factor=r.single("routed_scaling_factor", 1.0),
        n_group=r.integer("n_group", experts.MAX_EXPERTS, default=1),
        topk_group=r.integer("topk_group", experts.MAX_EXPERTS, default=1),
        shared=width * r.integer("n_shared_experts", experts.MAX_EXPERTS, default=0, low=0),
        dense=frozenset(range(first)),
    )


ARCHITECTURE = decoder.architecture("dots1", read, llama.build, KEYS)
