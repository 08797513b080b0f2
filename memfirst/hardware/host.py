"""What this process may use of this machine: cores within the CPU quota, and memory that can still be allocated."""

from __future__ import annotations

import os
import platform
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

_PROC, _SYSTEM = Path("/proc/self"), Path("/sys")
_MEMINFO = Path("/proc/meminfo")
_MEMORY_FILES = (
    ("memory.max", "memory.current"),
    ("memory.high", "memory.current"),  # beyond it the kernel reclaims and throttles: as good as full
    ("memory.limit_in_bytes", "memory.usage_in_bytes"),  # version 1
)

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_CPUINFO, _BOARD = Path("/proc/cpuinfo"), Path("/proc/device-tree/model")

PATIENCE_S = 5.0
"""How long a tool of the system or of a driver may take."""

NO_LIMIT = 1 << 60
"""Version 1 of control groups writes "no limit" as a number near 2^63."""


def default_threads() -> int:
    """Physical cores that this process may use, at least 1: more threads than cores only compete for memory.

    Of a Mac's cores the performance ones: a phase ends with its slowest thread, which an efficiency core would be.
    """
    cores, quota = _fast_cores() or _cores(), cpu_quota()
    return cores if quota is None else max(1, min(cores, int(quota)))


def _cores() -> int:
    """Physical cores among the logical ones that this process may use."""
    siblings = {_read(_SYSTEM / f"devices/system/cpu/cpu{i}/topology/core_cpus_list") for i in _allowed_cpus()}
    if "" not in siblings:
        return len(siblings)
    return max(1, allowed_cores() * physical_cores() // (os.cpu_count() or 1))


def _fast_cores() -> int:
    """A Mac's performance cores; 0 where the system does not tell."""
    return _sysctl("hw.perflevel0.physicalcpu")


def allowed_cores() -> int:
    """Logical cores that this process may run on."""
    return len(list(_allowed_cpus()))


def physical_cores() -> int:
    """Physical cores of the machine, at least 1."""
    import psutil

    return psutil.cpu_count(logical=False) or 1


def processor() -> str:
    """Its name as the system gives it: "AMD Ryzen 9 7950X 16-Core Processor", "Apple M2", "Raspberry Pi 5 Model B"."""
    if platform.system() == "Darwin":
        name = said(["sysctl", "-n", "machdep.cpu.brand_string"]).strip()
    else:
        line = re.search(r"^model name\s*:\s*(.+)$", _read(_CPUINFO), re.MULTILINE)
        name = _read(_BOARD).strip("\0 \n") or (line[1].strip() if line else platform.processor())
    return name or platform.machine()


def caches() -> dict[str, int]:
    """Bytes of the caches that the first core sees: "L1d", "L2", "L3"; empty where the system does not say."""
    found = {}
    for folder in sorted(_CACHES.glob("index[0-9]*")):
        level, kind, size = (_read(folder / name).strip() for name in ("level", "type", "size"))
        if kind != "Instruction" and size[:-1].isdigit() and size[-1:] in ("K", "M"):
            name = f"L{level}{'d' if kind == 'Data' else ''}"
            found[name] = int(size[:-1]) << (10 if size[-1] == "K" else 20)
    if not found:  # a Mac: of its fast cores
        sizes = {"L1d": _sysctl("hw.perflevel0.l1dcachesize"), "L2": _sysctl("hw.perflevel0.l2cachesize")}
        found = {name: size for name, size in sizes.items() if size}
    return found


def total_memory() -> int:
    """Bytes of memory that the machine has; 0 where that is not known."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on Windows
        return 0


def cpu_quota() -> float | None:
    """CPU quota in cores, the smallest of this process's control group and its parents; None without one."""
    return min((q for group in _groups("cpu") if (q := _quota(group)) is not None), default=None)


def _quota(group: Path) -> float | None:
    words = _read(group / "cpu.max").split() or [
        _read(group / "cpu.cfs_quota_us").strip(),
        _read(group / "cpu.cfs_period_us").strip(),
    ]
    if len(words) == 2 and words[0].isdigit() and words[1].isdigit() and int(words[1]):
        return int(words[0]) / int(words[1])
    return None


def last_level_cache() -> int:
    """Bytes of the third-level caches (else second) of the cores that this process may use; 0 where unknown."""
    if (each := _sysctl("hw.perflevel0.l2cachesize")) and (sharing := _sysctl("hw.perflevel0.cpusperl2")):
        return each * max(1, _fast_cores() // sharing)
    root, found = _SYSTEM / "devices/system/cpu", {}
    for cpu in _allowed_cpus():
        for level in (3, 2):
            cache = root / f"cpu{cpu}/cache/index{level}"
            if size := re.match(r"(\d+)K", _read(cache / "size")):
                found[level, _read(cache / "shared_cpu_list").strip()] = int(size[1]) << 10
                break
    return sum(found.values())


def _allowed_cpus() -> Iterable[int]:
    try:
        return os.sched_getaffinity(0)
    except AttributeError:  # no affinity outside Linux
        return range(os.cpu_count() or 1)


def available_memory() -> int:
    """Bytes that can be allocated without swapping, within the limits of the control group and its parents."""
    free = _free_memory()
    return max(0, min((free, *(room for group in _groups("memory") for room in _rooms(group)))))


def _free_memory() -> int:
    """What the system can give without swapping."""
    if found := re.search(r"^MemAvailable: *(\d+) kB$", _read(_MEMINFO), re.MULTILINE):
        return int(found[1]) * 1024
    import psutil

    return int(psutil.virtual_memory().available)


def memory_limit() -> int | None:
    """Bytes that the control group or one of its parents may use at most; None without a limit."""
    limits = (_read(group / limit).strip() for group in _groups("memory") for limit, _ in _MEMORY_FILES)
    return min((int(word) for word in limits if word.isdigit() and int(word) < NO_LIMIT), default=None)


def _rooms(group: Path) -> Iterator[int]:
    """Bytes below each limit of one group: a child's use counts in every parent."""
    for limit, used in _MEMORY_FILES:
        most, now = _read(group / limit).strip(), _read(group / used).strip()
        if most.isdigit() and now.isdigit():
            yield int(most) - int(now) + _reclaimable(group)


def _reclaimable(group: Path) -> int:
    """Page cache charged to the group and its children: given back when memory is wanted."""
    stat = dict(line.split()[:2] for line in _read(group / "memory.stat").splitlines() if " " in line)
    value = stat.get("total_inactive_file") or stat.get("inactive_file", "")  # version 1 has the sum apart
    return int(value) if value.isdigit() else 0


def _groups(controller: str) -> Iterator[Path]:
    """Folders of this process's control group and of its parents, versions 1 and 2, the innermost first."""
    paths = _group_paths(controller)
    for root, mount, version in _mounts(controller):
        for path in paths.get(version, ()):
            inside = path.relative_to(root) if path.is_relative_to(root) else path.relative_to("/")
            if ".." not in inside.parts:  # outside of what this process can see
                yield from (mount / below for below in (inside, *inside.parents))


def _group_paths(controller: str) -> dict[int, list[PurePosixPath]]:
    """Paths in the hierarchies, by version: "4:memory:/a/b" is one of version 1, "0::/a/b" of version 2."""
    found: dict[int, list[PurePosixPath]] = {}
    for line in _read(_PROC / "cgroup").splitlines():
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if path.startswith("/") and ((number == "0" and not names) or controller in names.split(",")):
            found.setdefault(1 if names else 2, []).append(PurePosixPath(path))
    return found


def _mounts(controller: str) -> Iterator[tuple[PurePosixPath, Path, int]]:
    """(root, folder, version) of each mounted hierarchy: `root` is the group that the folder shows."""
    for line in _read(_PROC / "mountinfo").splitlines():
        words, _, kind = line.partition(" - ")
        fields, (fstype, _, options) = words.split(), (*kind.split(" ", 2), "", "", "")[:3]
        version = {"cgroup": 1, "cgroup2": 2}.get(fstype)
        if version and len(fields) > 4 and (version == 2 or controller in options.split(",")):
            yield PurePosixPath(_plain(fields[3])), Path(_plain(fields[4])), version


def _plain(field: str) -> str:
    """A field of mountinfo, whose blanks are written as octal."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""


def visible_gpu() -> bool:
    """Whether an NVIDIA device is visible."""
    return any(Path("/dev").glob("nvidia[0-9]*"))


def said(command: Sequence[str]) -> str:
    """What a tool prints; "" where there is none, or it fails."""
    if shutil.which(command[0]) is None:
        return ""
    import subprocess  # 3 ms that a plan for another machine does without

    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    except (OSError, ValueError, subprocess.SubprocessError):
        return ""
    return ran.stdout


def _sysctl(name: str) -> int:
    """A number that macOS keeps under a name; 0 elsewhere, and where it has none."""
    if platform.system() != "Darwin":
        return 0
    value = said(["sysctl", "-n", name]).strip()
    return int(value) if value.isdigit() else 0
