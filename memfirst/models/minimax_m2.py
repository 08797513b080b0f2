"""MiniMax-M2 is Llama with q and k normalized over the whole row, half of each head rotated, and DeepSeek-V3's way of
picking experts, without a shared one."""

from __future__ import annotations

from dataclasses import replace

from memfirst.errors import UnsupportedError
from memfirst.models import decoder, experts, llama, windows
from memfirst.models import reader as limits
from memfirst.models.builder import ROW
from memfirst.models.decoder import Config, Family
from memfirst.models.experts import SIGMOID
from memfirst.models.reader import ConfigReader, Keys
from memfirst.models.rope import Defaults

FAMILY = Family("minimax-m2", windows.unused, Defaults(theta=5e6))
KEYS: Keys = decoder.KEYS | experts.KEYS
PLAIN = {
    "use_qk_norm": (True,), "qk_norm_type": ("per_layer",), "scoring_func": (SIGMOID,), "use_routing_bias": (True,),
    "shared_intermediate_size": (0,),
}  # fmt: skip
"""Keys of its own files, and what its published models have there."""
PREDICTING = ("use_mtp", "num_mtp_modules", "mtp_transformer_layers")
"""Keys of layers that predict further tokens, which its files do not hold."""


def read(r: ConfigReader) -> Config:
    """How much of a head is rotated (`rotary_dim`), and the experts, which are as wide as `intermediate_size` says."""
    for key, allowed in PLAIN.items():
        r.only(key, allowed)
    for key in PREDICTING:
        r.raw(key)
    kinds = r.raw("attn_type_list", [1])
    if not isinstance(kinds, list) or any(kind != 1 for kind in kinds):
        raise UnsupportedError(f"attn_type_list is {str(kinds)[:60]}", "attention over everything, 1, in every layer")
    c = decoder.read(_with_share(r), FAMILY).attention(qk_norm=ROW)
    r.plain.only("expert_gating_func", (2,))
    moe = experts.read(r, r.integer("moe_intermediate_size", limits.MAX_WIDTH, default=c.intermediate_size[0]))
    return replace(c, moe=replace(moe, scoring=SIGMOID, correction=True))


def _with_share(r: ConfigReader) -> ConfigReader:
    """`rotary_dim` as the share that other configs state."""
    if r.gguf or r.raw("rotary_dim") is None:
        return r
    share = r.integer("rotary_dim", limits.MAX_HEAD_DIM) / r.integer("head_dim", limits.MAX_HEAD_DIM)
    r.only("partial_rotary_factor", (share,))
    return r.given({"partial_rotary_factor": share})


ARCHITECTURE = decoder.architecture("minimax-m2", read, llama.build, KEYS)
