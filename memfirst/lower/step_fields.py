"""The arrays that describe a step to the kernels: their names, and the places of the step's counts."""

from __future__ import annotations

SPLIT = 512
"""Positions that one unit of attention reads: fixed, so that sums do not depend on the workers."""

BLOCK = 64
"""Positions of a KV cache block that the kernels take."""

SCORES = SPLIT + 64
"""Floats of a query head's scores: a split, and room for one that starts inside a group of 16."""


def attention_scratch(group: int, k_dim: int) -> dict[str, tuple[str, int]]:
    """Kind and items of each worker's working memory for an attention with `group` query heads over one of keys."""
    blocks = group * (k_dim // 32)
    return {
        "scores": ("f32", group * SCORES),
        "floats": (
            "f32",
            blocks + group * SCORES + 3 * k_dim,
        ),  # scales of queries, values' weights or sums, a rotation
        "ints": ("i32", blocks + group * SCORES // 2),  # sums of queries, weights as pairs of int16
        "q8": ("i8", group * k_dim),
    }


COUNTS = 64
"""Words of the step's header."""

_NAMES = ("tokens", "logits", "any_logits", "sequences")
_ITEMS = "items"
MAX_GROUPS = COUNTS - 8
"""Cache groups of a model at most: each has a count in the header."""


def in_group(name: str, group: int) -> str:
    """The name of a cache group's own array or count."""
    return f"{name}.{group}"


def count_of(name: str) -> int:
    """The word of the step's header that holds a count: "tokens", "logits", "any_logits" (1 or 0), "sequences", or
    "items.G", the units of attention of cache group G."""
    if name.startswith(f"{_ITEMS}."):
        return 8 + int(name.split(".")[1])
    return _NAMES.index(name)
