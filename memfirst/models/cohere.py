"""Cohere (Command R, Aya 23, Aya Expanse 32B) is Cohere 2 without windows: all layers attend all and rotate.

Command R+ normalizes each head of q and k by weights of its own: `architectures.architecture_of` gives it another name.
"""

from __future__ import annotations

from dataclasses import replace

from memfirst.errors import UnsupportedError
from memfirst.models import cohere2, decoder, windows
from memfirst.models.decoder import PAIRS, Config, Family
from memfirst.models.reader import ConfigReader

FAMILY = Family(
    "command-r", windows.unused, PAIRS, tied=True, grouped=False, eps=("layer_norm_eps", 1e-5),
    biases=("attention_bias", "attention_bias", False),
)  # fmt: skip


def read(r: ConfigReader) -> Config:
    """The scale of the logits. `model_max_length`: the context of the first Command R, as GGUF has it."""
    r.only("use_qk_norm", (False,))
    if "blk.0.attn_q_norm.weight" in r.tensors:
        raise UnsupportedError("Command R+: a norm of each head's q and k", "a Command R without, or `memfirst plan`")
    if not r.gguf and r.raw("model_max_length") is not None:
        r = r.given({"max_position_embeddings": r.integer("model_max_length", 2**32 - 1)})
    return replace(decoder.read(r, FAMILY), logits_multiplier=r.single("logit_scale"))


ARCHITECTURE = decoder.architecture("command-r", read, cohere2.build, cohere2.KEYS)
