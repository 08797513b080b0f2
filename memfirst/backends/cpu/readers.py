"""Threads that read weights from disk and pack them: slices that queues hand out, for a step that waits for them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from memfirst import codecs
from memfirst.backends.cpu.pack import Pack, groups_in, pack_rows
from memfirst.codecs import Codec
from memfirst.codecs.base import ROWS
from memfirst.formats.checkpoint import Checkpoint
from memfirst.graph import Weight
from memfirst.hardware.disk import Reader
from memfirst.lower.program import READERS, SLICE


@dataclass(frozen=True)
class Slice:
    """Groups of rows of a matrix: where they lie in the tensor, and where they go, packed."""

    start: int
    nbytes: int
    rows: int
    out: NDArray[np.uint8]


class Source:
    """How one weight is read: where its file has it, and in which blocks."""

    def __init__(self, weight: Weight, checkpoint: Checkpoint) -> None:
        self._weight, self._extents = weight, checkpoint.extents(weight.name)
        self._codec: Codec = codecs.get(checkpoint.tensors[weight.name].codec)
        self._blocks = weight.row_bytes // self._codec.block_bytes

    def slices(self, out: NDArray[np.uint8], matrix: int = 0) -> Iterator[Slice]:
        """One of the weight's matrices in parts of about `SLICE` bytes; `out`: its place."""
        weight, step = self._weight, groups_in(self._weight, SLICE)
        packed = out.reshape(-1, self._blocks, ROWS * self._codec.block_bytes)
        begin = matrix * weight.rows * weight.row_bytes
        for i in range(0, len(packed), step):
            first, last = i * ROWS, min((i + step) * ROWS, weight.rows)
            start, nbytes = begin + first * weight.row_bytes, (last - first) * weight.row_bytes
            yield Slice(start, nbytes, last - first, packed[i : i + step])

    def bring(self, part: Slice, reader: Reader, pack: Pack) -> None:
        """Read a slice and pack it."""
        raw = reader.read(self._extents, part.start, part.nbytes)
        pack_rows(self._codec, raw.reshape(part.rows, self._blocks, self._codec.block_bytes), part.out, pack)


@dataclass(frozen=True)
class Job:
    """A slice to bring, of the weight that its queue knows by a number."""

    queue: Queue
    source: Source
    part: Slice
    weight: int


class Queue(Protocol):
    """Hands out slices. All calls are made under the readers' lock."""

    def next(self) -> Job | None:
        """What is to be read next; None as long as there is nothing, or no room for it."""

    def arrived(self, job: Job) -> None:
        """A slice is in its place."""

    def restart(self) -> None:
        """A step was given up: nothing is under way any more, and what was is lost."""


class Readers:
    """The threads. They ask the queues in their order, so that what a step waits for goes before reading ahead."""

    def __init__(self, request: int, queues: list[Queue], pack: Pack) -> None:
        self._request, self._queues, self._pack = request, queues, pack
        self._lock = threading.Lock()
        self._work, self._arrived = threading.Condition(self._lock), threading.Condition(self._lock)
        self._error: BaseException | None = None
        self._closed, self._paused, self._busy = False, False, 0
        self._threads: list[threading.Thread] = []
        self.waited = 0.0
        """Seconds that steps have waited for them."""

    def start(self) -> None:
        """Begin to read ahead."""
        self._threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(READERS)]
        for thread in self._threads:
            thread.start()

    def tell(self, change: Callable[[], None]) -> None:
        """Change a queue, under the lock; there may be something to read then."""
        with self._lock:
            change()
            self._work.notify_all()

    def wait(self, done: Callable[[], bool]) -> None:
        """Until it is so; raises what a reader met."""
        with self._lock:
            if done():
                return
            start = time.perf_counter()
            while not done():
                if self._error is not None:
                    raise self._error
                self._arrived.wait()
            self.waited += time.perf_counter() - start

    def restart(self) -> None:
        """The step was given up: the next one begins anew."""
        with self._lock:
            self._paused = True
            while self._busy:
                self._arrived.wait()
            for queue in self._queues:
                queue.restart()
            self._paused, self._error = False, None
            self._work.notify_all()

    def close(self) -> None:
        """End the threads."""
        with self._lock:
            self._closed = True
            self._work.notify_all()
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        reader = Reader(self._request)
        try:
            while (job := self._take()) is not None:
                error: BaseException | None = None
                try:
                    job.source.bring(job.part, reader, self._pack)
                except BaseException as met:  # whoever steps raises it
                    error = met
                self._done(job, error)
        finally:
            reader.close()

    def _take(self) -> Job | None:
        """The next slice, once there is one; None when all is over."""
        with self._lock:
            while not self._closed:
                if not self._paused and self._error is None:
                    job = next((job for queue in self._queues if (job := queue.next()) is not None), None)
                    if job is not None:
                        self._busy += 1
                        return job
                self._work.wait()
            return None

    def _done(self, job: Job, error: BaseException | None) -> None:
        with self._lock:
            self._busy -= 1
            if error is None:
                job.queue.arrived(job)
            else:
                self._error = self._error or error
            self._arrived.notify_all()
