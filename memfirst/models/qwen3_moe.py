"""Qwen3-MoE is Qwen3 whose feed-forward is routed experts."""

from __future__ import annotations

from dataclasses import replace

from memfirst.errors import UnsupportedError
from memfirst.models import decoder, experts, llama, windows
from memfirst.models import reader as limits
from memfirst.models.builder import HEAD
from memfirst.models.decoder import Config, Family
from memfirst.models.reader import ConfigReader

FAMILY = Family("qwen3moe", windows.flagged, grouped=False)


def read(r: ConfigReader) -> Config:
    """Experts in every layer: `intermediate_size` is that of dense layers, which no published model has."""
    c = decoder.read(r, FAMILY).attention(qk_norm=HEAD)
    if r.gguf:
        return c
    r.require("head_dim", "norm_topk_prob")
    r.only("decoder_sparse_step", (1,))
    r.only("shared_expert_intermediate_size", (0,))
    for key, plain in (("qkv_bias", False), ("use_qk_norm", True)):
        r.only(key, (plain,))
    if r.raw("mlp_only_layers", []) != []:
        raise UnsupportedError(f"mlp_only_layers is {str(r.raw('mlp_only_layers'))[:60]}", "experts in every layer")
    moe = experts.read_hf(r, r.integer("moe_intermediate_size", limits.MAX_WIDTH))
    return replace(c, moe=replace(moe, norm_topk_prob=r.flag("norm_topk_prob")))


ARCHITECTURE = decoder.architecture("qwen3moe", read, llama.build)
