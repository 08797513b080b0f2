"""Which instructions this processor has for integer dot products, found once; Numba-free.

avx512_vnni, avx_vnni, avx2   x86-64: AVX-512 with VNNI, AVX2 with VNNI, AVX2
neon_dot                      ARM64 with SDOT: Apple's M chips, Graviton 2 and later, Cortex-A76 and later
generic                       any other: LLVM's vectors, and whatever it makes of them

Every choice gives the same integers, and the floating-point operations are the same on all of them,
so results do not depend on it. MEMFIRST_ISA forces one (a slower one, to test it).
"""

from __future__ import annotations

import os
import platform
from ctypes import CDLL, byref, c_int, c_size_t, c_ulong
from functools import cache

from memfirst.errors import UnsupportedError

AVX512_VNNI, AVX_VNNI, AVX2, NEON_DOT, GENERIC = "avx512_vnni", "avx_vnni", "avx2", "neon_dot", "generic"
ALL = (AVX512_VNNI, AVX_VNNI, AVX2, NEON_DOT, GENERIC)

_NEEDS = {
    AVX512_VNNI: {"avx512vnni", "avx512vl", "avx512bw", "avx512dq", "fma", "f16c"},
    AVX_VNNI: {"avxvnni", "avx2", "fma", "f16c"},
    AVX2: {"avx2", "fma", "f16c"},
    NEON_DOT: {"dotprod"},
    GENERIC: set(),
}


@cache
def host_features() -> frozenset[str]:
    """Names of the host's features as LLVM spells them."""
    import llvmlite.binding as llvm

    found = {name for name, present in llvm.get_host_cpu_features().items() if present}
    if arm64() and _has_sdot():
        found.add("dotprod")
    return frozenset(found)


_AT_HWCAP, _HWCAP_ASIMDDP = 16, 1 << 20  # Linux: asm/hwcap.h of arm64
_PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE = 43  # Windows: winnt.h


def _has_sdot() -> bool:
    """Whether the system says that this ARM64 processor has SDOT; LLVM does not ask it everywhere."""
    system = platform.system()
    if system == "Windows":
        return bool(CDLL("kernel32").IsProcessorFeaturePresent(_PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE))
    library = CDLL(None)
    if system == "Darwin":
        value, size = c_int(0), c_size_t(4)
        library.sysctlbyname(b"hw.optional.arm.FEAT_DotProd", byref(value), byref(size), None, c_size_t(0))
        return bool(value.value)
    if not hasattr(library, "getauxval"):
        return False
    library.getauxval.argtypes, library.getauxval.restype = [c_ulong], c_ulong
    return bool(library.getauxval(_AT_HWCAP) & _HWCAP_ASIMDDP)


@cache
def host_name() -> str:
    """LLVM's name of the host processor ("znver3")."""
    import llvmlite.binding as llvm

    return str(llvm.get_host_cpu_name())


def arm64() -> bool:
    """Whether the host is one."""
    return platform.machine().lower() in ("aarch64", "arm64")


def target_features() -> str:
    """The host's features as LLVM's code generator wants them: "+neon,+dotprod,-sve"."""
    import llvmlite.binding as llvm

    said: str = llvm.get_host_cpu_features().flatten()
    found = set(said.split(",")) - {""}
    if "dotprod" in host_features():
        found = found - {"-dotprod"} | {"+dotprod"}
    return ",".join(sorted(found))


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
