"""Writing GGUF v3, tensor by tensor, under a temporary name until all of it is on disk."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, BinaryIO

import numpy as np

from memfirst.codecs import BLOCK_TYPES
from memfirst.errors import CapacityError, FormatError, MemfirstError
from memfirst.files import replacing
from memfirst.formats import gguf_header as gg
from memfirst.formats.checkpoint import Checkpoint, TensorInfo
from memfirst.formats.string_array import StringArray

CHUNK = 1 << 24
"""Bytes handed to the file at a time: 16 MiB."""

Chunks = Callable[[TensorInfo], Iterable[Any]]
INTEGER_CODES = ((gg.U32, 0, 32), (gg.I32, -(1 << 31), 32), (gg.U64, 0, 64), (gg.I64, -(1 << 63), 64))
NUMPY_CODES = {np.dtype(form): code for code, form in gg.FORMATS.items()} | {np.dtype(np.bool_): gg.BOOL}


def write_gguf(path: str | os.PathLike[str], metadata: Mapping[str, Any], tensors: Sequence[TensorInfo],
               chunks: Chunks) -> None:  # fmt: skip
    """Write a GGUF; `chunks(info)` gives a tensor's bytes as buffers that sum to info.nbytes.

    Raises CapacityError when the disk is full, MemfirstError when the place cannot be written; either way
    nothing is left under `path` or beside it, and a file that was there before stays as it was.
    """
    target = os.fspath(path)
    alignment = gg.alignment_of(dict(metadata))
    header = encode_header(metadata, tensors, alignment)
    _check_room(target, len(header) + sum(_padded(t.nbytes, alignment) for t in tensors))
    with replacing(target) as file:
        file.write(header)
        for info in tensors:
            _write_tensor(file, info, chunks(info), alignment)


def write_checkpoint(
    checkpoint: Checkpoint, path: str | os.PathLike[str], changes: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """Write a checkpoint of kind "gguf" (from a file, split or not, or synthetic) as one GGUF file.

    changes  metadata that the file has otherwise
    """
    if checkpoint.kind != "gguf":
        raise FormatError(f"metadata of kind {checkpoint.kind!r}", "GGUF keys", "convert the model instead")
    metadata = {key: value for key, value in checkpoint.metadata.items() if not key.startswith("split.")}
    metadata |= changes

    def chunks(info: TensorInfo) -> Iterator[Any]:
        data = checkpoint.read(info.name)
        for start in range(0, info.nbytes, CHUNK):
            yield data[start : start + CHUNK].data
        checkpoint.release(info.name)

    write_gguf(path, metadata, list(checkpoint.tensors.values()), chunks)


def _write_tensor(file: BinaryIO, info: TensorInfo, chunks: Iterable[Any], alignment: int) -> None:
    written = 0
    for chunk in chunks:
        written += memoryview(chunk).nbytes
        if written > info.nbytes:
            break
        file.write(chunk)
    if written != info.nbytes:
        raise FormatError(f"{written} bytes or more for tensor {info.name}", f"{info.nbytes}")
    file.write(bytes(_padded(written, alignment) - written))


def _padded(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def encode_header(metadata: Mapping[str, Any], tensors: Sequence[TensorInfo], alignment: int) -> bytes:
    """Everything before the data, padded; tensors lie in the order given."""
    out = bytearray(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata)))
    for key, value in metadata.items():
        out += _string(key) + _value(key, value)
    offset = 0
    for info in tensors:
        out += _table_row(info, offset)
        offset += _padded(info.nbytes, alignment)
    return bytes(out) + bytes(_padded(len(out), alignment) - len(out))


def _table_row(info: TensorInfo, offset: int) -> bytes:
    code = BLOCK_TYPES[info.codec].ggml_type
    dims = struct.pack(f"<I{len(info.shape)}Q", len(info.shape), *reversed(info.shape))
    return _string(info.name) + dims + struct.pack("<IQ", code, offset)


def _string(text: str | bytes) -> bytes:
    data = text.encode("utf-8") if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def _value(key: str, value: Any) -> bytes:
    """A type code and a value. Plain integers are u32 where they fit, as other readers expect of counts."""
    if isinstance(value, (bool, np.bool_)):
        return struct.pack("<IB", gg.BOOL, value)
    if isinstance(value, np.generic):
        return struct.pack("<I", NUMPY_CODES[value.dtype.newbyteorder("<")]) + value.tobytes()
    if isinstance(value, int):
        code = _integer_code(key, value)
        return struct.pack("<I", code) + gg.SCALARS[code].pack(value)
    if isinstance(value, float):
        return struct.pack("<If", gg.F32, value)
    if isinstance(value, str):
        return struct.pack("<I", gg.STRING) + _string(value)
    return struct.pack("<I", gg.ARRAY) + _array(key, value)


def _integer_code(key: str, value: int) -> int:
    for code, low, bits in INTEGER_CODES:
        if low <= value < low + (1 << bits):
            return code
    raise FormatError(f"{key} is {value}", "an integer of 64 bits")


def _array(key: str, value: Any) -> bytes:
    if isinstance(value, StringArray):
        return struct.pack("<IQ", gg.STRING, len(value)) + value.encoded
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return struct.pack("<IQ", gg.STRING, len(value)) + b"".join(map(_string, value))
    numbers = _numbers(value)
    if numbers.ndim != 1 or numbers.dtype not in NUMPY_CODES:
        raise FormatError(f"{key} is {type(value).__name__} of {numbers.dtype}", "a flat array")
    return struct.pack("<IQ", NUMPY_CODES[numbers.dtype], len(numbers)) + numbers.tobytes()


def _numbers(value: Any) -> np.ndarray[Any, Any]:
    """A list of Python integers is i32 where it fits, as other readers expect of token types."""
    try:
        numbers = np.asarray(value)
    except ValueError:  # rows of different lengths
        return np.asarray(None)
    if not isinstance(value, list) or numbers.dtype != np.int64:
        return numbers
    narrow = numbers.astype(np.int32)
    return narrow if np.array_equal(narrow, numbers) else numbers


def _check_room(target: str, needed: int) -> None:
    """Refuse before writing what the disk has no room for."""
    folder = os.path.dirname(os.path.abspath(target))
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise MemfirstError(f"cannot write {target}: {error.strerror}", "a folder that exists") from error
    if needed > free:
        raise CapacityError(f"{target} needs {needed} bytes and the disk has {free}", do="make room")
