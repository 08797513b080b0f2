"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

from memfirst.errors import CapacityError, MemfirstError


@contextmanager
def replacing(target: str, mode: int = 0o666) -> Iterator[BinaryIO]:
    """A new file that takes the name `target` once it is complete and on disk, and vanishes on any error.

    What is no file (a pipe, a device) is written to, not replaced. `mode` is of a new file, less the process' mask.
    CapacityError for a full disk.
    """
    folder, base = os.path.split(os.path.abspath(target))
    partial = os.path.join(folder, f".{base[:64]}.{secrets.token_hex(4)}.part")
    try:
        if os.path.exists(target) and not os.path.isfile(target) and not os.path.isdir(target):
            with open(target, "wb") as stream:
                yield stream
            return
        with open(partial, "xb", opener=lambda path, flags: os.open(path, flags, mode)) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)
        _sync_folder(folder)
    except BaseException as error:
        with suppress(FileNotFoundError):
            os.unlink(partial)
        if not isinstance(error, OSError):
            raise
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise CapacityError(f"the disk is full: {target} was not written", do="make room") from error
        raise MemfirstError(f"cannot write {target}: {error.strerror}", do="choose another place") from error


def _sync_folder(folder: str) -> None:
    """Make the new name itself durable, where a folder can be opened (not on Windows)."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
