"""SIMD functions for kernels: each has a meaning (its NumPy body) and an emission (LLVM instructions).

Vectors are LLVM's own. `LANES` (16 or 8) is how many rows of a packed weight one register covers; other kernels
use 16 float lanes everywhere (LLVM splits them where registers are narrower), so sums have one order on all machines.
Offsets into byte arrays are in bytes, into float and int arrays in elements.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from memfirst.kernels.cpu import isa
from memfirst.kernels.cpu.lang import INTERPRETED
from memfirst.kernels.cpu.spans import loaded, stored

ISA = isa.detect()
LANES = isa.rows_at_once(ISA)
REGISTER = isa.register_bytes()
PACK = 16
"""Rows that are packed side by side; with 8 lanes a kernel takes them in two parts."""

if INTERPRETED:

    def op(emission: Any, result: Any) -> Callable[[Any], Any]:
        """Interpreted: the meaning is the function."""
        return lambda meaning: meaning

else:
    from memfirst.kernels.cpu import instructions, instructions_bytes, instructions_dot, instructions_thread
    from memfirst.kernels.cpu.emit import op


def emission(name: str) -> Any:
    """The emission called `name`; None when interpreted."""
    if INTERPRETED:
        return None
    homes = (instructions, instructions_bytes, instructions_dot, instructions_thread)
    return next(getattr(home, name) for home in homes if hasattr(home, name))


def read_bytes(array: Any, offset: int, count: int) -> Any:
    """`count` bytes at a byte offset; raises IndexError out of bounds, logs the span."""
    raw = array.view(np.uint8, np.ndarray)
    if offset < 0 or offset + count > raw.size:
        raise IndexError(f"load of {count} bytes at {offset} of {raw.size}")
    loaded(array, offset, count)
    return raw[offset : offset + count]


def put(array: Any, index: int, values: Any) -> None:
    """Store `values` at an index; raises IndexError out of bounds, logs the span."""
    if index < 0 or index + len(values) > array.size:
        raise IndexError(f"store of {len(values)} items at {index} of {array.size}")
    stored(array, index * array.itemsize, len(values) * array.itemsize)
    array.view(np.ndarray)[index : index + len(values)] = values


def _rows(array: Any, offset: int, count: int, part: int) -> Any:
    """`count` bytes of each of LANES rows: part `part` of a run of PACK · count bytes."""
    return read_bytes(array, offset + part * LANES * count, LANES * count)


# --- loads of packed weights: LANES of PACK rows, the first or second half where LANES is 8 -----------------


@op(emission("load_rows_u8"), "bytes")
def load_w(w, offset, part):
    """4 bytes of each row."""
    return _rows(w, offset, 4, part)


@op(emission("load_rows_pairs"), "pairs")
def load_pairs(w, offset, part):
    """2 bytes of each row, as int16 0..255."""
    return _rows(w, offset, 2, part).astype(np.int16)


@op(emission("load_rows_signed_pairs"), "pairs")
def load_signed_pairs(w, offset, part):
    """2 bytes of each row, as int16 -128..127."""
    return _rows(w, offset, 2, part).view(np.int8).astype(np.int16)


@op(emission("load_rows_f16"), "f32")
def load_f16(w, offset, part):
    """One f16 of each row, as float32."""
    return _rows(w, offset, 2, part).view(np.float16).astype(np.float32)


@op(emission("load_rows_bf16"), "f32")
def load_bf16(w, offset, part):
    """One bf16 of each row, as float32."""
    return (_rows(w, offset, 2, part).view(np.uint16).astype(np.uint32) << 16).view(np.float32)


@op(emission("load_rows_e8m0"), "f32")
def load_e8m0(w, offset, part):
    """2^(e − 128) of one byte e of each row; those of 0 and 1 are subnormal."""
    return np.ldexp(np.float32(1), _rows(w, offset, 1, part).astype(np.int32) - 128)


@op(emission("load_rows_f32"), "f32")
def load_f32(w, offset, part):
    """One float32 of each row."""
    return _rows(w, offset, 4, part).view(np.float32).copy()


# --- the same of keys: rows are positions, of which a step may use some -------------------------------------


def _used(array: Any, offset: int, count: int, part: int, skip: int, used: int) -> Any:
    """As `_rows`, where only rows skip..used are looked at; the others are zeros."""
    out = np.zeros(LANES * count, np.uint8)
    first, last = max(skip - part * LANES, 0), min(used - part * LANES, LANES)
    if first < last:
        at = offset + (part * LANES + first) * count
        out[first * count : last * count] = read_bytes(array, at, (last - first) * count)
    return out


@op(emission("load_rows_u8_of"), "bytes")
def load_w_of(w, offset, part, skip, used):
    """4 bytes of each row; rows before `skip` and from `used` on hold anything, and are never used."""
    return _used(w, offset, 4, part, skip, used)


@op(emission("load_rows_f16_of"), "f32")
def load_f16_of(w, offset, part, skip, used):
    """One f16 of each row, as float32; of rows as in `load_w_of`."""
    return _used(w, offset, 2, part, skip, used).view(np.float16).astype(np.float32)


# --- activations ---------------------------------------------------------------------------------------


@op(emission("broadcast4"), "bytes")
def dup4(a, offset):
    """The 4 bytes at `offset`, repeated for every row."""
    return read_bytes(a, offset, 4).view(np.int32).repeat(LANES).view(np.uint8)


@op(emission("splat_f32"), "f32")
def splat(x):
    """LANES copies of a float."""
    return np.full(LANES, x, np.float32)


@op(emission("splat_i32"), "i32")
def splat_i(x):
    """LANES copies of an integer."""
    return np.full(LANES, x, np.int32)


@op(emission("splat_f32_at"), "f32")
def splat_at(x, index):
    """LANES copies of x[index]: one load, where plain indexing would also look for negative indices."""
    return np.full(LANES, read_bytes(x, 4 * index, 4).view(np.float32)[0])


@op(emission("splat_i32_at"), "i32")
def splat_i_at(x, index):
    """LANES copies of the integer x[index]."""
    return np.full(LANES, read_bytes(x, 4 * index, 4).view(np.int32)[0])


@op(emission("store"), "void")
def store_rows(y, index, v):
    """LANES floats."""
    put(y, index, v)


@op(emission("load_rows_y"), "f32")
def load_y(y, index):
    """LANES floats."""
    return read_bytes(y, 4 * index, 4 * LANES).view(np.float32).copy()


# --- bytes ----------------------------------------------------------------------------------------------


@op(emission("and_const"), "same")
def bits(v, mask):
    """v & mask, lane by lane."""
    return v & v.dtype.type(mask)


@op(emission("shr"), "same")
def shr(v, n):
    """v >> n, unsigned."""
    return v >> v.dtype.type(n)


@op(emission("shl"), "same")
def shl(v, n):
    """v << n."""
    return v << v.dtype.type(n)


@op(emission("or_"), "same")
def join(a, b):
    """a | b."""
    return a | b


@op(emission("xor"), "same")
def xor(a, b):
    """a ^ b."""
    return a ^ b


@op(emission("table16"), "bytes")
def table16(v, t):
    """t[v] for each byte; `t` has 16 signed bytes, v < 16."""
    return read_bytes(t, 0, 16)[v]


@op(emission("column"), "i32")
def column(v, c):
    """Byte `c` of each row's 4, as int32 0..255."""
    return v.reshape(-1, 4)[:, c].astype(np.int32)


@op(emission("signed_column"), "i32")
def signed_column(v, c):
    """Byte `c` of each row's 4, as int32 -128..127."""
    return v.view(np.int8).reshape(-1, 4)[:, c].astype(np.int32)


# --- arithmetic -----------------------------------------------------------------------------------------


@op(emission("add"), "same")
def add(a, b):
    """a + b."""
    return a + b


@op(emission("sub"), "same")
def sub(a, b):
    """a - b."""
    return a - b


@op(emission("minus"), "same")
def minus(v, n):
    """v − n, of integers."""
    return v - v.dtype.type(n)


@op(emission("mul"), "same")
def mul(a, b):
    """a * b."""
    return a * b


@op(emission("fma"), "same")
def fma(a, b, c):
    """a * b + c, rounded once."""
    return (a.astype(np.float64) * b + c).astype(np.float32)


@op(emission("to_float"), "f32")
def to_float(v):
    """int32 to float32."""
    return v.astype(np.float32)


@op(emission("maximum"), "same")
def maximum(a, b):
    """The larger, lane by lane; of floats NaN where either is: a broken weight must not become an answer."""
    return np.maximum(a, b)


@op(emission("prefetch"), "void")
def prefetch(w, index):
    """Ask for the cache line of an element; nothing happens where there is no such element."""


@op(emission("prefetch_in_place"), "void")
def prefetch_in_place(w, index):
    """As `prefetch`, where it is written: else LLVM puts those of a long body in a row at its beginning, and the
    processor waits until there is room for them all."""


@op(emission("prefetch_once"), "void")
def prefetch_once(w, index):
    """As `prefetch`, of what is read once: the line need not be kept."""


@op(emission("load_register"), "register")
def load_register(w, offset):
    """As many bytes as the widest register of this processor holds."""
    return read_bytes(w, offset, REGISTER).copy()


@op(emission("word_sum"), "int32")
def word_sum(v):
    """Sum of a register's 32-bit words, wrapping."""
    return v.view(np.int32).sum(dtype=np.int32)


@op(emission("nothing"), "void")
def brought(w, offset, count):
    """Bytes that come along with what is loaded of them, as lines of memory move whole: counted, and not looked at."""
    read_bytes(w, offset, count)
