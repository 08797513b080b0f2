"""The arrays that describe a step to the kernels: their names, and the places of the step's counts."""

from __future__ import annotations

SPLIT = 512
"""Positions that one unit of attention reads: fixed, so that sums do not depend on the workers."""

COUNTS = 64
"""Words of the step's header."""

_NAMES = ("tokens", "logits", "any_logits", "sequences")
_ITEMS = "items"
MAX_GROUPS = COUNTS - 8


def in_group(name: str, group: int) -> str:
    """The name of a cache group's own array or count."""
    return f"{name}.{group}"


def count_of(name: str) -> int:
    """The word of the step's header that holds a count: "tokens", "logits", "any_logits" (1 or 0), "sequences", or
    "items.G", the units of attention of cache group G."""
    if name.startswith(f"{_ITEMS}."):
        return 8 + int(name.split(".")[1])
    return _NAMES.index(name)
