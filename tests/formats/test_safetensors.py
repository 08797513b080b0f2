"""One safetensors file: everything that its header can lie about."""

from __future__ import annotations

import io
import json
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memfirst.errors import FormatError
from memfirst.formats.safetensors import DTYPE_BYTES, SafetensorsFile


def file_of(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype: Any = "F32", shape: Any = (2, 2), offsets: Any = (0, 16)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "seven bytes": (bytes(7), "7 bytes"),
    "a header past the end": (struct.pack("<Q", 100) + b"{}", "a header of 100 bytes"),
    "a header of 2^64": (struct.pack("<Q", (1 << 64) - 1) + b"{}", "a header of"),
    "not JSON": (file_of(b"{"), "not valid JSON"),
    "not UTF-8": (file_of(b"\xff\xfe{}"), "not valid JSON"),
    "a list": (file_of([]), "holds a list"),
    "depth": (file_of(b'{"a":' * 100_000), "not valid JSON"),
    "a number of 5000 digits": (file_of(b'{"a":' + b"9" * 5000 + b"}"), "not valid JSON"),
    "a name twice": (
        file_of(b'{"a":' + json.dumps(entry()).encode() + b',"a":' + json.dumps(entry()).encode() + b"}"),
        "a key appears twice",
    ),
    "an entry that is a list": (file_of({"a": []}), "tensor 'a' is list"),
    "an empty name": (file_of({"": entry()}, bytes(16)), "tensor ''"),
    "a long name": (file_of({"n" * 513: entry()}, bytes(16)), "tensor 'nnn"),
    "no dtype": (file_of({"a": {"shape": [1], "data_offsets": [0, 4]}}, bytes(4)), "dtype 'None'"),
    "an unknown dtype": (file_of({"a": entry("F12")}, bytes(16)), "dtype 'F12'"),
    "a dtype that is a list": (file_of({"a": entry([])}, bytes(16)), "dtype"),
    "a negative size": (file_of({"a": entry(shape=[-2, -2])}, bytes(16)), "shape"),
    "a size of 0": (file_of({"a": entry(shape=[0], offsets=[0, 0])}), "shape"),
    "a size of 1.0": (file_of({"a": entry(shape=[2.0, 2])}, bytes(16)), "shape"),
    "a size of true": (file_of({"a": entry(shape=[True, 4])}, bytes(16)), "shape"),
    "nine dimensions": (file_of({"a": entry(shape=[1] * 9, offsets=[0, 4])}, bytes(4)), "shape"),
    "a huge size": (file_of({"a": entry(shape=[1 << 40, 1 << 40])}, bytes(16)), "spans"),
    "a size over 2^62": (file_of({"a": entry(shape=[1 << 64])}, bytes(16)), "shape"),
    "one offset": (file_of({"a": entry(offsets=[16])}, bytes(16)), "data_offsets"),
    "offsets backwards": (file_of({"a": entry(offsets=[16, 0])}, bytes(16)), "spans"),
    "offsets below 0": (file_of({"a": entry(offsets=[-16, 0])}, bytes(16)), "data_offsets"),
    "offsets that disagree": (file_of({"a": entry(offsets=[0, 12])}, bytes(12)), "spans"),
    "a hole": (file_of({"a": entry(), "b": entry(offsets=[20, 36])}, bytes(36)), "tensor b starts"),
    "a hole at the start": (file_of({"a": entry(offsets=[4, 20])}, bytes(20)), "tensor a starts"),
    "an overlap": (file_of({"a": entry(), "b": entry(offsets=[8, 24])}, bytes(24)), "tensor b starts"),
    "bytes after the end": (file_of({"a": entry()}, bytes(17)), "the tensors end at"),
    "a byte too few": (file_of({"a": entry()}, bytes(15)), "the tensors end at"),
    "no tensors but bytes": (file_of({}, bytes(1)), "the tensors end at"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused(case: str, tmp_path: Path) -> None:
    content, message = BAD[case]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=message) as caught:
        SafetensorsFile(str(path))
    assert str(path) in str(caught.value)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    whole = file_of({"__metadata__": {"format": "pt"}, "b": entry(offsets=[16, 32]), "a": entry()}, bytes(range(32)))
    path = tmp_path / "model.safetensors"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(FormatError):
            SafetensorsFile(str(path))
    path.write_bytes(whole)
    assert SafetensorsFile(str(path)).read("b").tobytes() == bytes(range(16, 32))


def test_a_header_is_bounded_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 1 << 30))
        file.truncate(2 << 30)
    tracemalloc.start()
    with pytest.raises(FormatError, match="a header of 1073741824 bytes"):
        SafetensorsFile(str(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000 + max(0, io.DEFAULT_BUFFER_SIZE - 8192)  # since Python 3.14 a file's buffer has 128 KiB


def test_dtype_sizes_are_those_of_numpy() -> None:
    names = {"F": "f", "I": "i", "U": "u"}
    for dtype, size in DTYPE_BYTES.items():
        if dtype[1:].isdigit():
            assert np.dtype(f"{names[dtype[0]]}{int(dtype[1:]) // 8}").itemsize == size
