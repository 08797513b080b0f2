"""BF16 in 12 bits: a byte, and 4 bits that a table of 16 entries turns into the other (`memfirst.codecs.bf12`).

As many instructions as widening plain BF16 takes: a shuffle looks up 32 high bytes, an unpacking brings them beside
their low bytes. What the table lacks lies aside, and is read where the loop over columns comes to it: sums have the
order of plain BF16's, and the same bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from memfirst.kernels.cpu.lang import INTERPRETED, lanes, macro, static
from memfirst.kernels.cpu.simd import (
    LANES,
    add,
    brought,
    fma,
    load_w,
    op,
    prefetch_in_place,
    read_bytes,
    splat,
    splat_at,
)
from memfirst.kernels.cpu.simd16 import load_u32
from memfirst.kernels.cpu.spans import stored
from memfirst.kernels.cpu.tiles import DISTANCE, PARTS, store_tile

BYTES = 24
"""Bytes of one column of 16 rows; also of what is said of them: the table, their first record aside, and the next
rows' first."""
BLOCK_BYTES = 4 * BYTES
"""Of 4 columns: 64 low bytes, 32 bytes of two codes each."""
ASIDE = 68
"""Bytes of a record aside: 64 high bytes, and the column that they begin at."""
BF12_AHEAD = DISTANCE or 3072  # 1,536 to 9,216 read within 3 % of each other on a Zen 3, none 17 % slower


def _emission(name: str) -> Any:
    if INTERPRETED:
        return None
    from memfirst.kernels.cpu import instructions_bf12

    return getattr(instructions_bf12, name)


@op(_emission("table_at"), "bytes")
def table_at(w, offset):
    """16 bytes, in every 128 bits of a register."""
    return np.tile(read_bytes(w, offset, 16), LANES // 4)


@op(_emission("codes_at"), "bytes")
def codes_at(w, offset, which):
    """Codes of the high bytes that one register holds, the first or the second, of 32 bytes with two codes each."""
    both = read_bytes(w, offset, 32)
    return np.concatenate([both & 15, both >> 4])[which * 4 * LANES : (which + 1) * 4 * LANES]


@op(_emission("looked_up"), "same")
def looked_up(codes, table):
    """table[code] for each byte."""
    return table[codes]


@op(_emission("store_values"), "void")
def store_words(out, offset, v):
    """LANES 32-bit words at a byte offset."""
    if offset < 0 or offset + 4 * LANES > out.size:
        raise IndexError(f"store of {4 * LANES} bytes at {offset} of {out.size}")
    stored(out, offset, 4 * LANES)
    out.view(np.ndarray)[offset : offset + 4 * LANES] = v.view(np.uint8)


def _column(low: Any, high: Any, column: int) -> Any:
    """The 16 words of a column, by rows."""
    first = 32 * (column // 2) + 8 * (column % 2)
    at = [first + i for i in (*range(8), *range(16, 24))]
    words = high[at].astype(np.uint16) << 8 | low[at]
    return np.concatenate([words[0::2], words[1::2]]).astype(np.uint16)


def _values(low: Any, high: Any, n: int) -> Any:
    """The n-th LANES floats of a register of low bytes and one of high ones, column by column."""
    column, part = divmod(n, PARTS)
    rows = _column(low, high, column)[part * LANES : (part + 1) * LANES]
    return (rows.astype(np.uint32) << 16).view(np.float32)


def _words(low: Any, high: Any, n: int) -> Any:
    """The n-th half of its columns, two words in 32 bits."""
    columns = LANES // 8
    return np.concatenate([_column(low, high, columns * n + i) for i in range(columns)]).view(np.int32)


@op(_emission("words_0"), "i32")
def words_0(low, high):
    """The first half of the columns of a register of low bytes and one of high ones, two words in 32 bits."""
    return _words(low, high, 0)


@op(_emission("words_1"), "i32")
def words_1(low, high):
    """The other half."""
    return _words(low, high, 1)


@op(_emission("values_0"), "f32")
def values_0(low, high):
    """The first LANES floats of a register of low bytes and one of high ones, column by column."""
    return _values(low, high, 0)


@op(_emission("values_1"), "f32")
def values_1(low, high):
    """The LANES floats behind these."""
    return _values(low, high, 1)


@op(_emission("values_2"), "f32")
def values_2(low, high):
    """The LANES floats behind these."""
    return _values(low, high, 2)


@op(_emission("values_3"), "f32")
def values_3(low, high):
    """The last LANES floats."""
    return _values(low, high, 3)


@macro
def low_bytes(w, p, low):
    """Low bytes of 4 columns, as many registers as these fill."""
    for h in static(PARTS):
        low[h] = load_w(w, p + 4 * LANES * h, 0)


@macro
def coded_bytes(w, p, table, high):
    """Their high bytes, by the table."""
    for h in static(PARTS):
        high[h] = looked_up(codes_at(w, p + 64, h), table)


@macro
def aside_bytes(w, record, p, high):
    """Their high bytes, from a record aside; the codes are on lines that come with the low bytes."""
    brought(w, p + 64, 32)
    for h in static(PARTS):
        high[h] = load_w(w, record + 4 * LANES * h, 0)


@macro
def unpacked_columns(low, high, v):
    """Four columns as floats: v[PARTS · column + part] are the rows of that part."""
    for h in static(PARTS):
        v[4 * h] = values_0(low[h], high[h])
        v[4 * h + 1] = values_1(low[h], high[h])
        v[4 * h + 2] = values_2(low[h], high[h])
        v[4 * h + 3] = values_3(low[h], high[h])


@macro
def _add_columns(low, high, x, a, acc):
    """The products of four columns, to the sums that `tiles.floats_tile` has of one token."""
    v = lanes(4 * PARTS)
    unpacked_columns(low, high, v)
    for k in static(4):
        for part in static(PARTS):
            SUM_AT = 4 * part + k
            acc[SUM_AT] = fma(v[PARTS * k + part], splat_at(x, a + k), acc[SUM_AT])


@macro
def _prefetch_columns(w, p):
    """The lines of four columns, which are one and a half."""
    for i in static(2):
        prefetch_in_place(w, p + BF12_AHEAD + 64 * i)


@macro
def bf12_tile(w, group, groups, x, at, cols, y, to, left, r, add_to, read):
    """16 rows times one token, in one pass.

    group, groups  which rows of the matrix, and how many groups of 16 it has
    r              the first row's place in the output; at, to, left, add_to: as of `tiles`
    read           read[0] becomes the bytes aside
    """
    p = group * cols * BYTES
    head = (groups * cols + group) * BYTES
    records = groups * (cols + 1) * BYTES
    table = table_at(w, head)
    first, last = load_u32(w, head + 16), load_u32(w, head + 20)
    read[0] = (last - first) * ASIDE
    acc = lanes(4 * PARTS)
    for i in static(4 * PARTS):
        acc[i] = splat(0.0)
    low = lanes(PARTS)
    high = lanes(PARTS)
    c = 0
    for n in range(first, last + 1):
        stop = cols
        if n < last:
            stop = load_u32(w, records + n * ASIDE + 64)
        while c < stop:
            _prefetch_columns(w, p)
            low_bytes(w, p, low)
            coded_bytes(w, p, table, high)
            _add_columns(low, high, x, at[0] + c, acc)
            p += BLOCK_BYTES
            c += 4
        if n < last:
            low_bytes(w, p, low)
            aside_bytes(w, records + n * ASIDE, p, high)
            _add_columns(low, high, x, at[0] + c, acc)
            p += BLOCK_BYTES
            c += 4
    sums = lanes(PARTS)
    for i in static(PARTS):
        sums[i] = add(add(acc[4 * i], acc[4 * i + 1]), add(acc[4 * i + 2], acc[4 * i + 3]))
    store_tile(sums, y, to, left, at, r, 0, add_to, 1, PARTS, 0)


@macro
def _store_columns(low, high, out, q):
    """Four columns as `bf16` reads them."""
    for h in static(PARTS):
        store_words(out, q + 8 * LANES * h, words_0(low[h], high[h]))
        store_words(out, q + 8 * LANES * h + 4 * LANES, words_1(low[h], high[h]))


@macro
def bf12_unpack(w, group, groups, cols, out, base, read):
    """16 rows as plain BF16, for `bf16`, from byte `base` of `out` on; read[0] becomes the bytes aside."""
    p = group * cols * BYTES
    head = (groups * cols + group) * BYTES
    records = groups * (cols + 1) * BYTES
    table = table_at(w, head)
    first, last = load_u32(w, head + 16), load_u32(w, head + 20)
    read[0] = (last - first) * ASIDE
    low = lanes(PARTS)
    high = lanes(PARTS)
    q = base
    c = 0
    for n in range(first, last + 1):
        stop = cols
        if n < last:
            stop = load_u32(w, records + n * ASIDE + 64)
        while c < stop:
            _prefetch_columns(w, p)
            low_bytes(w, p, low)
            coded_bytes(w, p, table, high)
            _store_columns(low, high, out, q)
            p += BLOCK_BYTES
            q += 128
            c += 4
        if n < last:
            low_bytes(w, p, low)
            aside_bytes(w, records + n * ASIDE, p, high)
            _store_columns(low, high, out, q)
            p += BLOCK_BYTES
            q += 128
            c += 4
