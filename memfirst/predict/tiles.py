"""How many rows a step has: kernels read weights once for a tile of them, so a step is filled by whole tiles."""

from __future__ import annotations

from collections.abc import Callable

TILE = 8
"""Rows that one reading of a weight from cache serves: 9 rows take nearly what 16 do."""


def whole(rows: int) -> int:
    """Rows in whole tiles; fewer than one tile cost each their own."""
    return rows if rows < TILE else -(-rows // TILE) * TILE


SLACK = 1.25
"""Where a prompt's next token alone takes a step beyond its target, by a new tile, this much more fills the tile."""


def beside(seconds: Callable[[int], float], decoding: int, most: int, gap: float, each: float = 0.0) -> int:
    """Prompt tokens for a step with `decoding` rows, as many as keep it within `gap` times the rows alone: whole tiles
    with them, or part of the first; at least one, so that prompts go on, and `most` at most.

    seconds  of a step of so many rows
    each     seconds more that a prompt's token takes, for the positions before it
    """

    def takes(tokens: int) -> float:
        return seconds(decoding + tokens) + tokens * each

    target = max(gap * seconds(decoding), SLACK * seconds(decoding + 1))
    tokens = min(most, TILE - decoding % TILE)
    while tokens > 1 and takes(tokens) > target:
        tokens -= 1
    if (decoding + tokens) % TILE:
        return tokens
    if tokens < most < tokens + TILE and takes(most) <= target:
        return most
    while tokens + TILE <= most and takes(tokens + TILE) <= target:
        tokens += TILE
    return tokens
