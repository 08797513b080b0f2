"""The small language that CPU kernels are written in: plain Python over NumPy arrays, read two ways.

*Compiled*, `build` unrolls every `static(...)` loop and `lanes(...)` list, then hands the function to Numba.
*Interpreted* (NUMBA_DISABLE_JIT=1), the same text runs as it stands: SIMD functions have NumPy bodies,
loads out of bounds raise, and every load can be logged. That is how memory safety and the ledger are checked.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

INTERPRETED = os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")

# Parameter kinds: an array arrives as address and length, a scalar as one 64-bit word.
ARRAYS = {"u8": "uint8", "i8": "int8", "i32": "int32", "f32": "float32", "i64": "int64"}
SCALARS = {"int": "int64", "float": "float32"}

# No fast-math flag: SIMD functions say exactly which operations run, in which order.
FLAGS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "_nrt": False,
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}


def static(n: int) -> range:
    """A loop that is unrolled when compiled; `n` is a literal or a static parameter."""
    return range(n)


def lanes(n: int) -> list[Any]:
    """`n` registers, indexed by literals or static loop variables only."""
    return [None] * n


def inline(function: Callable[..., Any]) -> Callable[..., Any]:
    """A helper that kernels call: compiled by Numba and inlined by LLVM, or plain Python."""
    if INTERPRETED:
        return function
    return compiled(function)


def compiled(function: Callable[..., Any], *signature: Any) -> Callable[..., Any]:
    """`function` by Numba: at once for a signature, else when it is called by what is compiled."""
    from numba import njit

    from memfirst.kernels.cpu.passes import KernelCompiler

    result: Callable[..., Any] = njit(*signature, pipeline_class=KernelCompiler, **FLAGS)(function)
    return result


def macro(function: Callable[..., Any]) -> Callable[..., Any]:
    """Statements that kernels share: `build` puts its body in place of a call, so that it may take `lanes` and statics.

    A call is a statement of its own, with positional arguments; there is no result but what it stores.
    """
    function.is_macro = True  # type: ignore[attr-defined]
    return function


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Marks a kernel: `build` compiles it by name, for given static parameters.

    Positional parameters carry a kind of `ARRAYS` or `SCALARS`; the last three are always
    `worker, lo, hi`; keyword-only parameters are static. Returns the bytes it read of its purpose.
    """
    function.is_kernel = True  # type: ignore[attr-defined]
    return function
