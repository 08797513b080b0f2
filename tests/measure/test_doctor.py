"""`memfirst doctor`: what it finds here, and what it advises where something is slow."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from memfirst.cli import run_command
from memfirst.cli.doctor import page
from memfirst.hardware import host
from memfirst.measure import doctor
from memfirst.measure.doctor import Diagnosis, advise, diagnose


@pytest.fixture(scope="module")
def here() -> Diagnosis:
    return diagnose()


@pytest.fixture
def fine(here: Diagnosis) -> Diagnosis:
    """A machine that nothing slows down."""
    return replace(
        here, cores=8, physical=8, allowed=8, quota=None, instructions="avx2", usable=["avx2", "generic"], forced="",
        numa_nodes=1, huge_pages="madvise", threads=8, load=0.3, stolen=0.0, governor="performance",
        cache_writable=True, gpu=False, settings={}, advice=[],
    )  # fmt: skip


def test_it_measures_this_machine(here: Diagnosis) -> None:
    assert set(here.read) == {1, here.threads} and all(1e8 < rate < 1e13 for rate in here.read.values())
    assert here.processor and here.instructions in here.usable and here.usable[-1] == "generic"
    assert 0 < here.available <= here.memory
    assert here.kernels >= 1 and Path(here.cache).is_dir(), "the kernel that reads was kept"
    assert here.versions["memfirst"] and here.versions["numba"] != "missing"


def test_ten_lines(fine: Diagnosis) -> None:
    lines = list(page(fine, width=400))
    assert len(lines) == 10
    assert [line.split()[0] for line in lines] == [
        "memfirst", "system", "processor", "code", "memory", "pages", "threads", "reads", "cache", "faster",
    ]  # fmt: skip
    assert lines[-1].endswith("nothing was found that slows it down")
    assert max(map(len, page(fine, width=60))) <= 60


SLOW = {
    "instructions": ({"forced": "generic"}, "unset MEMFIRST_ISA"),
    "quota": ({"quota": 1.5}, "docker update --cpus 8 CONTAINER"),
    "affinity": ({"allowed": 2}, "taskset -c 0-7 memfirst run"),
    "small pages": ({"huge_pages": "never"}, "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled"),
    "governor": ({"governor": "powersave"}, "sudo cpupower frequency-set --governor performance"),
    "nodes": ({"numa_nodes": 2}, "numactl --interleave=all memfirst run"),
    "others": ({"load": 6.0}, "top -o %CPU"),
    "cache": ({"cache_writable": False}, 'export MEMFIRST_CACHE_DIR="$HOME/memfirst-cache"'),
}


@pytest.mark.parametrize("name", SLOW)
def test_what_slows_it_down_comes_with_a_command(fine: Diagnosis, name: str) -> None:
    changes, command = SLOW[name]
    assert list(advise(fine)) == []
    slow = replace(fine, **changes)  # type: ignore[arg-type]
    assert [advice.command for advice in advise(slow)] == [command]
    slow.advice = list(advise(slow))
    shown = list(page(slow))
    assert shown[-1].strip() == command, "on a line of its own"
    assert shown[-2].startswith("faster")


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("MEMFIRST_CACHE_DIR", "elsewhere")
    found = doctor._settings()
    assert found["HF_TOKEN"] == "(set)" and found["MEMFIRST_CACHE_DIR"] == "elsewhere"


def test_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["threads"] == host.default_threads() and found["read"] and isinstance(found["advice"], list)


def test_a_system_that_says_little(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "_SYS", tmp_path)
    monkeypatch.setattr(doctor, "_PROC", tmp_path)
    monkeypatch.setattr(host, "_CACHES", tmp_path)
    monkeypatch.delattr(os, "getloadavg", raising=False)
    found = diagnose()
    assert found.huge_share is None and found.stolen is None and found.load is None and not found.caches
    shown = "\n".join(page(found))
    assert "caches not known" in shown and "governor not shown" in shown and "transparent huge pages: none" in shown


def test_caches_as_the_system_lists_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(host, "_CACHES", tmp_path)
    rows = [("1", "Data", "48K"), ("1", "Instruction", "32K"), ("2", "Unified", "1024K"), ("3", "Unified", "32M")]
    for i, row in enumerate(rows):
        folder = tmp_path / f"index{i}"
        folder.mkdir()
        for name, value in zip(("level", "type", "size"), row, strict=True):
            (folder / name).write_text(value + "\n")
    assert host.caches() == {"L1d": 48 << 10, "L2": 1 << 20, "L3": 32 << 20}


def test_a_limit_of_the_control_group(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.limit_in_bytes").write_text(f"{(1 << 63) - 4096}\n")
    monkeypatch.setattr(host, "_groups", lambda controller: iter([tmp_path]))
    assert host.memory_limit() is None
    (tmp_path / "memory.max").write_text(f"{120 << 20}\n")
    assert host.memory_limit() == 120 << 20
