"""Tensors that GGUF has whole and a safetensors folder in pieces: experts one by one, MXFP4's blocks and scales.

A piece is a view of a stored tensor (a slice, a transpose), one of several that are stacked, or one of MXFP4's two
parts. Shapes follow from the header alone: a view is first taken of an array of that shape that has no memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memfirst.codecs.base import F32, U8
from memfirst.codecs.block32 import nibble_bytes
from memfirst.errors import FormatError
from memfirst.formats.checkpoint import Extent, TensorInfo
from memfirst.formats.safetensors import DTYPE_BYTES, FLOATS, SafetensorsFile, StoredTensor, to_f32

View = Callable[[NDArray[Any], Mapping[str, Any]], NDArray[Any]]
"""(array in the stored shape, config) -> a view of it, in GGUF's order of axes."""

Values = Callable[[F32], F32]
"""What GGUF has, in f32, of the stored values."""

WHOLE, BLOCKS, SCALES = "", "blocks", "scales"


def whole(x: NDArray[Any], config: Mapping[str, Any]) -> NDArray[Any]:
    """The view that is all of it."""
    return x


@dataclass(frozen=True)
class Place:
    """Where (a view of) a stored tensor goes: the GGUF name, its index in a stack, its part in MXFP4.

    values  it is f32 in GGUF, and these of what is stored
    """

    name: str
    view: View
    index: int | None = None
    part: str = WHOLE
    values: Values | None = None


@dataclass(frozen=True)
class Piece:
    """A stored tensor that makes (a part of) a GGUF tensor."""

    file: SafetensorsFile
    stored: StoredTensor
    place: Place
    config: Mapping[str, Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the view; FormatError where the stored tensor has no such view."""
        try:
            found = self.place.view(np.broadcast_to(np.uint8(0), self.stored.shape), self.config)
        except (ValueError, IndexError) as error:  # axes that are missing, or do not divide
            shape = list(self.stored.shape)
            raise FormatError(f"tensor {self.stored.name} has shape {shape}", f"that of {self.place.name}") from error
        return found.shape

    def read(self) -> NDArray[Any]:
        """The view, of unsigned integers as wide as the stored dtype."""
        flat = self.file.read(self.stored.name).view(f"<u{DTYPE_BYTES[self.stored.dtype]}")
        return self.place.view(flat.reshape(self.stored.shape), self.config)


@dataclass
class Joined:
    """One GGUF tensor's pieces, in the order in which files list them."""

    name: str
    pieces: list[Piece] = field(default_factory=list)

    @property
    def info(self) -> TensorInfo:
        """Shape, codec and bytes as the joined tensor has them; FormatError where pieces do not fit together."""
        first = self.pieces[0]
        if any(p.stored.dtype != first.stored.dtype for p in self.pieces):
            raise FormatError(f"the parts of {self.name} have several dtypes", first.stored.dtype)
        if first.place.part:
            return self._mxfp4_info()
        shape = self._stack_shape() if first.place.index is not None else self._only().shape
        dtype = first.stored.dtype
        if first.place.values is not None:
            dtype = _as_f32(first.stored)
        return TensorInfo(self.name, shape, dtype.lower(), int(np.prod(shape, dtype=object)) * DTYPE_BYTES[dtype])

    def _only(self) -> Piece:
        if len(self.pieces) != 1:
            raise FormatError(f"tensor {self.name} is stored {len(self.pieces)} times", "once")
        return self.pieces[0]

    def _stack_shape(self) -> tuple[int, ...]:
        found = sorted(-1 if p.place.index is None else p.place.index for p in self.pieces)
        if found != list(range(len(found))):
            raise FormatError(f"{self.name} has parts {str(found[:8])[1:-1]} …", f"each of 0..{found[-1]} once")
        shapes = {p.shape for p in self.pieces}
        if len(shapes) > 1:
            raise FormatError(f"the parts of {self.name} have shapes {sorted(shapes)[:3]}", "one shape")
        return (len(self.pieces), *shapes.pop())

    def _mxfp4_info(self) -> TensorInfo:
        parts = self._parts()
        *shape, groups, half = parts[BLOCKS].shape
        if half != 16 or parts[SCALES].shape != (*shape, groups) or parts[BLOCKS].stored.dtype != "U8":
            found = f"MXFP4 blocks {parts[BLOCKS].shape} with scales {parts[SCALES].shape} in {self.name}"
            raise FormatError(found, "bytes [experts, rows, columns / 32, 16] and [experts, rows, columns / 32]")
        whole = (*shape, 32 * groups)
        return TensorInfo(self.name, whole, "mxfp4", int(np.prod(parts[SCALES].shape, dtype=object)) * 17)

    def _parts(self) -> dict[str, Piece]:
        parts = {p.place.part: p for p in self.pieces}
        if len(self.pieces) != 2 or parts.keys() != {BLOCKS, SCALES}:
            found = ", ".join(p.stored.name for p in self.pieces[:3])
            raise FormatError(f"{self.name} is stored as {found}", "one tensor of blocks and one of scales")
        return parts

    def read(self) -> U8:
        """The joined tensor's bytes, flat: a copy."""
        if self.pieces[0].place.part:
            parts = self._parts()
            return mxfp4_blocks(parts[BLOCKS].read(), parts[SCALES].read()).reshape(-1)
        if self.pieces[0].place.index is None:
            data = np.ascontiguousarray(self._only().read()).reshape(-1).view(np.uint8)
            values = self.pieces[0].place.values
            return data if values is None else values(to_f32(data, self.pieces[0].stored.dtype)).view(np.uint8)
        ordered = sorted(self.pieces, key=lambda p: p.place.index or 0)
        return np.stack([p.read() for p in ordered]).reshape(-1).view(np.uint8)

    def extents(self) -> tuple[Extent, ...]:
        """Where the pieces lie, in order, if they are whole tensors, and nothing is computed of them; else ()."""
        ordered = sorted(self.pieces, key=lambda p: p.place.index or 0)
        if any(p.place.part or p.place.view is not whole or p.place.values is not None for p in ordered):
            return ()
        return tuple(p.file.extent(p.stored.name) for p in ordered)

    def release(self) -> None:
        """Drop the pages of all pieces from this process; another tensor's views of them are read again."""
        for piece in self.pieces:
            piece.file.release(piece.stored.name)


def _as_f32(stored: StoredTensor) -> str:
    if stored.dtype not in FLOATS:
        raise FormatError(f"tensor {stored.name} is stored as {stored.dtype}", " or ".join(FLOATS))
    return "F32"


def mxfp4_blocks(blocks: U8, scales: U8) -> U8:
    """u8 [..., 16] and [...] -> u8 [..., 17]: neighbours in one byte become columns j and 16 + j, as in GGUF."""
    codes = np.stack([blocks & np.uint8(15), blocks >> np.uint8(4)], axis=-1).reshape(-1, 32)
    packed = nibble_bytes(codes).reshape(blocks.shape)
    return np.concatenate([scales[..., None], packed], axis=-1)
