"""BF16 matrices in 12 bits when a model is loaded: which may be, what their tables are, how many blocks lie aside."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from memfirst.codecs import bf12
from memfirst.codecs.base import ROWS
from memfirst.formats.checkpoint import Checkpoint
from memfirst.graph import Weight
from memfirst.kernels.cpu import isa
from memfirst.progress import Delayed, Progress, Silent

U8 = NDArray[np.uint8]
U16 = NDArray[np.uint16]

SLICE_BYTES = 2 << 20
"""Bytes of a matrix that one thread counts or packs at a time."""

SAMPLE = 1 << 20
"""Weights that a matrix's table is made from, of rows that are evenly spread: of more weights it is the same."""

MOST_THREADS = 16


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
    """

    packed: Mapping[str, Measured] = field(default_factory=dict)
    plain: int = 0

    @property
    def aside(self) -> dict[str, int]:
        """Blocks aside by stored name."""
        return {name: found.aside for name, found in self.packed.items()}


NOTHING = Found()


def supported() -> bool:
    """Whether this processor has the byte shuffle without which unpacking is slower than reading."""
    return isa.detect() != isa.GENERIC


def measure(
    weights: Mapping[str, Weight], checkpoint: Checkpoint, threads: int, progress: Progress | None = None
) -> Found:
    """Read all of some BF16 matrices once, and say how each is packed."""
    total = sum(w.stored_bytes for w in weights.values())
    shown = Delayed(progress or Silent(), "looking at BF16 weights", total)
    packed, plain, done = dict[str, Measured](), 0, 0
    with ThreadPoolExecutor(min(threads, MOST_THREADS)) as pool:
        for name, weight in weights.items():
            words = words_of(checkpoint.read(name), weight)
            table = bf12.table_of(words[:: max(1, words.size // SAMPLE)])
            counts = np.concatenate(list(pool.map(partial(_aside_of, table=table), _slices(words))))
            found = Measured(table, counts)
            if found.aside <= bf12.most_aside(weight.groups, weight.columns):
                packed[name] = found
            else:
                plain += 1
            done += weight.stored_bytes
            shown.done(done)
    return Found(packed, plain)


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


def _aside_of(words: U16, table: U8) -> NDArray[np.int32]:
    return bf12.aside_of(whole_groups(words), table)


def packing(weight: Weight, raw: U8, found: Measured, out: U8) -> Iterator[Callable[[], object]]:
    """What packs a matrix into `out`, in slices that may be done in any order."""
    words = words_of(raw, weight)
    rows, heads, aside = bf12.parts(out, weight.groups, weight.columns)
    ends = np.cumsum(found.counts)
    yield partial(bf12.write_heads, heads, found.table, found.counts)
    step = rows_at_once(words)
    for i in range(0, len(words), step):
        first, last = i // ROWS, min(len(rows), (i + step) // ROWS)
        records = aside[ends[first] - found.counts[first] : ends[last - 1]]
        yield partial(_pack, words[i : i + step], found.table, rows[first:last], records)


def _pack(words: U16, table: U8, rows: U8, records: U8) -> None:
    bf12.write_aside(records, *bf12.pack_groups(whole_groups(words), table, rows))


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
