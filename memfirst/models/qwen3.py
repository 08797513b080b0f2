"""Qwen3 (dense) is Llama with a norm on each head's q and k, and heads whose halves turn together."""

from __future__ import annotations

from functools import partial

from memfirst.models import llama, windows
from memfirst.models.base import Architecture

FAMILY = llama.Family("qwen3", qk_norm=True, grouped=True)

HF = partial(llama.from_hf, family=FAMILY, own=windows.flagged)
ARCHITECTURE = Architecture("qwen3", partial(llama.from_gguf, family=FAMILY), HF, llama.build)
