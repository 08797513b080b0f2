"""BF16 in 12 bits, without loss: no format of files, but how BF16 matrices may be packed when they are loaded.

A bfloat16 is a sign, 8 bits of exponent and 7 of fraction. Its low byte (an exponent bit and the fraction) cannot be
made smaller: 7.97 bits of entropy in trained weights. Its high byte (sign and 7 exponent bits) is one of 16 values in
all but one of some thousands of weights, so it becomes a 4-bit code, and a table of 16 bytes gives it back.

    rows    16 side by side, each group of them a run of 24 bytes a column; of every 4 columns, a *block*:
            bytes 0..63   low bytes; byte i is of column 2(i div 32) + (i div 8) mod 2,
                          and of row ORDER[i mod 8 + 8((i div 16) mod 2)]
            bytes 64..95  codes: of high byte i in bits 0..3, of high byte 32 + i in bits 4..7
    heads   24 bytes for each group: the table, the numbers of its first record aside and of the next group's (u32)
    aside   68 bytes for each block of which a high byte is not in the table: its 64 high bytes, its column (u32)

The order within 32 bytes is that of AVX2's unpack instructions: 16-bit words in pairs, of which the lower half of a
32-bit lane is one of rows 0 to 7, the upper half one of rows 8 to 15.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from memfirst.codecs.base import ROWS, U8

U16 = NDArray[np.uint16]

COLUMNS = 4
"""Columns of a block."""
COLUMN_BYTES = 24
"""Bytes of 16 rows of a column; a group's head has as many."""
ASIDE_BYTES = 68
"""Bytes of a record aside."""
EXPECTED, MOST = 0.012, 0.04
"""Share of the blocks that lie aside: in trained models (0.93 to 1.7 % measured), and where plain BF16 is kept."""

ORDER = np.array([0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15])
"""Row of each byte of a column: 8 of the first 16 bytes, 8 of the others."""

ABSENT = 255


def matrix_bytes(groups: int, columns: int, aside: int) -> int:
    """Bytes of a matrix of so many groups of 16 rows, with so many blocks aside."""
    return groups * (columns + 1) * COLUMN_BYTES + aside * ASIDE_BYTES


def most_aside(groups: int, columns: int) -> int:
    """Blocks aside of a matrix that is packed so, at most."""
    return int(MOST * groups * (columns // COLUMNS))


def expected_aside(groups: int, columns: int) -> int:
    """Blocks aside of trained weights."""
    return round(EXPECTED * groups * (columns // COLUMNS))


def table_of(words: U16) -> U8:
    """The 16 high bytes that occur most often, u8 [16] in rising order."""
    counts = np.bincount((words >> np.uint16(8)).reshape(-1), minlength=256)
    return np.sort(np.argsort(-counts, kind="stable")[:16]).astype(np.uint8)


def codes_of(table: U8) -> U8:
    """The code of each high byte, u8 [256]; ABSENT where the table lacks it."""
    codes = np.full(256, ABSENT, np.uint8)
    codes[table] = np.arange(16, dtype=np.uint8)
    return codes


def aside_of(words: U16, table: U8) -> NDArray[np.int32]:
    """Blocks that the table lacks a high byte of, of each group: u16 [16 · groups, columns] -> i32 [groups]."""
    absent = (codes_of(table) == ABSENT)[words >> np.uint16(8)]
    four = absent.view(np.uint32).reshape(-1, ROWS, words.shape[1] // COLUMNS)  # four columns' flags at once
    counts: NDArray[np.int32] = np.count_nonzero(np.bitwise_or.reduce(four, axis=1), axis=1).astype(np.int32)
    return counts


def pack_groups(words: U16, table: U8, out: U8) -> tuple[NDArray[np.uint32], U8]:
    """Pack u16 [16 · groups, columns] into `out`, u8 [groups, columns/4, 96].

    Returns what lies aside, group by group: columns u32 [n], and high bytes u8 [n, 64].
    """
    groups, blocks = len(words) // ROWS, words.shape[1] // COLUMNS
    tiles = words.reshape(groups, ROWS, blocks, 2, 2)[:, ORDER].reshape(groups, 2, 8, blocks, 2, 2)
    tiles = np.ascontiguousarray(tiles.transpose(0, 3, 4, 1, 5, 2)).reshape(groups, blocks, 64)
    out[..., :64] = tiles  # the low bytes
    high = (tiles >> np.uint16(8)).astype(np.uint8)
    codes = codes_of(table)[high]
    out[..., 64:] = codes[..., :32] & 15 | codes[..., 32:] << 4
    group, block = np.nonzero(codes.max(axis=-1) == ABSENT)
    return (COLUMNS * block).astype(np.uint32), high[group, block]


def pack(words: U16) -> U8:
    """A whole matrix, u16 [16 · groups, columns] -> u8 [matrix_bytes]."""
    table, (rows, columns) = table_of(words), words.shape
    counts = aside_of(words, table)
    out = np.empty(matrix_bytes(rows // ROWS, columns, int(counts.sum())), np.uint8)
    packed, heads, aside = parts(out, rows // ROWS, columns)
    write_heads(heads, table, counts)
    write_aside(aside, *pack_groups(words, table, packed))
    return out


def parts(packed: U8, groups: int, columns: int) -> tuple[U8, U8, U8]:
    """A matrix's rows u8 [groups, columns/4, 96], heads u8 [groups, 24] and records aside u8 [n, 68]: views."""
    rows, heads = groups * columns * COLUMN_BYTES, groups * COLUMN_BYTES
    return (
        packed[:rows].reshape(groups, columns // COLUMNS, COLUMNS * COLUMN_BYTES),
        packed[rows : rows + heads].reshape(groups, COLUMN_BYTES),
        packed[rows + heads :].reshape(-1, ASIDE_BYTES),
    )


def write_heads(heads: U8, table: U8, counts: NDArray[np.int32]) -> None:
    """The heads of all groups, of which so many blocks lie aside."""
    heads[:, :16] = table
    ends = np.cumsum(counts).astype(np.uint32)
    heads[:, 16:20] = (ends - counts).astype(np.uint32).view(np.uint8).reshape(-1, 4)
    heads[:, 20:24] = ends.view(np.uint8).reshape(-1, 4)


def write_aside(records: U8, columns: NDArray[np.uint32], high: U8) -> None:
    """Records aside."""
    records[:, :64] = high
    records[:, 64:] = columns.view(np.uint8).reshape(-1, 4)


def unpack(packed: U8, groups: int, columns: int) -> U16:
    """The inverse of `pack`: u16 [16 · groups, columns]."""
    rows, heads, aside = parts(packed, groups, columns)
    codes = np.concatenate([rows[..., 64:] & 15, rows[..., 64:] >> 4], axis=-1)
    high = np.take_along_axis(heads[:, None, :16], codes, axis=-1)
    group = np.repeat(np.arange(groups), np.diff(heads[:, 16:].copy().view(np.uint32), axis=1)[:, 0].astype(np.int64))
    high[group, aside[:, 64:].copy().view(np.uint32)[:, 0] // COLUMNS] = aside[:, :64]
    words = high.astype(np.uint16) << np.uint16(8) | rows[..., :64]
    tiles = words.reshape(groups, columns // COLUMNS, 2, 2, 2, 8).transpose(0, 3, 5, 1, 2, 4)
    back = np.empty((groups, ROWS, columns), np.uint16)
    back[:, ORDER] = tiles.reshape(groups, ROWS, columns)
    return back.reshape(-1, columns)
