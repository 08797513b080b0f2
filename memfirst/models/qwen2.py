"""Qwen2 and Qwen2.5 are Llama with biases on q, k and v, and heads whose halves rotate together."""

from __future__ import annotations

from memfirst.models import decoder, llama, windows
from memfirst.models.decoder import Config, Family
from memfirst.models.reader import ConfigReader

FAMILY = Family("qwen2", windows.flagged, biases=(True, False, "mlp_bias"))


def read(r: ConfigReader) -> Config:
    """All as in Llama; the window is off in published models."""
    r.raw("attention_bias")  # some configs state it; q, k and v have biases whatever it says
    return decoder.read(r, FAMILY)


ARCHITECTURE = decoder.architecture("qwen2", read, llama.build)
