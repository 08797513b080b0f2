"""The model cache: one folder a repository, and a manifest that says which of its files are whole.

    models/Qwen--Qwen3-0.6B-GGUF/Qwen3-0.6B-Q8_0.gguf
    models/Qwen--Qwen3-0.6B-GGUF/memfirst.json      {"requests": {"Q8_0": [...]}, "files": {...}}

A file is in the cache when the manifest names it and its size is right: it was written under another name,
verified, synced and only then renamed. `requests` keeps what each name asked for:
a second call needs no network.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from memfirst.errors import CapacityError, MemfirstError
from memfirst.hub.names import Ref, check_file, check_repo
from memfirst.progress import Progress

MANIFEST = "memfirst.json"
RESERVE = 64_000_000
"""Bytes that a disk keeps free."""


@dataclass(frozen=True)
class Stored:
    """A whole file of the cache: size in bytes, digest ("sha256:…" or "git-sha1:…"), where it came from."""

    size: int
    digest: str
    source: str


def cache_root() -> Path:
    """MEMFIRST_CACHE_DIR, or the system's cache folder for this user."""
    if root := os.environ.get("MEMFIRST_CACHE_DIR"):
        return Path(root).expanduser().absolute()
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("memfirst", appauthor=False))


def repo_dir(repo: str) -> Path:
    """The folder of a repository. `check_repo` forbids "--", "..", and separators inside either part."""
    return cache_root() / "models" / check_repo(repo).replace("/", "--")


@contextmanager
def locked(repo: str, progress: Progress) -> Iterator[Path]:
    """Hold the repository's folder (made where missing) against other processes."""
    from filelock import FileLock, Timeout

    folder, lock_dir = repo_dir(repo), cache_root() / "models" / ".locks"
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock_dir.mkdir(parents=True, exist_ok=True)
        lock = FileLock(lock_dir / f"{folder.name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            progress.note(f"another process is fetching {repo}; waiting for it")
            lock.acquire()
    try:
        yield folder
    finally:
        prune(folder)
        lock.release()


def prune(folder: Path) -> None:
    """Remove folders that hold nothing, deepest first, `folder` included."""
    for below in [*sorted((p for p in folder.rglob("*") if p.is_dir()), reverse=True), folder]:
        if not below.is_symlink() and not any(below.iterdir()):
            below.rmdir()


@contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Turn what a disk says into an error with advice: full, read-only, forbidden."""
    import errno

    try:
        yield
    except OSError as e:
        if e.errno in (errno.ENOSPC, errno.EDQUOT):
            raise CapacityError(f"the disk of {where} is full", do="free some space, or set MEMFIRST_CACHE_DIR") from e
        raise MemfirstError(
            f"cannot write to {where}: {e.strerror}", do="set MEMFIRST_CACHE_DIR to a folder of yours"
        ) from e


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest, or an empty one where it is missing or damaged (its files are then fetched anew)."""
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return {"requests": dict(found["requests"]), "files": dict(found["files"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {"requests": {}, "files": {}}


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Replace the manifest in one step."""
    with disk_errors(folder):
        fd, temporary = tempfile.mkstemp(prefix=f".{MANIFEST}-", dir=folder)
        try:
            with os.fdopen(fd, "w", encoding="utf-8") as f:
                json.dump(manifest, f, indent=1, sort_keys=True)
                f.flush()
                os.fsync(f.fileno())
            os.replace(temporary, folder / MANIFEST)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def is_whole(folder: Path, manifest: dict[str, Any], file: str) -> bool:
    """Whether `file` was verified when it was stored and still has that size."""
    entry = manifest["files"].get(file)
    try:
        return bool(entry) and (folder / check_file(file)).stat().st_size == entry["size"]
    except (OSError, KeyError, TypeError, MemfirstError):
        return False


def lookup(ref: Ref) -> list[Path]:
    """The whole files that `ref` named when it was fetched; empty if any is missing."""
    folder = repo_dir(ref.repo)
    manifest = read_manifest(folder)
    files = manifest["requests"].get(ref.quant, [])
    if not isinstance(files, list) or not all(is_whole(folder, manifest, str(f)) for f in files):
        return []
    return [folder / f for f in files]


def record(folder: Path, file: str, stored: Stored) -> None:
    """`file` is whole: say so in the manifest."""
    manifest = read_manifest(folder)
    manifest["files"][file] = asdict(stored)
    write_manifest(folder, manifest)


def record_request(folder: Path, quant: str, files: list[str]) -> None:
    """`quant` ("" for the default) means these files from now on."""
    manifest = read_manifest(folder)
    manifest["requests"][quant] = files
    write_manifest(folder, manifest)


def forget(folder: Path, quant: str) -> None:
    """Delete the files of a request that no other request shares; when none is left, our leftovers too."""
    manifest = read_manifest(folder)
    gone = set(manifest["requests"].pop(quant))
    gone -= {f for files in manifest["requests"].values() for f in files}
    paths = [folder / check_file(f) for f in sorted(gone)]
    if any(not p.parent.resolve().is_relative_to(folder.resolve()) for p in paths):
        raise MemfirstError(f"{folder} has links that lead out of it", do="nothing was deleted")
    manifest["files"] = {f: e for f, e in manifest["files"].items() if f not in gone}
    write_manifest(folder, manifest)
    if not manifest["requests"]:
        paths += [*folder.rglob("*.part"), folder / MANIFEST]
    with disk_errors(folder):
        for p in paths:
            p.unlink(missing_ok=True)


def require_space(folder: Path, needed: int) -> None:
    """CapacityError unless the disk has `needed` bytes free, and RESERVE for everything else."""
    free = shutil.disk_usage(folder).free
    if free < needed + RESERVE:
        raise CapacityError(
            f"{free / 1e9:.2f} GB are free at {folder}",
            f"{(needed + RESERVE) / 1e9:.2f} GB: {needed / 1e9:.2f} to fetch, {RESERVE / 1e9:.2f} for everything else",
            "free some space, or set MEMFIRST_CACHE_DIR",
        )


def put_in_place(part: Path, final: Path) -> None:
    """Sync `part` to disk and give it its final name, so that a crash leaves the old state or the new."""
    with part.open("rb") as f:
        os.fsync(f.fileno())
    os.replace(part, final)
