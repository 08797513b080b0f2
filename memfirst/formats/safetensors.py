"""One safetensors file: an 8-byte header length, a JSON header, and the tensors back to back.

The header maps names to {"dtype", "shape", "data_offsets": [begin, end]}, offsets counted from the end
of the header; "__metadata__" holds strings. Tensors must fill the data exactly, without holes or overlap.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeGuard

import numpy as np

from memfirst.codecs.base import U8
from memfirst.errors import FormatError, MemfirstError
from memfirst.formats.checkpoint import Extent
from memfirst.formats.json_file import parse_object
from memfirst.formats.mapped import MappedFile

MAX_HEADER = 1 << 25  # bytes; 1e5 tensors take about 1.5e7
MAX_TENSORS, MAX_NAME, MAX_DIMS = 1 << 17, 512, 8

DTYPES_BY_BYTES = {
    8: ("F64", "I64", "U64"),
    4: ("F32", "I32", "U32"),
    2: ("F16", "BF16", "I16", "U16"),
    1: ("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0"),
}
FLOATS = ("F32", "F16", "BF16")
DTYPE_BYTES = {name: size for size, names in DTYPES_BY_BYTES.items() for name in names}


@dataclass(frozen=True)
class StoredTensor:
    """A row of the header; `start` and `nbytes` place it in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    nbytes: int


class SafetensorsFile:
    """A mapped safetensors file; `tensors` by name, in the order of their bytes."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._file = MappedFile(path)
        try:
            self.tensors: Mapping[str, StoredTensor] = MappingProxyType(_read_table(self._file))
        except MemfirstError as error:
            self._file.close()
            raise type(error)(f"{path}: {error.found}", error.expected, error.do) from error

    def read(self, name: str) -> U8:
        """The tensor's bytes, flat, read-only, on the map."""
        tensor = self.tensors[name]
        return self._file.view(tensor.start, tensor.nbytes)

    def extent(self, name: str) -> Extent:
        """Where the tensor lies in the file."""
        tensor = self.tensors[name]
        return self._file.extent(tensor.start, tensor.nbytes)

    def release(self, name: str) -> None:
        """Drop the whole pages that the tensor fills from this process."""
        tensor = self.tensors[name]
        self._file.release(tensor.start, tensor.nbytes)

    def close(self) -> None:
        """Unmap, once nothing read is in use any more."""
        self._file.close()


def _read_table(file: MappedFile) -> dict[str, StoredTensor]:
    if file.size < 8:
        raise FormatError(f"a file of {file.size} bytes", "a safetensors file", "download or copy it again")
    length = int.from_bytes(bytes(file.view(0, 8)), "little")
    if length > min(MAX_HEADER, file.size - 8):
        raise FormatError(f"a header of {length} bytes in a file of {file.size}", "one that fits")
    header = parse_object(bytes(file.view(8, length)), "the header")
    header.pop("__metadata__", None)
    if len(header) > MAX_TENSORS:
        raise FormatError(f"{len(header)} tensors", f"at most {MAX_TENSORS}")
    rows = [_row(name, entry, 8 + length) for name, entry in header.items()]
    rows.sort(key=lambda row: (row.start, row.nbytes))
    _check_contiguous(rows, 8 + length, file.size)
    return {row.name: row for row in rows}


def _row(name: str, entry: Any, data: int) -> StoredTensor:
    """One entry of the header; its dtype, shape and offsets must agree."""
    if not 1 <= len(name) <= MAX_NAME or not isinstance(entry, dict):
        raise FormatError(f"tensor {name[:80]!r} is {type(entry).__name__}", "a name and an object")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise FormatError(f"tensor {name} has dtype {str(dtype)[:40]!r}", f"one of {', '.join(DTYPE_BYTES)}")
    if not _is_sizes(shape) or len(shape) > MAX_DIMS or 0 in shape:
        raise FormatError(f"tensor {name} has shape {str(shape)[:80]}", f"up to {MAX_DIMS} sizes from 1")
    if not _is_sizes(offsets) or len(offsets) != 2:
        raise FormatError(f"tensor {name} has data_offsets {str(offsets)[:80]}", "two byte positions")
    nbytes = math.prod(shape) * DTYPE_BYTES[dtype]
    if offsets[1] - offsets[0] != nbytes:
        raise FormatError(f"tensor {name} spans {offsets}", f"{nbytes} bytes for {dtype} {shape}")
    return StoredTensor(name, dtype, tuple(shape), data + offsets[0], nbytes)


def _is_sizes(value: Any) -> TypeGuard[list[int]]:
    """A list of integers from 0 to 2^62; JSON's true is not 1."""
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 62 for item in value)


def _check_contiguous(rows: list[StoredTensor], start: int, file_size: int) -> None:
    for row in rows:
        if row.start != start:
            raise FormatError(f"tensor {row.name} starts at byte {row.start}", f"{start}: no holes")
        start += row.nbytes
    if start != file_size:
        raise FormatError(f"the tensors end at byte {start} of a file of {file_size}", "the file's end",
                          "the file is cut or damaged: download it again")  # fmt: skip


def to_f32(data: U8, dtype: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """u8 [n * size] of F32, F16 or BF16 -> f32 [n], exactly."""
    if dtype == "BF16":  # the upper half of an f32
        return (data.view("<u2").astype(np.uint32) << 16).view(np.float32)
    return data.view({"F32": "<f4", "F16": "<f2"}[dtype]).astype(np.float32)
