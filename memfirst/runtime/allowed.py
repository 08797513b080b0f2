"""The tokens that may come next, a bit each, where not all may."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from memfirst.codecs.base import ROWS

FEW = 8
"""Up to vocabulary / FEW tokens are looked at one by one; of more, the others are excluded in a copy of the logits.
Grammars allow either a few dozen or nearly all, so the limit itself hardly matters."""


class Allowed:
    """A set of token ids of a vocabulary.

    bits  int32 [⌈vocab / 32⌉]: token i is bit i % 32 of word i / 32; none beyond the vocabulary
    """

    def __init__(self, bits: NDArray[np.int32], vocab: int) -> None:
        self.bits, self.vocab = bits, vocab

    @classmethod
    def of(cls, ids: Iterable[int], vocab: int) -> Allowed:
        """Just these."""
        made = cls(np.zeros(-(-vocab // 32), np.int32), vocab)
        made.add(ids)
        return made

    def add(self, ids: Iterable[int]) -> None:
        """Allow these too; before anything is asked of the set."""
        words = self.bits.view(np.uint32)
        for id in ids:
            if 0 <= id < self.vocab:
                words[id >> 5] |= np.uint32(1 << (id & 31))

    @cached_property
    def count(self) -> int:
        """How many there are."""
        return int(np.bitwise_count(self.bits.view(np.uint32)).sum())

    @cached_property
    def ids(self) -> NDArray[np.int64]:
        """All of them, ascending."""
        words = np.flatnonzero(self.bits)
        rows, lanes = np.nonzero(np.unpackbits(self.bits[words].view(np.uint8), bitorder="little").reshape(-1, 32))
        return words[rows] * 32 + lanes

    @cached_property
    def tiles(self) -> frozenset[int]:
        """Tiles of 16 rows of the output head with all of them."""
        return frozenset((self.ids // ROWS).tolist())

    @property
    def are_few(self) -> bool:
        """Whether they are looked at one by one."""
        return self.count * FEW <= self.vocab

    def within(self, ids: frozenset[int]) -> bool:
        """Whether there is no other token than these."""
        return self.count <= len(ids) and ids.issuperset(self.ids.tolist())

    @property
    def only(self) -> int | None:
        """The token, where there is no choice."""
        return int(self.ids[0]) if self.count == 1 else None

    def __contains__(self, id: int) -> bool:
        return 0 <= id < self.vocab and bool(self.bits[id >> 5] >> (id & 31) & 1)
