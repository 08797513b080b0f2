"""Making the sketch of an output head when a model is loaded (`memfirst.codecs.sketch`)."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from memfirst.codecs import sketch
from memfirst.codecs.base import F32, ROWS
from memfirst.graph import Graph, Sequence, Step
from memfirst.graph.ops.sketched import SketchedHead, sketched
from memfirst.kernels.cpu.sources import Key
from memfirst.kernels.cpu.thread_pool import bits

if TYPE_CHECKING:
    from memfirst.backends.cpu.backend import CpuBackend

KEY: Key = ("pack_sketch.pack", ())

TOKENS = 32
"""So many rows of any tokens say what columns are like: with 256 of them, or 2,048 of a text, as many tiles of
SmolLM2's head are read, within a tenth."""

FLOOR = 1e-3
"""Of the largest column's size: the least that a column is taken to have."""

ROOM = 5 * ROWS
"""As of `pack_sketch`."""

GROUPS = 256
"""Groups of 16 rows that a thread makes at a time."""


def sketch_tables(graph: Graph) -> dict[str, F32]:
    """Room for 1 / ω of the head's columns; ones, until `make_sketch` knows better."""
    head = sketched(graph)
    return {} if head is None else {f"inverse:{head.name}": np.ones(head.weight.columns, np.float32)}


def make_sketch(backend: CpuBackend, head: SketchedHead, weights: Mapping[str, NDArray[Any]], inverse: F32) -> None:
    """Sketch the packed head among `weights`, for activations such as the model makes; `inverse` becomes 1 / ω."""
    omega = columns_like(_hidden_rows(backend))
    inverse[:] = 1 / omega
    w, place = weights[head.weight.alias or head.weight.name], weights[head.sketch.name]
    make = backend.make_native(backend.library.load([KEY])[KEY])
    slack = sketch.slack(head.weight.columns) * 1.0001  # float32 rounds it, not below what it is

    def some(first: int) -> None:
        floats = np.zeros(ROOM + 18 * ROWS, np.float32)  # this thread's own
        words = [n for a in (w, omega, place, floats) for n in (a.ctypes.data, a.size)]
        args = np.array([*words, head.weight.columns, bits(slack)], np.int64)
        make(args.ctypes.data, 0, first, min(first + GROUPS, head.weight.groups))

    with ThreadPoolExecutor(backend.options.threads) as pool:
        list(pool.map(some, range(0, head.weight.groups, GROUPS)))


def columns_like(rows: F32) -> F32:
    """ω of hidden rows f32 [n, columns]: the square root of each column's root mean square, which makes bounds
    tightest where errors are alike, over its mean; ones where rows are not finite."""
    size = np.sqrt((rows.astype(np.float64) ** 2).mean(axis=0))
    if not np.isfinite(size).all() or not size.any():
        return np.ones(rows.shape[1], np.float32)
    size += FLOOR * size.max()
    omega: F32 = np.sqrt(size / size.mean()).astype(np.float32)
    return omega


def _hidden_rows(backend: CpuBackend) -> F32:
    """Of `TOKENS` tokens from all over the vocabulary."""
    graph = backend.graph
    n = min(TOKENS, backend.options.context)
    tokens = [i * 2654435761 % graph.vocab_size for i in range(n)]  # 2^32 / golden ratio: evenly spread
    tables = tuple((0,) for _ in graph.cache_groups)
    row = Sequence(0, n, tables, logits=tuple(range(n)), state_write=1)
    return backend.step(Step((row,), hidden=True), tokens).logits.copy()
