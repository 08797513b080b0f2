"""Was the machine ours while we measured? CPU time of other processes, and time the hypervisor stole.

A timing is spoiled when others used more than 2 % of one core, or when any time was stolen: it is thrown
away and counted, unless disturbed ones were asked for (`--unquiet`).

Others' time is the machine's busy time (/proc/stat: user, nice, system, irq, softirq; all cores)
less ours. Ours is this process plus every child that ended and was waited for, grandchildren included
(getrusage), which is exact for programs that live only inside the window; sampling /proc/<pid>/stat
would lose what a child used between the last sample and its end.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from benchmarks.process import BenchmarkError

OTHERS_LIMIT = 0.02
"""Of one core: 40 ms of a window of 2 s; /proc/stat counts in ticks of 10 ms."""

T = TypeVar("T")


@dataclass(frozen=True)
class Counters:
    """Seconds since some start: wall clock, busy on all cores, stolen, and used by us."""

    wall: float
    busy: float
    steal: float
    ours: float


@dataclass(frozen=True)
class Window:
    """What happened between two readings, in seconds."""

    seconds: float
    others_s: float
    steal_s: float

    @property
    def others_cores(self) -> float:
        """Cores that other processes used on average."""
        return self.others_s / self.seconds

    @property
    def spoiled(self) -> bool:
        """True where a timing of this window must be thrown away."""
        return self.others_cores > OTHERS_LIMIT or self.steal_s > 0


def parse_stat(text: str, ticks_per_s: int) -> tuple[float, float]:
    """Busy and stolen seconds of all cores from /proc/stat's first line (guest time is inside user time)."""
    words = text.split("\n", 1)[0].split()
    if words[:1] != ["cpu"] or len(words) < 9:
        raise BenchmarkError(
            f"/proc/stat begins with {words[:2]}", "cpu user nice system idle iowait irq softirq steal"
        )
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(word) / ticks_per_s for word in words[1:9])
    return user + nice + system + irq + softirq, steal


def read_counters() -> Counters:
    """The counters now; BenchmarkError where the system has no /proc/stat."""
    try:
        busy, steal = parse_stat(Path("/proc/stat").read_text(), os.sysconf("SC_CLK_TCK"))
    except OSError as error:
        raise BenchmarkError("no /proc/stat", "Linux", "clean pairs can only be told apart there") from error
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    ours = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    return Counters(time.monotonic(), busy, steal, ours)


def between(before: Counters, after: Counters) -> Window:
    """The window from one reading to a later one; tick rounding may not make others negative."""
    others = (after.busy - before.busy) - (after.ours - before.ours)
    return Window(after.wall - before.wall, max(0.0, others), after.steal - before.steal)


def watch(work: Callable[[], T]) -> tuple[T, Window]:
    """Do the work (a child process that is waited for), and say what else the machine did meanwhile."""
    before = read_counters()
    result = work()
    return result, between(before, read_counters())
