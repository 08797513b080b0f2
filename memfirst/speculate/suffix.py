"""What followed the longest earlier occurrence of a text's end, found as the text grows.

A suffix automaton has a state for each set of places where substrings end (Blumer et al., "The smallest automaton
recognizing the subwords of a text", 1985). The link of the state of the whole text is the longest suffix that ended
somewhere before, so no search is needed: a token takes 2 to 4 µs whatever the length of the text.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable

MOST = 1 << 16
"""Tokens that are remembered: about 10 MB. Then the text begins again."""

LEVELS = 32
"""Shorter suffixes whose latest place is kept up to date: all of them, but in a text that repeats itself many times
over, where every place is followed alike."""

NONE = -1
"""No token, no state."""


class SuffixAutomaton:
    """A text of token ids.

    most  tokens to remember before it begins again
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._begin()

    def _begin(self) -> None:
        self.ids = array("i")
        self.match, self._at = 0, 0
        # By state, the root first: a state's length, its link, where it ended last before this token.
        self._length, self._link, self._end = array("i", [0]), array("i", [NONE]), array("i", [0])
        # Most states have one transition: its token and target; those with more have them in `_more`.
        self._id, self._to = array("i", [NONE]), array("i", [NONE])
        self._more: dict[int, dict[int, int]] = {}
        self._whole = 0

    def __len__(self) -> int:
        """Tokens so far."""
        return len(self.ids)

    def extend(self, ids: Iterable[int]) -> None:
        """The text goes on with these tokens."""
        for id in ids:
            self.push(id)

    def push(self, id: int) -> None:
        """The text goes on with this token: `match` is then the length of the longest suffix that ended before."""
        if len(self.ids) >= self._most:
            self._begin()
        self.ids.append(id)
        length, link, end = self._length, self._link, self._end
        here, state = len(self.ids), self._new(len(self.ids), 0)
        p = self._whole
        while p >= 0 and (q := self._next(p, id)) < 0:
            self._go(p, id, state)
            p = link[p]
        if p >= 0:
            link[state] = q if length[q] == length[p] + 1 else self._split(p, q, id)
        self._whole = state
        found = link[state]
        self.match, self._at = length[found], end[found]
        end[state] = here
        for _ in range(LEVELS):
            if found <= 0:
                break
            end[found] = here
            found = link[found]

    def draft(self, most: int) -> list[int]:
        """Up to `most` tokens that may come next: those that followed where the longest suffix ended last. What it
        would take from behind the end, it takes from itself: a text that repeats itself goes on doing so."""
        if not self.match:
            return []
        found = self.ids[self._at : self._at + most].tolist()
        while len(found) < most:
            found += found[: most - len(found)]
        return found

    def _new(self, length: int, link: int) -> int:
        self._length.append(length)
        self._link.append(link)
        self._end.append(0)
        self._id.append(NONE)
        self._to.append(NONE)
        return len(self._length) - 1

    def _next(self, state: int, id: int) -> int:
        """The state behind a token; -1 where there is none."""
        if self._id[state] == id:
            return self._to[state]
        more = self._more.get(state)
        return more.get(id, -1) if more else -1

    def _go(self, state: int, id: int, to: int) -> None:
        if self._id[state] in (id, NONE):
            self._id[state], self._to[state] = id, to
        else:
            self._more.setdefault(state, {})[id] = to

    def _split(self, p: int, q: int, id: int) -> int:
        """A state for those substrings of `q` that end in more places now."""
        clone = self._new(self._length[p] + 1, self._link[q])
        self._id[clone], self._to[clone], self._end[clone] = self._id[q], self._to[q], self._end[q]
        if q in self._more:
            self._more[clone] = dict(self._more[q])
        while p >= 0 and self._next(p, id) == q:
            self._go(p, id, clone)
            p = self._link[p]
        self._link[q] = clone
        return clone
