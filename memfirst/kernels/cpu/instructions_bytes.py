"""The LLVM instructions behind functions on bytes: masks, shifts, tables, columns."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from memfirst.kernels.cpu import isa
from memfirst.kernels.cpu.emit import I8, I16, I32, I64, ISA, LANES, Emitter
from memfirst.kernels.cpu.instructions import load_vector

V = ir.VectorType


def _constant(e: Emitter, v: Any, scalar: Any) -> Any:
    """`scalar` in every lane of `v`'s type; LLVM folds it, as kernels pass literals."""
    element = v.type.element
    if scalar.type.width > element.width:
        scalar = e.builder.trunc(scalar, element)
    return e.splat(scalar, v.type.count)


def and_const(e: Emitter, v: Any, mask: Any) -> Any:
    return e.builder.and_(v, _constant(e, v, mask))


def shr(e: Emitter, v: Any, n: Any) -> Any:
    return e.builder.lshr(v, _constant(e, v, n))


def shl(e: Emitter, v: Any, n: Any) -> Any:
    return e.builder.shl(v, _constant(e, v, n))


def minus(e: Emitter, v: Any, n: Any) -> Any:
    return e.builder.sub(v, _constant(e, v, n))


def or_(e: Emitter, a: Any, b: Any) -> Any:
    return e.builder.or_(a, b)


def xor(e: Emitter, a: Any, b: Any) -> Any:
    return e.builder.xor(a, b)


def load_u8(e: Emitter, x: Any, offset: Any) -> Any:
    return e.builder.zext(e.builder.load(e.at(x, 0, offset, I8), align=1), I64)


def load_u16(e: Emitter, x: Any, offset: Any) -> Any:
    return e.builder.zext(e.builder.load(e.at(x, 0, offset, I16), align=1), I64)


def load_u32(e: Emitter, x: Any, offset: Any) -> Any:
    return e.builder.zext(e.builder.load(e.at(x, 0, offset, I32), align=1), I64)


def store_u8(e: Emitter, x: Any, offset: Any, word: Any) -> None:
    e.builder.store(e.builder.trunc(word, I8), e.at(x, 0, offset, I8), align=1)


def store_u16(e: Emitter, x: Any, offset: Any, word: Any) -> None:
    e.builder.store(e.builder.trunc(word, I16), e.at(x, 0, offset, I16), align=1)


def store_u32(e: Emitter, x: Any, offset: Any, word: Any) -> None:
    e.builder.store(e.builder.trunc(word, I32), e.at(x, 0, offset, I32), align=1)


def table16(e: Emitter, v: Any, t: Any) -> Any:
    return by_table(e, v, load_vector(e, t, I64(0), V(I8, 16), index=1))


def by_table(e: Emitter, v: Any, table: Any) -> Any:
    """The entries of a table of 16 bytes that the bytes of `v`, all below 16, choose.

    x86's `pshufb` looks up in the same 128 bits of another register, ARM's `tbl` in a register; else by element.
    """
    if isa.arm64():
        halves = [e.call("llvm.aarch64.neon.tbl1.v16i8", table.type, [table, e.half(v, i)]) for i in (0, 1)]
        return e.concat(*halves)
    if ISA == isa.GENERIC:
        return _by_element(e, v, table)
    name = "llvm.x86.avx512.pshuf.b.512" if LANES == 16 else "llvm.x86.avx2.pshuf.b"
    return e.call(name, v.type, [repeated(e, table, v.type.count), v])


def repeated(e: Emitter, table: Any, n: int) -> Any:
    """16 bytes over and over, `n` in all."""
    order = [i % 16 for i in range(n)]
    return e.builder.shuffle_vector(table, table, ir.Constant(V(I32, n), order))


def _by_element(e: Emitter, v: Any, table: Any) -> Any:
    out = ir.Constant(v.type, ir.Undefined)
    for i in range(v.type.count):
        index = e.builder.zext(e.builder.extract_element(v, I32(i)), I32)
        out = e.builder.insert_element(out, e.builder.extract_element(table, index), I32(i))
    return out


def column(e: Emitter, v: Any, c: Any) -> Any:
    words = e.builder.bitcast(v, V(I32, LANES))
    moved = e.builder.lshr(words, _constant(e, words, e.builder.mul(c, I64(8))))
    return e.builder.and_(moved, ir.Constant(words.type, [255] * LANES))


def signed_column(e: Emitter, v: Any, c: Any) -> Any:
    words = e.builder.bitcast(v, V(I32, LANES))
    up = e.builder.sub(I64(24), e.builder.mul(c, I64(8)))
    top = e.builder.shl(words, _constant(e, words, up))
    return e.builder.ashr(top, ir.Constant(words.type, [24] * LANES))
