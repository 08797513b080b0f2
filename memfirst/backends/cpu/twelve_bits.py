"""BF16 matrices in 12 bits when a model is loaded: which may be, what their tables are, how many blocks lie aside."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from memfirst.codecs import bf12
from memfirst.codecs.base import ROWS
from memfirst.errors import FormatError
from memfirst.formats.checkpoint import Checkpoint
from memfirst.graph import Weight
from memfirst.kernels.cpu import isa
from memfirst.kernels.cpu.library import Library
from memfirst.kernels.cpu.sources import Key
from memfirst.kernels.cpu.thread_pool import Native, native
from memfirst.progress import Delayed, Progress, Silent

U8 = NDArray[np.uint8]
U16 = NDArray[np.uint16]

SLICE_BYTES = 2 << 20
"""Bytes of a matrix that one thread counts or packs at a time."""

SAMPLE = 1 << 20
"""Weights that a matrix's table is made from, of rows that are evenly spread: of more weights it is the same."""

MOST_THREADS = 16

COUNT: Key = ("pack_bf12.count", ())
PACK: Key = ("pack_bf12.pack", ())


class Passes(Protocol):
    """What goes over the weights of some rows, u16 [rows, columns]; the last one stands for those that are missing."""

    def count(self, words: U16, table: U8) -> NDArray[np.int32]:
        """Blocks aside of each group, i32 [groups]."""

    def pack(self, words: U16, table: U8, rows: U8, records: U8) -> None:
        """Packed rows u8 [groups, columns/4, 96], and records aside u8 [n, 68]."""


class ByNumpy:
    """The definition: `codecs.bf12`."""

    def count(self, words: U16, table: U8) -> NDArray[np.int32]:
        return bf12.aside_of(whole_groups(words), table)

    def pack(self, words: U16, table: U8, rows: U8, records: U8) -> None:
        bf12.write_aside(records, *bf12.pack_groups(whole_groups(words), table, rows))


class Compiled:
    """The same by kernels; the library stays loaded as long as this is there."""

    def __init__(self, library: Library) -> None:
        self._library = library
        entries = library.load([COUNT, PACK])
        self._count, self._pack = native(entries[COUNT]), native(entries[PACK])

    def count(self, words: U16, table: U8) -> NDArray[np.int32]:
        counts: NDArray[np.int32] = np.zeros(-(-len(words) // ROWS), np.int32)
        self._call(self._count, words, bf12.codes_of(table), counts)
        return counts

    def pack(self, words: U16, table: U8, rows: U8, records: U8) -> None:
        found = self._call(self._pack, words, bf12.codes_of(table), rows, records)
        if found != len(records):
            raise FormatError(f"{found} blocks aside", f"the {len(records)} that were counted", "load it again")

    def _call(self, kernel: Native, words: U16, *arrays: NDArray[Any]) -> int:
        """Run one over all groups; ValueError for arrays that are not contiguous."""
        given = (words, *arrays)
        if not all(a.flags.c_contiguous for a in given):
            raise ValueError("BF16 weights or their place are not contiguous")
        args = np.array([*(n for a in given for n in (a.ctypes.data, a.size)), *words.shape], np.int64)
        args[1] *= 2  # its bytes
        return kernel(args.ctypes.data, 0, 0, -(-len(words) // ROWS))


BY_NUMPY = ByNumpy()


@dataclass(frozen=True)
class Measured:
    """A matrix that is packed so: its table u8 [16], and blocks aside of each group of 16 rows, i32 [groups]."""

    table: U8
    counts: NDArray[np.int32]

    @property
    def aside(self) -> int:
        """Blocks aside."""
        return int(self.counts.sum())


@dataclass(frozen=True)
class Found:
    """What was measured of a model.

    packed  matrices that are packed in 12 bits, by stored name
    plain   how many are not, as more than `bf12.MOST` of their blocks would lie aside
    passes  what packs them
    """

    packed: Mapping[str, Measured] = field(default_factory=dict)
    plain: int = 0
    passes: Passes = BY_NUMPY

    @property
    def aside(self) -> dict[str, int]:
        """Blocks aside by stored name."""
        return {name: found.aside for name, found in self.packed.items()}


NOTHING = Found()


def supported() -> bool:
    """Whether this processor has the byte shuffle without which unpacking is slower than reading."""
    return isa.detect() != isa.GENERIC


def measure(
    weights: Mapping[str, Weight],
    checkpoint: Checkpoint,
    threads: int,
    progress: Progress | None = None,
    passes: Passes = BY_NUMPY,
) -> Found:
    """Read all of some BF16 matrices once, and say how each is packed."""
    total = sum(w.stored_bytes for w in weights.values())
    shown = Delayed(progress or Silent(), "looking at BF16 weights", total)
    packed, plain, done = dict[str, Measured](), 0, 0
    with ThreadPoolExecutor(min(threads, MOST_THREADS)) as pool:
        for name, weight in weights.items():
            words = words_of(checkpoint.read(name), weight)
            table = bf12.table_of(words[:: max(1, words.size // SAMPLE)])
            counts = np.concatenate(list(pool.map(partial(passes.count, table=table), _slices(words))))
            found = Measured(table, counts)
            if found.aside <= bf12.most_aside(weight.groups, weight.columns):
                packed[name] = found
            else:
                plain += 1
            done += weight.stored_bytes
            shown.done(done)
    return Found(packed, plain, passes)


def words_of(raw: U8, weight: Weight) -> U16:
    """A matrix as a file has it, u16 [rows, columns]."""
    return raw.reshape(-1).view(np.uint16).reshape(weight.rows, weight.columns)


def _slices(words: U16) -> Iterator[U16]:
    step = rows_at_once(words)
    return (words[i : i + step] for i in range(0, len(words), step))


def rows_at_once(words: U16) -> int:
    """Whole groups in about `SLICE_BYTES`."""
    columns: int = words.shape[1]
    return ROWS * max(1, SLICE_BYTES // (2 * ROWS * columns))


def whole_groups(words: U16) -> U16:
    """With the last row again for those that the last group lacks: these would lie aside where zeros are rare."""
    missing = -len(words) % ROWS
    return np.concatenate([words, np.repeat(words[-1:], missing, axis=0)]) if missing else words


def packing(weight: Weight, raw: U8, found: Measured, passes: Passes, out: U8) -> Iterator[Callable[[], object]]:
    """What packs a matrix into `out`, in slices that may be done in any order."""
    words = words_of(raw, weight)
    rows, heads, aside = bf12.parts(out, weight.groups, weight.columns)
    ends = np.cumsum(found.counts)
    yield partial(bf12.write_heads, heads, found.table, found.counts)
    step = rows_at_once(words)
    for i in range(0, len(words), step):
        first, last = i // ROWS, min(len(rows), (i + step) // ROWS)
        records = aside[ends[first] - found.counts[first] : ends[last - 1]]
        yield partial(passes.pack, words[i : i + step], found.table, rows[first:last], records)


class LookUps:
    """How many blocks lie aside of the rows that a step looks up, of tables in 12 bits."""

    def __init__(self, tables: Mapping[str, str], packed: Mapping[str, Measured]) -> None:
        """tables: by operation, the stored name of what it looks up."""
        self._counts = {op: packed[name].counts for op, name in tables.items() if name in packed}

    def of(self, tokens: object) -> dict[str, int]:
        """Of a step's tokens, by operation."""
        if not self._counts:
            return {}
        groups = np.asarray(tokens, np.int64) // ROWS
        return {op: int(counts[groups].sum()) for op, counts in self._counts.items()}
