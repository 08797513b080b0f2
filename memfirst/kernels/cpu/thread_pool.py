"""Worker threads that walk steps together with the caller; they spin a little between steps, then sleep.

Plain Python threads: all work happens in compiled code that holds no lock. The caller is worker 0.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memfirst.errors import BackendError
from memfirst.kernels.cpu.library import Entry, Library
from memfirst.kernels.cpu.sources import Key

# Words of the control record, as in `walk`.
EPOCH, STOP, CURRENT, RING, EPOCHS, SLOT = 0, 8, 16, 24, 64, 3
WALK: Key = ("walk.walk", (("PROFILE", 0),))
LOGGING_WALK: Key = ("walk.walk", (("PROFILE", 1),))
"""The walk that logs every phase and call: compiled and loaded when a profile is first asked for."""
_ENTRY = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 4)

SPIN_SECONDS = 500e-6
"""How long a worker waits awake for the next step: longer than Python's part of a token (160 to 230 us in caches that
the walk has swept), because whoever sleeps has to be woken by the system, and joins the step late."""
PATIENCE_SECONDS = 20e-3
"""How long a barrier is waited for before Python checks for signals and dead workers."""

Native = Callable[[int, int, int, int], int]
"""A kernel's entry: (address of arguments, worker, lo, hi) -> its result."""


def native(entry: Entry) -> Native:
    """Call an entry from Python; the interpreter's lock is released meanwhile."""
    function = _ENTRY(entry.address)
    local = threading.local()

    def call(args: int, worker: int, lo: int, hi: int) -> int:
        if not hasattr(local, "result"):
            local.result, local.exception = ctypes.c_int64(), ctypes.c_void_p()
            local.pointers = ctypes.addressof(local.result), ctypes.addressof(local.exception)
        function(*local.pointers, args, worker, lo, hi)
        return int(local.result.value)

    return call


def cycles_per_second(library: Library) -> float:
    """Rate of the counter that kernels measure time with."""
    read = native(library.load([("walk.read_cycles", ())])[("walk.read_cycles", ())])
    best = 0.0
    for _ in range(3):  # the longest interval's rate: an interruption between two readings shortens it
        t0, c0 = time.perf_counter(), read(0, 0, 0, 0)
        time.sleep(0.002)
        c1, t1 = read(0, 0, 0, 0), time.perf_counter()
        best = max(best, (c1 - c0) / (t1 - t0))
    return best


class ThreadPool:
    """`threads` workers; `run` does one step with all of them."""

    def __init__(self, threads: int, library: Library) -> None:
        serve: Key = ("walk.serve", ())
        entries = library.load((WALK, serve))
        self._library = library
        self.threads = threads
        self.frequency = cycles_per_second(library)
        self.control: NDArray[np.int64] = np.zeros(RING + SLOT * EPOCHS, np.int64)
        self._walk, self._address = native(entries[WALK]), entries[WALK].address
        self._serve = native(entries[serve])
        self.patience = int(PATIENCE_SECONDS * self.frequency)
        spin = int(SPIN_SECONDS * self.frequency)
        self._serve_args = np.array([self.control.ctypes.data, len(self.control), spin], np.int64)
        self._words = self.control.data  # a word is written with less code than through NumPy
        self._epoch = 0
        self._closing = False
        self._wake = [threading.Event() for _ in range(threads)]
        self._idle = [threading.Event() for _ in range(threads)]
        self._failed: list[BaseException] = []
        self._workers = [threading.Thread(target=self._work, args=(i,), daemon=True) for i in range(1, threads)]
        for worker in self._workers:
            worker.start()

    def _work(self, worker: int) -> None:
        """Serve steps; sleep when none came for a while."""
        seen, args = 0, self._serve_args.ctypes.data
        wake, idle = self._wake[worker], self._idle[worker]
        try:
            while not self._closing:
                last = self._serve(args, worker, seen, 0)
                if last == seen:
                    idle.set()
                    if self._epoch <= seen:  # `run` raises it before it looks who is idle
                        wake.wait()
                    wake.clear()
                    idle.clear()
                seen = last
        except BaseException as error:  # a worker must not die in silence: `run` raises it
            self._failed.append(error)

    def begin(self) -> None:
        """Before a step's arrays are written: whoever still looks at the last step stops doing so."""
        self._words[CURRENT] = self._epoch + 1

    @cached_property
    def _logging(self) -> tuple[Native, int]:
        entry = self._library.load([LOGGING_WALK])[LOGGING_WALK]
        return native(entry), entry.address

    def run(self, walk_args: int, phases: int, log: bool = False) -> None:
        """Do one step of `phases` phases whose arguments are the record at address `walk_args`; after `begin`.

        log  by the walk that writes the log that the record has a place for
        """
        if self._failed:
            self._check()
        walk, address = self._logging if log else (self._walk, self._address)
        slot = RING + (self._epoch + 1) % EPOCHS * SLOT
        # The walk's address too: a worker that comes late for a step must not do it by the next one's.
        self._words[slot], self._words[slot + 1], self._words[slot + 2] = walk_args, phases, address
        self._epoch += 1
        for i in range(1, self.threads):
            if self._idle[i].is_set():
                self._wake[i].set()
        try:
            phase = walk(walk_args, 0, 0, self._epoch)  # publishes the epoch
            while phase < phases:
                self._check()
                phase = walk(walk_args, 0, phase, self._epoch)
        except BaseException:
            self.quiesce()
            raise

    def _check(self) -> None:
        if self._failed or not all(w.is_alive() for w in self._workers):
            reason = f": {self._failed[0]}" if self._failed else ""
            raise BackendError(f"a worker thread died{reason}")

    def quiesce(self) -> None:
        """Stop an interrupted step, or end one that is over: returns once no worker touches its memory."""
        self.control[STOP] = 1
        self.control[CURRENT] = self._epoch + 1  # nobody takes the step up again once STOP is gone
        try:
            for i in range(1, self.threads):
                if self._workers[i - 1].is_alive():
                    self._idle[i].wait(5.0)
            self.control[RING + self._epoch % EPOCHS * SLOT] = 0  # nor does whoever has not seen it: it may be freed
        finally:
            self.control[STOP] = 0

    def close(self) -> None:
        """End the workers."""
        self._closing = True
        self.control[STOP] = 1
        for event in self._wake:
            event.set()
        for worker in self._workers:
            worker.join(5.0)


def bits(value: Any) -> int:
    """A scalar operand as a 64-bit word: an integer, or a float32's bits."""
    return int(np.float32(value).view(np.int32)) if isinstance(value, float) else int(value)
