"""Counting and packing BF16 in 12 bits when a model is loaded: what `memfirst.codecs.bf12` says, ten times as fast.

No part of a step. A range is of groups of 16 rows; those that the last one lacks are the last row again.
"""

from memfirst.kernels.cpu.lang import kernel

BLOCK_BYTES, ASIDE = 96, 68
ABSENT = 128
"""The bit that the codes of high bytes have which the table lacks, and no others."""


@kernel
def count(words: "u8", codes: "u8", counts: "i32", rows: "int", cols: "int", worker, lo, hi):
    """Blocks aside of each group; returns those of all.

    words   u16 [rows, cols], little-endian; codes: of each high byte [256]
    counts  [groups]
    """
    total = 0
    for g in range(lo, hi):
        found = 0
        for c in range(0, cols, 4):
            absent = 0
            for i in range(16):
                at = 2 * (min(16 * g + i, rows - 1) * cols + c) + 1
                absent |= codes[words[at]] | codes[words[at + 2]] | codes[words[at + 4]] | codes[words[at + 6]]
            found += (absent & ABSENT) >> 7
        counts[g] = found
        total += found
    return total


@kernel
def pack(words: "u8", codes: "u8", out: "u8", records: "u8", rows: "int", cols: "int", worker, lo, hi):
    """Groups into `out` [groups, cols/4, 96], and what lies aside of them into `records` [n, 68]; returns n.

    lo is 0: records are written one behind the other, as many as there is room for. A file may have changed since they
    were counted.
    """
    n, room = 0, len(records) // ASIDE
    for g in range(lo, hi):
        for c in range(0, cols, 4):
            p = (g * cols + c) * BLOCK_BYTES // 4
            absent = 0
            for i in range(32):  # byte i is of the first two columns, byte 32 + i of the others
                row = min(16 * g + 4 * (i // 16) + i % 8 // 2 + 8 * (i % 2), rows - 1)
                at = 2 * (row * cols + c + i // 8 % 2)
                out[p + i], out[p + 32 + i] = words[at], words[at + 4]
                first, second = codes[words[at + 1]], codes[words[at + 5]]
                absent |= first | second
                out[p + 64 + i] = first & 15 | (second & 15) << 4
            if absent & ABSENT:
                if n < room:
                    q = n * ASIDE
                    for i in range(32):
                        row = min(16 * g + 4 * (i // 16) + i % 8 // 2 + 8 * (i % 2), rows - 1)
                        at = 2 * (row * cols + c + i // 8 % 2)
                        records[q + i], records[q + 32 + i] = words[at + 1], words[at + 5]
                    for i in range(4):
                        records[q + 64 + i] = c >> 8 * i & 255
                n += 1
    return n
