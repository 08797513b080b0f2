"""Prints what LLVM makes of integer dot products and look-ups on ARM64, on any host: tests/kernels/test_arm64.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir

from memfirst.kernels.cpu import isa

isa.detect = lambda: isa.NEON_DOT  # type: ignore[assignment]
isa.arm64 = lambda: True
# The modules read both when they are imported.
from memfirst.kernels.cpu import half, instructions_bytes, instructions_dot, instructions_thread  # noqa: E402
from memfirst.kernels.cpu.emit import F16, F32, I8, I32, LANES, Emitter  # noqa: E402

V = ir.VectorType
WORDS, BYTES, FLOATS, HALVES = V(I32, LANES), V(I8, 4 * LANES), V(F32, LANES), V(F16, LANES)
FUNCTIONS: dict[str, tuple[Callable[..., Any], Any, tuple[Any, ...]]] = {
    "dot": (instructions_dot.dot, WORDS, (WORDS, BYTES, BYTES)),
    "sdot": (instructions_dot.sdot, WORDS, (WORDS, BYTES, BYTES)),
    "by_table": (instructions_bytes.by_table, BYTES, (BYTES, V(I8, 16))),
    "widen": (half.widen, FLOATS, (HALVES,)),
    "narrow": (half.narrow, HALVES, (FLOATS,)),
    "pause": (instructions_thread.pause, ir.VoidType(), ()),
}


class _Bare(Emitter):
    """An emitter outside Numba: what is asked of it here needs a builder alone."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder


def main() -> None:
    module = ir.Module()
    module.triple = "aarch64-unknown-linux-gnu"
    for name, (emission, returns, takes) in FUNCTIONS.items():
        # Vectors of 256 bits go by address: their registers in a call are no part of this.
        pointers = [kind.as_pointer() for kind in takes]
        stored = [] if isinstance(returns, ir.VoidType) else [returns.as_pointer()]
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), [*stored, *pointers]), name)
        builder = ir.IRBuilder(function.append_basic_block())
        given = [builder.load(argument) for argument in function.args[len(stored) :]]
        made = emission(_Bare(builder), *given)
        if stored:
            builder.store(made, function.args[0])
        builder.ret_void()
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    target = llvm.Target.from_triple(module.triple).create_target_machine(cpu="neoverse-n1", opt=3)
    print(target.emit_assembly(llvm.parse_assembly(str(module))))


if __name__ == "__main__":
    main()
