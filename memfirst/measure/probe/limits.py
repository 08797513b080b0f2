"""How long and how often a probe may ask: one deadline and one count of requests for all of its threads."""

from __future__ import annotations

import threading
import time

from memfirst.errors import ProbeError

STALL_S = 15.0
"""A stream that has begun may pause so long between tokens; a prompt may take until the deadline."""


class TimeUpError(ProbeError):
    """The probe's own time or requests are used up: what was measured before still counts."""


class Limits:
    """Seconds and requests that are left, and a stream's patience; `stop` makes every thread leave its stream."""

    def __init__(self, seconds: float, requests: int, stall_s: float | None = None) -> None:
        self.seconds, self.requests = seconds, requests
        self.stall_s = STALL_S if stall_s is None else stall_s
        self.deadline = time.monotonic() + seconds
        self.stop = threading.Event()
        self._left = requests
        self._lock = threading.Lock()

    @staticmethod
    def now() -> float:
        """Seconds of the clock that everything here is timed by."""
        return time.monotonic()

    @property
    def left_s(self) -> float:
        """Seconds until the deadline, never negative."""
        return max(0.0, self.deadline - time.monotonic())

    @property
    def requests_left(self) -> int:
        """Requests that may still be sent."""
        return self._left

    def take(self) -> None:
        """Count one request; TimeUpError where none is left, or no time."""
        self.check()
        with self._lock:
            if self._left <= 0:
                raise TimeUpError(f"all {self.requests} requests are used", do="allow more with --max-requests")
            self._left -= 1

    def pause(self, seconds: float) -> None:
        """Do nothing for so long; TimeUpError as soon as somebody asked to stop."""
        self.stop.wait(seconds)
        self.check()

    def check(self) -> None:
        """TimeUpError after the deadline, or once somebody asked to stop."""
        if self.stop.is_set() or time.monotonic() >= self.deadline:
            raise TimeUpError(f"the {self.seconds:g} s are over", do="allow more with --seconds")


class Watch:
    """One connection's patience: the limits, and a stall that `progressed` postpones once tokens flow."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._until: float | None = None

    def progressed(self) -> None:
        """A token came: the next one has as long again."""
        self._until = time.monotonic() + self.limits.stall_s

    def check(self) -> None:
        """TimeUpError, or ProbeError for a stream that stands still."""
        if self._until is not None and time.monotonic() >= self._until:
            raise ProbeError(
                f"the stream stalled: no token for {self.limits.stall_s:g} s",
                "a token now and then",
                "look at the server's log",
            )
        self.limits.check()
