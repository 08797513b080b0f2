"""One file for pages that have to leave memory: what is paged out, and with a name, the prefix cache across restarts.

A record has a head of 512 bytes and room for a block of each cache group and a slot of state; only what a page has is
written. The head holds the page's tokens, digests that name it and its parent, and checksums of the head and of each
part, so that a record which was cut short, damaged or written for other weights is never taken for a page. Without a
name the file is unlinked at once: it ends with the process.
"""

from __future__ import annotations

import contextlib
import os
import struct
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MAGIC = b"memfkv1\0"
MOST_PARTS = 9
_HEAD = struct.Struct(f"<8sIIII16s16s{MOST_PARTS}I")
HEAD_BYTES = 512
RATE = 1e9
"""Bytes per second of reading, as long as none was measured."""
LEARNS = 0.2

Part = NDArray[np.uint8]


class Head(NamedTuple):
    """What a record says of its page.

    key, parent  digests of all tokens up to its end and up to its beginning, with the file's own
    tokens       of the page
    parts        which are there: cache groups by number, then the state; with their checksums
    """

    key: bytes
    parent: bytes
    tokens: tuple[int, ...]
    parts: Mapping[int, int]


def key_of(parent: bytes, tokens: Sequence[int]) -> bytes:
    """The digest of a page by that of its parent."""
    return blake2b(parent + np.asarray(tokens, "<i4").tobytes(), digest_size=16).digest()


class PageFile:
    """Records of a fixed size, some of them free.

    sizes  bytes of each part
    most   bytes of all records together at most
    path   where the file is kept; None: in `folder` without a name
    """

    def __init__(self, sizes: Sequence[int], most: int, folder: Path, path: Path | None = None) -> None:
        if len(sizes) > MOST_PARTS:
            raise ValueError(f"{len(sizes)} parts, at most {MOST_PARTS}")
        self._sizes = tuple(sizes)
        *self._at, self.record_bytes = accumulate(sizes, initial=HEAD_BYTES)
        self.total = max(0, most // self.record_bytes)
        self._free = list(range(self.total - 1, -1, -1))
        self._parts: dict[int, dict[int, int]] = {}
        self.written_bytes = self.read_bytes = 0
        self.rate = RATE
        """Measured bytes per second of reading."""
        self.failed = ""
        """Why nothing more is written; "" as long as that works."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.kept = path is not None
        self._fd = _kept(path) if path is not None else _nameless(folder)

    @property
    def used(self) -> int:
        """Records that hold a page."""
        return self.total - len(self._free)

    @property
    def free(self) -> int:
        """Records that hold none."""
        return len(self._free)

    def parts(self, record: int) -> Mapping[int, int]:
        """What a record has."""
        return self._parts.get(record, {})

    def write(self, record: int | None, head: Head, parts: Mapping[int, Part]) -> int | None:
        """Write parts of a page into its record, or a new one; None where there is no room, or the disk fails."""
        if self.failed or (record is None and not self._free):
            return None
        at = self._free.pop() if record is None else record
        known = self._parts.setdefault(at, {})
        start = at * self.record_bytes
        try:
            for part, data in parts.items():
                _whole(os.pwrite(self._fd, data.data, start + self._at[part]), data.nbytes)
                known[part] = zlib.crc32(data.data)
                self.written_bytes += data.nbytes
            packed = _packed(head._replace(parts=known))
            _whole(os.pwrite(self._fd, packed, start), len(packed))
        except OSError as error:
            self.failed = f"{error.strerror or error}"
            if record is None:
                self.release(at)
            return None
        return at

    def read(self, record: int, parts: Mapping[int, Part]) -> bool:
        """Read parts of a record into their places; False where they are not what was written."""
        known, start, begun = self._parts.get(record, {}), record * self.record_bytes, time.perf_counter()
        size = 0
        for part, data in parts.items():
            try:
                got = os.preadv(self._fd, [data.data], start + self._at[part])
            except OSError:
                return False
            if got != data.nbytes or known.get(part) != zlib.crc32(data.data):
                return False
            size += data.nbytes
        self.read_bytes += size
        seconds = time.perf_counter() - begun
        if size and seconds > 0:
            self.rate += LEARNS * (size / seconds - self.rate)
        return True

    def release(self, record: int) -> None:
        """A record is free."""
        if self._parts.pop(record, None) is None:
            return
        self._free.append(record)
        if self.kept:
            with contextlib.suppress(OSError):
                os.pwrite(self._fd, bytes(HEAD_BYTES), record * self.record_bytes)

    def rebuild(self, held: Iterator[int]) -> None:
        """Free all records but these: after an interruption."""
        alive = set(held)
        self._parts = {record: parts for record, parts in self._parts.items() if record in alive}
        self._free = [record for record in range(self.total - 1, -1, -1) if record not in alive]

    def load(self) -> Iterator[tuple[int, Head]]:
        """Records of an earlier process, each now in use; what is damaged is skipped."""
        size = os.fstat(self._fd).st_size
        for record in range(min(self.total, -(-size // self.record_bytes))):
            head = _unpacked(os.pread(self._fd, HEAD_BYTES, record * self.record_bytes), len(self._sizes))
            if head is not None:
                self._parts[record] = dict(head.parts)
                yield record, head
        self._free = [record for record in range(self.total - 1, -1, -1) if record not in self._parts]

    def close(self) -> None:
        """Close the file. A second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _whole(done: int, wanted: int) -> None:
    if done != wanted:
        raise OSError(28, "no space left on device")


def _nameless(folder: Path) -> int:
    fd, name = tempfile.mkstemp(prefix="pages-", dir=folder)  # for this user alone
    os.unlink(name)
    return fd


def _kept(path: Path) -> int:
    """A file for this process alone; BlockingIOError where another one has it."""
    import fcntl

    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.fchmod(fd, 0o600)
    except OSError:
        os.close(fd)
        raise
    return fd


def _packed(head: Head) -> bytes:
    mask = sum(1 << part for part in head.parts)
    sums = [head.parts.get(part, 0) for part in range(MOST_PARTS)]
    tokens = np.asarray(head.tokens, "<i4").tobytes()
    fields = (MAGIC, 0, mask, len(head.tokens), 0, head.key, head.parent, *sums)
    body = (_HEAD.pack(*fields) + tokens).ljust(HEAD_BYTES, b"\0")
    return body[:8] + struct.pack("<I", zlib.crc32(body[12:])) + body[12:]


def _unpacked(data: bytes, parts: int) -> Head | None:
    """A record's head; None for what is none."""
    if len(data) != HEAD_BYTES or data[:8] != MAGIC or struct.unpack_from("<I", data, 8)[0] != zlib.crc32(data[12:]):
        return None
    _, _, mask, count, _, key, parent, *sums = _HEAD.unpack_from(data)
    if mask >> parts or _HEAD.size + 4 * count > HEAD_BYTES:
        return None
    tokens = tuple(np.frombuffer(data, "<i4", count, _HEAD.size).tolist())
    if key != key_of(parent, tokens):
        return None
    return Head(key, parent, tokens, {part: sums[part] for part in range(MOST_PARTS) if mask >> part & 1})
