"""Granite (dense, 3.x) is Llama with four multipliers: of the embedding, the scores, what a layer adds, the logits.

In GGUF its heads turn in pairs, as Llama's do.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from memfirst.models import llama, windows
from memfirst.models.base import Architecture
from memfirst.models.decoder import Config, build
from memfirst.models.reader import ConfigReader

FAMILY = replace(llama.LLAMA, architecture="granite", tied=True, grouped=True)
HF_KEYS = ("embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling")
GGUF_KEYS = ("embedding_scale", "residual_scale", "attention.scale", "logit_scale")


def own_hf(r: ConfigReader, c: Config) -> Config:
    """The multipliers, all of them stated."""
    return windows.unused(r, _multiplied(r, c, HF_KEYS))


def own_gguf(r: ConfigReader, c: Config) -> Config:
    """The same under GGUF's names; `rope.scaling.finetuned` false would mean that heads do not turn."""
    r.only("rope.scaling.finetuned", (True,))
    return _multiplied(r, c, GGUF_KEYS)


def _multiplied(r: ConfigReader, c: Config, keys: tuple[str, str, str, str]) -> Config:
    embedding, residual, attention, logits = (r.single(key) for key in keys)
    return replace(
        c, embedding_multiplier=embedding, residual_multiplier=residual,
        attention_multiplier=attention, logits_scaling=logits,
    )  # fmt: skip


GGUF = partial(llama.from_gguf, family=FAMILY, own=own_gguf)
HF = partial(llama.from_hf, family=FAMILY, own=own_hf)
ARCHITECTURE = Architecture("granite", GGUF, HF, build)
