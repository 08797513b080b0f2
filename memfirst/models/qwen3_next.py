"""Qwen3-Next (80B-A3B, Coder-Next): gated delta nets and attention, experts in every layer and a shared one."""

from __future__ import annotations

from memfirst.models import decoder, delta_net
from memfirst.models.delta_net import Config
from memfirst.models.reader import ConfigReader

FAMILY = delta_net.family("qwen3next")


def read(r: ConfigReader) -> Config:
    """Heads of values lie key head by key head."""
    return delta_net.read(r, FAMILY, tiled=False, routed=True)


ARCHITECTURE = decoder.architecture("qwen3next", read, delta_net.build, delta_net.KEYS)
