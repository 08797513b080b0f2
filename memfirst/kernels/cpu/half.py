"""f16 to f32 and back, as instructions where the host has them, else by integer arithmetic to the same bits."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from memfirst.kernels.cpu import isa
from memfirst.kernels.cpu.emit import F16, F32, I16, I32, ISA, Emitter

V = ir.VectorType
_CONVERTS = ISA != isa.GENERIC or isa.arm64()
"""Whether the host has instructions for it: every ARM64 processor does."""


def _like(value: Any, scalar: Any) -> Any:
    """The type of `value` with elements of type `scalar`."""
    return V(scalar, value.type.count) if isinstance(value.type, V) else scalar


def _same(kind: Any, x: Any) -> Any:
    """`x` in every element of `kind`."""
    return ir.Constant(kind, [x] * kind.count if isinstance(kind, V) else x)


def widen(e: Emitter, v: Any) -> Any:
    """f16 to f32; generic code cannot rely on an instruction for it, nor on a library."""
    b, word, real = e.builder, _like(v, I32), _like(v, F32)
    if _CONVERTS:
        return b.fpext(v, real)
    raw = b.zext(b.bitcast(v, _like(v, I16)), word)
    size = b.shl(b.and_(raw, _same(word, 0x7FFF)), _same(word, 13))
    finite = b.bitcast(b.fmul(b.bitcast(size, real), _same(real, 2.0**112)), word)  # exponent bias 15 -> 127
    endless = b.or_(size, _same(word, 0x7F800000))
    out = b.select(b.icmp_unsigned(">=", size, _same(word, 0x0F800000)), endless, finite)
    sign = b.shl(b.and_(raw, _same(word, 0x8000)), _same(word, 16))
    return b.bitcast(b.or_(out, sign), real)


def narrow(e: Emitter, v: Any) -> Any:
    """f32 to f16, to the nearest, ties to even."""
    b, word, half = e.builder, _like(v, I32), _like(v, F16)
    if _CONVERTS:
        return b.fptrunc(v, half)
    raw = b.bitcast(v, word)
    size = b.and_(raw, _same(word, 0x7FFFFFFF))
    odd = b.and_(b.lshr(size, _same(word, 13)), _same(word, 1))
    normal = b.lshr(b.add(b.add(size, odd), _same(word, 0xC8000FFF)), _same(word, 13))  # bias 127 -> 15, half a unit
    shifted = b.bitcast(b.fadd(b.bitcast(size, v.type), _same(v.type, 0.5)), word)  # 0.5 has a unit of 2^-24
    out = b.select(b.icmp_unsigned("<", size, _same(word, 113 << 23)), b.sub(shifted, _same(word, 126 << 23)), normal)
    out = b.select(b.icmp_unsigned(">=", size, _same(word, 0x47800000)), _same(word, 0x7C00), out)
    out = b.select(b.icmp_unsigned(">", size, _same(word, 0x7F800000)), _same(word, 0x7E00), out)
    out = b.or_(out, b.and_(b.lshr(raw, _same(word, 16)), _same(word, 0x8000)))
    return b.bitcast(b.trunc(out, _like(v, I16)), half)
