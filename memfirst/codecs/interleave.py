"""Sixteen rows side by side: how a block's fields are laid out for the kernels.

A field is a run of bytes in a block, made of units of 1, 2 or 4 bytes. Packed, unit j of rows 0..15
lies side by side, then unit j+1: `packed[16*j + r] = row[r].unit[j]`, field after field. A field of
4-byte units is therefore a run of 64-byte vectors with row r in bytes 4r..4r+3, and a vector's lanes
are its rows. A machine of 8 lanes reads rows 0..7 and 8..15 as the two halves of each vector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memfirst.codecs.base import ROWS, U8

CHUNK_BYTES = 1 << 19
"""Bytes packed at a time: source and destination stay in a 1 MiB L2 cache over the passes of the fields."""


@dataclass(frozen=True)
class Field:
    """One run of bytes of a block.

    at      first byte in the block
    width   bytes in the block
    unit    bytes that stay together: 1, 2 or 4
    encode  u8 [..., width] -> u8 [..., width]: reorders bits before they are laid side by side
    decode  its inverse
    """

    at: int
    width: int
    unit: int
    encode: Callable[[U8], U8] | None = None
    decode: Callable[[U8], U8] | None = None


Layout = Sequence[Field]

_UNIT_DTYPES = {1: np.uint8, 2: np.uint16, 4: np.uint32}


def interleave(layout: Layout, blocks: U8, out: U8 | None = None) -> U8:
    """u8 [rows, blocks, block_bytes] -> u8 [rows/16, blocks, 16*block_bytes], into `out` where given.

    Raises ValueError where rows are no multiple of 16, or `out` has another shape.
    """
    rows, n_blocks, width = blocks.shape
    _check(layout, rows, width, blocks)
    shape = (rows // ROWS, n_blocks, ROWS * width)
    if out is None:
        out = np.empty(shape, np.uint8)
    elif out.shape != shape or out.dtype != np.uint8:
        raise ValueError(f"out is {out.dtype} {out.shape}; expected uint8 {shape}")
    tiles = blocks.reshape(rows // ROWS, ROWS, n_blocks, width)
    for part in _chunks(len(tiles), ROWS * n_blocks * width):
        _pack_tiles(layout, tiles[part], out[part])
    return out


def deinterleave(layout: Layout, packed: U8) -> U8:
    """u8 [rows/16, blocks, 16*block_bytes] -> u8 [rows, blocks, block_bytes]: the inverse of `interleave`."""
    n_tiles, n_blocks, width = packed.shape[0], packed.shape[1], packed.shape[2] // ROWS
    _check(layout, ROWS * n_tiles, width, packed)
    tiles = np.empty((n_tiles, ROWS, n_blocks, width), np.uint8)
    for part in _chunks(n_tiles, ROWS * n_blocks * width):
        _unpack_tiles(layout, packed[part], tiles[part])
    return tiles.reshape(ROWS * n_tiles, n_blocks, width)


def _check(layout: Layout, rows: int, width: int, array: U8) -> None:
    expected = sum(field.width for field in layout)
    if rows % ROWS or width != expected or array.dtype != np.uint8:
        raise ValueError(
            f"{array.dtype} {array.shape} cannot be packed; "
            f"expected uint8, rows in multiples of {ROWS}, {expected} bytes a block"
        )


def _chunks(n_tiles: int, tile_bytes: int) -> Iterator[slice]:
    step = max(1, CHUNK_BYTES // max(1, tile_bytes))
    return (slice(start, start + step) for start in range(0, n_tiles, step))


def _pack_tiles(layout: Layout, tiles: U8, out: U8) -> None:
    """u8 [tiles, 16, blocks, bytes] -> u8 [tiles, blocks, 16*bytes]."""
    to = 0
    for field in layout:
        source = tiles[..., field.at : field.at + field.width]
        if field.encode is not None:
            source = field.encode(source)
        _side_by_side(out, to, field)[...] = source.view(_UNIT_DTYPES[field.unit]).transpose(0, 2, 3, 1)
        to += ROWS * field.width


def _unpack_tiles(layout: Layout, packed: U8, tiles: U8) -> None:
    """u8 [tiles, blocks, 16*bytes] -> u8 [tiles, 16, blocks, bytes]."""
    at = 0
    for field in layout:
        units = _side_by_side(packed, at, field).transpose(0, 3, 1, 2)
        source = np.ascontiguousarray(units).view(np.uint8)
        if field.decode is not None:
            source = field.decode(source)
        tiles[..., field.at : field.at + field.width] = source
        at += ROWS * field.width


def _side_by_side(packed: U8, at: int, field: Field) -> NDArray[np.unsignedinteger]:
    """One field of packed tiles as its units: [tiles, blocks, width/unit, 16 rows]."""
    view = packed[..., at : at + ROWS * field.width].view(_UNIT_DTYPES[field.unit])
    return view.reshape(*packed.shape[:2], field.width // field.unit, ROWS)
