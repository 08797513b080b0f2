"""Cores and memory within the limits of control groups, versions 1 and 2, at any depth."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from memfirst.hardware import host

FREE = 10**9
UNLIMITED_V1 = str(2**63 - 4096)  # what the kernel writes where there is no limit


@pytest.fixture(autouse=True)
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A /proc/self of our own, and a machine with 1 GB free."""
    folder = tmp_path / "proc"
    folder.mkdir()
    monkeypatch.setattr(host, "_PROC", folder)
    monkeypatch.setattr(host, "_MEMINFO", tmp_path / "meminfo")
    memory = psutil.virtual_memory()._replace(available=FREE)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    return folder


def tree(files: dict[Path, str]) -> None:
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


def mounted(proc: Path, groups: str, *mounts: tuple[str, Path, str]) -> None:
    """(root, folder, "cgroup2" or the options of version 1) of each hierarchy."""
    lines = []
    for root, folder, kind in mounts:
        fstype, options = ("cgroup2", "rw") if kind == "cgroup2" else ("cgroup", f"rw,{kind}")
        shown = str(folder).replace(" ", "\\040")
        lines.append(f"35 31 0:32 {root} {shown} rw,relatime shared:9 - {fstype} cgroup {options}")
    tree({proc / "cgroup": groups, proc / "mountinfo": "\n".join(["22 1 0:1 / / rw - ext4 /dev/vda rw", *lines])})


def v2(folder: Path, limit: str, used: int, inactive: int = 0, **more: str) -> None:
    tree({folder / "memory.max": limit, folder / "memory.current": str(used)})
    tree({folder / "memory.stat": f"anon 1\ninactive_file {inactive}"})
    tree({folder / name.replace("_", "."): text for name, text in more.items()})


def v1(folder: Path, limit: str, used: int, inactive: int = 0) -> None:
    tree({folder / "memory.limit_in_bytes": limit, folder / "memory.usage_in_bytes": str(used)})
    tree({folder / "memory.stat": f"inactive_file 7\ntotal_inactive_file {inactive}"})


def test_without_groups_all_that_is_free_counts() -> None:
    assert host.available_memory() == FREE and host.cpu_quota() is None


def test_what_linux_says_is_free(tmp_path: Path) -> None:
    tree({tmp_path / "meminfo": "MemTotal:  4000 kB\nMemFree:  10 kB\nMemAvailable:    3000 kB"})
    assert host.available_memory() == 3000 * 1024


def test_logical_cores_that_share_a_physical_one_count_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_SYSTEM", tmp_path)
    monkeypatch.setattr(host.os, "sched_getaffinity", lambda pid: {0, 1, 2, 5}, raising=False)
    cpus = tmp_path / "devices/system/cpu"
    tree({cpus / f"cpu{i}/topology/core_cpus_list": f"{i % 4},{i % 4 + 4}" for i in range(8)})
    assert host.default_threads() == 3
    (cpus / "cpu5/topology/core_cpus_list").unlink()
    monkeypatch.setattr(host.os, "cpu_count", lambda: 8)
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: 8 if logical else 4)
    assert host.default_threads() == 2


def test_version_2_own_group_and_every_parent(proc: Path, tmp_path: Path) -> None:
    root = tmp_path / "cg root"  # a blank in the path is written as \\040
    mounted(proc, "0::/user.slice/app.scope", ("/", root, "cgroup2"))
    v2(root / "user.slice", "max", 800_000_000)
    v2(root / "user.slice/app.scope", "120000000", 20_000_000, inactive=5_000_000)
    assert host.available_memory() == 105_000_000
    v2(root / "user.slice", "850000000", 800_000_000)  # the parent is nearly full: less than the own limit leaves
    assert host.available_memory() == 50_000_000
    v2(root / "user.slice/app.scope", "max", 20_000_000)
    assert host.available_memory() == 50_000_000
    v2(root / "user.slice", "900000000", 800_000_000, memory_high="810000000")
    assert host.available_memory() == 10_000_000
    v2(root / "user.slice", "700000000", 800_000_000)
    assert host.available_memory() == 0


def test_version_1_own_group_and_every_parent(proc: Path, tmp_path: Path) -> None:
    root = tmp_path / "memory"
    mounted(proc, "9:name=systemd:/\n4:cpuset,memory:/a/b", ("/", root, "memory"), ("/", tmp_path / "cpu", "cpu"))
    v1(root, UNLIMITED_V1, 900_000_000)
    v1(root / "a", "300000000", 150_000_000, inactive=50_000_000)
    v1(root / "a/b", UNLIMITED_V1, 10_000_000)
    assert host.available_memory() == 200_000_000
    v1(root / "a/b", "120000000", 10_000_000)
    assert host.available_memory() == 110_000_000


def test_a_container_sees_its_own_group_at_the_mount(proc: Path, tmp_path: Path) -> None:
    """Without a namespace of its own, the path is the host's, and the mount shows that group as its root."""
    root = tmp_path / "cg"
    mounted(proc, "4:memory:/docker/abc/inner", ("/docker/abc", root, "memory"))
    v1(root, "500000000", 100_000_000)
    assert host.available_memory() == 400_000_000
    v1(root / "inner", "90000000", 1)
    assert host.available_memory() == 89_999_999
    mounted(proc, "0::/../../elsewhere", ("/", root, "cgroup2"))  # outside of the namespace: nothing to read
    assert host.available_memory() == FREE


def test_a_path_that_the_mount_does_not_show_leaves_the_mount_itself(proc: Path, tmp_path: Path) -> None:
    root = tmp_path / "cg"
    mounted(proc, "0::/docker/abc", ("/", root, "cgroup2"))
    v2(root, "200000000", 0)
    assert host.available_memory() == 200_000_000


def test_both_versions_at_once(proc: Path, tmp_path: Path) -> None:
    """Controllers of version 1 beside an empty hierarchy of version 2, as hybrid systems have."""
    unified, memory, cpu = tmp_path / "unified", tmp_path / "memory", tmp_path / "cpu,cpuacct"
    mounted(
        proc,
        "4:memory:/x\n3:cpu,cpuacct:/x/y\n0::/x",
        ("/", unified, "cgroup2"), ("/", memory, "memory"), ("/", cpu, "cpu,cpuacct"),
    )  # fmt: skip
    unified.mkdir()
    v1(memory / "x", "250000000", 50_000_000)
    tree({cpu / "x/cpu.cfs_quota_us": "150000", cpu / "x/cpu.cfs_period_us": "100000"})
    tree({cpu / "x/y/cpu.cfs_quota_us": "-1", cpu / "x/y/cpu.cfs_period_us": "100000"})
    assert host.available_memory() == 200_000_000
    assert host.cpu_quota() == 1.5


def test_the_smallest_cpu_quota_counts(proc: Path, tmp_path: Path) -> None:
    mounted(proc, "0::/a/b", ("/", tmp_path / "cg", "cgroup2"))
    tree({tmp_path / "cg/a/cpu.max": "100000 100000", tmp_path / "cg/a/b/cpu.max": "400000 100000"})
    assert host.cpu_quota() == 1.0 and host.default_threads() == 1
    tree({tmp_path / "cg/a/cpu.max": "max 100000"})
    assert host.cpu_quota() == 4.0


@pytest.mark.parametrize("text", ["", "garbage", "0::", "4:memory", "0::relative", "\0\n:::\n::/"])
def test_what_is_no_list_of_groups_limits_nothing(proc: Path, tmp_path: Path, text: str) -> None:
    mounted(proc, text, ("/", tmp_path / "cg", "cgroup2"))
    v2(tmp_path / "cg", "1000", 0)
    assert host.available_memory() == FREE
    (proc / "mountinfo").write_text(text)
    assert host.available_memory() == FREE


def test_of_a_macs_cores_the_fast_ones_compute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An M1 Pro: 8 fast cores, 4 of which share 12 MiB, and 2 slow ones."""
    values = {"physicalcpu": 8, "cpusperl2": 4, "l1dcachesize": 131072, "l2cachesize": 12 << 20}
    cases = "\n".join(f"hw.perflevel0.{name}) echo {value};;" for name, value in values.items())
    (tmp_path / "sysctl").write_text(f"#!/bin/sh\ncase $2 in\n{cases}\nesac\n")
    (tmp_path / "sysctl").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(host.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(host, "_CACHES", tmp_path)
    monkeypatch.setattr(host, "cpu_quota", lambda: None)
    assert host.default_threads() == 8
    assert host.last_level_cache() == 24 << 20
    assert host.caches() == {"L1d": 128 << 10, "L2": 12 << 20}
