"""Ministral 3 is Mistral stretched by YaRN, whose queries grow with the position; in GGUF it is "mistral3"."""

from __future__ import annotations

from memfirst.models import decoder, llama, windows
from memfirst.models.decoder import PAIRS, Config, Family
from memfirst.models.reader import ConfigReader

FAMILY = Family("mistral3", windows.everywhere, PAIRS)


def read(r: ConfigReader) -> Config:
    """All as in Mistral: the scaling and the temperature are parts of the rotation."""
    return decoder.read(r, FAMILY)


ARCHITECTURE = decoder.architecture("mistral3", read, llama.build)
