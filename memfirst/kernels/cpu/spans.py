"""What interpreted kernels loaded and stored, byte span by byte span: the ledger's second source."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np


class SpanLog:
    """Counts, for each watched array, how often each of its bytes was loaded and stored."""

    def __init__(self) -> None:
        self.loads: dict[str, Any] = {}
        self._bases: list[tuple[int, int, str]] = []
        self.stores: dict[str, int] = defaultdict(int)

    def watch(self, name: str, array: Any) -> None:
        """Count accesses to `array` (contiguous) under `name`."""
        self.loads[name] = np.zeros(array.nbytes, np.int64)
        self._bases.append((array.ctypes.data, array.nbytes, name))

    def find(self, array: Any) -> tuple[str, int] | None:
        """The watched array that `array` is a view of, and the byte where the view starts."""
        address = array.ctypes.data
        for base, size, name in self._bases:
            if base <= address < base + size:
                return name, address - base
        return None

    def unique(self, name: str) -> int:
        """Bytes of `name` that were loaded at least once."""
        return int((self.loads[name] > 0).sum())

    def total(self, name: str) -> int:
        """Bytes of `name` loaded, repeats included."""
        return int(self.loads[name].sum())


active: list[SpanLog] = []
"""The log in use, if any; set by `recording`."""


class recording:  # noqa: N801
    """`with recording() as log:` kernels that run interpreted meanwhile report to `log`."""

    def __enter__(self) -> SpanLog:
        active.append(SpanLog())
        return active[-1]

    def __exit__(self, *exc: object) -> None:
        active.pop()


def loaded(array: Any, offset: int, count: int) -> None:
    """`count` bytes at byte `offset` of `array` were read."""
    if active and (place := active[-1].find(array)):
        name, start = place
        active[-1].loads[name][start + offset : start + offset + count] += 1


def stored(array: Any, offset: int, count: int) -> None:
    """`count` bytes at byte `offset` of `array` were written."""
    if active and (place := active[-1].find(array)):
        active[-1].stores[place[0]] += count
