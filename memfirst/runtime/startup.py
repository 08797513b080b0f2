"""Where start-up time went, stage by stage, from the start of the process."""

from __future__ import annotations

import os
import time
from pathlib import Path


class Stages:
    """Seconds of each stage, in order. The first one ends when the object is made: interpreter and imports."""

    def __init__(self) -> None:
        now = time.time()
        self.process_started = _process_start(now)
        self.seconds: dict[str, float] = {"imports": now - self.process_started}
        self._last = time.perf_counter()

    def done(self, name: str) -> None:
        """The stage `name` ends here."""
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now

    def since_start(self, moment: float) -> float:
        """Seconds from the start of the process to `moment`, a `time.time()`."""
        return moment - self.process_started


def _process_start(now: float) -> float:
    """When this process began, to the system's clock tick (10 ms on Linux).

    Linux counts ticks since boot, and its time of boot is rounded to a second: the age comes from the uptime instead.
    """
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        age = float(Path("/proc/uptime").read_text().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")
        return now - age
    except (OSError, ValueError, IndexError):
        return _created(now)


def _created(now: float) -> float:
    """The same where there is no /proc."""
    import psutil

    try:
        return float(psutil.Process().create_time())
    except psutil.Error:
        return now
