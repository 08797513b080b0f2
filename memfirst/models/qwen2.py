"""Qwen2 and Qwen2.5 are Llama with biases on q, k and v, and heads whose halves rotate together."""

from __future__ import annotations

from memfirst.models import decoder, llama, windows
from memfirst.models.decoder import Config, Family
from memfirst.models.reader import ConfigReader

FAMILY = Family("qwen2", windows.flagged, qkv_bias=True)


def read(r: ConfigReader) -> Config:
    """All as in Llama; the window is off in published models."""
    return decoder.read(r, FAMILY)


ARCHITECTURE = decoder.architecture("qwen2", read, llama.build)
