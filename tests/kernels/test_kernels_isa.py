"""Every instruction set computes the same bits: an answer does not depend on the processor."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from memfirst.kernels.cpu import isa

ROOT = Path(__file__).parent.parent.parent
USABLE = tuple(name for name in isa.ALL if isa._NEEDS[name] <= isa.host_features())


@cache
def bits(**environment: str) -> dict[str, str]:
    """Digests by kernel, computed by a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.isa_bits"], cwd=ROOT, env={**os.environ, **environment}, check=False,
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return dict(line.rsplit(" ", 1) for line in done.stdout.splitlines())


@pytest.mark.parametrize("name", USABLE)
def test_the_same_bits(name: str) -> None:
    found, generic = dict(bits(MEMFIRST_ISA=name)), dict(bits(MEMFIRST_ISA=isa.GENERIC))
    assert found.pop("isa") == name
    assert generic.pop("isa") == isa.GENERIC
    assert found == generic


def test_a_processor_without_any_of_them_computes_the_same_bits() -> None:
    """SSE2 alone: no F16C, no fused multiply-add in hardware."""
    plain = bits(MEMFIRST_ISA=isa.GENERIC, NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="")
    assert plain == bits(MEMFIRST_ISA=isa.GENERIC)
