"""Emissions of the SIMD functions: LLVM vector types for Numba, and the instructions each function becomes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, models, register_model

from memfirst.kernels.cpu import isa

ISA = isa.detect()
LANES = isa.rows_at_once(ISA)
_I1, I8, I16, I32, I64 = (ir.IntType(n) for n in (1, 8, 16, 32, 64))
F16, F32 = ir.HalfType(), ir.FloatType()


class Vec(types.Type):
    """A Numba type that is an LLVM vector: `Vec("f32", 16)`."""

    def __init__(self, element: str, n: int) -> None:
        self.element, self.n = element, n
        super().__init__(name=f"{element}x{n}")


_ELEMENTS = {"i8": I8, "i16": I16, "i32": I32, "f32": F32, "f16": F16}


@register_model(Vec)
class VecModel(models.PrimitiveModel):  # type: ignore[misc]
    """Passes a `Vec` as one LLVM vector value."""

    def __init__(self, manager: Any, vec: Vec) -> None:
        super().__init__(manager, vec, llvm_type(vec))


def llvm_type(vec: Vec) -> ir.VectorType:
    """The LLVM type of a `Vec`."""
    return ir.VectorType(_ELEMENTS[vec.element], vec.n)


_SUMS_IN_32 = ISA in (isa.AVX512_VNNI, isa.AVX_VNNI, isa.NEON_DOT)
RESULTS: dict[str, Any] = {
    "bytes": Vec("i8", 4 * LANES),
    "register": Vec("i8", isa.register_bytes()),
    "i32": Vec("i32", LANES),
    "pairs": Vec("i16", 2 * LANES),
    "f32": Vec("f32", LANES),
    "i16x32": Vec("i16", 32),
    "f32x16": Vec("f32", 16),
    "i32x16": Vec("i32", 16),
    "dot": Vec("i32", LANES) if _SUMS_IN_32 else Vec("i16", 2 * LANES),
    "float": types.float32,
    "int32": types.int32,
    "int": types.int64,
    "void": types.void,
}


class Emitter:
    """What an emission sees: the builder, the argument types, and small helpers over them."""

    def __init__(self, context: Any, builder: Any, signature: Any) -> None:
        self.context, self.builder, self.types = context, builder, signature.args
        self.result = signature.return_type

    def data(self, array: Any, index: int) -> Any:
        """The data pointer of argument `index`, an array value."""
        return self.context.make_array(self.types[index])(self.context, self.builder, array).data

    def at(self, array: Any, index: int, offset: Any, to: Any) -> Any:
        """Pointer to `to`, at an offset in elements into array argument `index`."""
        return self.builder.bitcast(self.builder.gep(self.data(array, index), [offset]), to.as_pointer())

    def call(self, name: str, returns: Any, args: list[Any]) -> Any:
        """Call an LLVM intrinsic."""
        kind = ir.FunctionType(returns, [a.type for a in args])
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, kind, name), args)

    def splat(self, scalar: Any, n: int) -> Any:
        """`n` copies of a scalar value."""
        vector = ir.VectorType(scalar.type, n)
        one = self.builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, I32(0))
        return self.builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(I32, n), [0] * n))

    def concat(self, a: Any, b: Any) -> Any:
        """Two vectors, one after the other."""
        n = a.type.count
        return self.builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, 2 * n), list(range(2 * n))))

    def half(self, v: Any, which: int) -> Any:
        """The lower (0) or upper (1) half of a vector."""
        n = v.type.count // 2
        order = list(range(n * which, n * which + n))
        return self.builder.shuffle_vector(v, v, ir.Constant(ir.VectorType(I32, n), order))


def _with_context(meaning: Any) -> inspect.Signature:
    """The meaning's signature behind Numba's typing context: Numba counts an intrinsic's arguments by it."""
    context = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return inspect.Signature([context, *inspect.signature(meaning).parameters.values()])


def op(emission: Callable[..., Any], result: str) -> Callable[[Any], Any]:
    """Compile calls of the decorated function as `emission(e, *values)`; its body stays the meaning."""

    def wrap(meaning: Any) -> Any:
        def typed(context: Any, *args: Any) -> Any:
            returns = args[0] if result == "same" else RESULTS[result]

            def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
                made = emission(Emitter(context, builder, signature), *values)
                return context.get_dummy_value() if made is None else made

            return returns(*args), emit

        typed.__name__ = meaning.__name__
        typed.__signature__ = _with_context(meaning)  # type: ignore[attr-defined]
        compiled = intrinsic(typed)
        compiled.meaning = meaning
        return compiled

    return wrap
