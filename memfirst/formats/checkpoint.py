"""A checkpoint: hyperparameters and a tensor table, wherever they came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from memfirst.codecs.base import U8

CONFIG = "config.json"
"""What makes a folder a model of Hugging Face's form."""


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a checkpoint, under its GGUF name (`blk.7.attn_q.weight`).

    shape   in NumPy order: the last axis is contiguous (a matrix is [rows out, columns in])
    codec   a name of memfirst.codecs
    nbytes  as stored in the file
    """

    name: str
    shape: tuple[int, ...]
    codec: str
    nbytes: int


@dataclass(frozen=True)
class Extent:
    """Bytes [start, start + nbytes) of a file.

    identity  device, inode and size that the file had when it was opened
    """

    path: str
    start: int
    nbytes: int
    identity: tuple[int, int, int]


class Checkpoint(Protocol):
    """What `models` reads: from a GGUF file, a safetensors folder, a bare config or synthetic data.

    kind      "gguf" (metadata has GGUF keys) or "hf" (metadata is config.json)
    path      the file or folder it came from; "" for synthetic
    metadata  hyperparameters (and, for GGUF, the vocabulary)
    tensors   by GGUF name; empty for a bare config
    """

    kind: str
    path: str
    metadata: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]

    @property
    def architecture(self) -> str:
        """`general.architecture` of a GGUF file ("llama"), or its equivalent for an HF config."""

    @property
    def has_bytes(self) -> bool:
        """False for a bare config: shapes can be priced, but nothing can be run."""

    def read(self, name: str) -> U8:
        """The tensor's bytes, flat, read-only, in GGUF row order (HF transforms already applied)."""

    def extents(self, name: str) -> tuple[Extent, ...]:
        """Where files hold the bytes that `read` gives, one stretch after another; () where they are made of them."""

    def release(self, name: str) -> None:
        """The bytes were copied elsewhere: let the system drop the pages behind them."""

    def close(self) -> None:
        """Unmap the files."""
