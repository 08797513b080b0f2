"""Numba's passes over a kernel: of its default pipeline, those that do something to such a text.

A kernel is typed straight-line code and loops: no closures, no `with`, no literals to unroll, no arrays as expressions,
nothing to inline before LLVM. The passes that look for those took a fifth of compiling and left the object code the
same, byte for byte. Which passes there are: numba.core.compiler.DefaultPassBuilder.

Static single assignment is left out too (a fifth of what remained): LLVM finds it by itself, from the same object code.
Numba needs it where a name holds values of several types, which would become one type that takes them all, as float64
does int64 and float32; `OneType` refuses such a kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from numba.core import ir
from numba.core.compiler import CompilerBase
from numba.core.compiler_machinery import AnalysisPass, PassManager, register_pass
from numba.core.errors import TypingError
from numba.core.typed_passes import IRLegalization, NativeLowering, NoPythonBackend, NopythonTypeInference
from numba.core.types.misc import unliteral
from numba.core.types.scalars import Integer
from numba.core.untyped_passes import FixupArgs, IRProcessing, TranslateByteCode

_returns: dict[tuple[Any, tuple[Any, ...]], Any] = {}
"""Signatures of calls, by function and types of arguments. Types are kept alive by it, and so the same objects."""


@contextmanager
def _asked_once(context: Any) -> Iterator[None]:
    """Numba goes over all calls of a function until no type changes, five times for a kernel, and asks every template
    again each time: 40 % of compiling. A call of the same types is asked once here, in all kernels of a process."""
    ask = context.resolve_function_type

    def resolve(function: Any, args: tuple[Any, ...], kws: dict[str, Any]) -> Any:
        if kws:
            return ask(function, args, kws)
        call = function, tuple(args)
        if _returns.get(call) is None:  # new, or no such function: asked again, it says why
            _returns[call] = ask(function, args, kws)
        return _returns[call]

    context.resolve_function_type = resolve
    try:
        yield
    finally:
        context.resolve_function_type = ask


@register_pass(mutates_CFG=True, analysis_only=False)
class TypeInference(NopythonTypeInference):  # type: ignore[misc]  # Numba is not typed
    """Numba's, each call asked once."""

    _name = "kernel_type_inference"

    def run_pass(self, state: Any) -> bool:
        """Types of all names."""
        with _asked_once(state.typingctx):
            return bool(super().run_pass(state))


@register_pass(mutates_CFG=False, analysis_only=True)
class OneType(AnalysisPass):  # type: ignore[misc]
    """TypingError where a name is given values of several types."""

    _name = "kernel_one_type"

    def __init__(self) -> None:  # abstract in Numba's
        super().__init__()

    def run_pass(self, state: Any) -> bool:
        """Changes nothing."""
        for block in state.func_ir.blocks.values():
            for assign in block.find_insts(ir.Assign):
                held, given = state.typemap[assign.target.name], _type(assign.value, state)
                if given is not None and not _same(unliteral(held), unliteral(given)):
                    raise TypingError(f"{assign.target.name} is {held}, and given {given}: another name", assign.loc)
        return False


def _same(held: Any, given: Any) -> bool:
    """Whether a value stays what it is: an integer does in one with more bits."""
    both = isinstance(held, Integer) and isinstance(given, Integer)
    return bool(held == given or (both and held.signed and held.bitwidth > given.bitwidth))


def _type(value: Any, state: Any) -> Any:
    """Of what is assigned; None where Numba makes it for itself, and each such name is given one value."""
    if isinstance(value, ir.Var):
        return state.typemap[value.name]
    if isinstance(value, ir.Expr) and value.op == "cast":
        return state.typemap[value.value.name]
    if isinstance(value, ir.Expr) and state.calltypes.get(value) is not None:
        return state.calltypes[value].return_type
    if isinstance(value, ir.Const):
        return state.typingctx.resolve_value_type(value.value)
    return None


TO_TYPED = (TranslateByteCode, FixupArgs, IRProcessing, TypeInference, OneType)
TO_NATIVE = (IRLegalization, NativeLowering, NoPythonBackend)


class KernelCompiler(CompilerBase):  # type: ignore[misc]
    """`numba.njit(pipeline_class=KernelCompiler)`."""

    def define_pipelines(self) -> list[PassManager]:
        """One pipeline, in nopython mode."""
        passes = PassManager("kernel")
        for one in (*TO_TYPED, *TO_NATIVE):
            passes.add_pass(one, one.__name__)
        passes.finalize()
        return [passes]
