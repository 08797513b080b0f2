"""The LLVM instructions behind the functions of `bf12`: two planes of bytes become floats."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from memfirst.kernels.cpu.emit import F32, I8, I16, I32, I64, LANES, Emitter
from memfirst.kernels.cpu.instructions import load_vector
from memfirst.kernels.cpu.instructions_bytes import by_table, repeated

V = ir.VectorType


def store_values(e: Emitter, out: Any, offset: Any, v: Any) -> None:
    e.builder.store(v, e.at(out, 0, offset, v.type), align=1)


def table_at(e: Emitter, w: Any, offset: Any) -> Any:
    return repeated(e, load_vector(e, w, offset, V(I8, 16)), 4 * LANES)


def codes_at(e: Emitter, w: Any, offset: Any, which: Any) -> Any:
    """Both nibbles of 32 bytes where a register holds 64, else one of them; `which` is a literal, so LLVM folds it."""
    both = load_vector(e, w, offset, V(I8, 32))
    low, four = (ir.Constant(both.type, [n] * 32) for n in (15, 4))
    if LANES == 16:
        return e.concat(e.builder.and_(both, low), e.builder.lshr(both, four))
    shift = e.splat(e.builder.trunc(e.builder.shl(which, I64(2)), I8), 32)
    return e.builder.and_(e.builder.lshr(both, shift), low)


def looked_up(e: Emitter, codes: Any, table: Any) -> Any:
    first = e.builder.shuffle_vector(table, table, ir.Constant(V(I32, 16), list(range(16))))
    return by_table(e, codes, first)


def _column(e: Emitter, low: Any, high: Any, first: int) -> Any:
    """The words of one column, two in each lane of 32 bits: of rows 0 to 7 the lower ones, of 8 to 15 the upper."""
    order = [x for i in (*range(8), *range(16, 24)) for x in (first + i, first + i + low.type.count)]
    return e.builder.bitcast(e.builder.shuffle_vector(low, high, ir.Constant(V(I32, 32), order)), V(I32, 8))


def _floats(e: Emitter, words: Any, upper: bool) -> Any:
    """A bfloat16 is the upper half of a float."""
    if upper:
        kept = e.builder.and_(words, ir.Constant(words.type, [-65536] * 8))
    else:
        kept = e.builder.shl(words, ir.Constant(words.type, [16] * 8))
    return e.builder.bitcast(kept, V(F32, 8))


def _values(n: int) -> Callable[..., Any]:
    def emission(e: Emitter, low: Any, high: Any) -> Any:
        if LANES == 16:
            words = _column(e, low, high, 32 * (n // 2) + 8 * (n % 2))
            return e.concat(_floats(e, words, False), _floats(e, words, True))
        return _floats(e, _column(e, low, high, 8 * (n // 2)), n % 2 == 1)

    return emission


def _in_order(e: Emitter, words: Any) -> Any:
    """The words of a column by rows: the lower ones of 32 bits, then the upper ones."""
    halves = e.builder.bitcast(words, V(I16, 16))
    order = ir.Constant(V(I32, 16), [*range(0, 16, 2), *range(1, 16, 2)])
    return e.builder.bitcast(e.builder.shuffle_vector(halves, halves, order), V(I32, 8))


def _words(n: int) -> Callable[..., Any]:
    def emission(e: Emitter, low: Any, high: Any) -> Any:
        if LANES == 16:
            return e.concat(*(_in_order(e, _column(e, low, high, 32 * n + 8 * i)) for i in range(2)))
        return _in_order(e, _column(e, low, high, 8 * n))

    return emission


words_0, words_1 = (_words(n) for n in range(2))
values_0, values_1, values_2, values_3 = (_values(n) for n in range(4))
