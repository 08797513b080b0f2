"""The catalogue of machines, names, memory sizes, and a user's own file."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from memfirst.errors import FormatError, MemfirstError
from memfirst.hardware.machines import COMPUTE, KINDS, Machine, catalogue, find_machine, machines, user_file

GIB = 2**30


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's configuration of no rows."""
    monkeypatch.setenv("MEMFIRST_CONFIG_DIR", str(tmp_path))
    return tmp_path


def put(folder: Path, *rows: Any) -> None:
    (folder / "machines.json").write_text(json.dumps({"machines": rows}), encoding="utf-8")


@pytest.mark.parametrize("machine", catalogue(), ids=lambda m: m.name)
def test_each_row_is_whole(machine: Machine) -> None:
    """Plausible rates in bytes/s and op/s, a source, and how it is known."""
    assert machine.kind in KINDS and machine.source and machine.family and machine.memory_type
    assert re.match("opened|derived|from memory|float32 opened", machine.known)
    assert machine.memory in machine.memory_options and min(machine.memory_options) >= GIB
    assert machine.bandwidth and 1e10 < machine.bandwidth < 2e13
    assert set(machine.compute) <= set(COMPUTE) and machine.compute["f32"] > 1e10
    assert machine.unknown == ()
    assert (machine.cores > 0) == (machine.kind in ("cpu", "board"))


def test_no_name_means_two_machines() -> None:
    count = Counter(name for m in catalogue() for name in (m.name, *m.aliases))
    assert [name for name, n in count.items() if n > 1] == []
    assert len(catalogue()) >= 47


@pytest.mark.parametrize(
    ("name", "found", "gigabytes"),
    [("rtx-4090", "rtx-4090", 1008), ("RTX 4090", "rtx-4090", 1008), ("4090", "rtx-4090", 1008),
     ("NVIDIA GeForce RTX 4090", "rtx-4090", 1008), ("AMD Instinct MI300X", "mi300x", 5300),
     ("m2 ultra", "apple-m2-ultra", 800), ("h100", "h100-80gb", 3350), ("Raspberry_Pi-5", "raspberry-pi-5", 17.1),
     ("a100-pcie", "a100-pcie-80gb", 1935), ("strix-halo", "ryzen-ai-max-395", 256)],
)  # fmt: skip
def test_names(name: str, found: str, gigabytes: float) -> None:
    machine = find_machine(name)
    assert machine.name == found
    assert machine.bandwidth == pytest.approx(gigabytes * 1e9)


def test_a_miss_names_near_ones() -> None:
    with pytest.raises(MemfirstError, match=r"no machine is called 'rtx-4900'; expected something like .*rtx-4090"):
        find_machine("rtx-4900")
    with pytest.raises(MemfirstError, match=r"expected a name of the catalogue; .*or add it to .*machines\.json"):
        find_machine("zzzzzzzzzzzzzzzzzzzzzz")


def test_memory_is_chosen_by_size() -> None:
    assert find_machine("m2-ultra").memory == 192 * GIB
    assert find_machine("m2-ultra:64gb").memory == 64 * GIB
    assert find_machine("rtx-4060-ti:8").memory == 8 * GIB
    with pytest.raises(MemfirstError, match="one of 64gb, 128gb, 192gb"):
        find_machine("m2-ultra:65gb")


def test_a_users_row_comes_first_and_replaces(own_folder: Path) -> None:
    put(own_folder, {"name": "mine", "kind": "cpu", "bandwidth_gbs": 40}, {"name": "RTX-4090", "kind": "gpu"})
    assert find_machine("mine").bandwidth == 40e9
    assert find_machine("mine").unknown == ("memory", "compute")
    assert find_machine("4090").unknown == ("memory", "bandwidth", "compute")  # by an alias of what it replaces
    assert len(machines()) == len(catalogue()) + 1
    assert user_file() == own_folder / "machines.json"


def test_all_that_a_row_may_say(own_folder: Path) -> None:
    row = {"name": "x", "title": "X", "kind": "gpu", "aliases": ["Ex"], "family": "ada", "memory_type": "hbm3",
           "memory_gib": [8, 16], "bandwidth_gbs": 100, "compute_tops": {"f32": 1, "f16": 2}, "dies": 2,
           "cores": 4, "link": {"name": "bus", "gbs": 3, "latency_us": 5}, "slow_bandwidth_gbs": 4,
           "disk_bandwidth_gbs": 5, "source": "data sheet", "known": "opened"}  # fmt: skip
    put(own_folder, row)
    found = find_machine("EX")
    assert (found.memory, found.memory_options) == (16 * GIB, (8 * GIB, 16 * GIB))
    assert found.compute == {"f32": 1e12, "f16": 2e12}
    assert found.link and found.link.bandwidth == 3e9
    assert found.link.latency == pytest.approx(5e-6)
    assert (found.dies, found.cores, found.slow_bandwidth, found.disk_bandwidth) == (2, 4, 4e9, 5e9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "holds a list"),
        ("{}", "no list of machines"),
        ('{"machines": [7]}', "a machine without a name"),
        ('{"machines": [{"name": "a"}]}', "kind is None"),
        ('{"machines": [{"name": "a", "kind": "gpu", "speed": 3}]}', "says speed"),
        ('{"machines": [{"name": "a", "kind": "gpu", "bandwidth_gbs": -3}]}', "a: bandwidth_gbs is -3"),
        ('{"machines": [{"name": "a", "kind": "gpu", "bandwidth_gbs": "3"}]}', "bandwidth_gbs is '3'"),
        ('{"machines": [{"name": "a", "kind": "gpu", "bandwidth_gbs": NaN}]}', "bandwidth_gbs is nan"),
        ('{"machines": [{"name": "a", "kind": "gpu", "memory_gib": true}]}', "memory_gib is True"),
        ('{"machines": [{"name": "a", "kind": "gpu", "compute_tops": {"f8": 1}}]}', "compute_tops is"),
        ('{"machines": [{"name": "a", "kind": "gpu", "link": {"gbs": 1}}]}', "link is"),
        ('{"machines": [{"name": "a", "kind": "gpu", "aliases": "b"}]}', "aliases is 'b'"),
        ('{"machines": [' + " " * (1 << 20) + "]}", "larger than"),
    ],
)
def test_a_bad_file_is_named(own_folder: Path, text: str, message: str) -> None:
    (own_folder / "machines.json").write_text(text, encoding="utf-8")
    with pytest.raises(FormatError, match=message):
        machines()


def test_a_file_that_cannot_be_read(own_folder: Path) -> None:
    (own_folder / "machines.json").mkdir()
    with pytest.raises(MemfirstError, match="cannot read"):
        machines()
