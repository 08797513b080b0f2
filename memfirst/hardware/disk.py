"""Reading files past the page cache: what a step reads anew each time would only push out what others keep there."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Iterator, Sequence
from io import FileIO

import numpy as np
from numpy.typing import NDArray

from memfirst.errors import BackendError, FormatError
from memfirst.formats.checkpoint import Extent
from memfirst.lower.program import PAGE, READERS, SLICE


class Reader:
    """One thread's own: files by path, and memory that requests of up to `largest` bytes go to."""

    def __init__(self, largest: int) -> None:
        self._map = mmap.mmap(-1, -(-largest // PAGE) * PAGE + 2 * PAGE)
        self._memory = np.frombuffer(self._map, np.uint8)
        self._files: dict[str, FileIO] = {}
        self.direct = hasattr(os, "O_DIRECT")
        """Whether the page cache is passed by. Some file systems cannot: then what was read is dropped from it."""

    def read(self, extents: Sequence[Extent], start: int, nbytes: int) -> NDArray[np.uint8]:
        """Bytes [start, start + nbytes) of the extents, taken one after another; valid until the next call.

        Raises:
            FormatError: A file was replaced or cut since it was opened first.
            BackendError: The system cannot read it.
        """
        pieces = list(_within(extents, start, nbytes))
        if len(pieces) == 1:
            return self._read(*pieces[0])
        out, at = np.empty(nbytes, np.uint8), 0
        for extent, first, length in pieces:
            out[at : at + length] = self._read(extent, first, length)
            at += length
        return out

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _read(self, extent: Extent, start: int, nbytes: int) -> NDArray[np.uint8]:
        """Bytes from `start` of the extent on, by whole pages of the file, as reading past the page cache asks for."""
        start += extent.start
        before = start % PAGE
        whole = -(-(before + nbytes) // PAGE) * PAGE
        try:
            file = self._file(extent)
            file.seek(start - before)
            got = 0
            while got < before + nbytes:
                n = file.readinto(self._memory[got:whole].data)
                if not n:
                    raise FormatError(f"{extent.path} was cut while it was open", f"{extent.identity[2]} bytes")
                got += n
            if not self.direct:
                _drop(file, start - before, whole)
        except OSError as error:
            raise BackendError(f"{extent.path} cannot be read: {error}", do="load the model again") from error
        return self._memory[before : before + nbytes]

    def _file(self, extent: Extent) -> FileIO:
        if extent.path not in self._files:
            file = self._opened(extent.path)
            info = os.fstat(file.fileno())
            if (info.st_dev, info.st_ino, info.st_size) != extent.identity:
                file.close()
                raise FormatError(f"{extent.path} was replaced while it was open", do="load the model again")
            self._files[extent.path] = file
        return self._files[extent.path]

    def _opened(self, path: str) -> FileIO:
        if self.direct:
            try:
                file = FileIO(path, opener=lambda name, flags: os.open(name, flags | os.O_DIRECT))
                file.readinto(self._memory[:PAGE].data)
                return file
            except OSError:
                self.direct = False
        return FileIO(path)


def file_rate(path: str, seconds: float = 0.3) -> float:
    """The same of a model's file, or of the largest file of its folder.

    Raises:
        MemfirstError: It cannot be read.
    """
    try:
        files = [os.path.join(path, name) for name in os.listdir(path)] if os.path.isdir(path) else [path]
        info, largest = max(((os.stat(file), file) for file in files), key=lambda found: found[0].st_size)
    except (OSError, ValueError) as error:
        raise BackendError(f"{path} cannot be read: {error}") from error
    whole = Extent(largest, 0, info.st_size, (info.st_dev, info.st_ino, info.st_size))
    return read_rate([whole], seconds)


def read_rate(extents: Sequence[Extent], seconds: float) -> float:
    """Bytes per second that `READERS` threads together read of these extents in about `seconds`, `SLICE` at a time."""
    total = sum(extent.nbytes for extent in extents)
    share = total // READERS
    size = min(SLICE, share)
    end = time.perf_counter() + seconds

    def read(number: int) -> int:
        """Of its own part of the bytes, from the start again where it ends."""
        reader, done = Reader(size), 0
        try:
            while not done or time.perf_counter() < end:
                reader.read(extents, share * number + done % (share - size + 1), size)
                done += size
        finally:
            reader.close()
        return done

    from concurrent.futures import ThreadPoolExecutor  # 4 ms that a plan does without

    start = time.perf_counter()
    with ThreadPoolExecutor(READERS) as pool:
        return sum(pool.map(read, range(READERS))) / (time.perf_counter() - start)


def _within(extents: Sequence[Extent], start: int, nbytes: int) -> Iterator[tuple[Extent, int, int]]:
    """The parts of a range of bytes: extent, first byte in it, length."""
    at = 0
    for extent in extents:
        first, last = max(start, at), min(start + nbytes, at + extent.nbytes)
        if first < last:
            yield extent, first - at, last - first
        at += extent.nbytes


def _drop(file: FileIO, start: int, nbytes: int) -> None:
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.fileno(), start, nbytes, os.POSIX_FADV_DONTNEED)
