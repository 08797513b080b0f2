"""Measured peak of multiply-adds: all threads multiply in registers for a fraction of a second."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np

from memfirst.kernels.cpu import arena
from memfirst.kernels.cpu.library import Library
from memfirst.kernels.cpu.sources import Key
from memfirst.kernels.cpu.thread_pool import native

INT8, FLOAT32 = VALUES = "int8", "f32"
"""What is multiplied."""

ROUNDS = 1 << 14
"""Between two looks at the clock: about 0.1 ms."""


def multiply_rate(library: Library, threads: int, kind: str, seconds: float = 0.1) -> float:
    """Multiply-adds a second of `threads` together, of values that are in registers."""
    key: Key = (f"peak.multiply_{kind}", ())
    multiply = native(library.load([key])[key])
    values = arena.array("i8" if kind == INT8 else "f32", 512)
    arrays = arena.array("u8", 1024), values, arena.array("f32", 16 * threads)
    args = np.array([word for a in arrays for word in (a.ctypes.data, a.size)], np.int64)
    return rate(threads, lambda worker: multiply(args.ctypes.data, worker, 0, ROUNDS), seconds)


def rate(threads: int, work: Callable[[int], int], seconds: float) -> float:
    """What `work(worker)` returns, a second: called again and again by all threads together."""
    done = [(0, 0.0)] * threads
    ready = threading.Barrier(threads)  # a thread takes a while to start: nobody's time runs before all have

    def repeat(worker: int) -> None:
        total = 0
        ready.wait()
        start = time.perf_counter()
        while (now := time.perf_counter()) - start < seconds:
            total += work(worker)
        done[worker] = total, now - start

    others = [threading.Thread(target=repeat, args=(i,)) for i in range(1, threads)]
    for thread in others:
        thread.start()
    repeat(0)
    for thread in others:
        thread.join()
    return sum(n for n, _ in done) / max(t for _, t in done)
