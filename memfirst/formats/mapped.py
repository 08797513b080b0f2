"""A model file mapped read-only: its bytes as NumPy views, dropped page by page once they are copied."""

from __future__ import annotations

import mmap
import os
import stat

import numpy as np

from memfirst.codecs.base import U8
from memfirst.errors import FormatError, MemfirstError, ModelNotFoundError
from memfirst.formats.checkpoint import Extent


class MappedFile:
    """One regular file, mapped whole.

    identity  device, inode and size

    Its size is taken once, and every `view` first asks whether the file still has it: reading a page
    that was cut away after mapping would kill the process (SIGBUS). A file that is cut between that
    check and the read is beyond us; nobody should shorten a model file in use, only replace it.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.size = regular_file_size(path)
        if self.size == 0:
            raise FormatError(f"{path} is empty", "a model file", "download or copy it again")
        try:
            with open(path, "rb") as file:
                info = os.fstat(file.fileno())
                self.identity = info.st_dev, info.st_ino, self.size
                self.map = mmap.mmap(file.fileno(), self.size, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise MemfirstError(f"{path} cannot be mapped: {error}") from error
        self._bytes: U8 | None = np.frombuffer(self.map, np.uint8)

    def view(self, start: int, length: int) -> U8:
        """Bytes [start, start+length), read-only, no copy."""
        if self._bytes is None:
            raise MemfirstError(f"{self.path} was closed", do="open it again")
        if start < 0 or length < 0 or start + length > self.size:
            raise FormatError(f"bytes {start} to {start + length} asked of {self.path}", f"0 to {self.size}")
        if self._current_size() < self.size:
            raise FormatError(f"{self.path} was cut while it was open", f"{self.size} bytes", "copy it again")
        return self._bytes[start : start + length]

    def extent(self, start: int, length: int) -> Extent:
        """The same bytes, for who reads the file without mapping it."""
        return Extent(self.path, start, length, self.identity)

    def _current_size(self) -> int:
        # mmap.size() asks the descriptor that the map keeps, so a replaced (renamed over) file is no alarm.
        return self.map.size()

    def release(self, start: int, length: int) -> None:
        """Drop the whole pages inside [start, start+length) from this process; they can be read again."""
        if self._bytes is None or not hasattr(mmap, "MADV_DONTNEED"):
            return
        first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        last = (start + length) // mmap.PAGESIZE * mmap.PAGESIZE
        if last > first:
            self.map.madvise(mmap.MADV_DONTNEED, first, last - first)

    def close(self) -> None:
        """Unmap now, or as soon as the last view of it is gone: a view never dangles."""
        self._bytes = None
        try:
            self.map.close()
        except BufferError:
            return


def regular_file_size(path: str) -> int:
    """Bytes of a regular file; raises ModelNotFoundError or FormatError for anything else."""
    try:
        info = os.stat(path)
    except (OSError, ValueError) as error:
        raise ModelNotFoundError(f"{path}: {error}", "a readable file") from error
    if not stat.S_ISREG(info.st_mode):
        raise FormatError(f"{path} is not a regular file", "a model file")
    return info.st_size


def read_bounded(path: str, limit: int) -> bytes:
    """The bytes of a small file; FormatError when it holds more than `limit`."""
    size = regular_file_size(path)
    if size > limit:
        raise FormatError(f"{path} has {size} bytes", f"at most {limit}")
    try:
        with open(path, "rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise MemfirstError(f"{path} cannot be read: {error}") from error
    if len(data) > limit:
        raise FormatError(f"{path} grew while it was read", f"at most {limit} bytes")
    return data


def list_folder(path: str) -> list[str]:
    """The names in a folder, sorted."""
    try:
        return sorted(os.listdir(path))
    except OSError as error:
        raise ModelNotFoundError(f"{path}: {error}", "a readable folder") from error
