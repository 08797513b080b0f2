"""What the walk logs of one step when it is asked to: each phase of each worker, and each call of a kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from memfirst.backends.cpu.bind import Bound
from memfirst.errors import BackendError
from memfirst.lower.step_fields import count_of

# Words of a worker's log, as in `walk`.
PHASE_LOG, CALL_LOG = 5, 5
PHASE, TASK = 8, 6

PHASES = np.dtype([(name, np.int64) for name in ("started", "arrived", "released", "claims", "chunks")])
"""A phase of a worker: cycles when it came, had no chunk left to claim, and saw the barrier open; how often it claimed,
and the chunks that there were for all. Zeros: it did not come."""
CALLS = np.dtype([(name, np.int64) for name in ("call", "begin", "end", "number", "bytes")])
"""A call of a kernel: its number in `Bound.calls`, cycles, the chunk of its phase (-1: a prologue), the bytes that it
read of its purpose (of a prologue, which all workers run, one worker's)."""


class StepLog:
    """Room for what `threads` workers log in a step whose counts are `counts`."""

    def __init__(self, bound: Bound, counts: NDArray[Any], threads: int) -> None:
        self.bound = bound
        self._head = 1 + len(bound.program.phases) * PHASE_LOG
        most = sum(len(phase.prologue) for phase in bound.program.phases)
        listed = int(counts[count_of("head_tiles")])
        for first, last, units, per, chunk, head in bound.tasks.reshape(-1, TASK).tolist():
            chunks = -(-units * (int(counts[per]) if per >= 0 else 1) // chunk)
            most += (last - first) * (listed if head and listed >= 0 else chunks)
        self._words = np.full((threads, self._head + CALL_LOG * most), -1, np.int64)  # all pages are there already
        self._words[:, : self._head] = 0
        self._words[:, 0] = self._head
        self.walks = bound.logging(self._words.reshape(-1))
        """The walk's arguments for each stretch of phases."""

    def cycles(self) -> NDArray[np.int64]:
        """In each of the program's calls, all workers together."""
        total = np.zeros(len(self.bound.calls), np.int64)
        for worker in range(len(self._words)):
            calls = self.calls(worker)
            np.add.at(total, calls["call"], calls["end"] - calls["begin"])
        return total

    def phases(self, worker: int) -> NDArray[Any]:
        """A worker's phases, as PHASES."""
        return self._words[worker, 1 : self._head].copy().view(PHASES)

    def calls(self, worker: int) -> NDArray[Any]:
        """A worker's calls in order, as CALLS."""
        used = int(self._words[worker, 0])
        if used > self._words.shape[1]:
            raise BackendError(f"a log of {used} words", f"at most {self._words.shape[1]}", "please report this")
        return self._words[worker, self._head : used].copy().view(CALLS)
