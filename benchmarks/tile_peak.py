"""The peak of the tile kernel: multiply-adds per second of products for eight tokens, all data in cache.

Each thread has its own weights (147 kB of Q4_0: second-level cache) and tokens (8 x 2 kB: first-level cache).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memfirst import codecs
from memfirst.backends.cpu.peak import rate
from memfirst.kernels.cpu import arena
from memfirst.kernels.cpu.lang import ARRAYS
from memfirst.kernels.cpu.library import Entry, Library
from memfirst.kernels.cpu.thread_pool import native

TILE = 8
ROWS, COLUMNS = 128, 2048
TOKENS = 64
"""Of one call: the weights are read eight times, and 0.1 ms of work hides Python's 2 us."""


@dataclass(frozen=True)
class Product:
    """One thread's operands: arrays by the names of the kernel's parameters, and its record of addresses."""

    arrays: dict[str, NDArray[Any]]
    record: NDArray[np.int64]


def product(entry: Entry, codec: str, seed: int) -> Product:
    """Random weights and tokens, zeroed outputs."""
    arrays = _inputs(np.random.default_rng(seed), codec)
    step = arena.array("i64", 8)
    step[0] = TOKENS
    arrays |= {"step": step, "y": arena.array("f32", TOKENS * ROWS)}
    scalars = {"count": 0, "cols": COLUMNS, "stride": ROWS, "private": 0, "add_to": 0}
    words: list[int] = []
    for name, kind in entry.params:
        words += [arrays[name].ctypes.data, arrays[name].size] if kind in ARRAYS else [scalars[name]]
    return Product(arrays, np.array(words, np.int64))


def _inputs(random: np.random.Generator, codec: str) -> dict[str, NDArray[Any]]:
    kind = codecs.get(codec)
    weights = random.standard_normal((ROWS * COLUMNS // kind.block, kind.block), np.float32)
    blocks = kind.quantize(weights).reshape(ROWS, -1, kind.block_bytes)
    made: dict[str, NDArray[Any]] = {"w": arena.allocate(blocks.nbytes)}
    packed = made["w"].reshape(ROWS // codecs.ROWS, blocks.shape[1], -1)
    kind.pack(blocks, out=packed)
    for name, width in (("aq", COLUMNS), ("ad", COLUMNS // 32), ("af", COLUMNS // 32), ("ao", COLUMNS // 8)):
        made[name] = arena.array({"aq": "i8", "ao": "i32"}.get(name, "f32"), TOKENS * width)
    made["aq"][:] = random.integers(-127, 128, made["aq"].size)
    made["ad"][:] = made["af"][:] = 0.01
    return made


def peak(library: Library, threads: int, seconds: float = 0.3, codec: str = "q4_0") -> float:
    """Multiply-adds per second of all threads together."""
    key = ("matmul.block32", (("CODEC", codec), ("TILE", TILE)))
    entry = library.load([key])[key]
    run, products = native(entry), [product(entry, codec, i) for i in range(threads)]

    def work(worker: int) -> int:
        run(products[worker].record.ctypes.data, 0, 0, ROWS)
        return ROWS * COLUMNS * TOKENS

    return rate(threads, work, seconds)
