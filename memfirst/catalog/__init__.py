"""Models (and machines) as data: each row says where it comes from and how that is known."""

from __future__ import annotations

from pathlib import Path

DEFAULT_MODEL = "smollm2:135m"
"""What `memfirst run` uses when no model is named: 98 MB, and it can also be had as a wheel."""


def shipped(name: str) -> bytes:
    """A file of this folder. (importlib.resources loads a dozen modules, for archives among others.)"""
    return Path(__file__).with_name(name).read_bytes()
