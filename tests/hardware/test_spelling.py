"""Names of machines as people, drivers and systems write them, alone and several together."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from memfirst.errors import MemfirstError
from memfirst.hardware.machines import catalogue, find_machine
from memfirst.hardware.spelling import counted, spelled

GIB = 2**30


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's configuration of no rows."""
    monkeypatch.setenv("MEMFIRST_CONFIG_DIR", str(tmp_path))


MEANT = {
    "NVIDIA GeForce RTX 4090": (1, "rtx-4090", 24),
    "8xh100": (8, "h100-80gb", 80),
    "2x3090": (2, "rtx-3090", 24),
    "rtx 3060 12gb": (1, "rtx-3060", 12),
    "macbook air m2": (1, "apple-m2", 24),
    "4090": (1, "rtx-4090", 24),
    "RTX4090": (1, "rtx-4090", 24),
    "rtx-4090": (1, "rtx-4090", 24),
    "GeForce RTX 3090 Ti": (1, "rtx-3090-ti", 24),
    "NVIDIA GeForce RTX 4060 Laptop GPU": (1, "rtx-4060-laptop", 8),
    "rtx 4060 ti 16gb": (1, "rtx-4060-ti", 16),
    "NVIDIA H100 80GB HBM3": (1, "h100-80gb", 80),
    "NVIDIA H100 PCIe": (1, "h100-pcie-80gb", 80),
    "NVIDIA A100-SXM4-80GB": (1, "a100-80gb", 80),
    "NVIDIA A100-SXM4-40GB": (1, "a100-40gb", 40),
    "NVIDIA A100 80GB PCIe": (1, "a100-pcie-80gb", 80),
    "NVIDIA A100-PCIE-40GB": (1, "a100-40gb", 40),
    "Tesla V100-SXM2-32GB": (1, "v100", 32),
    "Tesla T4": (1, "t4", 16),
    "NVIDIA L40S": (1, "l40s", 48),
    "NVIDIA RTX A6000": (1, "rtx-a6000", 48),
    "NVIDIA RTX 6000 Ada Generation": (1, "rtx-6000-ada", 48),
    "NVIDIA RTX PRO 6000 Blackwell Workstation Edition": (1, "rtx-pro-6000", 96),
    "NVIDIA GB10": (1, "dgx-spark", 128),
    "dgx spark": (1, "dgx-spark", 128),
    "NVIDIA B200": (1, "b200", 180),
    "NVIDIA GH200 480GB": (1, "gh200", 96),
    "NVIDIA A10G": (1, "a10", 24),
    "AMD Radeon RX 7900 XTX": (1, "rx-7900-xtx", 24),
    "7900xtx": (1, "rx-7900-xtx", 24),
    "RX 9070 XT": (1, "rx-9070-xt", 16),
    "AMD Instinct MI300X": (1, "mi300x", 192),
    "8 x MI300X": (8, "mi300x", 192),
    "dual 3090": (2, "rtx-3090", 24),
    "two 3090s": (2, "rtx-3090", 24),
    "h100 x8": (8, "h100-80gb", 80),
    "4 x A100 80GB": (4, "a100-80gb", 80),
    "quad 4090": (4, "rtx-4090", 24),
    "MacBook Pro M3 Max 64GB": (1, "apple-m3-max", 64),
    "macbook pro 14 m3 pro": (1, "apple-m3-pro", 36),
    "MacBook Pro (16-inch, 2021) M1 Max": (1, "apple-m1-max", 64),
    "mac studio m2 ultra 192gb": (1, "apple-m2-ultra", 192),
    "Mac mini M4": (1, "apple-m4", 32),
    "Apple M4 Max": (1, "apple-m4-max", 128),
    "M3 Ultra 512GB": (1, "apple-m3-ultra", 512),
    "m4 pro 48gb": (1, "apple-m4-pro", 48),
    "imac m1": (1, "apple-m1", 16),
    "Apple M2 Max 38-core GPU": (1, "apple-m2-max", 96),
    "strix halo": (1, "ryzen-ai-max-395", 128),
    "AMD Ryzen AI Max+ 395 w/ Radeon 8060S": (1, "ryzen-ai-max-395", 128),
    "Raspberry Pi 5 8GB": (1, "raspberry-pi-5", 8),
    "rpi5": (1, "raspberry-pi-5", 16),
    "Jetson AGX Orin": (1, "jetson-agx-orin-64gb", 64),
    "NVIDIA Jetson Orin Nano Super": (1, "jetson-orin-nano", 8),
    "AMD Ryzen 9 7950X 16-Core Processor": (1, "ryzen-7950x", 128),
    "epyc 9654": (1, "epyc-genoa", 1536),
    "Intel Arc B580": (1, "arc-b580", 12),
    "Intel(R) Arc(TM) A770 Graphics": (1, "arc-a770", 16),
    "5090 laptop": (1, "rtx-5090-laptop", 24),
    "rtx 5070 ti": (1, "rtx-5070-ti", 16),
    "m2-ultra:64gb": (1, "apple-m2-ultra", 64),
    "rtx-4060-ti:8": (1, "rtx-4060-ti", 8),
    "1080 ti": (1, "gtx-1080-ti", 11),
    "p40": (1, "p40", 24),
    "2080ti": (1, "rtx-2080-ti", 11),
    "3080 12gb": (1, "rtx-3080-12gb", 12),
    "3080 10gb": (1, "rtx-3080", 10),
    "v100 16gb": (1, "v100", 16),
    "RTX 5060 Ti 16 GB": (1, "rtx-5060-ti", 16),
    "AMD EPYC 9004": (1, "epyc-genoa", 1536),
    "ddr5 laptop": (1, "laptop-ddr5", 96),
    "m1 8gb": (1, "apple-m1", 8),
    "B580": (1, "arc-b580", 12),
    "H100 SXM5": (1, "h100-80gb", 80),
    "h100 sxm 80gb": (1, "h100-80gb", 80),
    "H200 NVL": (1, "h200-nvl", 141),
    "Apple M3 Max (40-core GPU)": (1, "apple-m3-max", 128),
    "gh200": (1, "gh200", 96),
}  # fmt: skip
"""(how many, row, GiB) of each."""


TYPED = {
    "RTX 5090": (1, "rtx-5090", 32),
    "rtx5070ti": (1, "rtx-5070-ti", 16),
    "4060 ti 16gb": (1, "rtx-4060-ti", 16),
    "NVIDIA GeForce RTX 3080 Ti": (1, "rtx-3080-ti", 12),
    "2x rtx 5090": (2, "rtx-5090", 32),
    "4x A100 80GB": (4, "a100-80gb", 80),
    "H200 SXM": (1, "h200", 141),
    "b200": (1, "b200", 180),
    "gb200": (1, "b200", 180),
    "l40s": (1, "l40s", 48),
    "a10g": (1, "a10", 24),
    "v100 32gb": (1, "v100", 32),
    "Tesla P40": (1, "p40", 24),
    "rx 7900 xtx": (1, "rx-7900-xtx", 24),
    "AMD Radeon RX 9070 XT": (1, "rx-9070-xt", 16),
    "ryzen ai max+ 395": (1, "ryzen-ai-max-395", 128),
    "framework desktop": (1, "ryzen-ai-max-395", 128),
    "mac studio m3 ultra": (1, "apple-m3-ultra", 512),
    "M4 Max 128GB": (1, "apple-m4-max", 128),
    "macbook pro m5": (1, "apple-m5", 32),
    "mac mini m4 pro": (1, "apple-m4-pro", 64),
    "raspberry pi 5": (1, "raspberry-pi-5", 16),
    "ryzen 9 7950x": (1, "ryzen-7950x", 128),
    "AMD Ryzen 7 7800X3D 8-Core Processor": (1, "ryzen-7950x", 128),
    "2x epyc 9755": (2, "epyc-turin", 1536),
    "xeon platinum 8480+": (1, "xeon-8480", 1024),
    "i9-14900k": (1, "core-i9-14900k", 192),
    "Intel(R) Core(TM) Ultra 7 155H": (1, "laptop-lpddr5x", 64),
    "jetson orin nano super": (1, "jetson-orin-nano", 8),
    "jetson agx thor": (1, "jetson-thor", 128),
    "g5.xlarge": (1, "a10", 24),
    "p5.48xlarge": (8, "h100-80gb", 80),
    "threadripper 7995wx": (1, "threadripper-pro-7995wx", 1024),
    "intel arc b580": (1, "arc-b580", 12),
    "rtx pro 6000 blackwell": (1, "rtx-pro-6000", 96),
    "rtx a6000": (1, "rtx-a6000", 48),
    "RTX 6000 Ada": (1, "rtx-6000-ada", 48),
    "snapdragon x elite": (1, "snapdragon-x-elite", 64),
    "NVIDIA GeForce RTX 4070 Laptop GPU": (1, "rtx-4070-laptop", 8),
    "gtx 1080 ti": (1, "gtx-1080-ti", 11),
    "titan rtx": (1, "titan-rtx", 24),
    "quadro rtx 8000": (1, "quadro-rtx-8000", 48),
    "8xMI355X": (8, "mi355x", 288),
    "h20": (1, "h20", 96),
    "rtx 4000 ada": (1, "rtx-4000-ada", 20),
    "m1 max 64gb": (1, "apple-m1-max", 64),
    "1x RTX 3090 24GB": (1, "rtx-3090", 24),
    "g4dn.12xlarge": (4, "t4", 16),
    "a2-highgpu-4g": (4, "a100-40gb", 40),
    "AMD Ryzen AI 9 HX 370 w/ Radeon 890M": (1, "ryzen-ai-9-hx-370", 64),
    "AMD Ryzen Threadripper PRO 7995WX 96-Cores": (1, "threadripper-pro-7995wx", 1024),
    "gb300": (1, "b300", 288),
}
"""Others, written down before the catalogue was looked at; two of that list are not in it: a Steam Deck, a phone."""


@pytest.mark.parametrize(("name", "meant"), [*MEANT.items(), *TYPED.items()])
def test_what_a_name_means(name: str, meant: tuple[int, str, int]) -> None:
    count, rest = counted(name)
    machine = find_machine(rest)
    assert (count, machine.name, (machine.memory or 0) // GIB) == meant


def test_no_two_machines_are_spelled_alike() -> None:
    seen = defaultdict(set)
    for machine in catalogue():
        for name in (machine.name, *machine.aliases):
            seen[next(spelled(name).forms())[0]].add(machine.name)
            assert counted(name) == (1, name) and find_machine(name).name == machine.name
    assert [names for names in seen.values() if len(names) > 1] == []


@pytest.mark.parametrize(
    ("name", "says"),
    [("rtx 4900", "rtx-4090"), ("RTX 6090", "something like rtx-"), ("m7 ultra", "apple-m[1-4]-ultra"),
     ("h150", "h100"),
     ("rtx 4090 32gb", "one of 24gb"), ("m2 ultra 65gb", "one of 64gb, 128gb, 192gb"), ("macbook air", "no machine")],
)  # fmt: skip
def test_what_there_is_not_gets_the_closest(name: str, says: str) -> None:
    with pytest.raises(MemfirstError, match=says):
        find_machine(name)
