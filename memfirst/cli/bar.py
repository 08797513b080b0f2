"""Where a token's bytes go, as a bar of text: weights | experts | head | KV | state | draft."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TextIO

from memfirst.cli.display import size
from memfirst.cli.streams import can_show
from memfirst.cli.wrap import packed
from memfirst.graph.traffic import SHORT_NAMES, STREAMED

CELLS = 32
"""With what it says of three purposes a line of 80 columns."""

BLOCKS = "█▓▒░▚▞"
LETTERS = "WXHKSD"
"""Where an encoding has no blocks."""


def bar(
    read: Mapping[str, float],
    most: int = 0,
    stream: TextIO | None = None,
    sizes: bool = False,
    more: Sequence[str] = (),
) -> list[str]:
    """A cell for each 1/32 of the bytes, and its key: each purpose and its share, with `sizes` its bytes too.

    On one line if that has at most `most` characters (0: any length), else the key follows in lines of its own, broken
    between purposes. No lines where nothing is read. `read` is bytes by purpose; what is less than 1/200 of those
    from memory is left out. `more`: entries of the key without cells.
    """
    glyphs = BLOCKS if can_show(BLOCKS, stream or sys.stdout) else LETTERS
    drawn = dict(zip(SHORT_NAMES, glyphs, strict=True))
    total = sum(n for purpose, n in read.items() if purpose in STREAMED)
    shares = {purpose: read.get(purpose, 0) / total for purpose in SHORT_NAMES} if total else {}
    shown = {purpose: share for purpose, share in shares.items() if share >= 0.005}
    if not shown:
        return []
    cells = _cells(list(shown.values()))
    line = "".join(drawn[purpose] * n for purpose, n in zip(shown, cells, strict=True))
    key = [
        f"{drawn[p]} {SHORT_NAMES[p]} {f'{size(read[p])}, ' if sizes else ''}{100 * share:.0f} %"
        for p, share in shown.items()
    ]
    key += more
    together = f"{line}  {' · '.join(key)}"
    return [together] if not most or len(together) <= most else [line, *packed(key, most)]


def _cells(shares: list[float]) -> list[int]:
    """Cells of each share, at least one: those that are over or missing are of the largest."""
    found = [max(1, round(CELLS * share)) for share in shares]
    if found:
        found[found.index(max(found))] += CELLS - sum(found)
    return found
