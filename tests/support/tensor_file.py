"""A checkpoint's tensors in one file: for what reads weights past the map."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memfirst.formats.checkpoint import Checkpoint, Extent


class TensorFile:
    """The same tensors as `checkpoint` gives, with the file that has them; each begins 32 bytes behind the last."""

    def __init__(self, checkpoint: Checkpoint, path: Path) -> None:
        self._checkpoint, self.path = checkpoint, str(path)
        self.kind, self.has_bytes, self.tensors = checkpoint.kind, True, checkpoint.tensors
        self.metadata: Mapping[str, Any] = checkpoint.metadata
        self.architecture = checkpoint.architecture
        self._at: dict[str, tuple[int, int]] = {}
        with path.open("wb") as file:
            for name in self.tensors:
                data = self.read(name)
                self._at[name] = file.seek(32, os.SEEK_CUR), data.nbytes
                file.write(data.tobytes())
        info = path.stat()
        self._identity = info.st_dev, info.st_ino, info.st_size

    def read(self, name: str) -> NDArray[np.uint8]:
        return self._checkpoint.read(name)

    def extents(self, name: str) -> tuple[Extent, ...]:
        """In two parts, as the experts of a folder lie in several."""
        start, nbytes = self._at[name]
        first = nbytes // 3
        return (
            Extent(self.path, start, first, self._identity),
            Extent(self.path, start + first, nbytes - first, self._identity),
        )

    def release(self, name: str) -> None:
        pass

    def close(self) -> None:
        self._checkpoint.close()
