"""Qwen3 (dense) is Llama with a norm on each head's q and k, and heads whose halves rotate together."""

from __future__ import annotations

from memfirst.models import decoder, llama, windows
from memfirst.models.builder import HEAD
from memfirst.models.decoder import Config, Family
from memfirst.models.reader import ConfigReader

FAMILY = Family("qwen3", windows.flagged)


def read(r: ConfigReader) -> Config:
    """All as in Llama; the window is off in published models."""
    return decoder.read(r, FAMILY).attention(qk_norm=HEAD)


ARCHITECTURE = decoder.architecture("qwen3", read, llama.build)
