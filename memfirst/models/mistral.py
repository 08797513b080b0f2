"""Mistral (7B, Nemo, Ministral) is Llama, in v0.1 with a window of 4096 positions on every layer.

In GGUF it is "llama", whose files do not say that there is a window; config.json does.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from memfirst.models import llama, windows
from memfirst.models.base import Architecture

FAMILY = replace(llama.LLAMA, grouped=True)
HF = partial(llama.from_hf, family=FAMILY, own=windows.everywhere)
ARCHITECTURE = Architecture("llama", llama.from_gguf, HF, llama.build)
