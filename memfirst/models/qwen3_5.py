"""Qwen3.5 and 3.6, dense: Qwen3-Next's layers with a plain feed-forward.

In GGUF, heads of values lie so that neighbours have neighbouring key heads; folders are read in that order. Of a model
with a tower for images only the text model is built and priced.
"""

from __future__ import annotations

from memfirst.models import decoder, delta_net
from memfirst.models.delta_net import Config
from memfirst.models.reader import ConfigReader

FAMILY = delta_net.family("qwen35")


def read(r: ConfigReader) -> Config:
    """No experts."""
    return delta_net.read(r, FAMILY, tiled=True, routed=False)


ARCHITECTURE = decoder.architecture("qwen35", read, delta_net.build, delta_net.KEYS)
