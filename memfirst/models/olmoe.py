"""OLMoE is Llama with q and k normalized over the whole row, and routed experts (arXiv:2409.02060)."""

from __future__ import annotations

from dataclasses import replace

from memfirst.models import decoder, experts, llama, windows
from memfirst.models.builder import ROW
from memfirst.models.decoder import Config, Family
from memfirst.models.reader import ConfigReader, Keys

FAMILY = Family("olmoe", windows.unused, grouped=False, eps=("rms_norm_eps", 1e-5))
KEYS: Keys = decoder.KEYS | experts.KEYS


def read(r: ConfigReader) -> Config:
    """Experts in every layer, whose picked weights are those of the softmax over all."""
    r.only("clip_qkv", ())
    c = decoder.read(r, FAMILY).attention(qk_norm=ROW)
    moe = experts.read(r, c.intermediate_size[0])
    return replace(c, moe=replace(moe, norm_topk_prob=r.flag("norm_topk_prob")))


ARCHITECTURE = decoder.architecture("olmoe", read, llama.build, KEYS)
