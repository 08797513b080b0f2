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


def allowed(seconds: Callable[[int], float], decoding: int, gap: float) -> float:
    """Seconds that a step with `decoding` rows may take with tokens of prompts beside them: `gap` times the rows alone.

    seconds  of a step of so many rows
    """
    return max(gap * seconds(decoding), SLACK * seconds(decoding + 1))


def beside(takes: Callable[[int], float], rows: int, most: int, target: float, least: int = 1) -> int:
    """A prompt's tokens for a step that has `rows` others, as many as keep it within `target` seconds: whole tiles with
    them, or part of the first; at least `least`, so that prompts go on, and `most` at most.

    takes  seconds of the step with so many tokens more, not fewer for more
    """
    tokens = min(most, TILE - rows % TILE)
    while tokens > least and takes(tokens) > target:
        tokens -= 1
    if (rows + tokens) % TILE or tokens == 0:
        return tokens
    if tokens < most < tokens + TILE and takes(most) <= target:
        return most
    while tokens + TILE <= most and takes(tokens + TILE) <= target:
        tokens += TILE
    return tokens
