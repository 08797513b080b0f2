"""The processes of `mpiexec -n N memfirst …`: collectives for what each step exchanges, words for what it is about.

Everything is copied through MPI's buffers of plain arrays; nothing is pickled. A message of words goes to each of the
others by itself, so that they can look for it without being in a collective: MPI waits by spinning, and a server that
nobody asks would keep all cores busy.
"""

from __future__ import annotations

import atexit
import os
import time
from functools import lru_cache
from itertools import accumulate
from typing import Any

import numpy as np

from memfirst.codecs.base import F32
from memfirst.distributed.words import END, Words, of
from memfirst.errors import ConfigError, UnsupportedError

SPIN_SECONDS, SLEEP_SECONDS = 0.005, 0.001
"""How long a process looks for the next message without a pause, and what it sleeps between looks later: while answers
are made the next step comes within some hundred microseconds."""

WORDS_TAG, VALUE_TAG = 1, 2

LAUNCHED = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK")
"""Variables that tell a process its rank: of MPICH and Intel MPI, of Open MPI."""


LOCAL = ("MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE")
"""How many processes of them are on this machine."""


def processes_here() -> int:
    """Processes that mpiexec started on this machine; 1 without it."""
    found = next((os.environ[name] for name in LOCAL if name in os.environ), "1")
    return int(found) if found.isdigit() else 1


def rank_of_environment() -> int | None:
    """This process's rank, without starting MPI; None where mpiexec did not start it."""
    found = next((os.environ[name] for name in LAUNCHED if name in os.environ), "")
    return int(found) if found.isdigit() else None


handed_on = False
"""Whether another process has taken this one's place among them."""


def import_mpi() -> Any:
    """mpi4py's module of MPI, which has not started: a process's exit is too late to import it.

    Raises:
        UnsupportedError: mpi4py or an MPI library is missing.
    """
    try:
        import mpi4py

        mpi4py.rc.initialize = False
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        found = f"several processes need MPI ({str(error).splitlines()[0]})"
        raise UnsupportedError(found, "mpi4py and mpich", "pip install 'memfirst[scale]'") from None
    return MPI


class Group:
    """All processes that mpiexec started.

    Raises:
        UnsupportedError: mpi4py or an MPI library is missing.
        ConfigError: This is the only process.
    """

    def __init__(self) -> None:
        MPI = import_mpi()
        if not MPI.Is_initialized():
            MPI.Init_thread()
        self._mpi, self._world = MPI, MPI.COMM_WORLD
        self.index, self.size = self._world.rank, self._world.size
        if self.size == 1:
            raise ConfigError(
                "a model split over one process", "at least two", "start it by mpiexec", "mpiexec -n 2 memfirst …"
            )
        self._room: dict[int, F32] = {}

    # --- of a step

    def gather(self, part: F32, whole: F32, parts: tuple[int, ...], everywhere: bool) -> None:
        """As of `Peers`."""
        rows = len(part)
        direct = rows == 1 and whole.flags.c_contiguous
        room = whole.reshape(-1) if direct else self._room_for(whole.size)
        counts = [rows * n for n in parts]
        starts = [0, *accumulate(counts)]
        sent, got = [np.ascontiguousarray(part), self._mpi.FLOAT], [room, counts, starts[:-1], self._mpi.FLOAT]
        if everywhere:
            self._world.Allgatherv(sent, got)
        else:
            self._world.Gatherv(sent, got if self.index == 0 else None, root=0)
        if direct or not (everywhere or self.index == 0):
            return
        at = 0
        for n, start in zip(parts, starts, strict=False):
            whole[:, at : at + n] = room[start : start + rows * n].reshape(rows, n)
            at += n

    def send(self, value: F32, to: int) -> None:
        """As of `Peers`."""
        self._world.Send([np.ascontiguousarray(value), self._mpi.FLOAT], dest=to, tag=VALUE_TAG)

    def receive(self, value: F32, source: int) -> None:
        """As of `Peers`."""
        room = self._room_for(value.size)[: value.size]
        self._world.Recv([room, self._mpi.FLOAT], source=source, tag=VALUE_TAG)
        value[:] = room.reshape(value.shape)

    def sum(self, numbers: Words) -> Words:
        """The sum of all processes' numbers, in the first one; their own in the others."""
        total = numbers.copy()
        self._world.Reduce([numbers, self._mpi.INT64_T], [total, self._mpi.INT64_T], op=self._mpi.SUM, root=0)
        return total

    def _room_for(self, items: int) -> F32:
        """Working memory, made once for each size."""
        if items not in self._room:
            self._room[items] = np.empty(items, np.float32)
        return self._room[items]

    # --- what the first process tells the others

    def tell(self, words: Words) -> None:
        """Send words to all others."""
        for other in range(1, self.size):
            self._world.Send([words, self._mpi.INT64_T], dest=other, tag=WORDS_TAG)

    def told(self) -> Words:
        """The next words of the first process; sleeps between looks where none come for a while."""
        status: Any = self._mpi.Status()
        began = time.monotonic()
        while not self._world.Iprobe(source=0, tag=WORDS_TAG, status=status):
            if time.monotonic() - began > SPIN_SECONDS:
                time.sleep(SLEEP_SECONDS)
        words = np.empty(status.Get_count(self._mpi.INT64_T), np.int64)
        self._world.Recv([words, self._mpi.INT64_T], source=0, tag=WORDS_TAG)
        return words

    def abort(self) -> None:
        """End all processes at once: one cannot go on."""
        self._world.Abort(1)

    @property
    def closed(self) -> bool:
        """Whether it has left."""
        return bool(self._mpi.Is_finalized())

    def close(self) -> None:
        """Leave, when all others do."""
        if not self.closed:
            self._mpi.Finalize()


@lru_cache(1)
def group() -> Group:
    """All processes; MPI starts once in a process."""
    made = Group()
    if made.index == 0:
        atexit.register(leave)
    return made


def leave() -> None:
    """In the first process, which cannot go on: the others wait for it to start MPI, or for what comes next. A second
    call does nothing."""
    if not group().closed:
        group().tell(of(END))
        group().close()
