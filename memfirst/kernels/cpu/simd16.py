"""SIMD functions of 16 float lanes, whatever the registers: sums have one order on all machines.

Indices are in elements; of bytes (`u8`) and of keys and values in them, in bytes.
"""

import numpy as np

from memfirst.kernels.cpu.simd import emission, op, put, read_bytes


@op(emission("load_f32x16"), "f32x16")
def load16(x, index):
    """16 floats."""
    return read_bytes(x, 4 * index, 64).view(np.float32).copy()


@op(emission("load_f32x16_first"), "f32x16")
def load16_first(x, index, n):
    """The first `n` floats, and zeros behind them: what follows in memory is not touched."""
    out = np.zeros(16, np.float32)
    out[:n] = read_bytes(x, 4 * index, 4 * n).view(np.float32)
    return out


@op(emission("store_f32x16_first"), "void")
def store16_first(x, index, n, v):
    """The first `n` of 16 floats."""
    put(x, index, v[:n])


@op(emission("load_f16x16"), "f32x16")
def load16_f16(x, offset):
    """16 f16 at a byte offset, as float32."""
    return read_bytes(x, offset, 32).view(np.float16).astype(np.float32)


@op(emission("load_f16x16_of"), "f32x16")
def load16_f16_of(x, offset, skip, used):
    """As `load16_f16`, of which only lanes skip..used matter; the others are whatever memory holds, and never used."""
    out = np.zeros(16, np.float32)
    out[skip:used] = read_bytes(x, offset + 2 * skip, 2 * (used - skip)).view(np.float16)
    return out


@op(emission("load_f16x8"), "f32x16")
def load16_f16_half(x, offset):
    """8 f16 at a byte offset, as float32, and 8 zeros."""
    return np.concatenate([read_bytes(x, offset, 16).view(np.float16), np.zeros(8, np.float16)]).astype(np.float32)


@op(emission("load_f32x16"), "f32x16")
def load16_f32(x, offset):
    """16 float32 at a byte offset."""
    return read_bytes(x, offset, 64).view(np.float32).copy()


@op(emission("load_f32x16_of"), "f32x16")
def load16_f32_of(x, offset, skip, used):
    """As `load16_f32`, of which only lanes skip..used matter."""
    out = np.zeros(16, np.float32)
    out[skip:used] = read_bytes(x, offset + 4 * skip, 4 * (used - skip)).view(np.float32)
    return out


@op(emission("load_f32x8"), "f32x16")
def load16_f32_half(x, offset):
    """8 float32 at a byte offset, and 8 zeros."""
    return np.concatenate([read_bytes(x, offset, 32).view(np.float32), np.zeros(8, np.float32)])


@op(emission("load_i8x16"), "f32x16")
def load16_i8(x, offset):
    """16 int8 at a byte offset, as float32."""
    return read_bytes(x, offset, 16).view(np.int8).astype(np.float32)


@op(emission("within"), "same")
def within16(v, skip, used):
    """Lanes skip..used of v; the others are 0, whatever they were."""
    out = np.zeros(16, np.float32)
    out[skip:used] = v[skip:used]
    return out


# --- int16, two positions side by side ----------------------------------------------------------------------


@op(emission("load_u8x32_of"), "i16x32")
def load_pairs_of(w, offset, skip, used):
    """32 bytes 0..255 as int16, of which those of positions skip..used (of two) matter."""
    out = np.zeros(32, np.int16)
    if used - skip == 2:
        return read_bytes(w, offset, 32).astype(np.int16)
    for i in range(skip, 32, 2):
        out[i] = read_bytes(w, offset + i, 1)[0]
    return out


@op(emission("load_i8x32_of"), "i16x32")
def load_signed_pairs_of(w, offset, skip, used):
    """32 bytes -128..127 as int16, of which those of positions skip..used (of two) matter."""
    out = np.zeros(32, np.int16)
    if used - skip == 2:
        return read_bytes(w, offset, 32).view(np.int8).astype(np.int16)
    for i in range(skip, 32, 2):
        out[i] = read_bytes(w, offset + i, 1).view(np.int8)[0]
    return out


@op(emission("store_i16x16"), "void")
def store16_pairs(x, index, v):
    """16 int32 as int16, two in each of the 8 words from x[index] on."""
    put(x, index, v.astype(np.int16).view(np.int32))


@op(emission("splat16_i32_at"), "i32x16")
def splat16_i_at(x, index):
    """16 copies of the integer x[index]."""
    return np.full(16, read_bytes(x, 4 * index, 4).view(np.int32)[0])


@op(emission("pair_sum"), "same")
def pair_sum(s, v, w):
    """s + v[2i] · low + v[2i + 1] · high: the two int16 that each lane of `w` is made of."""
    return s + (v.astype(np.int32) * w.view(np.int16)).reshape(-1, 2).sum(1, dtype=np.int32)


@op(emission("store"), "void")
def store16(x, index, v):
    """16 floats."""
    put(x, index, v)


@op(emission("store_i8x16"), "void")
def store16_i8(x, index, v):
    """16 int32 in -128..127, as int8."""
    put(x, index, v.astype(np.int8))


@op(emission("splat16_f32"), "f32x16")
def splat16(x):
    """16 copies of a float."""
    return np.full(16, x, np.float32)


@op(emission("splat16_f32_at"), "f32x16")
def splat16_at(x, index):
    """16 copies of x[index]: one load, where plain indexing would also look for negative indices."""
    return np.full(16, read_bytes(x, 4 * index, 4).view(np.float32)[0])


@op(emission("splat16_i32"), "i32x16")
def splat16_i(x):
    """16 copies of an integer."""
    return np.full(16, x, np.int32)


@op(emission("larger"), "same")
def larger(a, b):
    """a where a > b, else b, which a NaN there stays: one instruction, where `maximum` takes five."""
    return np.where(a > b, a, b)


@op(emission("smaller"), "same")
def smaller(a, b):
    """a where a < b, else b, as `larger`."""
    return np.where(a < b, a, b)


@op(emission("to_int"), "i32x16")
def to_int16(v):
    """float32 to int32, towards zero."""
    return v.astype(np.int32)


@op(emission("to_float"), "f32x16")
def to_float16(v):
    """int32 to float32."""
    return v.astype(np.float32)


@op(emission("magnitude"), "i32x16")
def magnitude16(v):
    """The 32 bits of |v|: as integers they have the order of |v|, and NaN is above all. One instruction, not five."""
    return np.abs(v).view(np.int32)


@op(emission("as_float"), "f32x16")
def as_float16(v):
    """The same 32 bits, read as float32."""
    return v.view(np.float32)


@op(emission("evens"), "f32x16")
def evens16(a, b):
    """Elements 0, 2, 4, … of a and then of b."""
    return np.concatenate([a, b])[::2]


@op(emission("odds"), "f32x16")
def odds16(a, b):
    """Elements 1, 3, 5, … of a and then of b."""
    return np.concatenate([a, b])[1::2]


@op(emission("zip_low"), "f32x16")
def zip_low16(a, b):
    """a[0], b[0], a[1], b[1], … of the first halves."""
    return np.stack([a, b], 1).reshape(-1)[:16]


@op(emission("zip_high"), "f32x16")
def zip_high16(a, b):
    """The same of the second halves."""
    return np.stack([a, b], 1).reshape(-1)[16:]


def _halves(a, b, n):
    """Groups of 2n lanes of a and then of b, each as the sum of its halves."""
    pairs = np.concatenate([a, b]).reshape(-1, 2, n)
    return (pairs[:, 0] + pairs[:, 1]).reshape(-1)


@op(emission("halves8"), "f32x16")
def halves8(a, b):
    """The sum of the halves of a, then that of the halves of b. With `halves4`, `halves2` and `halves1` the sums of all
    lanes of 16 vectors, in the order in which `sum16` adds them, with three instructions a vector."""
    return _halves(a, b, 8)


@op(emission("halves4"), "f32x16")
def halves4(a, b):
    """The sum of the halves of each 8 lanes of a and then of b."""
    return _halves(a, b, 4)


@op(emission("halves2"), "f32x16")
def halves2(a, b):
    """The same of each 4 lanes."""
    return _halves(a, b, 2)


@op(emission("halves1"), "f32x16")
def halves1(a, b):
    """The same of each 2 lanes."""
    return _halves(a, b, 1)


@op(emission("sum_lanes"), "float")
def sum16(v):
    """Sum of all lanes: halves are added to each other until one is left."""
    while len(v) > 1:
        v = v[: len(v) // 2] + v[len(v) // 2 :]
    return v[0]


@op(emission("sum_lanes"), "int32")
def sum16_i(v):
    """Sum of all lanes of int32."""
    return v.sum(dtype=np.int32)


@op(emission("max_lanes"), "int32")
def max16_i(v):
    """Largest lane of int32."""
    return v.max()


@op(emission("lane"), "float")
def lane(v, k):
    """Lane `k` of a float vector."""
    return v[k]


@op(emission("max_lanes"), "float")
def max16(v):
    """Largest lane."""
    return v.max()


@op(emission("largest_lane"), "float")
def largest16(v):
    """Largest lane, unless it is NaN."""
    out = v
    while len(out) > 1:
        half = len(out) // 2
        out = np.where(out[:half] > out[half:], out[:half], out[half:])
    return out[0]


@op(emission("store_f16"), "void")
def store_f16(x, offset, value):
    """One float, rounded to f16, at a byte offset."""
    put(x, offset, np.array([value], np.float16).view(np.uint8))


@op(emission("store_f32"), "void")
def store_f32(x, offset, value):
    """One float at a byte offset."""
    put(x, offset, np.array([value], np.float32).view(np.uint8))


@op(emission("load_f16_scalar"), "float")
def load_f16_at(w, offset):
    """The f16 at a byte offset, as float32."""
    return read_bytes(w, offset, 2).view(np.float16)[0].astype(np.float32)


@op(emission("load_u8"), "int")
def load_u8(x, offset):
    """The byte at an offset."""
    return int(read_bytes(x, offset, 1)[0])


@op(emission("load_u16"), "int")
def load_u16(x, offset):
    """The two bytes at a byte offset, little-endian."""
    return int(read_bytes(x, offset, 2).view(np.uint16)[0])


@op(emission("load_u32"), "int")
def load_u32(x, offset):
    """The four bytes at a byte offset, little-endian."""
    return int(read_bytes(x, offset, 4).view(np.uint32)[0])


@op(emission("store_u8"), "void")
def store_u8(x, offset, word):
    """The low byte of a word at an offset."""
    put(x, offset, np.array([word & 0xFF], np.uint8))


@op(emission("store_u16"), "void")
def store_u16(x, offset, word):
    """The low two bytes of a word at a byte offset."""
    put(x, offset, np.array([word & 0xFFFF], np.uint16).view(np.uint8))


@op(emission("store_u32"), "void")
def store_u32(x, offset, word):
    """The low four bytes of a word at a byte offset."""
    put(x, offset, np.array([word & 0xFFFFFFFF], np.uint32).view(np.uint8))


@op(emission("div"), "same")
def div(a, b):
    """a / b."""
    return a / b


@op(emission("absolute"), "same")
def absolute(a):
    """|a|."""
    return np.abs(a)


@op(emission("rint"), "same")
def rint(a):
    """Nearest integer, ties to even, still a float."""
    return np.rint(a)
