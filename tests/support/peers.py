"""Processes of a split model as threads of one: what they exchange goes through queues."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import Queue
from typing import Any, TypeVar

import numpy as np

from memfirst.codecs.base import F32

Result = TypeVar("Result")
SECONDS = 20.0


class Exchange:
    """Queues between all of them."""

    def __init__(self, of: int) -> None:
        self.of = of
        self.queues: dict[tuple[int, int], Queue[F32]] = defaultdict(Queue)
        self.lock = threading.Lock()

    def queue(self, source: int, to: int) -> Queue[F32]:
        with self.lock:
            return self.queues[source, to]

    def all(self, run: Callable[[ThreadPeers], Result]) -> list[Result]:
        """`run` for each of them, side by side."""
        with ThreadPoolExecutor(self.of) as pool:
            return [f.result(SECONDS) for f in [pool.submit(run, ThreadPeers(i, self)) for i in range(self.of)]]


class ThreadPeers:
    """One of them: `memfirst.backends.base.Peers`."""

    def __init__(self, index: int, exchange: Exchange) -> None:
        self.index, self._exchange = index, exchange

    def gather(self, part: F32, whole: F32, parts: tuple[int, ...], everywhere: bool) -> None:
        assert part.shape[1] == parts[self.index] and whole.shape[1] == sum(parts)
        for to in range(self._exchange.of) if everywhere else (0,):
            self.send(part, to)
        if everywhere or self.index == 0:
            got: list[Any] = [self._exchange.queue(i, self.index).get(timeout=SECONDS) for i in range(len(parts))]
            whole[:] = np.concatenate(got, axis=1)

    def send(self, value: F32, to: int) -> None:
        self._exchange.queue(self.index, to).put(value.copy())

    def receive(self, value: F32, source: int) -> None:
        value[:] = self._exchange.queue(source, self.index).get(timeout=SECONDS)
