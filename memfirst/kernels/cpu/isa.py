"""Which instructions this processor has for integer dot products, found once; Numba-free.

Every choice gives the same integers, and the floating-point operations are the same on all of them,
so results do not depend on it. MEMFIRST_ISA forces one (a slower one, to test it).
"""

from __future__ import annotations

import os
import platform
from functools import cache

from memfirst.errors import UnsupportedError

AVX512_VNNI, AVX_VNNI, AVX2, GENERIC = "avx512_vnni", "avx_vnni", "avx2", "generic"
ALL = (AVX512_VNNI, AVX_VNNI, AVX2, GENERIC)

_NEEDS = {
    AVX512_VNNI: {"avx512vnni", "avx512vl", "avx512bw", "avx512dq", "fma", "f16c"},
    AVX_VNNI: {"avxvnni", "avx2", "fma", "f16c"},
    AVX2: {"avx2", "fma", "f16c"},
    GENERIC: set(),
}


@cache
def host_features() -> frozenset[str]:
    """Names of the host's features as LLVM spells them."""
    import llvmlite.binding as llvm

    return frozenset(name for name, present in llvm.get_host_cpu_features().items() if present)


@cache
def host_name() -> str:
    """LLVM's name of the host processor ("znver3")."""
    import llvmlite.binding as llvm

    return str(llvm.get_host_cpu_name())


def arm64() -> bool:
    """Whether the host is one."""
    return platform.machine().lower() in ("aarch64", "arm64")


def usable() -> list[str]:
    """Those of `ALL` that the host can run, the fastest first."""
    return [name for name in ALL if _NEEDS[name] <= host_features()]


@cache
def detect() -> str:
    """The fastest of `ALL` that the host has, or MEMFIRST_ISA where the host can run it."""
    wanted = os.environ.get("MEMFIRST_ISA", "")
    if not wanted:
        return usable()[0]
    if wanted not in usable():
        raise UnsupportedError(f"MEMFIRST_ISA={wanted}", f"one of {', '.join(usable())} on this processor")
    return wanted


def rows_at_once(isa: str) -> int:
    """Rows that one dot-product register covers: 16 with 512-bit registers, else 8."""
    return 16 if isa == AVX512_VNNI else 8


def register_bytes() -> int:
    """Of the widest vector register, whatever is chosen for dot products."""
    return 64 if "avx512f" in host_features() else 32 if "avx2" in host_features() else 16
