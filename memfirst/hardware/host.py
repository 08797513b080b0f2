"""What this machine lends to this process: cores within the quota, and memory that can still be had."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_MEMORY_FILES = (
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),  # version 1
)


def default_threads() -> int:
    """Physical cores that this process may use, at least 1: more threads than cores only compete for memory."""
    import psutil

    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # no affinity outside Linux
        allowed = os.cpu_count() or 1
    logical, physical = psutil.cpu_count() or 1, psutil.cpu_count(logical=False) or 1
    cores = max(1, allowed * physical // logical)
    quota = cpu_quota()
    return cores if quota is None else max(1, min(cores, int(quota)))


def cpu_quota() -> float | None:
    """Cores' worth of time that the control group may use; None without a limit."""
    words = _read("cpu.max").split()
    if len(words) == 2 and words[0].isdigit() and words[1].isdigit() and int(words[1]):
        return int(words[0]) / int(words[1])
    quota, period = _read("cpu/cpu.cfs_quota_us").strip(), _read("cpu/cpu.cfs_period_us").strip()
    if quota.isdigit() and period.isdigit() and int(period):
        return int(quota) / int(period)
    return None


def available_memory() -> int:
    """Bytes that can be allocated without swapping, within the control group's limit."""
    import psutil

    free = int(psutil.virtual_memory().available)
    for limit, used in _MEMORY_FILES:
        most, now = _read(limit).strip(), _read(used).strip()
        if most.isdigit() and now.isdigit():
            free = min(free, int(most) - int(now) + _reclaimable())
    return max(0, free)


def _reclaimable() -> int:
    """Page cache that the group holds: it is given back when memory is wanted."""
    for line in _read("memory.stat").splitlines():
        name, _, value = line.partition(" ")
        if name == "inactive_file" and value.isdigit():
            return int(value)
    return 0


def _read(name: str) -> str:
    try:
        return (_CGROUP / name).read_text()
    except OSError:
        return ""


def visible_gpu() -> bool:
    """Whether an NVIDIA device is visible."""
    return any(Path("/dev").glob("nvidia[0-9]*"))
