"""What the engine behind a server did meanwhile: its steps and their seconds, how many requests waited."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass
from typing import Any

from memfirst.errors import ProbeError
from memfirst.measure.probe.client import Client
from memfirst.measure.probe.limits import Limits

STATS, METRICS = "/memfirst/stats", "/metrics"
_WAITING = re.compile(rb"^vllm:num_requests_waiting(?:\{[^}\n]*\})? ([0-9.e+]+)", re.MULTILINE)

EVERY_S, IDLE_S = 0.2, 3.0
"""Between two looks at the queue; how long the server may take to notice that nobody reads any more."""


@dataclass(frozen=True)
class Counted:
    """Of an engine since it was loaded."""

    steps: int
    seconds: float
    tokens: int

    def __sub__(self, other: Counted) -> Counted:
        return Counted(self.steps - other.steps, self.seconds - other.seconds, self.tokens - other.tokens)


class Behind:
    """Asks a server how its engine is doing; None for whatever it does not say."""

    def __init__(self, client: Client) -> None:
        self._client = Client(client.address, Limits(1 << 20, 1 << 30), client.key)
        self.snapshot = self._stats()
        self._waiting_said = self.snapshot is not None or self._metric() is not None

    def _stats(self) -> dict[str, Any] | None:
        try:
            found = self._client.get(STATS)
        except ProbeError:  # another server: it has no such page
            return None
        return found if isinstance(found.get("steps"), int) and "step_seconds" in found else None

    def _metric(self) -> float | None:
        """vLLM's gauge, which others have too."""
        try:
            found = _WAITING.search(self._client.text(METRICS))
        except ProbeError:
            return None
        return float(found[1]) if found else None

    def counted(self) -> Counted | None:
        """Once no request is live."""
        if self.snapshot is None:
            return None
        deadline = time.monotonic() + IDLE_S
        while True:
            found = self._stats()
            if found is None:
                return None
            if not found.get("live") or time.monotonic() > deadline:
                return Counted(found["steps"], found["step_seconds"], found["tokens"])
            time.sleep(0.02)

    def waiting(self) -> float | None:
        """Requests that have no place yet."""
        if not self._waiting_said:
            return None
        if self.snapshot is None:
            return self._metric()
        found = self._stats()
        return None if found is None else found.get("waiting")


class Queue:
    """Looks at the queue in a thread while a level runs; `longest` is the most that waited."""

    def __init__(self, behind: Behind) -> None:
        self.longest: int | None = None
        self._behind, self._done = behind, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        while not self._done.wait(EVERY_S):
            found = self._behind.waiting()
            if found is None:
                return
            self.longest = max(self.longest or 0, round(found))

    def __enter__(self) -> Queue:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._done.set()
        self._thread.join()
