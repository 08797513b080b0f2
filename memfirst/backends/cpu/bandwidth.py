"""Measured read bandwidth: all threads read a large buffer for a fraction of a second."""

from __future__ import annotations

import threading
import time
from itertools import count

import numpy as np
from numpy.typing import NDArray

from memfirst.kernels.cpu import arena
from memfirst.kernels.cpu.library import Library
from memfirst.kernels.cpu.thread_pool import Native, native

CHUNK = 8
"""MiB read between two looks at the clock: about half a millisecond."""

LEAST = 64
"""MiB that are read over at least: twice a large cache, so that a turn finds nothing of the one before."""


def read_bandwidth(
    library: Library, threads: int, seconds: float = 0.33, memory: NDArray[np.uint8] | None = None
) -> float:
    """Bytes per second that `threads` read together, from `memory` where it is large enough."""
    if memory is None or memory.nbytes < LEAST << 20:
        memory = arena.allocate(160 << 20)
        memory[::4096] = 1  # untouched pages would all be one page of zeros
    key = ("probe.read", ())
    read = native(library.load([key])[key])
    sink = np.zeros(8 * threads, np.int64)
    args = np.array([memory.ctypes.data, memory.nbytes, sink.ctypes.data, sink.size], np.int64)
    return _stream(read, args, threads, memory.nbytes >> 20, seconds)


def _stream(read: Native, args: NDArray[np.int64], threads: int, size: int, seconds: float) -> float:
    turns, chunks = count(), size // CHUNK
    done = [(0, 0.0)] * threads
    ready = threading.Barrier(threads)  # a thread takes a while to start: nobody's time runs before all have

    def work(worker: int) -> None:
        total = 0
        ready.wait()
        start = time.perf_counter()
        while (now := time.perf_counter()) - start < seconds:
            at = next(turns) % chunks * CHUNK
            total += read(args.ctypes.data, worker, at, at + CHUNK)
        done[worker] = total, now - start

    others = [threading.Thread(target=work, args=(i,)) for i in range(1, threads)]
    for thread in others:
        thread.start()
    work(0)
    for thread in others:
        thread.join()
    return sum(n for n, _ in done) / max(t for _, t in done)
