"""What a weight format is: how many weights share a block, the block's bytes, and how to read them.

A codec's own file says its layout byte by byte, then gives the slow reading (`dequantize`, NumPy,
the definition), then `quantize`, then `pack`: the order in which the CPU kernels read the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]

ROWS = 16
"""Rows that are packed side by side: one 512-bit register, or two of 256 bits, holds 4 bytes of each."""


class Pack(Protocol):
    """u8 [rows, blocks, block_bytes] -> u8 [rows/16, blocks, 16*block_bytes], into `out` where one is given."""

    def __call__(self, blocks: U8, out: U8 | None = None) -> U8: ...


@dataclass(frozen=True)
class BlockType:
    """The size of a weight format: enough to find a tensor's bytes and to price it, not to read it.

    name         as in GGUF, lower case ("q4_k")
    ggml_type    its number in a GGUF tensor table
    block        weights per block; divides the row length
    block_bytes  bytes per block
    """

    name: str
    ggml_type: int
    block: int
    block_bytes: int

    @property
    def bits_per_weight(self) -> float:
        """Bits per weight, scales included."""
        return 8 * self.block_bytes / self.block

    def nbytes(self, n_weights: int) -> int:
        """Bytes of `n_weights` weights; raises ValueError where they do not fill whole blocks."""
        if n_weights % self.block:
            raise ValueError(f"{n_weights} weights do not fill {self.name} blocks of {self.block}")
        return n_weights // self.block * self.block_bytes

    def matrix_bytes(self, rows: int, columns: int) -> int:
        """Bytes of `rows` rows of `columns` weights, which fill whole blocks."""
        return rows * (columns // self.block * self.block_bytes)


@dataclass(frozen=True)
class Codec(BlockType):
    """One weight format that memfirst reads and writes.

    family       which kernel template reads it: "block32", "k256", "k256_16" (a scale for each 16 weights) or "float"
    dequantize   u8 [n, block_bytes] -> f32 [n, block]
    quantize     f32 [n, block] -> u8 [n, block_bytes]; FormatError where a weight has no such form
    pack         the same bytes, 16 rows side by side, in the order in which the kernels read them
    unpack       u8 [rows/16, blocks, 16*block_bytes] -> u8 [rows, blocks, block_bytes], its inverse
    """

    family: str
    dequantize: Callable[[U8], F32]
    quantize: Callable[[F32], U8]
    pack: Pack
    unpack: Callable[[U8], U8]
