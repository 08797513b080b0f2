"""SmolLM3 is Llama whose heads are not rotated in every fourth layer (Yang et al. 2025, arXiv:2501.18795)."""

from __future__ import annotations

from dataclasses import replace

from memfirst.errors import ConfigError
from memfirst.models import decoder, llama, windows
from memfirst.models import reader as limits
from memfirst.models.decoder import PAIRS, Config, Family
from memfirst.models.reader import ConfigReader

FAMILY = Family("smollm3", windows.unused, PAIRS, tied=True)
INTERVAL = 4
"""Layers between two that are not rotated; in GGUF nothing is written: llama.cpp takes every fourth."""


def read(r: ConfigReader) -> Config:
    """`no_rope_layers` (1: rotated), or every `no_rope_layer_interval`-th layer; no windows."""
    c = decoder.read(r, FAMILY)
    interval, rotated = (
        r.integer("no_rope_layer_interval", limits.MAX_LAYERS, default=INTERVAL),
        r.raw("no_rope_layers"),
    )
    if rotated is None:
        return without_rope(c, tuple(range(interval - 1, c.layers, interval)))
    if not isinstance(rotated, list) or len(rotated) < c.layers or any(flag not in (0, 1) for flag in rotated):
        raise ConfigError(f"no_rope_layers is {str(rotated)[:60]!r}", f"a 0 or 1 for each of {c.layers}")
    return without_rope(c, tuple(i for i in range(c.layers) if not rotated[i]))


def without_rope(c: Config, layers: tuple[int, ...]) -> Config:
    """`c` whose heads are not rotated in these layers."""
    return replace(c, heads=tuple(replace(h, rotation=None) if i in layers else h for i, h in enumerate(c.heads)))


ARCHITECTURE = decoder.architecture("smollm3", read, llama.build)
