"""What interpreted kernels loaded and stored, byte by byte: the ledger's second source.

Memory that an interpreted kernel sees is a `Span`: it refuses indices out of bounds, negative ones too, and tells the
log of the backend which bytes were touched. A block is unpacked into registers, some of its bytes in several pieces, so
loads are counted by *visits*: a byte that is loaded again while the kernel is still at the same block counts once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import get_ident, local
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memfirst.codecs.base import ROWS

Owner = tuple[str, str] | None
"""(operation, purpose)."""

Block = Callable[[int], tuple[int, ...]]
"""The block that a byte of an array belongs to: its bytes are unpacked together, into registers."""


def by_rows(pack_bytes: int, block_bytes: int) -> Block:
    """Blocks of a packed matrix: the same columns of the 16 rows that the widest register takes."""
    register = 16 // ROWS * pack_bytes
    return lambda byte: (byte // register, byte % pack_bytes // block_bytes)


def by_line(byte: int) -> tuple[int, ...]:
    """Blocks of keys and values: 16 f16, one register."""
    return (byte // 32,)


@dataclass
class Touched:
    """Loads and stores of one array by one operation: how often each byte was loaded, and stored."""

    loads: NDArray[np.int32]
    stores: NDArray[np.int32]
    visit: NDArray[np.int64]
    at: tuple[int, ...] = ()
    visits: int = 0

    @classmethod
    def nothing(cls, nbytes: int) -> Touched:
        """An array of `nbytes`, untouched."""
        return cls(np.zeros(nbytes, np.int32), np.zeros(nbytes, np.int32), np.zeros(nbytes, np.int64))

    def load(self, offset: int, count: int, block: tuple[int, ...] | None) -> None:
        """`count` bytes from `offset` on, within `block`; without one, each load counts."""
        if block is None or block != self.at:
            self.visits += 1
            self.at = block or ()
        span = slice(offset, offset + count)
        self.loads[span] += self.visit[span] != self.visits
        self.visit[span] = self.visits


@dataclass
class Watched:
    """An array of interest: its place in memory, and how it is divided into blocks."""

    name: str
    address: int
    nbytes: int
    block: Block | None = None


@dataclass
class SpanLog:
    """Accesses to the watched arrays, by owner (what the running kernel works for) and array."""

    watched: list[Watched] = field(default_factory=list)
    _running: local = field(default_factory=local)  # each worker runs a kernel of its own
    _touched: dict[tuple[int, Owner, str], Touched] = field(default_factory=dict)

    @contextmanager
    def owned_by(self, owner: Owner) -> Iterator[None]:
        """What this thread touches meanwhile is for `owner`."""
        before = getattr(self._running, "owner", None)
        self._running.owner = owner
        try:
            yield
        finally:
            self._running.owner = before

    def watch(self, name: str, array: NDArray[Any], block: Block | None = None) -> None:
        """Log accesses to `array` (contiguous) under `name`."""
        self.watched.append(Watched(name, array.ctypes.data, array.nbytes, block))

    def find(self, address: int) -> Watched | None:
        """The watched array that lies at an address."""
        return next((w for w in self.watched if w.address <= address < w.address + w.nbytes), None)

    def of(self, array: Watched) -> Touched:
        """This thread's counts for what it works for."""
        key = get_ident(), getattr(self._running, "owner", None), array.name
        if key not in self._touched:
            self._touched[key] = Touched.nothing(array.nbytes)
        return self._touched[key]

    @property
    def touched(self) -> dict[tuple[Owner, str], Touched]:
        """Counts of all threads."""
        out: dict[tuple[Owner, str], Touched] = {}
        for (_, owner, array), counts in self._touched.items():
            place = out.setdefault((owner, array), Touched.nothing(len(counts.loads)))
            place.loads += counts.loads
            place.stores += counts.stores
        return out

    def clear(self) -> None:
        """Forget accesses; the arrays stay watched."""
        self._touched.clear()


class Span(np.ndarray):
    """Memory of an interpreted kernel: what `log` watches is logged, and no index leaves it."""

    log: SpanLog | None = None
    place: Watched | None = None
    start = 0
    """Where it begins in `place`, in bytes."""

    @classmethod
    def over(cls, array: NDArray[Any], log: SpanLog) -> Span:
        """`array`, with its accesses logged."""
        made: Span = array.view(cls)
        address = array.ctypes.data
        made.log, made.place = log, log.find(address)
        made.start = address - made.place.address if made.place else 0
        return made

    def _check(self, index: Any) -> None:
        if not 0 <= index < self.size:
            raise IndexError(f"index {index} of an array of {self.size}")

    def __getitem__(self, index: Any) -> Any:
        """One element: integers as Python's, so that they are as wide as compiled ones."""
        self._check(index)
        loaded(self, int(index) * self.itemsize, self.itemsize)
        return np.ndarray.item(self, index) if self.dtype.kind in "iu" else np.ndarray.__getitem__(self, index)

    def __setitem__(self, index: Any, value: Any) -> None:
        """One element."""
        self._check(index)
        stored(self, int(index) * self.itemsize, self.itemsize)
        np.ndarray.__setitem__(self, index, value)


def loaded(array: Any, offset: int, count: int) -> None:
    """`count` bytes at byte `offset` of `array` were read."""
    if isinstance(array, Span) and array.log is not None and array.place is not None:
        start = array.start + offset
        block = array.place.block
        array.log.of(array.place).load(start, count, block and block(start))


def stored(array: Any, offset: int, count: int) -> None:
    """`count` bytes at byte `offset` of `array` were written."""
    if isinstance(array, Span) and array.log is not None and array.place is not None:
        start = array.start + offset
        array.log.of(array.place).stores[start : start + count] += 1
