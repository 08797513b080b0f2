"""The LLVM instructions behind `threads`."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils

from memfirst.kernels.cpu import isa
from memfirst.kernels.cpu.emit import I32, I64, ISA, Emitter


def atomic_load(e: Emitter, a: Any, index: Any) -> Any:
    return e.builder.load_atomic(e.at(a, 0, index, I64), "acquire", 8)


def atomic_store(e: Emitter, a: Any, index: Any, value: Any) -> None:
    e.builder.store_atomic(value, e.at(a, 0, index, I64), "release", 8)


def atomic_swap_if(e: Emitter, a: Any, index: Any, old: Any, new: Any) -> Any:
    pair = e.builder.cmpxchg(e.at(a, 0, index, I64), old, new, "acq_rel", "acquire")
    return e.builder.zext(e.builder.extract_value(pair, 1), I64)


def pause(e: Emitter) -> None:
    """What a thread that waits does between two looks; ARM's own hint, `yield`, does nothing on most of its cores."""
    if isa.arm64():
        e.call("llvm.aarch64.isb", ir.VoidType(), [I32(15)])
    elif ISA != isa.GENERIC:
        e.call("llvm.x86.sse2.pause", ir.VoidType(), [])


def ask_for(e: Emitter, address: Any) -> None:
    line = e.builder.inttoptr(address, ir.IntType(8).as_pointer())
    e.call("llvm.prefetch.p0", ir.VoidType(), [line, I32(0), I32(3), I32(1)])


def cycles(e: Emitter) -> Any:
    """x86-64's time-stamp counter, or AArch64's timer."""
    if not isa.arm64():
        return e.call("llvm.readcyclecounter", I64, [])
    # Its cycle counter traps outside the kernel; the timer's does not, and is the same on all cores.
    register = e.builder.module.add_metadata([ir.MetaDataString(e.builder.module, "CNTVCT_EL0")])
    kind = ir.FunctionType(I64, [ir.MetaDataType()])
    name = "llvm.read_volatile_register.i64"
    return e.builder.call(cgutils.get_or_insert_function(e.builder.module, kind, name), [register])


def call_kernel(e: Emitter, address: Any, args: Any, worker: Any, lo: Any, hi: Any) -> Any:
    """Call an entry made by `build`: Numba's calling convention, status first, result through a pointer."""
    word = cgutils.alloca_once(e.builder, I64)  # in the entry block: one in a loop would grow the stack
    exception = cgutils.alloca_once(e.builder, ir.IntType(8).as_pointer())
    kind = ir.FunctionType(I32, [word.type, exception.type, I64, I64, I64, I64])
    function = e.builder.inttoptr(address, kind.as_pointer())
    e.builder.call(function, [word, exception, args, worker, lo, hi])
    return e.builder.load(word)
