"""Qwen3.5 and 3.6 with experts (35B-A3B, 122B-A10B, 397B-A17B): Qwen3.5 whose feed-forward is routed experts and a
shared one."""

from __future__ import annotations

from memfirst.models import decoder, delta_net
from memfirst.models.delta_net import Config
from memfirst.models.reader import ConfigReader

FAMILY = delta_net.family("qwen35moe")


def read(r: ConfigReader) -> Config:
    """Experts in every layer."""
    return delta_net.read(r, FAMILY, tiled=True, routed=True)


ARCHITECTURE = decoder.architecture("qwen35moe", read, delta_net.build, delta_net.KEYS)
