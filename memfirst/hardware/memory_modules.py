"""The memory's theoretical peak, from the firmware's table of modules (SMBIOS type 17), where it can be read."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

_DMI, _CPUINFO = Path("/sys/firmware/dmi"), Path("/proc/cpuinfo")
_LARGEST = 1 << 20
"""Bytes of a table: a server's has 20 kB."""

MODULE = 17
"""The type of structures that describe memory modules."""

_TYPES = {
    0x18: "DDR3", 0x1A: "DDR4", 0x1D: "LPDDR3", 0x1E: "LPDDR4", 0x20: "HBM", 0x21: "HBM2", 0x22: "DDR5",
    0x23: "LPDDR5", 0x24: "HBM3",
}  # fmt: skip
_UNKNOWN = 0xFFFF
_CHANNEL = (
    re.compile(r".*channel[ _-]*(?:[a-z](?![a-z])|\d+)", re.IGNORECASE),
    re.compile(r".*(?:dimm|[ _-])[a-z](?=\d+$)", re.IGNORECASE),
)
"""How boards name a module's channel: "P0 CHANNEL A", "Controller0-ChannelA-DIMM0"; "CPU1_DIMM_A1", "P1-DIMMA1".

A plain "A2" says nothing: A is a channel on some boards and a socket on others."""


@dataclass(frozen=True)
class Module:
    """One installed module: its type, MT/s as configured, data bits, and its channel ("" where no name tells it)."""

    kind: str
    speed: int
    width: int
    channel: str


@dataclass(frozen=True)
class MemoryPeak:
    """Bytes per second that all channels move at most, and what they hold: "12 × DDR5-4800"."""

    bandwidth: float
    modules: str

    def __str__(self) -> str:
        return f"{self.bandwidth / 1e9:.1f} GB/s peak ({self.modules})"


def memory_peak() -> MemoryPeak | None:
    """Of this machine; None where the table is missing, closed to this user, a hypervisor's or incomplete."""
    if re.search(r"^flags\b.*\bhypervisor\b", _read(_CPUINFO).decode(errors="replace"), re.MULTILINE):
        return None  # a virtual machine's modules are not those that its host reads from
    entries = [_read(path) for path in sorted((_DMI / "entries").glob(f"{MODULE}-*/raw"))]
    return peak_of([m for raw in entries or structures(_read(_DMI / "tables" / "DMI")) for m in modules(raw)])


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_LARGEST)
    except OSError:  # these files are root's
        return b""


def structures(table: bytes) -> Iterator[bytes]:
    """Each structure of a whole table, its strings included."""
    at = 0
    while at + 4 <= len(table) and table[at + 1] >= 4:
        end = table.find(b"\0\0", at + table[at + 1])
        if end < 0:
            return
        yield table[at : end + 2]
        at = end + 2


def modules(raw: bytes) -> Iterator[Module]:
    """The module that one structure describes; nothing where it is another type, an empty slot, or says too little."""
    length = raw[1] if len(raw) > 1 else 0
    if len(raw) < length or length < 0x22 or raw[0] != MODULE:
        return

    def word(at: int) -> int:
        return int.from_bytes(raw[at : at + 2], "little")

    size, width, kind = word(0x0C), word(0x0A), _TYPES.get(raw[0x12], "")
    speed = _speed(raw, 0x20, 0x58) or _speed(raw, 0x15, 0x54)
    if size not in (0, _UNKNOWN) and kind and speed and 0 < width < _UNKNOWN:
        strings = [s.decode("latin-1").strip() for s in raw[length:].split(b"\0")]
        named = [strings[n - 1] if 0 < n <= len(strings) else "" for n in (raw[0x11], raw[0x10])]
        yield Module(kind, speed, width, _channel(*named))


def _speed(raw: bytes, at: int, extended: int) -> int:
    """MT/s at an offset, or where it is too large for a word at another; 0 where unknown."""
    speed = int.from_bytes(raw[at : at + 2], "little")
    if speed == _UNKNOWN:
        return int.from_bytes(raw[extended : extended + 4], "little") if raw[1] >= extended + 4 else 0
    return speed


def _channel(*names: str) -> str:
    """What names the channel in a module's names; "" where none does."""
    found = (match[0] for pattern in _CHANNEL for name in names if (match := pattern.match(name)))
    return next(found, "").upper()


def peak_of(found: Iterable[Module]) -> MemoryPeak | None:
    """Of these modules: two on one channel share it. None where it is not told which do."""
    channels: dict[str, Module] = {}
    known = list(found)
    for module in known:
        if not module.channel and len(known) > 1:
            return None
        slower = channels.get(module.channel)
        channels[module.channel] = module if slower is None or module.speed < slower.speed else slower
    if not channels:
        return None
    kinds = Counter(f"{m.kind}-{m.speed}" for m in channels.values())
    bandwidth = sum(m.speed * 1e6 * m.width / 8 for m in channels.values())
    return MemoryPeak(bandwidth, " + ".join(f"{n} × {kind}" for kind, n in kinds.items()))
