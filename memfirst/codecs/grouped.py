"""Weights of safetensors checkpoints that are quantized in groups: AWQ, GPTQ, FP8 in blocks, bitsandbytes, MLX…

Their scales (and zero points or biases) are tensors apart, so a codec is three numbers, which its name states:

    int4-g128-20        4 bits a weight, and 20 for each 128 weights of a row: an f16 scale, a 4-bit zero point
    f8_e4m3-g128x128-32 8 bits, and a float32 scale for each block of 128 rows and 128 columns
    f8_e4m3-row-32      8 bits, and a float32 scale for each row

Only sizes: memfirst prices such weights and has no kernel for them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from memfirst.codecs.base import BlockType

BITS = {"int2": 2, "int3": 3, "int4": 4, "int5": 5, "int6": 6, "int8": 8, "nf4": 4, "f4": 4, "f8_e4m3": 8}
"""By what a single weight is."""

_NAME = re.compile(rf"({'|'.join(BITS)})-(?:g(\d{{1,6}})(?:x(\d{{1,6}}))?|row)-(\d{{1,3}})")


@dataclass(frozen=True)
class Grouped(BlockType):
    """Weights in groups of `columns` (0: a whole row) by `rows`; `block` holds 8 weights without their scales."""

    columns: int
    rows: int
    scale_bits: int

    @property
    def bits_per_weight(self) -> float:
        """Bits per weight, scales included; of rows that are a group each, without."""
        return self.block_bytes + (self.scale_bits / (self.columns * self.rows) if self.columns else 0.0)

    def matrix_bytes(self, rows: int, columns: int) -> int:
        """Bytes of a matrix and its scales; a group at the edge has a scale of its own."""
        across = -(-columns // self.columns) if self.columns else 1
        scales = -(-rows // self.rows) * across * self.scale_bits
        return -(-rows * columns * self.block_bytes // 8) + -(-scales // 8)


@lru_cache(4096)
def grouped(name: str) -> Grouped | None:
    """The codec of that name; None where it is none of these."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    kind, columns, rows, scale_bits = found[1], int(found[2] or 0), int(found[3] or 1), int(found[4])
    if found[2] is not None and not (columns and rows):
        return None
    return Grouped(name, -1, 8, BITS[kind], columns, rows, scale_bits)
