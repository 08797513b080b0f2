"""What this machine is to memfirst, in ten lines for a bug report, and what would make it faster."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from memfirst import __version__
from memfirst.backends.cpu.bandwidth import ReadProbe
from memfirst.errors import MemfirstError
from memfirst.hardware import host
from memfirst.kernels.cpu import arena, isa
from memfirst.kernels.cpu.library import Library
from memfirst.predict import measured
from memfirst.progress import Progress, Silent

_SYS, _PROC = Path("/sys"), Path("/proc")
PACKAGES = ("numpy", "numba", "llvmlite", "tokenizers")
BUFFER = 256 << 20
"""Bytes that are read: more than caches hold of most machines."""

BUSY, STOLEN = 0.5, 0.03
"""Load beside our own for each core, and share of time that a hypervisor gives to others, from which on it is said."""


@dataclass(frozen=True)
class Advice:
    """Something that would make it faster: why, and the command."""

    why: str
    command: str


@dataclass
class Diagnosis:
    """What was found; bytes, bytes per second, cores. None or "" where a system does not say."""

    versions: dict[str, str]
    system: str
    processor: str
    cores: int
    physical: int
    allowed: int
    quota: float | None
    caches: dict[str, int]
    instructions: str
    usable: list[str]
    forced: str
    numa_nodes: int
    memory: int
    available: int
    limit: int | None
    huge_pages: str
    huge_share: float | None
    """Of the memory that was read, what lies on huge pages."""
    threads: int
    load: float | None
    stolen: float | None
    governor: str
    read: dict[int, float]
    """Bytes/s by threads."""
    cache: str
    cache_writable: bool
    kernels: int
    kernel_bytes: int
    measured: str
    """When `memfirst machine` measured this machine."""
    gpu: bool
    settings: dict[str, str]
    advice: list[Advice] = field(default_factory=list)

    def json(self) -> dict[str, Any]:
        """All of it by name."""
        return asdict(self)

    def lines(self) -> Iterator[tuple[str, str]]:
        """Nine labels with what is to be said of them; `advice` is the tenth."""
        python = f"Python {self.versions['python']}"
        packages = " · ".join(f"{name} {self.versions[name]}" for name in PACKAGES)
        yield "memfirst", f"{self.versions['memfirst']} · {python} · {packages}"
        yield "system", self.system + (" · a GPU is visible and not used" if self.gpu else "")
        quota = f", quota {self.quota:g}" if self.quota else ""
        caches = " · ".join(f"{name} {_binary(size)}" for name, size in self.caches.items())
        nodes = f" · {self.numa_nodes} NUMA nodes" if self.numa_nodes > 1 else ""
        cores = f"{self.allowed} of {self.cores} logical cores ({self.physical} physical{quota})"
        yield "processor", f"{self.processor} · {cores}{nodes}"
        usable = ", ".join(name for name in self.usable if name != self.instructions)
        forced = ", forced by MEMFIRST_ISA" if self.forced else ""
        yield "code", f"{self.instructions}{forced} (also runs {usable}) · caches {caches or 'not known'}"
        limit = f" · control group: {_binary(self.limit)}" if self.limit is not None else ""
        yield "memory", f"{_binary(self.available)} of {_binary(self.memory)} can be used{limit}"
        share = "" if self.huge_share is None else f", {100 * self.huge_share:.0f} % of what was read lies on them"
        yield "pages", f"transparent huge pages: {self.huge_pages or 'none'}{share}"
        busy = "" if self.load is None else f" · load {self.load:.1f}"
        stolen = "" if self.stolen is None else f" · {100 * self.stolen:.0f} % of the time taken by the hypervisor"
        yield "threads", f"{self.threads}{busy}{stolen} · governor {self.governor or 'not shown'}"
        by_threads = " · ".join(f"{n} thread{'s' * (n != 1)} {rate / 1e9:.1f} GB/s" for n, rate in self.read.items())
        yield "reads", f"{by_threads} now · memfirst machine: {self.measured or 'never run'}"
        writable = "" if self.cache_writable else ", which cannot be written"
        settings = "".join(f" · {name}={value}" for name, value in self.settings.items())
        home = str(Path.home())
        where = self.cache.replace(home, "~", 1) if self.cache.startswith(home + os.sep) else self.cache
        yield "cache", f"{self.kernels} kernels, {self.kernel_bytes / 1e6:.1f} MB in {where}{writable}{settings}"


def diagnose(progress: Progress | None = None) -> Diagnosis:
    """Look at everything; takes about two seconds, and one more to compile a kernel the first time."""
    library = Library()
    load, before, threads = _load(), _cpu_times(), host.default_threads()
    memory = arena.allocate(BUFFER)
    memory[::4096] = 1
    report = progress or Silent()
    counts = sorted({1, threads})
    read = {}
    for i, n in enumerate(counts):
        report.update("reading memory", i, len(counts), unit="")
        read[n] = ReadProbe(library, n, memory).measure().rate
    report.update("reading memory", len(counts), len(counts), unit="")
    kernels = [path for path in _files(library.folder) if path.suffix == ".o"]
    found = Diagnosis(
        versions={"memfirst": __version__, "python": platform.python_version(), **{n: _version(n) for n in PACKAGES}},
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        processor=host.processor(), cores=os.cpu_count() or 1, physical=host.physical_cores(),
        allowed=host.allowed_cores(), quota=host.cpu_quota(), caches=host.caches(),
        instructions=isa.detect(), usable=isa.usable(), forced=os.environ.get("MEMFIRST_ISA", ""),
        numa_nodes=len(list(_SYS.glob("devices/system/node/node[0-9]*"))) or 1,
        memory=host.total_memory(), available=host.available_memory(), limit=host.memory_limit(),
        huge_pages=_chosen(_SYS / "kernel/mm/transparent_hugepage/enabled"), huge_share=_huge_share(memory.nbytes),
        threads=threads, load=load, stolen=_stolen(before, _cpu_times()), governor=_governor(), read=read,
        cache=str(library.folder.parent), cache_writable=_writable(library.folder.parent),
        kernels=len(kernels), kernel_bytes=sum(path.stat().st_size for path in kernels),
        measured=_measured(), gpu=host.visible_gpu(), settings=_settings(),
    )  # fmt: skip
    found.advice = list(advise(found))
    return found


def advise(found: Diagnosis) -> Iterator[Advice]:
    """What would make it faster, each with its command; what gains most first."""
    if found.forced and found.forced != found.usable[0]:
        why = f"MEMFIRST_ISA chooses {found.forced}; this processor has {found.usable[0]}"
        yield Advice(why, "unset MEMFIRST_ISA")
    if found.quota and found.quota < found.physical:
        why = f"the control group gives {found.quota:g} of {found.physical} cores"
        yield Advice(why, f"docker update --cpus {found.physical} CONTAINER")
    elif found.allowed < found.cores:
        why = f"this process may use {found.allowed} of {found.cores} logical cores"
        yield Advice(why, f"taskset -c 0-{found.cores - 1} memfirst run")
    if found.huge_pages == "never":
        why = "without huge pages memory is read 10 to 14 % slower"
        yield Advice(why, "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled")
    if found.governor and found.governor not in ("performance", "schedutil"):
        why = f"the governor {found.governor} may hold the clock down"
        yield Advice(why, "sudo cpupower frequency-set --governor performance")
    if found.numa_nodes > 1:
        why = f"memory lies on {found.numa_nodes} NUMA nodes: spread over all, it is read from all"
        yield Advice(why, "numactl --interleave=all memfirst run")
    if found.load is not None and found.load > BUSY * found.threads:
        yield Advice(f"something else runs here (load {found.load:.1f}): see what", "top -o %CPU")
    if not found.cache_writable:
        why = "kernels are compiled at each start, as their cache cannot be written"
        yield Advice(why, 'export MEMFIRST_CACHE_DIR="$HOME/memfirst-cache"')


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _measured() -> str:
    try:
        rates = measured.load()
    except MemfirstError as error:
        return str(error)
    return rates.date[:16].replace("T", " ") if rates else ""


def _settings() -> dict[str, str]:
    """Variables that change what memfirst does; a token is only said to be there."""
    names = sorted(name for name in os.environ if name.startswith(("MEMFIRST_", "HF_", "NUMBA_")))
    return {name: "(set)" if "TOKEN" in name or "KEY" in name else os.environ[name] for name in names}


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _chosen(path: Path) -> str:
    """The word in brackets: "always [madvise] never"."""
    return _read(path).partition("[")[2].partition("]")[0]


def _governor() -> str:
    found = {_read(path) for path in _SYS.glob("devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor")}
    return ", ".join(sorted(found - {""}))


def _huge_share(nbytes: int) -> float | None:
    """Of a buffer that is the largest thing in memory; None where the system does not say."""
    for line in _read(_PROC / "self/smaps_rollup").splitlines():
        if line.startswith("AnonHugePages:"):
            return min(1.0, int(line.split()[1]) * 1024 / nbytes)
    return None


def _load() -> float | None:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def _cpu_times() -> list[int]:
    """Ticks by what the processors did: the eighth is what a hypervisor gave to others."""
    return [int(word) for word in _read(_PROC / "stat").partition("\n")[0].split()[1:9]]


def _stolen(before: list[int], after: list[int]) -> float | None:
    spent = [b - a for a, b in zip(before, after, strict=False)]
    return spent[7] / sum(spent) if len(spent) == 8 and any(spent) else None


def _files(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _writable(folder: Path) -> bool:
    """Whether it, or the first of its parents that is there, can be written."""
    there = next((one for one in (folder, *folder.parents) if one.exists()), folder)
    return os.access(there, os.W_OK)


def _binary(size: int) -> str:
    """As memory is sold: 32 KiB, 15.2 GiB."""
    for unit, scale in (("GiB", 1 << 30), ("MiB", 1 << 20)):
        if size >= scale:
            return f"{size / scale:.1f}".removesuffix(".0") + f" {unit}"
    return f"{size / 1024:.0f} KiB"
