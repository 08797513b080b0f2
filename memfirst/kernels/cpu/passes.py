"""Numba's passes over a kernel: of its default pipeline, those that do something to such a text.

A kernel is typed straight-line code and loops: no closures, no `with`, no literals to unroll, no arrays as expressions,
nothing to inline before LLVM. The passes that look for those took a fifth of compiling and left the object code the
same, byte for byte. Which passes there are: numba.core.compiler.DefaultPassBuilder.
"""

from __future__ import annotations

from numba.core.compiler import CompilerBase
from numba.core.compiler_machinery import PassManager
from numba.core.typed_passes import (
    IRLegalization,
    NativeLowering,
    NoPythonBackend,
    NopythonTypeInference,
    PreLowerStripPhis,
)
from numba.core.untyped_passes import FixupArgs, IRProcessing, ReconstructSSA, TranslateByteCode

TO_TYPED = (TranslateByteCode, FixupArgs, IRProcessing, ReconstructSSA, NopythonTypeInference)
TO_NATIVE = (PreLowerStripPhis, IRLegalization, NativeLowering, NoPythonBackend)


class KernelCompiler(CompilerBase):  # type: ignore[misc]  # Numba is not typed
    """`numba.njit(pipeline_class=KernelCompiler)`."""

    def define_pipelines(self) -> list[PassManager]:
        """One pipeline, in nopython mode."""
        passes = PassManager("kernel")
        for one in (*TO_TYPED, *TO_NATIVE):
            passes.add_pass(one, one.__name__)
        passes.finalize()
        return [passes]
