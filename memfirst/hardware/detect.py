"""What this computer is, before anything is measured: its processor, its memory, its GPUs, with rates of the catalogue.

A processor or a card that the catalogue does not have gets an assumed bandwidth, or none.
"""

from __future__ import annotations

import csv
import platform
import re
from dataclasses import replace

from memfirst.errors import MemfirstError
from memfirst.hardware import host
from memfirst.hardware.machines import Machine, find_machine

HERE = "here"
"""The name of this machine."""

CORE_READS, CORE_RATE = 30e9, 1e11
"""Bytes/s that a core reads at most (20 to 45e9 of today's), and its float32 operations: 32 for each of 3.1 GHz."""

SERVER, DESKTOP = 204.8e9, 51.2e9
"""Bytes/s assumed of a server's memory (8 channels of DDR4-3200), and of any other's (2)."""

_SERVERS = re.compile(r"\b(?:epyc|xeon|graviton|neoverse|ampere)", re.IGNORECASE)


def processor() -> Machine:
    """This computer as a machine that computes on its processor; its memory is what can be allocated now."""
    name, cores, free = host.processor(), host.default_threads(), host.available_memory()
    row = _catalogued(name)
    if row is not None and row.kind in ("cpu", "board", "unified") and row.bandwidth:
        bandwidth = min(row.bandwidth, CORE_READS * cores)
        compute = {"f32": min(row.compute.get("f32", CORE_RATE * cores), CORE_RATE * cores)}
        source = f"as the catalogue's {row.name}, not measured"
        kind, memory_type, family = "board" if row.kind == "board" else "cpu", row.memory_type, row.family
    else:
        bandwidth = min(SERVER if _SERVERS.search(name) else DESKTOP, CORE_READS * cores)
        compute, source = {"f32": CORE_RATE * cores}, "assumed, not measured"
        kind, memory_type, family = "cpu", "ddr4", platform.machine()
    return Machine(
        HERE, name or "this machine", kind, family=family, memory_type=memory_type, memory=free, bandwidth=bandwidth,
        cores=cores, compute=compute, source=source, known="assumed",
    )  # fmt: skip


def gpus() -> tuple[tuple[int, Machine], ...]:
    """(how many, card) that NVIDIA's or AMD's tool or macOS names, each kind once; none where none is found."""
    named = _nvidia() or _amd() or _apple()
    found: dict[str, tuple[int, Machine]] = {}
    for name, memory in named:
        count, machine = found.get(name, (0, _card(name, memory)))
        found[name] = count + 1, machine
    return tuple(found.values())


def _catalogued(name: str) -> Machine | None:
    try:
        return find_machine(re.sub(r"\s+model\b.*", "", name, flags=re.IGNORECASE)) if name else None
    except MemfirstError:
        return None


def _card(name: str, memory: int) -> Machine:
    """The catalogue's row with the memory that the driver says; without a row its memory alone is known."""
    found = _catalogued(name)
    if found is None:
        plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        return Machine(plain, name, "gpu", memory=memory or None, source="not in the catalogue", known="")
    if found.kind == "unified" and memory:
        return replace(found, memory=memory)
    near = [size for size in found.memory_options if memory and abs(size - memory) < 0.12 * size]
    return replace(found, memory=near[0] if near else memory or found.memory)


def _nvidia() -> list[tuple[str, int]]:
    """(name, bytes) of each card."""
    text = host.said(["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"])
    rows = [line.rpartition(",") for line in text.splitlines() if "," in line]
    return [(name.strip(), _number(mib) << 20) for name, _, mib in rows]


def _amd() -> list[tuple[str, int]]:
    text = host.said(["rocm-smi", "--showproductname", "--showmeminfo", "vram", "--csv"])
    rows = list(csv.DictReader(line for line in text.splitlines() if "," in line))
    series = ("Card Series", "Card series", "Card model", "Card Model")
    found = []
    for row in rows:
        name = next((row[key] for key in series if row.get(key)), "")
        total = next((_number(v) for k, v in row.items() if k and "Total Memory" in k and v), 0)
        if name:
            found.append((name, total))
    return found


def _apple() -> list[tuple[str, int]]:
    """The chip's own GPU, which uses the one memory."""
    if platform.system() != "Darwin" or platform.machine() != "arm64":
        return []
    return [(host.processor(), _number(host.said(["sysctl", "-n", "hw.memsize"])))]


def _number(text: str) -> int:
    digits = text.strip()
    return int(digits) if digits.isdigit() else 0
