"""Mixtral is Llama whose feed-forward is routed experts; in GGUF it calls itself llama."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from memfirst.models import experts, llama, windows
from memfirst.models.base import Architecture
from memfirst.models.decoder import Config, build
from memfirst.models.reader import ConfigReader


def own_hf(r: ConfigReader, c: Config) -> Config:
    """Experts of the width that Llama's feed-forward would have, and a window where one is stated."""
    moe = experts.read_hf(r, c.intermediate_size)
    return windows.everywhere(r, replace(c, moe=moe))


ARCHITECTURE = Architecture("mixtral", llama.from_gguf, partial(llama.from_hf, own=own_hf), build)
