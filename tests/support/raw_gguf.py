"""GGUF bytes put together by hand, so that a test can say exactly what is wrong with them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)


def string(text: str | bytes) -> bytes:
    """u64 length and the bytes."""
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def key(name: str | bytes, code: int, payload: bytes) -> bytes:
    """One metadata entry."""
    return string(name) + struct.pack("<I", code) + payload


def array(code: int, count: int, payload: bytes) -> bytes:
    """The payload of an array."""
    return struct.pack("<IQ", code, count) + payload


def tensor(name: str | bytes, dims: tuple[int, ...], code: int, offset: int, n_dims: int | None = None) -> bytes:
    """One row of the tensor table, dims in GGUF order."""
    head = string(name) + struct.pack("<I", len(dims) if n_dims is None else n_dims)
    return head + struct.pack(f"<{len(dims)}QIQ", *dims, code, offset)


Save = Callable[..., Path]
"""A fixture's type: (content, name) -> path."""

ARCHITECTURE = key("general.architecture", STRING, string("llama"))


@dataclass
class Raw:
    """A file; the counts follow the lists unless given."""

    keys: list[bytes] = field(default_factory=lambda: [ARCHITECTURE])
    tensors: list[bytes] = field(default_factory=list)
    data: bytes = b""
    version: int = 3
    magic: bytes = b"GGUF"
    n_keys: int | None = None
    n_tensors: int | None = None
    alignment: int = 32

    def __bytes__(self) -> bytes:
        n_tensors = len(self.tensors) if self.n_tensors is None else self.n_tensors
        n_keys = len(self.keys) if self.n_keys is None else self.n_keys
        head = self.magic + struct.pack("<IQQ", self.version, n_tensors, n_keys)
        head += b"".join(self.keys) + b"".join(self.tensors)
        return head + bytes(-len(head) % self.alignment) + self.data


def one_tensor(**changes: object) -> Raw:
    """A good file with one f32 tensor of [2 rows, 4 columns]."""
    made = {"tensors": [tensor("a.weight", (4, 2), 0, 0)], "data": bytes(range(32))}
    return Raw(**{**made, **changes})  # type: ignore[arg-type]


def saved(folder: Path, content: Raw | bytes, name: str) -> Path:
    """Write it there."""
    path = folder / name
    path.write_bytes(bytes(content))
    return path
