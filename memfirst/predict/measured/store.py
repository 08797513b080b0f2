"""A machine's measured rates as a file: written by `memfirst machine`, read by `memfirst plan` and `bench`."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from memfirst.errors import FormatError, MemfirstError
from memfirst.formats.json_file import parse_object
from memfirst.hardware import host
from memfirst.hardware.machines import user_file

FORMAT = 3
"""Of the file: another number is measured anew. 1 held bandwidths of one pattern with threads on one core, too low; 2
other names of kernels, and what a file lacks would cost nothing."""

_LARGEST_FILE = 1 << 20


@dataclass(frozen=True)
class Rate:
    """Seconds of one call's unit, and of each item of its amount, on one thread with everything in cache."""

    unit: float
    item: float


@dataclass(frozen=True)
class Rates:
    """What one machine measured. Seconds, and bytes per second; by number of threads where that matters.

    fingerprint  of the hardware; date: when, ISO; spread: largest relative difference between repetitions
    read         bytes/s that a number of threads read together, with the fastest pattern of those in `pattern`
    stream       share of it that a product's weights reach; gather: that attention's keys and values reach
    phase        seconds of a phase beside its work: barrier, claims
    step         seconds of a step beside its phases: Python, waking
    work         by key of `rates.work`
    peak         of the memory modules, bytes/s, and what they are; 0 and "" where the firmware does not say
    observed     what stream and gather were solved from: bytes/s read and seconds of a step, by their name and threads
    """

    fingerprint: str
    date: str
    memory: int
    read: Mapping[int, float]
    stream: Mapping[int, float]
    gather: Mapping[int, float]
    phase: Mapping[int, float]
    step: float
    work: Mapping[str, Rate]
    spread: float = 0.0
    observed: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    notes: tuple[str, ...] = field(default=())
    pattern: Mapping[int, str] = field(default_factory=dict)
    peak: float = 0.0
    modules: str = ""

    @property
    def threads(self) -> tuple[int, ...]:
        """Numbers of threads that were measured, in order."""
        return tuple(sorted(self.read))


def nearest(by_threads: Mapping[int, float], threads: int) -> float:
    """The value measured with the number of threads nearest to `threads`."""
    return by_threads[min(by_threads, key=lambda t: (abs(t - threads), t))]


def fingerprint() -> str:
    """The processor's name, its cores and the memory in GiB: other hardware has another."""
    return f"{host.processor()}, {os.cpu_count()} cores, {round(host.total_memory() / 2**30)} GiB, {platform.machine()}"


def rates_file() -> Path:
    """Beside a user's own machines."""
    return user_file().with_name("this-machine.json")


def save(rates: Rates) -> Path:
    """Write the file, whole or not at all."""
    path = rates_file()
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps({"format": FORMAT, **asdict(rates)}, indent=1), encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        do = "make room or set MEMFIRST_CONFIG_DIR"
        raise MemfirstError(f"the rates are not kept: cannot write {path}: {error.strerror}", do=do) from error
    return path


def load() -> Rates | None:
    """This machine's rates; None where there are none, or of other hardware. FormatError for a broken file."""
    path = rates_file()
    try:
        data = path.read_bytes()[: _LARGEST_FILE + 1]
    except FileNotFoundError:
        return None
    except OSError as error:
        raise MemfirstError(f"cannot read {path}: {error.strerror}", do="fix or remove it") from error
    found = _parse(data, path)
    return found if found is not None and found.fingerprint == fingerprint() else None


def _parse(data: bytes, path: Path) -> Rates | None:
    row = parse_object(data, str(path))
    if row.pop("format", None) != FORMAT:
        return None
    try:
        return _rates(row)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise FormatError(f"{path} is broken ({error})", "what `memfirst machine` writes", "run it again") from error


def _rates(row: dict[str, Any]) -> Rates:
    for name in ("read", "stream", "gather", "phase"):
        row[name] = {int(threads): _positive(value) for threads, value in row[name].items()}
        if not row[name]:
            raise ValueError(f"{name} is empty")
    row["pattern"] = {int(threads): str(name) for threads, name in row.get("pattern", {}).items()}
    row["peak"], row["modules"] = float(row.get("peak", 0.0)), str(row.get("modules", ""))
    work = {str(key): Rate(float(r["unit"]), float(r["item"])) for key, r in row.pop("work").items()}
    row["observed"] = {str(k): (float(read), float(took)) for k, (read, took) in row.get("observed", {}).items()}
    return Rates(**{**row, "work": work, "notes": tuple(row.get("notes", ()))})


def _positive(value: Any) -> float:
    if not 0 < float(value) < 1e15:
        raise ValueError(f"{value!r} is no rate")
    return float(value)
