"""Mistral (7B, Nemo, Small) is Llama, in v0.1 with a window of 4096 positions on every layer.

In GGUF it is "llama", whose files do not say that there is a window; config.json does.
"""

from __future__ import annotations

from memfirst.models import decoder, llama, windows
from memfirst.models.decoder import PAIRS, Config, Family
from memfirst.models.reader import ConfigReader

FAMILY = Family("llama", windows.everywhere, PAIRS)


def read(r: ConfigReader) -> Config:
    """The window, where one is stated."""
    return decoder.read(r, FAMILY)


ARCHITECTURE = decoder.architecture("llama", read, llama.build)
