"""Qwen1.5-MoE and Qwen2-MoE are Qwen2 with routed experts, and a shared one that each token takes a share of."""

from __future__ import annotations

from dataclasses import replace

from memfirst.errors import UnsupportedError
from memfirst.models import decoder, experts, llama, qwen2
from memfirst.models import reader as limits
from memfirst.models.decoder import Config
from memfirst.models.reader import ConfigReader, Keys

FAMILY = replace(qwen2.FAMILY, architecture="qwen2moe")
KEYS: Keys = decoder.KEYS | experts.KEYS


def read(r: ConfigReader) -> Config:
    """Experts in every layer, whose picked weights are those of the softmax over all."""
    c = decoder.read(r, FAMILY)
    r.only("decoder_sparse_step", (1,))
    r.only("qkv_bias", (True,))
    if r.raw("mlp_only_layers", []) != []:
        raise UnsupportedError(f"mlp_only_layers is {str(r.raw('mlp_only_layers'))[:60]}", "experts in every layer")
    if not r.gguf:
        r.require("num_key_value_heads", "norm_topk_prob")
    moe = experts.read(r, r.integer("moe_intermediate_size", limits.MAX_WIDTH))
    shared = r.integer("shared_expert_intermediate_size", limits.MAX_WIDTH, c.intermediate_size[0] if r.gguf else None)
    moe = replace(moe, norm_topk_prob=r.flag("norm_topk_prob"), shared=shared, shared_gate=True)
    return replace(c, moe=moe)


ARCHITECTURE = decoder.architecture("qwen2moe", read, llama.build, KEYS)
