"""The header of a GGUF file: metadata and tensor table, every number bounded before it is believed.

Layout (little endian): "GGUF", u32 version, u64 tensors, u64 keys; then keys (string, u32 type, value),
then tensors (string name, u32 dims, u64 dim..., u32 type, u64 offset), then padding to
`general.alignment`, then the data, to which the offsets refer. A string is a u64 length and UTF-8.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from struct import Struct
from typing import Any

import numpy as np

from memfirst.codecs import block_type
from memfirst.codecs.base import BlockType
from memfirst.errors import FormatError, MemfirstError
from memfirst.formats.checkpoint import TensorInfo
from memfirst.formats.string_array import read_strings

# Far above any published model, far below what would exhaust memory or time.
MAX_HEADER = 1 << 26  # bytes: vocabularies of 262,144 take about 1e7
MAX_KEYS, MAX_KEY_BYTES = 1 << 16, (1 << 16) - 1
MAX_TENSORS, MAX_NAME_BYTES, MAX_DIMS = 1 << 17, 64, 4
MAX_ITEMS = 1 << 22  # of one array: the longest list of merges known has 5e5
MAX_STRING = 1 << 24  # bytes: chat templates reach 1e4
MAX_DEPTH = 4  # arrays of arrays
MAX_ALIGNMENT, DEFAULT_ALIGNMENT = 1 << 20, 32

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
FORMATS = {U8: "<B", I8: "<b", U16: "<H", I16: "<h", U32: "<I", I32: "<i", F32: "<f"}
FORMATS |= {U64: "<Q", I64: "<q", F64: "<d"}
SCALARS = {code: Struct(form) for code, form in FORMATS.items()}


@dataclass(frozen=True)
class Placed:
    """A tensor and where its first byte is in its file."""

    info: TensorInfo
    start: int


class Cursor:
    """A position in the file that never moves past its end."""

    def __init__(self, buffer: memoryview) -> None:
        self.buffer, self.file_size, self.at = buffer[:MAX_HEADER], len(buffer), 0

    @property
    def left(self) -> int:
        """Bytes that remain of the header, which may be as long as the file, up to MAX_HEADER."""
        return len(self.buffer) - self.at

    def take(self, length: int, what: str) -> memoryview:
        """The next `length` bytes; FormatError when the file ends before."""
        if length > self.left:
            raise FormatError(f"{what} needs {length} bytes, and {self.left} remain", do="the file is cut")
        start, self.at = self.at, self.at + length
        return self.buffer[start : self.at]

    def number(self, code: int, what: str) -> Any:
        """One scalar of a GGUF type."""
        form = SCALARS[code]
        return form.unpack(self.take(form.size, what))[0]

    def text(self, what: str, limit: int = MAX_STRING, errors: str = "strict") -> str:
        """One string of UTF-8; with `errors` "replace", U+FFFD for what is not."""
        length = self.number(U64, what)
        if length > limit:
            raise FormatError(f"{what} has a string of {length} bytes", f"at most {limit}")
        try:
            return bytes(self.take(length, what)).decode("utf-8", errors)
        except UnicodeDecodeError as error:
            raise FormatError(f"{what} is not UTF-8 ({error.reason} at byte {error.start})") from error


def read_counts(cursor: Cursor) -> tuple[int, int]:
    """(tensors, keys) from the first 24 bytes, checked against what could fit in the file."""
    if bytes(cursor.take(4, "the magic")) != b"GGUF":
        raise FormatError("the file does not start with 'GGUF'", "a GGUF model file")
    _check_version(cursor.number(U32, "the version"))
    tensors, keys = cursor.number(U64, "the tensor count"), cursor.number(U64, "the key count")
    # The least a key takes: length 8 + type 4 + value 1. The least a tensor takes: 8 + 1 + 4 + 8 + 4 + 8.
    if keys > min(MAX_KEYS, cursor.left // 13):
        raise FormatError(f"{keys} metadata keys in {cursor.left} bytes", f"at most {MAX_KEYS} that fit")
    if tensors > min(MAX_TENSORS, cursor.left // 33):
        raise FormatError(f"{tensors} tensors in {cursor.left} bytes", f"at most {MAX_TENSORS} that fit")
    return tensors, keys


def _check_version(version: int) -> None:
    if version in (2, 3):
        return
    if version & 0xFFFF == 0 and version:
        raise FormatError("this GGUF is big endian (byte-swapped)", "little endian", "convert it")
    raise FormatError(f"GGUF version {version}", "2 or 3", "convert the model with a current tool")


def read_metadata(cursor: Cursor, count: int) -> dict[str, Any]:
    """`count` keys with their values: numbers, bool, str, NumPy arrays, StringArrays, lists of arrays."""
    metadata: dict[str, Any] = {}
    for i in range(count):
        key = cursor.text(f"metadata key {i}", MAX_KEY_BYTES)
        if not key or key in metadata:
            raise FormatError(f"metadata key {key!r} is {'repeated' if key else 'empty'}", "unique names")
        metadata[key] = _value(cursor, cursor.number(U32, key), key, MAX_DEPTH)
    return metadata


def _value(cursor: Cursor, code: int, key: str, depth: int) -> Any:
    if code == F64:
        return np.float64(cursor.number(code, key))  # a float that remembers its width, for writing it again
    if code in SCALARS:
        return cursor.number(code, key)
    if code == BOOL:
        return bool(_bools(cursor, 1, key)[0])
    if code == STRING:
        return cursor.text(key, errors="replace")  # an author in Latin-1: nobody computes with him
    if code == ARRAY and depth:
        return _array(cursor, key, depth - 1)
    raise FormatError(f"{key} has type {code}", "a GGUF type, 0 to 12, nested no deeper than 4")


def _array(cursor: Cursor, key: str, depth: int) -> Any:
    code, count = cursor.number(U32, key), cursor.number(U64, key)
    if count > MAX_ITEMS:
        raise FormatError(f"{key} has {count} items", f"at most {MAX_ITEMS}")
    if code in SCALARS:
        kind = np.dtype(FORMATS[code])
        return np.frombuffer(bytes(cursor.take(count * kind.itemsize, key)), kind)
    if code == BOOL:
        return _bools(cursor, count, key)
    if code == STRING:
        strings, taken = read_strings(cursor.buffer[cursor.at :], count)
        cursor.at += taken
        return strings
    return _nested(cursor, code, count, key, depth)


def _nested(cursor: Cursor, code: int, count: int, key: str, depth: int) -> list[Any]:
    """An array of arrays; each holds at least a type (4 bytes) and a length (8)."""
    if code != ARRAY or count > cursor.left // 12:
        raise FormatError(f"{key} is an array of {count} items of type {code}", "a type and length that fit")
    if count > MAX_KEYS:
        raise FormatError(f"{key} has {count} nested arrays", f"at most {MAX_KEYS}")
    return [_value(cursor, ARRAY, key, depth) for _ in range(count)]


def _bools(cursor: Cursor, count: int, key: str) -> np.ndarray[Any, np.dtype[np.bool_]]:
    return np.frombuffer(bytes(cursor.take(count, key)), np.uint8).astype(np.bool_)  # 255 is true, as for llama.cpp


def read_tensor_table(cursor: Cursor, count: int, alignment: int) -> dict[str, Placed]:
    """Every tensor with its place, by name: aligned, inside the file, none over another."""
    table: dict[str, Placed] = {}
    for i in range(count):
        placed = _tensor(cursor, i)
        if placed.info.name in table:
            raise FormatError(f"tensor {placed.info.name} is twice in the file", "unique names")
        table[placed.info.name] = placed
    data = -(-cursor.at // alignment) * alignment
    moved = {name: Placed(p.info, data + p.start) for name, p in table.items()}
    _check_places(list(moved.values()), alignment, cursor.file_size)
    return moved


def _tensor(cursor: Cursor, index: int) -> Placed:
    """One row of the table; `start` still counts from the data section."""
    name = cursor.text(f"the name of tensor {index}", MAX_NAME_BYTES)
    n_dims = cursor.number(U32, name)
    if not name or not 1 <= n_dims <= MAX_DIMS:
        raise FormatError(f"tensor {index} ({name!r}) has {n_dims} dimensions", f"a name and 1 to {MAX_DIMS}")
    dims = [int(cursor.number(U64, name)) for _ in range(n_dims)]
    code, offset = cursor.number(U32, name), cursor.number(U64, name)
    return Placed(_info(name, dims, code, cursor.file_size), offset)


def _info(name: str, dims: list[int], code: int, file_size: int) -> TensorInfo:
    """GGUF lists the contiguous dimension first, NumPy last; a row must fill whole blocks."""
    kind, weights = _kind(name, code), math.prod(dims)
    if weights // kind.block * kind.block_bytes > file_size:
        raise FormatError(f"tensor {name} has shape {dims} in {kind.name}", f"one within {file_size} bytes")
    if dims[0] % kind.block:
        raise FormatError(f"rows of {name} have {dims[0]} weights", f"blocks of {kind.block} ({kind.name})")
    return TensorInfo(name, tuple(reversed(dims)), kind.name, kind.nbytes(weights))


def _kind(name: str, code: int) -> BlockType:
    try:
        return block_type(code)
    except MemfirstError as error:
        raise type(error)(f"tensor {name}: {error.found}", error.expected, error.do) from error


def _check_places(tensors: list[Placed], alignment: int, file_size: int) -> None:
    end = 0
    for placed in sorted(tensors, key=lambda p: p.start):
        name = placed.info.name
        if placed.start % alignment:
            raise FormatError(f"tensor {name} starts at byte {placed.start}", f"a multiple of {alignment}")
        if placed.start < end:
            raise FormatError(f"tensor {name} overlaps the one before it", "tensors apart from each other")
        end = placed.start + placed.info.nbytes
        if end > file_size:
            raise FormatError(f"tensor {name} ends at byte {end}", f"a file of that size, not {file_size}",
                              "the file is cut: download or copy it again")  # fmt: skip


def alignment_of(metadata: dict[str, Any]) -> int:
    """`general.alignment`, a power of two from 8 to 2^20; 32 where the file does not say."""
    value = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    good = isinstance(value, int) and not isinstance(value, bool)
    if not good or not 8 <= value <= MAX_ALIGNMENT or value & (value - 1):
        raise FormatError(f"general.alignment is {value!r}", f"a power of two from 8 to {MAX_ALIGNMENT}")
    return int(value)
