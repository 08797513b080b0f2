"""What the first process tells the others, as integers: a step, a block to copy, how to set up, the end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from memfirst.graph import Sequence as Row
from memfirst.graph import Step
from memfirst.graph.traffic import EMBEDDING, EXPERTS, HEAD, KV_READ, KV_WRITE, STATE_READ, STATE_WRITE, WEIGHTS

Words = NDArray[np.int64]

SETUP, STEP, COPY, WARM, END = range(5)
"""The first word of a message."""
NONE = -1
"""The length of what is not there."""


PURPOSES = (EMBEDDING, WEIGHTS, HEAD, EXPERTS, KV_READ, KV_WRITE, STATE_READ, STATE_WRITE)
"""Purposes of bytes that kernels count, in the order in which processes tell each other of them."""


def no_bytes() -> Words:
    """None read for any purpose."""
    return np.zeros(len(PURPOSES), np.int64)


def of_bytes(read: Mapping[str, int]) -> Words:
    """Bytes by purpose."""
    return np.array([read.get(purpose, 0) for purpose in PURPOSES], np.int64)


def bytes_of(numbers: Words) -> dict[str, int]:
    """The same from what was told."""
    return dict(zip(PURPOSES, numbers.tolist(), strict=True))


def of_step(step: Step, tokens: Sequence[int] | NDArray[np.int32]) -> Words:
    """A step of `tokens`."""
    return _words(STEP, len(tokens), tokens, len(step.sequences), *map(_of_sequence, step.sequences))


def _of_sequence(s: Row) -> Words:
    lists = (s.positions, s.parents, s.logits)
    known = chain.from_iterable((NONE,) if given is None else (len(given), *given) for given in lists)
    tables = chain.from_iterable((len(table), *table) for table in s.tables)
    return _words(s.past, s.new, s.state_read, s.state_write, list(known), len(s.tables), list(tables))


def to_step(words: Words) -> tuple[Step, NDArray[np.int32]]:
    """The step of a message, and its tokens."""
    reader = _Reader(words.tolist())
    reader.one()
    tokens = np.array(reader.some(reader.one()), np.int32)
    return Step(tuple(reader.sequence() for _ in range(reader.one()))), tokens


class _Reader:
    """Takes words one after another."""

    def __init__(self, words: list[int]) -> None:
        self._words, self._at = words, 0

    def one(self) -> int:
        """The next word."""
        self._at += 1
        return self._words[self._at - 1]

    def some(self, n: int) -> tuple[int, ...]:
        """The next n words."""
        self._at += n
        return tuple(self._words[self._at - n : self._at])

    def maybe(self) -> tuple[int, ...] | None:
        """As many words as the next one says; None for `NONE`."""
        n = self.one()
        return None if n == NONE else self.some(n)

    def sequence(self) -> Row:
        """A sequence of the step."""
        past, new, read, write = self.some(4)
        positions, parents, logits = self.maybe(), self.maybe(), self.maybe()
        tables = tuple(self.some(self.one()) for _ in range(self.one()))
        return Row(past, new, tables, positions, parents, logits, read, write)


def _words(*parts: int | Iterable[int] | Words) -> Words:
    """Numbers one after another."""
    flat = [np.atleast_1d(np.asarray(part, np.int64)) for part in parts]
    return np.concatenate(flat)


def of(kind: int, *numbers: int) -> Words:
    """Another message."""
    return np.array([kind, *numbers], np.int64)
