"""The LLVM instructions behind integer dot products, by what the processor has; all give the same integers."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from memfirst.kernels.cpu import isa
from memfirst.kernels.cpu.emit import I16, I32, I64, ISA, LANES, Emitter

V = ir.VectorType

_VNNI = {isa.AVX512_VNNI: "llvm.x86.avx512.vpdpbusd.512", isa.AVX_VNNI: "llvm.x86.avx512.vpdpbusd.256"}
_IN_32 = ISA in _VNNI or ISA == isa.NEON_DOT
"""Whether one instruction adds four products to a sum of 32 bits."""


def _vpdpbusd(e: Emitter, s: Any, w: Any, a: Any) -> Any:
    return e.call(_VNNI[ISA], s.type, [s, w, a])


def _neon_sdot(e: Emitter, s: Any, w: Any, a: Any) -> Any:
    """Both signed: 4 lanes a register, two registers."""
    name, kind = "llvm.aarch64.neon.sdot.v4i32.v16i8", V(I32, 4)
    return e.concat(*(e.call(name, kind, [e.half(s, i), e.half(w, i), e.half(a, i)]) for i in (0, 1)))


def dot_start(e: Emitter, offset: Any) -> Any:
    return offset if _IN_32 else ir.Constant(V(I16, 2 * LANES), [0] * (2 * LANES))


def dot(e: Emitter, s: Any, w: Any, a: Any) -> Any:
    """AVX2 and plain vectors add pairs in 16 bits, the others all four products in 32."""
    if ISA in _VNNI:
        return _vpdpbusd(e, s, w, a)
    if ISA == isa.NEON_DOT:
        return _neon_sdot(e, s, w, a)  # w < 64 is the same byte signed
    return e.builder.add(s, _pairs(e, w, a))


def _pairs(e: Emitter, w: Any, a: Any) -> Any:
    """16-bit sums of two neighbouring products; w unsigned, a signed."""
    if ISA == isa.AVX2:
        return e.call("llvm.x86.avx2.pmadd.ub.sw", V(I16, 2 * LANES), [w, a])
    products = e.builder.mul(e.builder.zext(w, V(I16, 4 * LANES)), e.builder.sext(a, V(I16, 4 * LANES)))
    return _add_neighbours(e, products)


def _add_neighbours(e: Emitter, v: Any) -> Any:
    """Sums of elements 2i and 2i+1."""
    n = v.type.count // 2
    even, odd = (e.builder.shuffle_vector(v, v, ir.Constant(V(I32, n), list(range(k, 2 * n, 2)))) for k in (0, 1))
    return e.builder.add(even, odd)


def dot_end(e: Emitter, s: Any, offset: Any) -> Any:
    return s if _IN_32 else e.builder.add(_sum_pairs(e, s), offset)


def _sum_pairs(e: Emitter, s: Any) -> Any:
    return _pair_products(e, s, ir.Constant(s.type, [1] * s.type.count))


_PMADDWD = {isa.AVX512_VNNI: "llvm.x86.avx512.pmaddw.d.512", isa.AVX_VNNI: "llvm.x86.avx2.pmadd.wd",
            isa.AVX2: "llvm.x86.avx2.pmadd.wd"}  # fmt: skip


def _pair_products(e: Emitter, a: Any, b: Any) -> Any:
    """Sums of two neighbouring products of int16."""
    if ISA in _PMADDWD:
        return e.call(_PMADDWD[ISA], V(I32, LANES), [a, b])
    wide = V(I32, 2 * LANES)
    return _add_neighbours(e, e.builder.mul(e.builder.sext(a, wide), e.builder.sext(b, wide)))


def pair_sum(e: Emitter, s: Any, v: Any, w: Any) -> Any:
    """32 int16 by as many as a register holds."""
    w, kind = e.builder.bitcast(w, v.type), V(I32, 16)
    if ISA == isa.AVX512_VNNI:
        products = e.call(_PMADDWD[ISA], kind, [v, w])
    elif ISA in _PMADDWD:
        halves = [e.call(_PMADDWD[ISA], V(I32, 8), [e.half(v, i), e.half(w, i)]) for i in (0, 1)]
        products = e.concat(*halves)
    else:
        wide = V(I32, 32)
        products = _add_neighbours(e, e.builder.mul(e.builder.sext(v, wide), e.builder.sext(w, wide)))
    return e.builder.add(s, products)


def pair_dot(e: Emitter, v: Any, a: Any) -> Any:
    return _pair_products(e, v, e.builder.bitcast(a, v.type))


def half_pair(e: Emitter, v: Any, h: Any) -> Any:
    words = e.builder.bitcast(v, V(I32, LANES))
    up = e.splat(e.builder.trunc(e.builder.mul(e.builder.sub(I64(1), h), I64(16)), I32), LANES)
    return e.builder.ashr(e.builder.shl(words, up), ir.Constant(words.type, [16] * LANES))


def _twice(e: Emitter, v: Any, h: Any) -> Any:
    """v[2r + h] in both halves of lane r."""
    low = e.builder.and_(half_pair(e, v, h), ir.Constant(V(I32, LANES), [0xFFFF] * LANES))
    both = e.builder.or_(low, e.builder.shl(low, ir.Constant(low.type, [16] * LANES)))
    return e.builder.bitcast(both, v.type)


def weigh(e: Emitter, s: Any, v: Any, h: Any) -> Any:
    """Where pairs are summed in 16 bits, one instruction multiplies them and adds neighbours."""
    return e.builder.mul(s, half_pair(e, v, h)) if _IN_32 else _pair_products(e, s, _twice(e, v, h))


def weigh_both(e: Emitter, s: Any, s2: Any, v: Any, h: Any) -> Any:
    if _IN_32:
        return weigh(e, e.builder.add(s, s2), v, h)
    return e.builder.add(weigh(e, s, v, h), weigh(e, s2, v, h))


def sdot_start(e: Emitter, offset: Any) -> Any:
    return offset if ISA in _VNNI else ir.Constant(V(I32, LANES), [0] * LANES)


def sdot(e: Emitter, s: Any, w: Any, a: Any) -> Any:
    """With VNNI, w + 128 is unsigned and `sdot_start` took 128 times the activations away."""
    if ISA in _VNNI:
        flipped = e.builder.xor(w, ir.Constant(w.type, [0x80] * w.type.count))
        return _vpdpbusd(e, s, flipped, a)
    if ISA == isa.NEON_DOT:
        return _neon_sdot(e, s, w, a)
    if ISA == isa.AVX2:
        size = e.call("llvm.abs.v32i8", w.type, [w, ir.Constant(ir.IntType(1), 0)])
        pairs = _pairs(e, size, e.call("llvm.x86.avx2.psign.b", w.type, [a, w]))
        return e.builder.add(s, _sum_pairs(e, pairs))
    wide = V(I32, 4 * LANES)
    products = e.builder.mul(e.builder.sext(w, wide), e.builder.sext(a, wide))
    return e.builder.add(s, _add_neighbours(e, _add_neighbours(e, products)))


def signed_offset(e: Emitter, a: Any, h: Any) -> Any:
    return e.builder.mul(half_pair(e, a, h), ir.Constant(V(I32, LANES), [-128] * LANES))
