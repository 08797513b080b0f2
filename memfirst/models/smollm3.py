"""SmolLM3 is Llama whose heads do not turn in every fourth layer (Yang et al. 2025, arXiv:2501.18795)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from memfirst.errors import ConfigError
from memfirst.models import llama, windows
from memfirst.models import reader as limits
from memfirst.models.base import Architecture
from memfirst.models.decoder import Config, build
from memfirst.models.reader import ConfigReader

FAMILY = replace(llama.LLAMA, architecture="smollm3", tied=True, grouped=True)
INTERVAL = 4


def own_hf(r: ConfigReader, c: Config) -> Config:
    """`no_rope_layers` (1: its heads turn), or every `no_rope_layer_interval`-th layer; no windows."""
    r.raw("max_window_layers")  # without use_sliding_window it is not used
    interval = r.integer("no_rope_layer_interval", limits.MAX_LAYERS, default=INTERVAL)
    turns = r.raw("no_rope_layers")
    if turns is None:
        return windows.unused(r, every(c, interval))
    if not isinstance(turns, list) or len(turns) < c.num_hidden_layers or any(flag not in (0, 1) for flag in turns):
        raise ConfigError(f"no_rope_layers is {str(turns)[:60]!r}", f"a 0 or 1 for each of {c.num_hidden_layers}")
    still = tuple(i for i in range(c.num_hidden_layers) if not turns[i])
    return windows.unused(r, replace(c, no_rope_layers=still))


def own_gguf(r: ConfigReader, c: Config) -> Config:
    """Nothing is written: llama.cpp takes every fourth."""
    return every(c, INTERVAL)


def every(c: Config, interval: int) -> Config:
    """`c` with each `interval`-th layer's heads standing still."""
    return replace(c, no_rope_layers=tuple(range(interval - 1, c.num_hidden_layers, interval)))


GGUF = partial(llama.from_gguf, family=FAMILY, own=own_gguf)
HF = partial(llama.from_hf, family=FAMILY, own=own_hf)
ARCHITECTURE = Architecture("smollm3", GGUF, HF, build)
