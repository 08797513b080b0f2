"""Mixtral is Mistral whose feed-forward is routed experts; in GGUF it calls itself llama."""

from __future__ import annotations

from dataclasses import replace

from memfirst.models import decoder, experts, llama, windows
from memfirst.models.decoder import PAIRS, Config, Family
from memfirst.models.reader import ConfigReader

FAMILY = Family("llama", windows.everywhere, PAIRS, grouped=False)


def read(r: ConfigReader) -> Config:
    """Experts of the width that Llama's feed-forward would have, and a window where one is stated."""
    c = decoder.read(r, FAMILY)
    return replace(c, moe=experts.read_hf(r, c.intermediate_size[0]))


ARCHITECTURE = decoder.architecture("llama", read, llama.build)
