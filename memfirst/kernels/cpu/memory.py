"""Views of memory by address, for the entry of a compiled kernel."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array


def _view(dtype: Any) -> Any:
    array = types.Array(dtype, 1, "C")

    @intrinsic  # type: ignore[untyped-decorator]
    def view(context: Any, address: Any, length: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            made = context.make_array(array)(context, builder)
            size = context.get_constant(types.intp, dtype.bitwidth // 8)
            data = builder.inttoptr(args[0], made.data.type)
            populate_array(made, data=data, shape=[args[1]], strides=[size], itemsize=size, meminfo=None)
            return made._getvalue()

        return array(types.int64, types.int64), emit

    return view


view_u8, view_i8 = _view(types.uint8), _view(types.int8)
view_i32, view_i64, view_f32 = _view(types.int32), _view(types.int64), _view(types.float32)


@intrinsic  # type: ignore[untyped-decorator]
def float_of(context: Any, word: Any) -> Any:
    """The float32 in the low half of a 64-bit word."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(builder.trunc(args[0], ir.IntType(32)), ir.FloatType())

    return types.float32(types.int64), emit
