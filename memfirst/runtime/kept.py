"""Opening the page file of a model: how large, where, and what of an earlier process may be used."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path

from memfirst import __version__
from memfirst.backends.base import Backend
from memfirst.formats.checkpoint import Checkpoint
from memfirst.graph import RELEASED
from memfirst.hub.cache import RESERVE, cache_root
from memfirst.kernels.cpu import isa
from memfirst.progress import Progress
from memfirst.runtime.kv_memory import KVMemory
from memfirst.runtime.page_file import MOST_PARTS, PageFile
from memfirst.runtime.paging import Paging

SAMPLE = 4096
"""Bytes of each tensor's beginning, middle and end that name the weights."""


def open_page_file(
    memory: KVMemory, backend: Backend, checkpoint: Checkpoint, nbytes: int, keep: bool, progress: Progress
) -> None:
    """Give `memory` a page file of so many bytes, with the pages that an earlier process kept for the same weights and
    codecs. Where none can be had, pages that have to leave memory are computed again, and a note says why."""
    storage, groups = backend.storage, backend.graph.cache_groups
    if storage is None or len(groups) >= MOST_PARTS:
        return
    folder = cache_root() / "kv"
    digest = digest_of(checkpoint, backend) if keep else b""
    path = folder / f"{digest.hex()}.pages" if keep else None
    sizes = [group.block_bytes for group in groups] + [storage.states.shape[1] if memory.recurrent else 0]
    try:
        file = _opened(sizes, nbytes, folder, path)
    except BlockingIOError:
        progress.note(f"{path} belongs to another process: this one keeps no prefixes")
        path = None
        file = _opened(sizes, nbytes, folder, None)
    except OSError as error:
        progress.note(f"no page file in {folder} ({error.strerror}): what leaves memory is computed again")
        return
    paging = memory.prefixes.paging = Paging(file, storage, path is not None, digest)
    if path is not None and (found := paging.load(memory.prefixes.root, [RELEASED] * len(groups))):
        progress.note(f"{found} pages of {memory.size} tokens are kept in {path}")


def _opened(sizes: list[int], nbytes: int, folder: Path, path: Path | None) -> PageFile:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    there = path.stat().st_size if path is not None and path.exists() else 0
    room = shutil.disk_usage(folder).free + there - RESERVE
    return PageFile(sizes, min(nbytes, max(0, room)), folder, path)


def digest_of(checkpoint: Checkpoint, backend: Backend) -> bytes:
    """A name for what these weights and kernels would cache: other weights, codecs, versions or instructions have
    another. Of a GGUF file parts of every tensor count; of a folder its files' names, sizes and times."""
    made = blake2b(f"{__version__} {isa.detect()} {backend.graph.architecture}\n".encode(), digest_size=16)
    for group in backend.graph.cache_groups:
        for cache in group.caches:
            made.update(repr(cache).encode())
    for name, info in sorted(checkpoint.tensors.items()):
        made.update(f"{name} {info.shape} {info.codec}\n".encode())
        if checkpoint.kind == "gguf":
            data = checkpoint.read(name).reshape(-1)
            for at in (0, len(data) // 2, max(0, len(data) - SAMPLE)):
                made.update(data[at : at + SAMPLE].tobytes())
    for file in _files(checkpoint.path):
        stat = file.stat()
        made.update(f"{file.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return made.digest()


def _files(path: str) -> Iterable[Path]:
    if not path or not Path(path).exists():
        return ()
    place = Path(path)
    return (place,) if place.is_file() else sorted(one for one in place.iterdir() if one.is_file())
