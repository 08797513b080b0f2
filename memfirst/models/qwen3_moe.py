"""Qwen3-MoE is Qwen3 whose feed-forward is routed experts."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from memfirst.errors import UnsupportedError
from memfirst.models import experts, llama, windows
from memfirst.models import reader as limits
from memfirst.models.base import Architecture
from memfirst.models.decoder import Config, Family, build
from memfirst.models.reader import ConfigReader

FAMILY = Family("qwen3moe", qk_norm=True)


def own_hf(r: ConfigReader, c: Config) -> Config:
    """Experts in every layer: `intermediate_size` is that of dense layers, which no published model has."""
    r.require("head_dim", "norm_topk_prob")
    r.only("decoder_sparse_step", (1,))
    if r.raw("mlp_only_layers", []) != []:
        raise UnsupportedError(f"mlp_only_layers is {str(r.raw('mlp_only_layers'))[:60]}", "experts in every layer")
    moe = experts.read_hf(r, r.integer("moe_intermediate_size", limits.MAX_WIDTH))
    return windows.flagged(r, replace(c, moe=replace(moe, norm_topk_prob=r.flag("norm_topk_prob"))))


ARCHITECTURE = Architecture(
    "qwen3moe", partial(llama.from_gguf, family=FAMILY), partial(llama.from_hf, family=FAMILY, own=own_hf), build
)
