"""The compiled pass over the logits, as the sampler calls it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from memfirst.codecs.base import F32
from memfirst.errors import BackendError
from memfirst.kernels.cpu import arena
from memfirst.kernels.cpu.sources import Key
from memfirst.kernels.cpu.thread_pool import Native, bits

KEY: Key = ("topk.topk", ())
MASSES: Key = ("topk.masses", ())
MASKED: Key = ("topk.masked", ())
COMPILED = [KEY, MASSES, MASKED]
"""What a `TopK` is made of, in this order."""
PART = 1024
"""Values whose mass is summed up together."""
# Words of the record that change: the arrays' addresses and lengths, then vocab, count, k and the penalty.
LOGITS, SEEN, KEPT, IDS, VALUES, VOCAB, COUNT, K, PENALTY, WORDS = 0, 2, 4, 6, 8, 10, 11, 12, 13, 14

ARRAYS = 64
"""Arrays whose address is remembered."""


class TopK:
    """The `Top` of one sampler: its record is kept, and only what changed is written anew."""

    most, part = 256, PART

    def __init__(self, call: Native, masses: Native, masked: Native) -> None:
        self._call, self._masses_call, self._masked_call = call, masses, masked
        self._sums: NDArray[np.float32] = arena.array("f32", 0)
        self._asked_masses = np.zeros(6, np.int64)
        self._record = np.zeros(WORDS, np.int64)
        self._args = self._record.ctypes.data
        self._ids, self._values = arena.array("i32", self.most + 1), arena.array("f32", self.most + 1)
        self._id_words: Any = self._ids.data
        self._value_words: Any = self._values.data
        self._seen: NDArray[np.int32] | None = None
        self._kept: NDArray[np.float32] = arena.array("f32", 0)
        self._logits: F32 | None = None
        self._places: dict[int, tuple[F32, int, int]] = {}
        self._asked = 0, 0.0
        self._words = self._record.data  # a word is written with less code than through NumPy
        self._point(IDS, self._ids)
        self._point(VALUES, self._values)

    def __call__(
        self, logits: F32, seen: NDArray[np.int32], count: int, k: int, penalty: float
    ) -> tuple[list[int], list[float], int]:
        """As `backends.base.Top` says; BackendError for more than there is room for."""
        if not 0 < k <= self.most or not 0 <= count <= len(seen):
            raise BackendError(f"the {k} largest after {count} tokens", f"up to {self.most} after {len(seen)}")
        if seen is not self._seen:
            self._seen, self._kept = seen, arena.array("f32", len(seen))
            self._point(SEEN, seen)
            self._point(KEPT, self._kept)
        if logits is not self._logits:
            self._logits = logits
            _, address, size = self._places.get(id(logits)) or self._place(logits)
            self._words[LOGITS], self._words[LOGITS + 1], self._words[VOCAB] = address, size, size
        if (k, penalty) != self._asked:
            self._asked = k, penalty
            self._record[K], self._record[PENALTY] = k, bits(float(penalty))
        self._words[COUNT] = count
        ties = self._call(self._args, 0, 0, 0)
        ids = self._id_words[: k + 1].tolist()
        held = ids.index(-1)
        return ids[:held], self._value_words[:held].tolist(), ties

    def masses(self, logits: F32, inverse: float) -> tuple[float, list[float]]:
        """As `backends.base.Top` says."""
        parts = -(-logits.size // PART)
        words = self._asked_masses
        if self._sums.size != parts + 1:
            self._sums = arena.array("f32", parts + 1)
            words[2:4] = self._sums.ctypes.data, self._sums.size
        _, address, size = self._places.get(id(logits)) or self._place(logits)
        words[0], words[1], words[4], words[5] = address, size, size, bits(inverse)
        self._masses_call(words.ctypes.data, 0, 0, 0)
        *sums, best = self._sums.tolist()
        return best, sums

    def masked(self, logits: F32, bits: NDArray[np.int32], out: F32) -> None:
        """As `backends.base.Top` says; BackendError for arrays of other sizes."""
        size = logits.size
        if out.size != size or bits.size * 32 < size:
            raise BackendError(f"{bits.size * 32} bits and room for {out.size}", f"enough for {size} logits")
        arrays = logits.ctypes.data, size, bits.ctypes.data, bits.size, out.ctypes.data, size
        words = np.array([*arrays, size], np.int64)
        self._masked_call(words.ctypes.data, 0, 0, 0)

    def _place(self, logits: F32) -> tuple[F32, int, int]:
        """Where an array is: a backend gives the same few again and again, and asking NumPy takes a microsecond."""
        if len(self._places) >= ARRAYS:
            self._places.clear()
        self._places[id(logits)] = found = logits, logits.ctypes.data, logits.size
        return found

    def _point(self, word: int, array: NDArray[Any]) -> None:
        self._record[word : word + 2] = array.ctypes.data, array.size
