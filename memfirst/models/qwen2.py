"""Qwen2 and Qwen2.5 are Llama with biases on q, k and v, and heads whose halves turn together."""

from __future__ import annotations

from functools import partial

from memfirst.models import llama, windows
from memfirst.models.base import Architecture

FAMILY = llama.Family("qwen2", qkv_bias=True, grouped=True)

HF = partial(llama.from_hf, family=FAMILY, own=windows.flagged)
ARCHITECTURE = Architecture("qwen2", partial(llama.from_gguf, family=FAMILY), HF, llama.build)
