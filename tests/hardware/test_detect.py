"""What this computer is, from what systems and drivers say, with tools that a test put in their place."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from memfirst.hardware import detect, host
from memfirst.plan import Options, make, place, subject, this_machine
from memfirst.plan.place import cards

GIB = 2**30


@pytest.fixture(autouse=True)
def linux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A computer of 8 cores and 20 GiB to allocate, without tools, measurements or a name."""
    monkeypatch.setenv("MEMFIRST_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("MEMFIRST_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(host, "default_threads", lambda: 8)
    monkeypatch.setattr(host, "available_memory", lambda: 20 * GIB)
    monkeypatch.setattr(host, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(host, "_BOARD", tmp_path / "model")
    return tmp_path


def tool(folder: Path, name: str, text: str, code: int = 0) -> None:
    """A program that prints something."""
    path = folder / name
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\nexit {code}\n".replace("cat ", "/bin/cat "))
    path.chmod(0o755)


def named(folder: Path, name: str) -> None:
    (folder / "cpuinfo").write_text(f"processor\t: 0\nmodel name\t: {name}\nflags\t\t: avx2\n")


@pytest.mark.parametrize(
    ("name", "gigabytes", "says"),
    [("AMD Ryzen 9 7950X 16-Core Processor", 83.2, "ryzen-7950x"), ("Some Laptop Chip", 51.2, "assumed"),
     ("AMD EPYC 9654 96-Core Processor", 240, "epyc-genoa"), ("", 51.2, "assumed"),
     ("Intel(R) N150", 38.4, "intel-n150"), ("Intel(R) Xeon(R) CPU @ 2.20GHz", 204.8, "assumed")],
)  # fmt: skip
def test_a_processor_by_its_name(linux: Path, name: str, gigabytes: float, says: str) -> None:
    """8 cores read 240 GB/s at most, whatever the socket has."""
    named(linux, name)
    found = detect.processor()
    assert found.bandwidth == pytest.approx(gigabytes * 1e9) and says in found.source and "not measured" in found.source
    assert (found.cores, found.memory, found.unknown) == (8, 20 * GIB, ())


def test_a_board(linux: Path) -> None:
    (linux / "model").write_text("Raspberry Pi 5 Model B Rev 1.0\0")
    found = detect.processor()
    assert (found.kind, round(found.bandwidth or 0)) == ("board", 17_100_000_000) and "raspberry-pi-5" in found.source


def test_nvidias_cards(linux: Path) -> None:
    tool(linux, "nvidia-smi", "NVIDIA GeForce RTX 3090, 24576\nNVIDIA GeForce RTX 3090, 24576\nNVIDIA Z1000, 8192")
    (two, known), (one, other) = detect.gpus()
    assert (two, known.name, known.memory) == (2, "rtx-3090", 24 * GIB)
    assert (one, other.name, other.memory, other.unknown) == (1, "nvidia-z1000", 8 * GIB, ("bandwidth", "compute"))
    assert [(p.count, p.machine.name) for p in cards()] == [(2, "rtx-3090"), (1, "nvidia-z1000")]


def test_a_card_of_several_sizes_has_the_drivers(linux: Path) -> None:
    tool(linux, "nvidia-smi", "NVIDIA GeForce RTX 4060 Ti, 8188")
    assert detect.gpus()[0][1].memory == 8 * GIB


def test_amds_cards(linux: Path) -> None:
    tool(linux, "rocm-smi", "\ndevice,VRAM Total Memory (B),VRAM Total Used Memory (B),Card Series\n"
         "card0,25753026560,100,Radeon RX 7900 XTX")  # fmt: skip
    ((count, card),) = detect.gpus()
    assert (count, card.name, card.memory) == (1, "rx-7900-xtx", 24 * GIB)


def test_a_mac(linux: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    tool(linux, "sysctl", "Apple M2 Pro")
    assert detect.processor().bandwidth == 200e9
    monkeypatch.setattr(host, "said", lambda command: "34359738368\n" if "hw.memsize" in command else "Apple M2 Pro\n")
    ((_, chip),) = detect.gpus()
    assert (chip.name, chip.kind, chip.memory) == ("apple-m2-pro", "unified", 32 * GIB)


@pytest.mark.parametrize("text", ["", "garbage", "a,b,c\n1", "NVIDIA GeForce RTX 3090, [N/A]"])
def test_tools_that_say_something_else(linux: Path, text: str) -> None:
    tool(linux, "nvidia-smi", text)
    assert all(card.memory is None or card.memory > 0 for _, card in detect.gpus())
    tool(linux, "nvidia-smi", text, code=9)
    assert detect.gpus() == ()


def test_here_is_planned_by_assumed_rates_and_says_so(linux: Path) -> None:
    named(linux, "AMD Ryzen 9 7950X 16-Core Processor")
    here = this_machine()
    assert here.here and here.rates is None and place("here") == here
    plan = make(subject("llama-3.2:1b"), here, Options())
    assert plan.engine == "memfirst" and plan.fits and plan.rate and plan.decode and plan.decode.ceiling
    assert "ryzen-7950x" in plan.notes[0] and "memfirst machine" in plan.notes[0]
    mixture = make(subject("qwen3:30b-a3b"), here, Options())
    assert mixture.rate and mixture.fits
    recurrent = make(subject("mamba:130m"), here, Options())
    assert recurrent.rate and recurrent.fits
