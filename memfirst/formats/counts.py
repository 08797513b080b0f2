"""Counts of config.json that decide how a tensor's rows lie."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from memfirst.errors import ConfigError


def head_count(config: Mapping[str, Any], key: str) -> int:
    """A positive integer of config.json; ConfigError otherwise."""
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 1 << 16:
        raise ConfigError(f"{key} is {value!r}", "a positive integer in config.json")
    return value
