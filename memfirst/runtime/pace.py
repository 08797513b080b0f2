"""How long steps take, learned from the steps themselves: what lets a prompt use the time that others can spare.

A step reads its weights once for each tile of eight rows, so its time grows by tiles: 9 rows cost nearly what 16 do.
Tokens far behind in a prompt attend to all before them: at 4,000 positions that is more than the rest of a step.

What is compared is a step with tokens of prompts and one without. Both are kept as on the machine at its usual speed,
and beside them how much slower it is now: neighbours that come between the two measurements change neither.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence

from memfirst.predict import tiles
from memfirst.predict.tiles import whole

PROMPT_CHUNK = 64
"""Tokens of prompts in a step that also decodes, where no time is kept: who is being answered waits no longer."""

SLOWS = 0.25
"""Exponent with which the newest step counts in how slow the machine is now."""

SLOWS_DEEP = SLOWS / 4
"""The same of a step with tokens far behind in a prompt, which may just have been priced wrong."""

LEAST = 0.03
"""Weight of the newest step in what its size takes, once it was seen 1 / LEAST times: contexts grow."""

SPIKE = 2.0
"""A step that takes more than so many times what was expected says more of the machine than of such steps."""

SHALLOW = 256
"""Positions before a prompt's tokens up to which they are as those at its beginning."""

FADES = 0.9
"""What is left of a step's weight in what positions cost, after the next one of its size."""

ATTENDED = 4
"""Tokens that attention reads keys for together, at least: a few more take nearly as long."""

UNCOMPARED = 7
"""Steps with tokens far behind in a prompt until one without any: how slow the machine is now can be told from it."""

UNEXPECTED = 1.5
"""A step with such tokens that takes so many times what was expected, or is so much faster, has one follow at once."""


GROWS = 1.5
"""Steps beside which others decode get larger by so much at most, where the last ones took what was expected: what was
measured of a size long ago, or never, costs those others one such step and not one of 256 rows."""


class Curve:
    """Sums of seconds and of units by size; in between by straight lines."""

    def __init__(self) -> None:
        self._sizes: list[int] = []
        self._sums: dict[int, tuple[float, float]] = {}

    def __bool__(self) -> bool:
        return bool(self._sizes)

    @property
    def largest(self) -> int:
        """The largest size that was measured."""
        return self._sizes[-1]

    def knows(self, size: int) -> bool:
        """Whether such a size was measured."""
        return size in self._sums

    def add(self, size: int, seconds: float, units: float, fades: float) -> None:
        """A measurement; the earlier ones of the size keep `fades` of their weight."""
        if size not in self._sums:
            self._sizes.insert(bisect_left(self._sizes, size), size)
        before = self._sums.get(size, (0.0, 0.0))
        self._sums[size] = fades * before[0] + seconds, fades * before[1] + units

    def scale(self, by: float, but: int) -> None:
        """All sizes `but` one take so many times as long."""
        scaled = {size: (by * seconds, units) for size, (seconds, units) in self._sums.items()}
        self._sums = scaled | {but: self._sums[but]}

    def at(self, size: int) -> float:
        """Seconds of a unit; 0 before any was measured."""
        sizes = self._sizes
        if not sizes:
            return 0.0
        at = bisect_left(sizes, size)
        if at < len(sizes) and sizes[at] == size:
            return self._known(size)
        if len(sizes) == 1 or at == 0:  # no slope is known: in proportion at most
            return self._known(sizes[0]) * max(1.0, size / sizes[0])
        low, high = sizes[at - 1 : at + 1] if at < len(sizes) else sizes[-2:]
        slope = (self._known(high) - self._known(low)) / (high - low)
        return self._known(low) + max(0.0, slope) * (size - low)

    def most(self, size: int) -> float:
        """What an unknown size takes at most: in proportion to the next smaller one, which reads as many weights for
        each row as it or more; 0 where none is known."""
        smaller = self._sizes[: bisect_left(self._sizes, size)]
        return self._known(smaller[-1]) * size / smaller[-1] if smaller else 0.0

    def _known(self, size: int) -> float:
        seconds, units = self._sums[size]
        return max(0.0, seconds / units)


class Geometric(Curve):
    """Means of logarithms, as how slow the machine is changes by factors. Means of seconds, which spikes raise more,
    went away from it: after 1,500 steps on a busy machine that was taken for six times as fast, with steps six times
    as long, and sizes that had not come meanwhile for six times too short."""

    def add(self, size: int, seconds: float, units: float, fades: float) -> None:
        """As of `Curve`."""
        super().add(size, math.log(max(seconds, 1e-9)), units, fades)

    def _known(self, size: int) -> float:
        total, units = self._sums[size]
        return math.exp(total / units)


class Pace:
    """Seconds of a step by its rows, and what the positions before a prompt's tokens add."""

    def __init__(self) -> None:
        self._rows, self._positions = Geometric(), Curve()
        self._slow = 1.0
        """How many times as long as `_rows` and `_positions` say steps take now."""
        self._uncompared = self._without = 0
        self.reached = 0
        """Rows of the largest step that prompts had beside others since they came, if it took what was expected."""

    def record(self, rows: int, seconds: float, prompts: Sequence[tuple[int, int]] = ()) -> None:
        """A step of so many rows is done; of each prompt in it how many tokens after how many others."""
        self._reach(rows, seconds, prompts)
        deep = [(tokens, past) for tokens, past in prompts if past > SHALLOW]
        if deep:
            self._record_deep(rows, seconds, deep)
            return
        self._uncompared, size = 0, whole(rows)
        most = self._slow * (SPIKE * self._rows.at(size) if self._rows.knows(size) else self._rows.most(size))
        expected = self.seconds(rows) if self._rows.knows(size) else min(seconds, most)
        took = min(seconds, most) if most else seconds
        took = max(took, expected / SPIKE)
        self._rows.add(size, took / self._slow, 1.0, 1.0 - LEAST)
        if expected:
            self._slow *= min(SPIKE, max(1 / SPIKE, seconds / expected)) ** SLOWS

    def _reach(self, rows: int, seconds: float, prompts: Sequence[tuple[int, int]]) -> None:
        """How large steps beside others have been; none is known any more once prompts are away."""
        self._without = 0 if prompts else self._without + 1
        if self._without > UNCOMPARED:
            self.reached = 0
        if not prompts or rows <= max(self.reached, sum(tokens for tokens, _ in prompts)):
            return
        expected = self.seconds(rows) + sum(self.deep(*one) for one in prompts)
        if seconds <= UNEXPECTED * expected or not self.reached:
            self.reached = rows

    def _record_deep(self, rows: int, seconds: float, deep: Sequence[tuple[int, int]]) -> None:
        rows_size, alone = whole(rows), self.seconds(rows)
        expected = alone + sum(self.deep(*one) for one in deep)
        known = all(self._positions.knows(_attended(tokens)) for tokens, _ in deep)
        unexpected = known and not expected / UNEXPECTED < seconds < expected * UNEXPECTED
        self._uncompared = UNCOMPARED if unexpected else self._uncompared + 1
        if len(deep) > 1:
            return  # whose it is cannot be told
        tokens, past = deep[0]
        seconds = min(seconds, SPIKE * expected) if known else seconds
        size = _attended(tokens)
        before = self._positions.at(size) if known else 0.0
        self._positions.add(size, (seconds - alone) / self._slow, past, FADES)
        if before and (after := self._positions.at(size)):
            self._positions.scale(after / before, size)  # others would stay dear, and not be tried again
        if known and expected and self._rows.knows(rows_size):  # its part of what was not expected
            self._rows.add(rows_size, alone * seconds / expected / self._slow, 1.0, 1.0 - LEAST)
            self._slow *= max(1 / SPIKE, seconds / expected) ** SLOWS_DEEP

    def seconds(self, rows: int) -> float:
        """Of a step of so many rows; 0 before any was measured."""
        return self._slow * self._rows.at(whole(rows))

    def deep(self, tokens: int, past: int) -> float:
        """Seconds that so many tokens of a prompt add to a step because `past` others are before them."""
        return self._slow * self._positions.at(_attended(tokens)) * past if past > SHALLOW and tokens else 0.0

    def knows_deep(self, past: int) -> bool:
        """Whether it was measured what tokens after so many others add."""
        return past <= SHALLOW or bool(self._positions)

    def largest(self, rows: int) -> int:
        """Rows that a step with `rows` of others may have: the tile that the next one is in, or somewhat more than the
        largest lately."""
        return max(whole(max(rows + 1, tiles.TILE)), whole(int(GROWS * self.reached)))

    @property
    def compares(self) -> bool:
        """Whether the next step had better have no tokens of prompts."""
        return self._uncompared >= UNCOMPARED

    @property
    def token(self) -> float:
        """Seconds of a prompt's token in the largest step that was measured."""
        return self._slow * self._rows.at(self._rows.largest) / self._rows.largest if self._rows else 0.0


class Filling:
    """Tokens of prompts for a step: all that it has room for, beside others as many as these can spare the time for."""

    def __init__(self, pace: Pace, decoding: int, left: int, gap: float | None) -> None:
        """A step that has `decoding` rows of others, and room for `left` tokens.

        gap  how many times as long as without them prompts may make it; None: they have `PROMPT_CHUNK` tokens
        """
        self._pace, self._decoding, self._rows, self._deep = pace, decoding, decoding, 0.0
        self._timed = gap is not None and decoding > 0
        self.left = left if self._timed or not decoding else min(left, PROMPT_CHUNK)
        """Tokens that there is room for."""
        self.target = tiles.allowed(pace.seconds, decoding, gap) if gap is not None and decoding else 0.0
        """Seconds that it may take, unless the first token of a prompt alone makes it longer."""

    def room(self, past: int) -> int:
        """Tokens that a prompt may have after `past` others; at least one for the first prompt."""
        if not self._timed:
            return self.left
        first = self._rows == self._decoding
        most = self.left if self._pace.knows_deep(past) else min(self.left, tiles.TILE - self._rows % tiles.TILE)
        most = min(most, max(0, self._pace.largest(self._decoding) - self._rows))
        found = tiles.beside(lambda tokens: self.seconds(tokens, past), self._rows, most, self.target, int(first))
        if not found:
            self.left = 0
        return found

    def seconds(self, tokens: int, past: int) -> float:
        """That the step is predicted to take with so many tokens more of a prompt, after `past` others."""
        return self._pace.seconds(self._rows + tokens) + self._deep + self._pace.deep(tokens, past)

    def take(self, tokens: int, past: int) -> None:
        """A prompt has so many of them."""
        self._deep += self._pace.deep(tokens, past)
        self._rows += tokens
        self.left -= tokens


def _attended(tokens: int) -> int:
    return tokens if tokens == 1 else -(-tokens // ATTENDED) * ATTENDED
