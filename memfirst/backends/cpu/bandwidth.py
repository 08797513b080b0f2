"""Measured read bandwidth: all threads read a large buffer in several patterns, of which the fastest counts."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

from memfirst.hardware import host
from memfirst.kernels.cpu import arena
from memfirst.kernels.cpu.library import Library
from memfirst.kernels.cpu.read_patterns import CHUNK, CLAIMS, PATTERN, PATTERNS, SIZE, STOP, TOOK, WORKERS, words
from memfirst.kernels.cpu.thread_pool import Native, cycles_per_second, native

LEAST, OWN, MOST = 64, 160, 512
"""MiB: memory that is given is read where it has at least so many, and else so many are allocated, both more where the
last-level cache is large; a round reads no more than MOST, 10 to 60 ms."""

BEYOND = 2
"""Times the last-level cache that is read at least; memory of its own has twice as much."""

LARGEST_OWN, SHARE_OWN = 1024, 4
"""MiB allocated at most (two sockets of the largest caches together hold more), and a part of what is free at most: one
of so many."""

SCREENED = 2
"""Rounds of each pattern before the fastest are chosen."""

FINALISTS, ROUNDS = 3, 3
"""Patterns that are timed each time, and rounds of each at least."""


@dataclass(frozen=True)
class ReadBandwidth:
    """Bytes per second that a number of threads read together, and how the fastest pattern read."""

    rate: float
    pattern: str


class ReadProbe:
    """Measures how fast `threads` threads read `memory`, or memory of its own where that is too small.

    frugal  memory is limited: what is given serves from LEAST on, though caches may hold it, and own memory is LEAST
    """

    def __init__(
        self, library: Library, threads: int, memory: NDArray[np.uint8] | None = None, frugal: bool = False
    ) -> None:
        key = ("probe.read", ())
        self._library = library  # owns the code
        self._read: Native = native(library.load([key])[key])
        self.threads, self._frequency = threads, cycles_per_second(library)
        beyond = 0 if frugal else BEYOND * host.last_level_cache() >> 20
        self._given = memory if memory is not None and memory.nbytes >> 20 >= max(LEAST, beyond) else None
        free = host.available_memory() >> 20
        whole = CHUNK * threads
        own = max(LEAST, whole, 0 if frugal else min(max(OWN, 2 * beyond), LARGEST_OWN, free // SHARE_OWN))
        there = own if self._given is None else self._given.nbytes >> 20
        self.size = min(there, max(MOST, 2 * beyond)) // whole * whole
        self._own = own << 20
        self._finalists: list[int] = []

    def measure(self, seconds: float = 0.33) -> ReadBandwidth:
        """Time the fastest patterns in turns; the first call finds out which they are."""
        with self._team() as team:
            self._round(team, 0)  # threads begin
            if not self._finalists:
                found = [max(self._round(team, p) for _ in range(SCREENED)) for p in range(len(PATTERNS))]
                self._finalists = sorted(range(len(PATTERNS)), key=lambda p: -found[p])[:FINALISTS]
            rates: dict[int, list[float]] = {p: [] for p in self._finalists}
            end = time.perf_counter() + seconds
            while len(rates[self._finalists[0]]) < ROUNDS or time.perf_counter() < end:
                for p, seen in rates.items():
                    seen.append(self._round(team, p))
        best = max(rates, key=lambda p: median(rates[p]))
        return ReadBandwidth(median(rates[best]), PATTERNS[best][0])

    @contextmanager
    def _team(self) -> Iterator[NDArray[np.int64]]:
        """The record of a team whose other threads wait for rounds; with it they end, and memory of its own."""
        memory = self._given
        if memory is None:
            memory = arena.allocate(self._own)
            memory[::4096] = 1  # untouched pages would all be one page of zeros
        team = np.zeros(words(self.threads), np.int64)
        team[SIZE], team[WORKERS] = self.size, self.threads
        self._args = np.array([memory.ctypes.data, memory.nbytes, team.ctypes.data, team.size], np.int64)
        others = [threading.Thread(target=self._work, args=(i,)) for i in range(1, self.threads)]
        begun = 0
        try:
            for thread in others:
                thread.start()
                begun += 1
            yield team
        finally:
            team[STOP] = 1
            for thread in others[:begun]:
                thread.join()

    def _work(self, worker: int) -> int:
        share = self.size // self.threads
        return self._read(self._args.ctypes.data, worker, share * worker, share * (worker + 1))

    def _round(self, team: NDArray[np.int64], pattern: int) -> float:
        """Bytes per second of one pass over the buffer."""
        _, team[PATTERN], team[CLAIMS] = PATTERNS[pattern]
        self._work(0)
        return (self.size << 20) * self._frequency / float(team[TOOK])
