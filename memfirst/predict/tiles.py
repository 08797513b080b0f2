"""How many rows a step has: kernels read weights once for a tile of them, so a step is filled by whole tiles."""

from __future__ import annotations

from collections.abc import Callable

TILE = 8
"""Rows that one reading of a weight from cache serves: 9 rows take nearly what 16 do."""


def whole(rows: int) -> int:
    """Rows in whole tiles; fewer than one tile cost each their own."""
    return rows if rows < TILE else -(-rows // TILE) * TILE


def beside(seconds: Callable[[int], float], decoding: int, most: int, gap: float) -> int:
    """Prompt tokens for a step with `decoding` rows: whole tiles with them, as many as keep the step within `gap` times
    that of the rows alone; at least one tile, so that prompts go on, and `most` at most.

    seconds  of a step of so many rows
    """
    target = gap * seconds(decoding)
    rows = whole(decoding + TILE)
    while rows + TILE <= decoding + most and seconds(rows + TILE) <= target:
        rows += TILE
    return min(most, rows - decoding)
