"""Control tokens in a text: where they are found, and what they look like."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple


class Added(NamedTuple):
    """A token that is matched in the text before it is split into words; control tokens only on request."""

    text: str
    id: int
    control: bool
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False

    @property
    def plain(self) -> bool:
        """True if it is matched exactly where its text is, and takes no neighbours."""
        return not (self.single_word or self.lstrip or self.rstrip or self.normalized)


class ControlTokens:
    """Splits a text at its control tokens: the leftmost first, of several at one place the longest.

    One dictionary look-up per length that starts with the character found, so thousands of control tokens
    (Gemma 3 has 6,249) cost nothing while the text has none of their first characters.
    """

    def __init__(self, tokens: Iterable[Added]) -> None:
        self._tokens = {token.text: token for token in tokens}
        lengths: dict[str, set[int]] = {}
        for text in self._tokens:
            lengths.setdefault(text[0], set()).add(len(text))
        self._lengths = {first: sorted(found, reverse=True) for first, found in lengths.items()}
        self._first = re.compile(f"[{''.join(map(re.escape, lengths))}]" if lengths else r"(?!)")

    def split(self, text: str, literal: bytes = b"") -> list[str | int]:
        """Return texts and ids in order. A token with a character marked in `literal` (one byte each) stays text."""
        parts: list[str | int] = []
        at = 0
        for start, end, token in self._matches(text, literal):
            parts += [text[at:start], token.id]
            at = end
        return [part for part in [*parts, text[at:]] if part != ""]

    def _matches(self, text: str, literal: bytes) -> Iterator[tuple[int, int, Added]]:
        """Yield (start, end, token), with the white space that the token takes on either side."""
        at, found = 0, self._first.search(text)
        while found:
            start = found.start()
            token = self._token_at(text, start, literal)
            if token is None:
                found = self._first.search(text, start + 1)
                continue
            end = start + len(token.text)
            left = at + len(text[at:start].rstrip()) if token.lstrip else start
            at = _SPACES.match(text, end).end() if token.rstrip else end  # type: ignore[union-attr]
            yield left, at, token
            found = self._first.search(text, at)

    def _token_at(self, text: str, start: int, literal: bytes) -> Added | None:
        for length in self._lengths[text[start]]:
            end = start + length
            token = self._tokens.get(text[start:end])
            if token is None or 1 in literal[start:end]:
                continue
            if not (token.single_word and (_is_word(text[start - 1 : start]) or _is_word(text[end : end + 1]))):
                return token
        return None


_SPACES = re.compile(r"\s*")


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"
