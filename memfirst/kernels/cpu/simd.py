"""SIMD functions for kernels: each has a meaning (its NumPy body) and an emission (LLVM instructions).

Vectors are LLVM's own. `LANES` (16 or 8) is how many rows of a packed weight one register covers; other kernels
use 16 float lanes everywhere (LLVM splits them where registers are narrower), so sums have one order on all machines.
Offsets into byte arrays are in bytes, into float and int arrays in elements.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from time import sleep
from typing import Any

import numpy as np

from memfirst.kernels.cpu import isa
from memfirst.kernels.cpu.lang import INTERPRETED
from memfirst.kernels.cpu.spans import loaded, stored

ISA = isa.detect()
LANES = isa.rows_at_once(ISA)
PACK = 16
"""Rows that are packed side by side; with 8 lanes a kernel takes them in two parts."""

if INTERPRETED:

    def op(emit: Any, result: Any) -> Callable[[Any], Any]:
        return lambda meaning: meaning

else:
    from memfirst.kernels.cpu import instructions
    from memfirst.kernels.cpu.emit import op


def _e(name: str) -> Any:
    """The emission called `name`; None when interpreted."""
    return None if INTERPRETED else getattr(instructions, name)


def _bytes(array: Any, offset: int, count: int) -> Any:
    """`count` bytes at a byte offset; raises IndexError out of bounds, logs the span."""
    raw = array.view(np.uint8, np.ndarray)
    if offset < 0 or offset + count > raw.size:
        raise IndexError(f"load of {count} bytes at {offset} of {raw.size}")
    loaded(array, offset, count)
    return raw[offset : offset + count]


def _put(array: Any, index: int, values: Any) -> None:
    if index < 0 or index + len(values) > array.size:
        raise IndexError(f"store of {len(values)} items at {index} of {array.size}")
    stored(array, index * array.itemsize, len(values) * array.itemsize)
    array.view(np.ndarray)[index : index + len(values)] = values


def _rows(array: Any, offset: int, count: int, part: int) -> Any:
    """`count` bytes of each of LANES rows: part `part` of a run of PACK · count bytes."""
    return _bytes(array, offset + part * LANES * count, LANES * count)


# --- loads of packed weights: LANES of PACK rows, the first or second half where LANES is 8 -----------------


@op(_e("load_rows_u8"), "bytes")
def load_w(w, offset, part):
    """4 bytes of each row."""
    return _rows(w, offset, 4, part)


@op(_e("load_rows_u8_i32"), "i32")
def load_u8(w, offset, part):
    """1 byte of each row, as int32 0..255."""
    return _rows(w, offset, 1, part).astype(np.int32)


@op(_e("load_rows_i8_i32"), "i32")
def load_i8(w, offset, part):
    """1 byte of each row, as int32 -128..127."""
    return _rows(w, offset, 1, part).view(np.int8).astype(np.int32)


@op(_e("load_rows_f16"), "f32")
def load_f16(w, offset, part):
    """One f16 of each row, as float32."""
    return _rows(w, offset, 2, part).view(np.float16).astype(np.float32)


@op(_e("load_rows_bf16"), "f32")
def load_bf16(w, offset, part):
    """One bf16 of each row, as float32."""
    return (_rows(w, offset, 2, part).view(np.uint16).astype(np.uint32) << 16).view(np.float32)


@op(_e("load_rows_f32"), "f32")
def load_f32(w, offset, part):
    """One float32 of each row."""
    return _rows(w, offset, 4, part).view(np.float32).copy()


# --- activations ---------------------------------------------------------------------------------------


@op(_e("broadcast4"), "bytes")
def dup4(a, offset):
    """The 4 bytes at `offset`, repeated for every row."""
    return np.tile(_bytes(a, offset, 4), LANES)


@op(_e("splat_f32"), "f32")
def splat(x):
    """LANES copies of a float."""
    return np.full(LANES, x, np.float32)


@op(_e("splat_i32"), "i32")
def splat_i(x):
    """LANES copies of an integer."""
    return np.full(LANES, x, np.int32)


@op(_e("store"), "void")
def store_rows(y, index, v):
    """LANES floats."""
    _put(y, index, v)


@op(_e("load_rows_y"), "f32")
def load_y(y, index):
    """LANES floats."""
    return _bytes(y, 4 * index, 4 * LANES).view(np.float32).copy()


# --- bytes ----------------------------------------------------------------------------------------------


@op(_e("and_const"), "same")
def bits(v, mask):
    """v & mask, lane by lane."""
    return v & v.dtype.type(mask)


@op(_e("shr"), "same")
def shr(v, n):
    """v >> n, unsigned."""
    return v >> v.dtype.type(n)


@op(_e("shl"), "same")
def shl(v, n):
    """v << n."""
    return v << v.dtype.type(n)


@op(_e("or_"), "same")
def join(a, b):
    """a | b."""
    return a | b


@op(_e("xor"), "same")
def xor(a, b):
    """a ^ b."""
    return a ^ b


@op(_e("checksum"), "int32")
def checksum(v):
    """Sum of the bytes' 32-bit words, wrapping."""
    return v.view(np.int32).sum(dtype=np.int32)


@op(_e("table16"), "bytes")
def table16(v, t):
    """t[v] for each byte; `t` has 16 signed bytes, v < 16."""
    return _bytes(t, 0, 16)[v]


@op(_e("column"), "i32")
def column(v, c):
    """Byte `c` of each row's 4, as int32 0..255."""
    return v.reshape(-1, 4)[:, c].astype(np.int32)


@op(_e("signed_column"), "i32")
def signed_column(v, c):
    """Byte `c` of each row's 4, as int32 -128..127."""
    return v.view(np.int8).reshape(-1, 4)[:, c].astype(np.int32)


# --- integer dot products: lane r sums 4 neighbouring bytes of row r ------------------------------------


@op(_e("dot_start"), "dot")
def dot_start(offset):
    """An empty sum for `dot`, to which `dot_end` adds `offset`; pairs are added in 16 bits where need be."""
    return np.zeros(2 * LANES, np.int32)


@op(_e("dot"), "dot")
def dot(s, w, a):
    """s + w·a, w unsigned, a signed. Few steps fit: 8 with w < 16, 4 with w < 32, 2 with w < 64."""
    s = s + (w.astype(np.int32) * a.view(np.int8).astype(np.int32)).reshape(-1, 2).sum(1, dtype=np.int32)
    if np.abs(s).max() > 32767:
        raise OverflowError("a 16-bit partial sum overflowed")
    return s


@op(_e("dot_end"), "i32")
def dot_end(s, offset):
    """The sum as int32, one lane a row, and `offset`: the one that `dot_start` was given."""
    return s.reshape(-1, 2).sum(1, dtype=np.int32) + np.int32(offset)


@op(_e("sdot_start"), "i32")
def sdot_start(offset):
    """An empty sum for `sdot`; `offset` is −128 · the sum of all activations that will meet it."""
    return np.zeros(LANES, np.int32)


@op(_e("sdot"), "i32")
def sdot(s, w, a):
    """s + w·a, both signed, |a| <= 127."""
    product = w.view(np.int8).astype(np.int32) * a.view(np.int8).astype(np.int32)
    return s + product.reshape(-1, 4).sum(1, dtype=np.int32)


# --- arithmetic -----------------------------------------------------------------------------------------


@op(_e("add"), "same")
def add(a, b):
    """a + b."""
    return a + b


@op(_e("sub"), "same")
def sub(a, b):
    """a - b."""
    return a - b


@op(_e("mul"), "same")
def mul(a, b):
    """a * b."""
    return a * b


@op(_e("fma"), "same")
def fma(a, b, c):
    """a * b + c, rounded once."""
    return (a.astype(np.float64) * b + c).astype(np.float32)


@op(_e("to_float"), "f32")
def to_float(v):
    """int32 to float32."""
    return v.astype(np.float32)


@op(_e("maximum"), "same")
def maximum(a, b):
    """The larger, lane by lane."""
    return np.maximum(a, b)


@op(_e("div"), "same")
def div(a, b):
    """a / b."""
    return a / b


@op(_e("absolute"), "same")
def absolute(a):
    """|a|."""
    return np.abs(a)


@op(_e("rint"), "same")
def rint(a):
    """Nearest integer, ties to even, still a float."""
    return np.rint(a)


# --- 16 float lanes, whatever the registers --------------------------------------------------------------


@op(_e("load_f32x16"), "f32x16")
def load16(x, index):
    """16 floats."""
    return _bytes(x, 4 * index, 64).view(np.float32).copy()


@op(_e("load_f16x16"), "f32x16")
def load16_f16(x, index):
    """16 f16 of an array of u16, as float32."""
    return _bytes(x, 2 * index, 32).view(np.float16).astype(np.float32)


@op(_e("load_f16x16_of"), "f32x16")
def load16_f16_of(x, index, skip, used):
    """As `load16_f16`, of which only lanes skip..used matter; the others are whatever memory holds, and never used."""
    out = np.zeros(16, np.float32)
    out[skip:used] = _bytes(x, 2 * (index + skip), 2 * (used - skip)).view(np.float16)
    return out


@op(_e("store"), "void")
def store16(x, index, v):
    """16 floats."""
    _put(x, index, v)


@op(_e("store_f16x16"), "void")
def store16_f16(x, index, v):
    """16 floats, rounded to f16, into an array of u16."""
    _put(x, index, v.astype(np.float16).view(np.uint16))


@op(_e("store_i8x16"), "void")
def store16_i8(x, index, v):
    """16 int32 in -128..127, as int8."""
    _put(x, index, v.astype(np.int8))


@op(_e("splat16_f32"), "f32x16")
def splat16(x):
    """16 copies of a float."""
    return np.full(16, x, np.float32)


@op(_e("splat16_i32"), "i32x16")
def splat16_i(x):
    """16 copies of an integer."""
    return np.full(16, x, np.int32)


@op(_e("minimum"), "same")
def minimum(a, b):
    """The smaller, lane by lane."""
    return np.minimum(a, b)


@op(_e("to_int"), "i32x16")
def to_int16(v):
    """float32 to int32, towards zero."""
    return v.astype(np.int32)


@op(_e("as_float"), "f32x16")
def as_float16(v):
    """The same 32 bits, read as float32."""
    return v.view(np.float32)


@op(_e("evens"), "f32x16")
def evens16(a, b):
    """Elements 0, 2, 4, … of a and then of b."""
    return np.concatenate([a, b])[::2]


@op(_e("odds"), "f32x16")
def odds16(a, b):
    """Elements 1, 3, 5, … of a and then of b."""
    return np.concatenate([a, b])[1::2]


@op(_e("zip_low"), "f32x16")
def zip_low16(a, b):
    """a[0], b[0], a[1], b[1], … of the first halves."""
    return np.stack([a, b], 1).reshape(-1)[:16]


@op(_e("zip_high"), "f32x16")
def zip_high16(a, b):
    """The same of the second halves."""
    return np.stack([a, b], 1).reshape(-1)[16:]


@op(_e("sum_lanes"), "float")
def sum16(v):
    """Sum of all lanes: halves are added to each other until one is left."""
    while len(v) > 1:
        v = v[: len(v) // 2] + v[len(v) // 2 :]
    return v[0]


@op(_e("sum_lanes"), "int32")
def sum16_i(v):
    """Sum of all lanes of int32."""
    return v.sum(dtype=np.int32)


@op(_e("lane"), "float")
def lane(v, k):
    """Lane `k` of a float vector."""
    return v[k]


@op(_e("max_lanes"), "float")
def max16(v):
    """Largest lane."""
    return v.max()


@op(_e("store_f16"), "void")
def store_f16(x, index, value):
    """One float, rounded to f16, into an array of u16."""
    _put(x, index, np.array([value], np.float16).view(np.uint16))


@op(_e("load_f16_scalar"), "float")
def load_f16_at(w, offset):
    """The f16 at a byte offset, as float32."""
    return _bytes(w, offset, 2).view(np.float16)[0].astype(np.float32)


@op(_e("prefetch"), "void")
def prefetch(w, index):
    """Ask for the cache line of an element; nothing happens where there is no such element."""


# --- threads ----------------------------------------------------------------------------------------------

_one_at_a_time = Lock()
"""Interpreted, comparing and setting are two operations."""


@op(_e("atomic_load"), "int")
def atomic_load(a, index):
    """a[index], ordered before what follows."""
    return int(a[index])


@op(_e("atomic_store"), "void")
def atomic_store(a, index, value):
    """a[index] = value, ordered after what came before."""
    a[index] = value


@op(_e("atomic_swap_if"), "int")
def atomic_swap_if(a, index, old, new):
    """1 if a[index] was `old` and is now `new`, else 0."""
    with _one_at_a_time:
        if a[index] != old:
            return 0
        a[index] = new
        return 1


@op(_e("pause"), "void")
def pause():
    """Tell the processor that this loop waits."""
    sleep(0)  # interpreted workers take turns


interpreted_kernels: dict[int, Callable[[int, int, int, int], int]] = {}
"""What stands for code at an address where nothing is compiled."""


@op(_e("cycles"), "int")
def cycles():
    """The processor's time-stamp counter."""
    return 0


@op(_e("call_kernel"), "int")
def call_kernel(address, args, worker, lo, hi):
    """Call a kernel by address; interpreted ones have numbers instead, by which `interpreted_kernels` finds them."""
    return interpreted_kernels[address](args, worker, lo, hi)
