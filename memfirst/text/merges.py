"""The merges of a vocabulary: as a list by priority, or derived from the scores of SentencePiece.

Both can name only the merges that build given tokens. A text can use no token that is not a part of it, so
encoding a short text needs some hundred merges of 500,000 (see `build.Encoder`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from memfirst.errors import TokenizerError

Pair = tuple[str, str]

MAX_PIECE_CHARS = 1 << 23
"""Characters of all SentencePiece tokens together: each is one place to split a token at (0.2 us)."""


class Merges(Protocol):
    """The merges of a vocabulary, in order of priority."""

    def every(self) -> list[Pair]:
        """Return all of them."""

    def building(self, tokens: Iterable[str]) -> list[Pair]:
        """Return those whose result is one of the tokens."""


class ListedMerges:
    """Merges that the file lists; TokenizerError if one of them names a token that does not exist.

    Args:
        merges: Two tokens with `gap` between, in order of priority.
        ids: The vocabulary.
        controls: Tokens that no merge may build: text must never become one unasked.
        gap: A character that no token holds.
    """

    def __init__(self, merges: Sequence[str], ids: Mapping[str, int], controls: frozenset[str], gap: str = " ") -> None:
        _check(merges, ids, gap)
        self._merges, self._controls, self._gap = merges, controls, gap

    def every(self) -> list[Pair]:
        """Return all of them, but those that build a control token."""
        banned = {*self._splits(self._controls)} & self._ranks.keys()
        return [self._pair(merge) for merge in self._merges if merge not in banned]

    def building(self, tokens: Iterable[str]) -> list[Pair]:
        """Return those whose result is one of the tokens."""
        ranks = self._ranks
        splits = self._splits(token for token in tokens if token not in self._controls)
        return [self._pair(self._merges[rank]) for rank in sorted(ranks[split] for split in splits if split in ranks)]

    def _splits(self, tokens: Iterable[str]) -> Iterator[str]:
        return (token[:i] + self._gap + token[i:] for token in tokens for i in range(1, len(token)))

    def _pair(self, merge: str) -> Pair:
        left, _, right = merge.partition(self._gap)
        return left, right

    @cached_property
    def _ranks(self) -> dict[str, int]:
        return dict(zip(self._merges, range(len(self._merges)), strict=True))


class ScoredMerges:
    """SentencePiece merges the neighbours whose union has the highest score: the same as merges by rank.

    Every way to build a token from two others, best score first, of equal scores the lower id. Of one token's
    splits that with the longest left part comes first: SentencePiece merges from the left.

    Args:
        tokens: Texts by id.
        ids: Text to id.
        scores: f32 by id.
        fixed: Tokens that no merge builds: control, unknown and byte tokens.
    """

    def __init__(
        self, tokens: list[str], ids: Mapping[str, int], scores: NDArray[np.float32], fixed: frozenset[str]
    ) -> None:
        if sum(map(len, tokens)) > MAX_PIECE_CHARS:
            found = "a SentencePiece vocabulary too large to derive its merges"
            raise TokenizerError(found, f"at most {MAX_PIECE_CHARS} characters")
        self._tokens, self._ids, self._scores, self._fixed = tokens, ids, scores, fixed

    def every(self) -> list[Pair]:
        """Return all of them: 515,000 for 262,144 tokens, in 0.7 s."""
        return self._splits(self._tokens[id] for id in np.argsort(-self._scores, kind="stable").tolist())

    def building(self, tokens: Iterable[str]) -> list[Pair]:
        """Return those whose result is one of the tokens."""
        ids = np.sort(np.array([self._ids[token] for token in tokens], np.int64))
        return self._splits(self._tokens[id] for id in ids[np.argsort(-self._scores[ids], kind="stable")].tolist())

    def _splits(self, tokens: Iterable[str]) -> list[Pair]:
        ids, fixed, merges = self._ids, self._fixed, list[Pair]()
        for token in tokens:
            if token not in fixed:
                splits = ((token[:i], token[i:]) for i in range(len(token) - 1, 0, -1))
                merges += [pair for pair in splits if pair[0] in ids and pair[1] in ids]
        return merges


def gap_for(tokens: Iterable[str]) -> str:
    """Choose a character to put between two tokens, which none of them holds."""
    text = "".join(tokens)
    for gap in " \ufdd0\ufdd1\ufdd2":  # spaces are spelled in all vocabularies but strange ones; the others are no text
        if gap not in text:
            return gap
    raise TokenizerError("tokens that hold Unicode's noncharacters", "text")


def _check(merges: Sequence[str], ids: Mapping[str, int], gap: str) -> None:
    """Check that each is two tokens whose union is one; all at once: 40 ms for 200,000."""
    if not merges:
        return
    text = "\n".join(merges)
    end = "\n"
    if text.count(end) != len(merges) - 1:  # merges of line breaks, as Gemma has them
        end = "\ufdd3"
        text = end.join(merges)
    results, parts = text.replace(gap, "").split(end), text.replace(gap, end).split(end)
    if len(results) != len(merges) or len(parts) != 2 * len(merges) or not all(gap in merge for merge in merges):
        raise TokenizerError("a merge that is not two tokens with a space between", '"left right"')
    # Most vocabularies list what merges build in the order of the merges: comparing them hashes no string.
    at = ids.get(results[0], 0)
    built = [*ids][at : at + len(results)] == results or {*results} <= ids.keys()
    if not built or not {*parts} <= ids.keys():
        unknown = min(({*parts} | {*results}) - ids.keys())
        raise TokenizerError(f"a merge of {unknown[:40]!r}, which is no token", "merges of the vocabulary")
