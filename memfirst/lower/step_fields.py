"""The arrays that describe a step to the kernels: their names, and the places of the step's counts."""

from __future__ import annotations

SPLIT = 512
"""Positions that one unit of attention reads: fixed, so that sums do not depend on the workers."""

BLOCK = 64
"""Positions of a KV cache block that the kernels take."""

SCORES = SPLIT + 64
"""Floats of a query head's scores: a split, and room for one that starts inside a group of 16."""

ITEM_TOKENS = 8
"""Tokens of one sequence that an item of attention has at most."""

TILE_ROWS = 16
"""Queries of several tokens that attention computes at once, at most: heads over one of keys, times tokens."""


def tile_of(group: int, capacity: int) -> int:
    """Tokens that share each read of keys and values from cache, of steps of up to `capacity` tokens.

    1, 2 or 4 (or 8 of heads that have keys of their own), so that few kernels serve all steps.
    """
    most = min(capacity, ITEM_TOKENS, TILE_ROWS // group)
    return max((n for n in (1, 2, 4, 8) if n <= most), default=1)


def attention_scratch(group: int, k_dim: int) -> dict[str, tuple[str, int]]:
    """Kind and items of each worker's working memory for an attention with `group` query heads over one of keys."""
    queries, rows = ITEM_TOKENS * group, max(group, TILE_ROWS)
    blocks = queries * (k_dim // 32)
    return {
        "scores": ("f32", rows * SCORES),
        "floats": ("f32", blocks + rows * SCORES + 3 * k_dim),  # scales of queries, values' weights or sums, a rotation
        "ints": ("i32", blocks + rows * SCORES // 2),  # sums of queries, weights as pairs of int16
        "q8": ("i8", queries * k_dim),
    }


def latent_scratch(heads: int, rank: int, rope: int) -> dict[str, tuple[str, int]]:
    """The same for latent attention of `heads` query heads at once."""
    scales = BLOCK * ((rank + rope) // 32) + 16  # of a block's rows
    return {
        "scores": ("f32", SPLIT * heads + 96),  # padding to 64, and what a fold needs
        "floats": ("f32", scales + heads * rank),  # sums
    }


LIKELIEST = "likeliest"
_NAMES = ("tokens", "logits", "any_logits", "sequences", "head_tiles", LIKELIEST)
_ITEMS, _EXPERTS = "items", "experts"
_FIRST_GROUP, _FIRST_ROUTED = 8, 64

MAX_GROUPS = _FIRST_ROUTED - _FIRST_GROUP
"""Cache groups of a model at most: each has a count in the header."""

MAX_ROUTED = 512
"""Operations of routed experts of a model at most: each has a count of its own. One that several shared would change
while a worker that is late still looks at it."""

COUNTS = _FIRST_ROUTED + MAX_ROUTED
"""Words of the step's header; behind them the numbers of the output head's tiles that are computed, if not all are."""


def in_group(name: str, group: int) -> str:
    """The name of a cache group's own array or count."""
    return f"{name}.{group}"


def active_experts(index: int) -> str:
    """The name of the count of active experts of the graph's `index`th operation of routed experts: a kernel writes it
    (`experts.group`), for the phases behind its barrier."""
    return f"{_EXPERTS}.{index}"


def count_of(name: str) -> int:
    """The word of the step's header that holds a count: "tokens", "logits", "any_logits" (1 or 0), "sequences",
    "head_tiles" (how many of the output head's are computed; -1: all), "likeliest" (1 or 0: whether only the likeliest
    token is wanted), "items.G", the units of attention of cache group G, or "experts.N", see `active_experts`."""
    kind, _, number = name.partition(".")
    if not number:
        return _NAMES.index(name)
    return {_ITEMS: _FIRST_GROUP, _EXPERTS: _FIRST_ROUTED}[kind] + int(number)
