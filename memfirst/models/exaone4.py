"""EXAONE 4 has OLMo 2's layers with a norm on each head of q and k; of the 32B three of four layers have a window, and
only these rotate (arXiv:2507.11407).
"""

from __future__ import annotations

from memfirst.models import decoder, olmo2, windows
from memfirst.models.builder import HEAD
from memfirst.models.decoder import Config, Family
from memfirst.models.reader import ConfigReader

FAMILY = Family("exaone4", windows.by_period(4, optional=True), eps=("rms_norm_eps", 1e-5))


def read(r: ConfigReader) -> Config:
    """Windows (the 1.2B: none), and where heads are rotated."""
    return decoder.rotated_only_in_windows(decoder.read(r, FAMILY).attention(qk_norm=HEAD))


ARCHITECTURE = decoder.architecture("exaone4", read, olmo2.build)
