"""Mistral (7B, Nemo, Ministral) is Llama, in v0.1 with a window of 4096 positions on every layer.

In GGUF it is "llama", whose files do not say that there is a window; config.json does.
"""

from __future__ import annotations

from functools import partial

from memfirst.models import llama, windows
from memfirst.models.base import Architecture

ARCHITECTURE = Architecture("llama", llama.from_gguf, partial(llama.from_hf, own=windows.everywhere), llama.build)
