"""DeepSeekMoE, the first DeepSeek with experts: Llama's layers, then many narrow experts behind a dense layer, picked
by the softmax over all, beside shared ones (arXiv:2401.06066). Its picked weights are not made to sum to 1.
"""

from __future__ import annotations

from dataclasses import replace

from memfirst.errors import UnsupportedError
from memfirst.models import decoder, experts, llama
from memfirst.models import reader as limits
from memfirst.models.decoder import Config
from memfirst.models.experts import SOFTMAX
from memfirst.models.reader import ConfigReader, Keys

FAMILY = replace(llama.FAMILY, architecture="deepseek")
KEYS: Keys = decoder.KEYS | experts.KEYS | {experts.ROUTED: "expert_count"}
UNUSED = ("aux_loss_alpha", "seq_aux")
"""Keys that train a router."""


def read(r: ConfigReader) -> Config:
    """The experts; dense DeepSeek LLM and Coder state themselves as Llama."""
    for key in UNUSED:
        r.raw(key)
    c = decoder.read(r, FAMILY)
    if r.raw(experts.ROUTED) is None:
        raise UnsupportedError("this model of type deepseek has no experts", "DeepSeekMoE, or a Llama by its own type")
    if not r.gguf:
        r.require("n_shared_experts", "first_k_dense_replace", "norm_topk_prob")
    for key, allowed in (("scoring_func", SOFTMAX), ("norm_topk_prob", False), ("moe_layer_freq", 1)):
        r.only(key, (allowed,))
    for key in ("n_group", "topk_group", "routed_scaling_factor"):
        r.only(key, (1, 1.0))
    r.plain.only("expert_gating_func", (1,))
    width = r.integer("moe_intermediate_size", limits.MAX_WIDTH)
    moe = replace(
        experts.read(r, width, (experts.ROUTED, "num_local_experts")),
        norm_topk_prob=False,
        shared=width * r.integer("n_shared_experts", experts.MAX_EXPERTS, default=0, low=0),
        dense=frozenset(range(r.integer("first_k_dense_replace", limits.MAX_LAYERS, default=0, low=0))),
    )
    return replace(c, moe=moe)


ARCHITECTURE = decoder.architecture("deepseek", read, llama.build, KEYS)
