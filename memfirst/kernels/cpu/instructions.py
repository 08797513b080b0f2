"""The LLVM instructions behind each function of `simd`; `e` is an `Emitter`, the rest are LLVM values."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from memfirst.kernels.cpu.emit import F16, F32, I8, I16, I32, I64, LANES, RESULTS, Emitter, llvm_type
from memfirst.kernels.cpu.half import narrow, widen

PACK = 16
V = ir.VectorType


# --- loads and stores ----------------------------------------------------------------------------------


def load_vector(e: Emitter, array: Any, offset: Any, vector: Any, index: int = 0) -> Any:
    """A vector at an offset in elements into array argument `index`."""
    return e.builder.load(e.at(array, index, offset, vector), align=1)


def _load_rows(e: Emitter, w: Any, offset: Any, part: Any, element: Any) -> Any:
    """LANES elements from `offset` on, or from the second half of PACK of them."""
    if LANES < PACK:
        size = LANES * element.count * _size(element.element)
        offset = e.builder.add(offset, e.builder.mul(part, I64(size)))
    return load_vector(e, w, offset, V(element.element, LANES * element.count))


def _size(element: Any) -> int:
    return {I8: 1, I16: 2, F16: 2, F32: 4}[element]


def load_rows_u8(e: Emitter, w: Any, offset: Any, part: Any) -> Any:
    return _load_rows(e, w, offset, part, V(I8, 4))


def load_rows_u8_of(e: Emitter, w: Any, offset: Any, part: Any, skip: Any, used: Any) -> Any:
    return load_rows_u8(e, w, offset, part)


def load_rows_f16_of(e: Emitter, w: Any, offset: Any, part: Any, skip: Any, used: Any) -> Any:
    return load_rows_f16(e, w, offset, part)


def load_rows_pairs(e: Emitter, w: Any, offset: Any, part: Any) -> Any:
    return e.builder.zext(_load_rows(e, w, offset, part, V(I8, 2)), V(I16, 2 * LANES))


def load_rows_signed_pairs(e: Emitter, w: Any, offset: Any, part: Any) -> Any:
    return e.builder.sext(_load_rows(e, w, offset, part, V(I8, 2)), V(I16, 2 * LANES))


def load_rows_f16(e: Emitter, w: Any, offset: Any, part: Any) -> Any:
    return widen(e, _load_rows(e, w, offset, part, V(F16, 1)))


def load_rows_bf16(e: Emitter, w: Any, offset: Any, part: Any) -> Any:
    wide = e.builder.zext(_load_rows(e, w, offset, part, V(I16, 1)), V(I32, LANES))
    return e.builder.bitcast(e.builder.shl(wide, ir.Constant(V(I32, LANES), [16] * LANES)), V(F32, LANES))


def load_rows_e8m0(e: Emitter, w: Any, offset: Any, part: Any) -> Any:
    """e − 1 is the exponent's field; of 0 and 1 the value is a bit of the fraction."""
    kind = V(I32, LANES)
    wide = e.builder.zext(_load_rows(e, w, offset, part, V(I8, 1)), kind)
    one, field, fraction = (ir.Constant(kind, [n] * LANES) for n in (1, 23, 21))
    normal = e.builder.shl(e.builder.sub(wide, one), field)
    tiny = e.builder.shl(e.builder.add(wide, one), fraction)
    bits = e.builder.select(e.builder.icmp_unsigned(">", wide, one), normal, tiny)
    return e.builder.bitcast(bits, V(F32, LANES))


def load_rows_f32(e: Emitter, w: Any, offset: Any, part: Any) -> Any:
    return _load_rows(e, w, offset, part, V(F32, 1))


def broadcast4(e: Emitter, a: Any, offset: Any) -> Any:
    word = e.builder.load(e.at(a, 0, offset, I32), align=1)
    return e.builder.bitcast(e.splat(word, LANES), V(I8, 4 * LANES))


def _float32(e: Emitter, x: Any) -> Any:
    return x if x.type == F32 else e.builder.fptrunc(x, F32)


def splat_f32(e: Emitter, x: Any) -> Any:
    return e.splat(_float32(e, x), LANES)


def splat16_f32(e: Emitter, x: Any) -> Any:
    return e.splat(_float32(e, x), 16)


def _splat_at(e: Emitter, x: Any, index: Any, element: Any, n: int) -> Any:
    return e.splat(e.builder.load(e.at(x, 0, index, element), align=4), n)


def splat_f32_at(e: Emitter, x: Any, index: Any) -> Any:
    return _splat_at(e, x, index, F32, LANES)


def splat_i32_at(e: Emitter, x: Any, index: Any) -> Any:
    return _splat_at(e, x, index, I32, LANES)


def splat16_f32_at(e: Emitter, x: Any, index: Any) -> Any:
    return _splat_at(e, x, index, F32, 16)


def splat_i32(e: Emitter, x: Any) -> Any:
    return e.splat(x if x.type == I32 else e.builder.trunc(x, I32), LANES)


def store(e: Emitter, y: Any, index: Any, v: Any) -> None:
    e.builder.store(v, e.at(y, 0, index, v.type), align=1)


def load_rows_y(e: Emitter, y: Any, index: Any) -> Any:
    return load_vector(e, y, index, V(F32, LANES))


def load_f32x16(e: Emitter, x: Any, index: Any) -> Any:
    return load_vector(e, x, index, V(F32, 16))


def _first(e: Emitter, n: Any) -> Any:
    """A mask of the first `n` of 16 lanes."""
    count = e.splat(e.builder.trunc(n, I32), 16)
    return e.builder.icmp_signed("<", ir.Constant(V(I32, 16), list(range(16))), count)


def load_f32x16_first(e: Emitter, x: Any, index: Any, n: Any) -> Any:
    kind = V(F32, 16)
    args = [e.at(x, 0, index, kind), I32(4), _first(e, n), ir.Constant(kind, [0.0] * 16)]
    return e.call("llvm.masked.load.v16f32.p0", kind, args)


def store_f32x16_first(e: Emitter, x: Any, index: Any, n: Any, v: Any) -> None:
    args = [v, e.at(x, 0, index, v.type), I32(4), _first(e, n)]
    e.call("llvm.masked.store.v16f32.p0", ir.VoidType(), args)


def load_f16x16(e: Emitter, x: Any, index: Any) -> Any:
    return widen(e, load_vector(e, x, index, V(F16, 16)))


def load_f16x16_of(e: Emitter, x: Any, index: Any, skip: Any, used: Any) -> Any:
    return load_f16x16(e, x, index)


def load_f32x16_of(e: Emitter, x: Any, offset: Any, skip: Any, used: Any) -> Any:
    return load_f32x16(e, x, offset)


def _and_zeros(e: Emitter, v: Any) -> Any:
    """8 floats, and 8 zeros."""
    return e.concat(v, ir.Constant(v.type, [0.0] * 8))


def load_f16x8(e: Emitter, x: Any, offset: Any) -> Any:
    return _and_zeros(e, widen(e, load_vector(e, x, offset, V(F16, 8))))


def load_f32x8(e: Emitter, x: Any, offset: Any) -> Any:
    return _and_zeros(e, load_vector(e, x, offset, V(F32, 8)))


def load_i8x16(e: Emitter, x: Any, offset: Any) -> Any:
    return e.builder.sitofp(e.builder.sext(load_vector(e, x, offset, V(I8, 16)), V(I32, 16)), V(F32, 16))


def within(e: Emitter, v: Any, skip: Any, used: Any) -> Any:
    keep = e.builder.and_(_first(e, used), e.builder.not_(_first(e, skip)))
    return e.builder.select(keep, v, ir.Constant(v.type, [0.0] * 16))


def load_u8x32_of(e: Emitter, w: Any, offset: Any, skip: Any, used: Any) -> Any:
    return e.builder.zext(load_vector(e, w, offset, V(I8, 32)), V(I16, 32))


def load_i8x32_of(e: Emitter, w: Any, offset: Any, skip: Any, used: Any) -> Any:
    return e.builder.sext(load_vector(e, w, offset, V(I8, 32)), V(I16, 32))


def store_i16x16(e: Emitter, x: Any, index: Any, v: Any) -> None:
    e.builder.store(e.builder.trunc(v, V(I16, 16)), e.at(x, 0, index, V(I16, 16)), align=1)


def splat16_i32_at(e: Emitter, x: Any, index: Any) -> Any:
    return _splat_at(e, x, index, I32, 16)


def lane(e: Emitter, v: Any, k: Any) -> Any:
    return e.builder.extract_element(v, e.builder.trunc(k, I32))


def splat16_i32(e: Emitter, x: Any) -> Any:
    return e.splat(x if x.type == I32 else e.builder.trunc(x, I32), 16)


def store_i8x16(e: Emitter, x: Any, index: Any, v: Any) -> None:
    e.builder.store(e.builder.trunc(v, V(I8, 16)), e.at(x, 0, index, V(I8, 16)), align=1)


def store_f16(e: Emitter, x: Any, index: Any, value: Any) -> None:
    e.builder.store(narrow(e, _float32(e, value)), e.at(x, 0, index, F16), align=2)


def store_f32(e: Emitter, x: Any, offset: Any, value: Any) -> None:
    e.builder.store(_float32(e, value), e.at(x, 0, offset, F32), align=4)


def load_f16_scalar(e: Emitter, x: Any, offset: Any) -> Any:
    return widen(e, e.builder.load(e.at(x, 0, offset, F16), align=1))


# --- arithmetic -----------------------------------------------------------------------------------------


def _is_float(v: Any) -> bool:
    return bool(v.type.element == F32)


def add(e: Emitter, a: Any, b: Any) -> Any:
    return e.builder.fadd(a, b) if _is_float(a) else e.builder.add(a, b)


def sub(e: Emitter, a: Any, b: Any) -> Any:
    return e.builder.fsub(a, b) if _is_float(a) else e.builder.sub(a, b)


def mul(e: Emitter, a: Any, b: Any) -> Any:
    return e.builder.fmul(a, b) if _is_float(a) else e.builder.mul(a, b)


def div(e: Emitter, a: Any, b: Any) -> Any:
    return e.builder.fdiv(a, b)


def fma(e: Emitter, a: Any, b: Any, c: Any) -> Any:
    return e.call(f"llvm.fma.v{a.type.count}f32", a.type, [a, b, c])


def to_float(e: Emitter, v: Any) -> Any:
    return e.builder.sitofp(v, V(F32, v.type.count))


def maximum(e: Emitter, a: Any, b: Any) -> Any:
    kind = "maximum.v{}f32" if _is_float(a) else "smax.v{}i32"
    return e.call(f"llvm.{kind.format(a.type.count)}", a.type, [a, b])


def larger(e: Emitter, a: Any, b: Any) -> Any:
    return e.builder.select(e.builder.fcmp_ordered(">", a, b), a, b)


def smaller(e: Emitter, a: Any, b: Any) -> Any:
    return e.builder.select(e.builder.fcmp_ordered("<", a, b), a, b)


def absolute(e: Emitter, a: Any) -> Any:
    return e.call(f"llvm.fabs.v{a.type.count}f32", a.type, [a])


def rint(e: Emitter, a: Any) -> Any:
    return e.call(f"llvm.rint.v{a.type.count}f32", a.type, [a])


def to_int(e: Emitter, a: Any) -> Any:
    return e.builder.fptosi(a, V(I32, a.type.count))


def magnitude(e: Emitter, a: Any) -> Any:
    return e.builder.bitcast(absolute(e, a), V(I32, a.type.count))


def as_float(e: Emitter, a: Any) -> Any:
    """The same 32 bits, read as a float."""
    return e.builder.bitcast(a, V(F32, a.type.count))


def _shuffle(e: Emitter, a: Any, b: Any, order: list[int]) -> Any:
    return e.builder.shuffle_vector(a, b, ir.Constant(V(I32, len(order)), order))


def evens(e: Emitter, a: Any, b: Any) -> Any:
    return _shuffle(e, a, b, list(range(0, 32, 2)))


def odds(e: Emitter, a: Any, b: Any) -> Any:
    return _shuffle(e, a, b, list(range(1, 32, 2)))


def zip_low(e: Emitter, a: Any, b: Any) -> Any:
    return _shuffle(e, a, b, [i // 2 + 16 * (i % 2) for i in range(16)])


def zip_high(e: Emitter, a: Any, b: Any) -> Any:
    return _shuffle(e, a, b, [8 + i // 2 + 16 * (i % 2) for i in range(16)])


def _halves(e: Emitter, a: Any, b: Any, n: int) -> Any:
    first = [i for i in range(32) if i // n % 2 == 0]
    return add(e, _shuffle(e, a, b, first), _shuffle(e, a, b, [i + n for i in first]))


def halves8(e: Emitter, a: Any, b: Any) -> Any:
    return _halves(e, a, b, 8)


def halves4(e: Emitter, a: Any, b: Any) -> Any:
    return _halves(e, a, b, 4)


def halves2(e: Emitter, a: Any, b: Any) -> Any:
    return _halves(e, a, b, 2)


def halves1(e: Emitter, a: Any, b: Any) -> Any:
    return _halves(e, a, b, 1)


def _fold(e: Emitter, v: Any, combine: Any) -> Any:
    """Combine halves until one element is left: the order is fixed, whatever the registers."""
    while v.type.count > 1:
        v = combine(e, e.half(v, 0), e.half(v, 1)) if v.type.count > 2 else _last(e, v, combine)
        if not isinstance(v.type, ir.VectorType):
            return v
    return v


def _last(e: Emitter, v: Any, combine: Any) -> Any:
    one = V(v.type.element, 1)
    pair = [
        e.builder.insert_element(ir.Constant(one, ir.Undefined), e.builder.extract_element(v, I32(i)), I32(0))
        for i in (0, 1)
    ]
    return e.builder.extract_element(combine(e, *pair), I32(0))


def sum_lanes(e: Emitter, v: Any) -> Any:
    return _fold(e, v, add)


def max_lanes(e: Emitter, v: Any) -> Any:
    return _fold(e, v, maximum)


def largest_lane(e: Emitter, v: Any) -> Any:
    return _fold(e, v, larger)


def prefetch(e: Emitter, w: Any, offset: Any) -> None:
    e.call("llvm.prefetch.p0", ir.VoidType(), [e.at(w, 0, offset, I8), I32(0), I32(3), I32(1)])


def prefetch_in_place(e: Emitter, w: Any, offset: Any) -> None:
    """No access to memory moves across what follows it, which is no instruction."""
    prefetch(e, w, offset)
    e.builder.asm(ir.FunctionType(ir.VoidType(), []), "", "~{memory}", [], side_effect=True)


def prefetch_once(e: Emitter, w: Any, offset: Any) -> None:
    e.call("llvm.prefetch.p0", ir.VoidType(), [e.at(w, 0, offset, I8), I32(0), I32(0), I32(1)])


def load_register(e: Emitter, w: Any, offset: Any) -> Any:
    return load_vector(e, w, offset, llvm_type(RESULTS["register"]))


def nothing(e: Emitter, *values: Any) -> None:
    """No instruction."""


def word_sum(e: Emitter, v: Any) -> Any:
    return _fold(e, e.builder.bitcast(v, V(I32, v.type.count // 4)), add)
