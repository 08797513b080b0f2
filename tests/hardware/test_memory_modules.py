"""The memory's peak from SMBIOS tables: bytes as boards write them, and what must not be believed."""

from __future__ import annotations

from pathlib import Path

import pytest

from memfirst.hardware import memory_modules
from memfirst.hardware.memory_modules import memory_peak, modules, peak_of, structures


def entry(device: str, bank: str, *, speed: int, kind: int = 0x22, width: int = 64, size: int = 0x7FFF) -> bytes:
    """One type 17 structure of SMBIOS 3.3: 92 bytes, then its strings."""
    raw = bytearray(0x5C)
    raw[0:4] = 17, 0x5C, 0x24, 0x00
    raw[0x08:0x0A] = (width + 16).to_bytes(2, "little")  # with its error correction
    raw[0x0A:0x0C] = width.to_bytes(2, "little")
    raw[0x0C:0x0E] = size.to_bytes(2, "little")
    raw[0x10], raw[0x11], raw[0x12] = 1, 2, kind
    raw[0x15:0x17] = (5600).to_bytes(2, "little")  # what the module could do
    raw[0x1C:0x20] = (65536).to_bytes(4, "little")
    raw[0x20:0x22] = min(speed, 0xFFFF).to_bytes(2, "little")
    raw[0x58:0x5C] = (speed if speed >= 0xFFFF else 0).to_bytes(4, "little")
    return bytes(raw) + device.encode() + b"\0" + bank.encode() + b"\0\0"


def said(*entries: bytes) -> str:
    return str(peak_of(m for raw in entries for m in modules(raw)))


DESKTOP = bytes.fromhex(
    "11 28 00 11 00 10 fe ff 48 00 40 00 00 40 09 00 01 02 1a 80 20 80 0c 03 04 05 06 02 00 00 00 00 80 0c b0 04 b0 04"
    " b0 04 43 68 61 6e 6e 65 6c 41 2d 44 49 4d 4d 30 00 42 41 4e 4b 20 30 00 53 61 6d 73 75 6e 67 00 30 00 30 00 30 00"
    " 00"
)
"""16 GiB of DDR4-3200, "ChannelA-DIMM0" of "BANK 0", written out from SMBIOS 2.8: 40 bytes and four strings."""


def test_a_module_byte_by_byte() -> None:
    (found,) = modules(DESKTOP)
    assert (found.kind, found.speed, found.width, found.channel) == ("DDR4", 3200, 64, "CHANNELA")
    assert said(DESKTOP) == "25.6 GB/s peak (1 × DDR4-3200)"


def test_twelve_channels_of_a_server() -> None:
    rows = [entry("DIMM 0", f"P0 CHANNEL {c}", speed=4800) for c in "ABCDEFGHIJKL"]
    assert said(*rows) == "460.8 GB/s peak (12 × DDR5-4800)"
    both = [entry(f"DIMM {slot}", f"P0 CHANNEL {c}", speed=4400) for c in "ABCDEFGHIJKL" for slot in (0, 1)]
    assert said(*both) == "422.4 GB/s peak (12 × DDR5-4400)"  # two modules on a channel share it


@pytest.mark.parametrize(
    ("names", "channels"),
    [
        ([("Controller0-ChannelA-DIMM0", "BANK 0"), ("Controller1-ChannelA-DIMM0", "BANK 0")], 2),
        ([("ChannelA-DIMM0", "BANK 0"), ("ChannelA-DIMM1", "BANK 1"), ("ChannelB-DIMM0", "BANK 2")], 2),
        ([("DIMM_A1", "BANK 0"), ("DIMM_A2", "BANK 1"), ("DIMM_B1", "BANK 2"), ("DIMM_B2", "BANK 3")], 2),
        ([("CPU1_DIMM_A1", "NODE 1"), ("CPU2_DIMM_A1", "NODE 2")], 2),
        ([("P1-DIMMA1", "P0_Node0_Channel0_Dimm0"), ("P2-DIMMA1", "P1_Node0_Channel0_Dimm0")], 2),
        ([("DIMM_P0_A0", "BANK 0"), ("DIMM_P0_A1", "BANK 1"), ("DIMM_P1_A0", "BANK 2")], 2),
        ([("DIMM 0", "")], 1),
    ],
)
def test_modules_of_one_channel_count_once(names: list[tuple[str, str]], channels: int) -> None:
    rows = [entry(device, bank, speed=4800) for device, bank in names]
    found = peak_of(m for raw in rows for m in modules(raw))
    assert found and found.bandwidth == channels * 38.4e9


def test_where_names_do_not_tell_the_channels_nothing_is_said() -> None:
    for first, second in (("PROC 1 DIMM 1", "PROC 1 DIMM 2"), ("A1", "A2")):  # A: a channel, or a socket
        rows = [entry(first, "", speed=4800), entry(second, "", speed=4800)]
        assert peak_of(m for raw in rows for m in modules(raw)) is None


def test_empty_slots_unknown_speeds_and_other_structures_count_nothing() -> None:
    assert list(modules(entry("A1", "", speed=4800, size=0))) == []
    assert list(modules(b"\x10" + entry("A1", "", speed=4800)[1:])) == []
    unknown = bytearray(entry("A1", "", speed=0))
    unknown[0x15:0x17] = b"\0\0"
    assert list(modules(bytes(unknown))) == []


def test_a_speed_beyond_a_word_is_read_from_its_own_field() -> None:
    (found,) = modules(entry("A1", "", speed=70_000))
    assert found.speed == 70_000


@pytest.mark.parametrize("keep", range(0, len(DESKTOP), 7))
def test_a_table_cut_short_is_no_table(keep: int) -> None:
    cut = DESKTOP[:keep]
    assert [m.channel for m in modules(cut)] in ([], ["CHANNELA"], [""]) and list(structures(cut)) == []


def test_a_whole_table_is_cut_into_structures() -> None:
    end = bytes([127, 4, 0xFF, 0xFE, 0, 0])
    rows = [entry(f"DIMM_{c}1", "BANK", speed=6400, kind=0x23, width=32) for c in "ABCD"]
    found = list(structures(b"".join([*rows, end])))
    assert found == [*rows, end]
    assert said(*found) == "102.4 GB/s peak (4 × LPDDR5-6400)"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(memory_modules, "_DMI", tmp_path)
    monkeypatch.setattr(memory_modules, "_CPUINFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text("flags\t\t: fpu vme avx2\n")
    return tmp_path


def test_entries_are_read_else_the_table(machine: Path) -> None:
    assert memory_peak() is None
    (machine / "tables").mkdir()
    (machine / "tables" / "DMI").write_bytes(DESKTOP)
    assert str(memory_peak()) == "25.6 GB/s peak (1 × DDR4-3200)"
    for n in range(2):
        (machine / "entries" / f"17-{n}").mkdir(parents=True)
        (machine / "entries" / f"17-{n}" / "raw").write_bytes(entry(f"DIMM_{'AB'[n]}1", "", speed=5200))
    assert str(memory_peak()) == "83.2 GB/s peak (2 × DDR5-5200)"


def test_a_virtual_machine_has_none(machine: Path) -> None:
    (machine / "tables").mkdir()
    (machine / "tables" / "DMI").write_bytes(DESKTOP)
    (machine / "cpuinfo").write_text("flags\t\t: fpu hypervisor avx2\n")
    assert memory_peak() is None
