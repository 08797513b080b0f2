"""ARM64: how its instructions are found, and which LLVM chooses. On such a host test_kernels_isa.py compares bits."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import pytest

from memfirst.kernels.cpu import isa

ROOT = Path(__file__).parent.parent.parent


@cache
def code() -> dict[str, Counter[str]]:
    """Instructions by function."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.arm64_code"], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Counter[str]] = {}
    for line in done.stdout.splitlines():
        if label := re.match(r"(\w+):", line):
            counted = found.setdefault(label[1], Counter())
        elif found and (words := line.split()) and not words[0].startswith("."):
            counted[words[0]] += 1
    return found


@pytest.mark.parametrize(
    ("function", "instruction", "times"),
    [("dot", "sdot", 2), ("sdot", "sdot", 2), ("by_table", "tbl", 2), ("widen", "fcvtl", 1), ("narrow", "fcvtn", 1),
     ("pause", "isb", 1)],
)  # fmt: skip
def test_one_instruction_a_register(function: str, instruction: str, times: int) -> None:
    found = code()[function]
    assert found[instruction] == times, found
    assert not found.keys() & {"bl", "smull", "fmov", "umov"}, found


class Linux:
    """A C library that reports features of the processor."""

    class getauxval:  # noqa: N801
        def __new__(cls, kind: int) -> Any:
            return 1 << 20 if kind == 16 else 0


class Darwin:
    @staticmethod
    def sysctlbyname(name: bytes, value: Any, *rest: Any) -> int:
        value._obj.value = int(name == b"hw.optional.arm.FEAT_DotProd")
        return 0


class Windows:
    @staticmethod
    def IsProcessorFeaturePresent(feature: int) -> int:  # noqa: N802
        return int(feature == 43)


@pytest.fixture
def anew() -> Iterator[None]:
    for found in (isa.host_features, isa.detect):
        found.cache_clear()
    yield
    for found in (isa.host_features, isa.detect):
        found.cache_clear()


@pytest.mark.parametrize("library", [Linux, Darwin, Windows])
def test_the_system_says_what_llvm_does_not(library: type, anew: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    monkeypatch.setattr(platform, "system", lambda: library.__name__)
    monkeypatch.setattr(llvm, "get_host_cpu_features", lambda: llvm.FeatureMap({"neon": True, "sve": False}))
    monkeypatch.setattr(isa, "CDLL", lambda name: library)
    monkeypatch.delenv("MEMFIRST_ISA", raising=False)
    assert isa.detect() == isa.NEON_DOT and isa.usable() == [isa.NEON_DOT, isa.GENERIC]
    assert isa.target_features() == "+dotprod,+neon,-sve"
    assert isa.rows_at_once(isa.NEON_DOT) == 8 and isa.register_bytes() == 16


def test_a_processor_without_sdot_is_generic(anew: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Cortex-A72, the Raspberry Pi 4's: ARMv8.0."""
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(llvm, "get_host_cpu_features", lambda: llvm.FeatureMap({"neon": True}))
    monkeypatch.setattr(isa, "CDLL", lambda name: object())
    monkeypatch.delenv("MEMFIRST_ISA", raising=False)
    assert isa.detect() == isa.GENERIC and isa.target_features() == "+neon"
