"""What describes a model, without its weights: config.json, or the header of a GGUF file, by range requests.

    headers/Qwen--Qwen3-0.6B-GGUF/Qwen3-0.6B-Q8_0.gguf     sparse: of the file's size, with its header alone
    headers/meta-llama--Llama-3.1-8B/config.json

A file that is here is opened as if it were whole, but only to read its header: it is no part of the models' cache.
"""

from __future__ import annotations

from pathlib import Path

from memfirst.errors import DownloadError, FormatError
from memfirst.formats.gguf_header import MAX_HEADER, Cursor, alignment_of, read_counts, read_metadata, read_tensor_table
from memfirst.hub import cache
from memfirst.hub.names import Ref, choose
from memfirst.hub.remote import Listing, endpoint, explain, is_offline, list_repo
from memfirst.progress import Progress, Silent

FIRST = 1 << 18
"""Bytes of a GGUF file that are asked for first; as many again as there are, until the header is whole. Vocabularies
of 32,000 tokens take 0.8 MB, of 128,000 with their merges 8 MB."""


def headers() -> Path:
    """Where they are kept: apart from models, as nothing here can be run."""
    return cache.cache_root() / "headers"


def described(ref: Ref, *, offline: bool = False, progress: Progress | None = None) -> Path:
    """The config.json or the header of `ref`'s (first) GGUF file, fetched unless it was before.

    Raises ModelNotFoundError, DownloadError or CapacityError.
    """
    folder = headers() / ref.repo.replace("/", "--")
    if found := _known(folder, ref.quant):
        return found
    if offline or is_offline():
        raise DownloadError(
            f"nothing is known here of {ref.label}, and the network is switched off (--offline or HF_HUB_OFFLINE)",
            do="plan it once with the network on, or give its config.json",
        )
    progress = progress or Silent()
    progress.note(f"asking the hub what {ref.label} is")
    listing = list_repo(ref)
    files = choose(ref, list(listing.files))
    with cache.disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    wanted = files if files[0].lower().endswith(".gguf") else ["config.json"]
    for name in wanted:
        _fetch(ref, listing, name, folder, progress)
    cache.record_request(folder, ref.quant, wanted)
    return folder / wanted[0]


def _known(folder: Path, quant: str) -> Path | None:
    """What an earlier call fetched."""
    manifest = cache.read_manifest(folder)
    files = manifest["requests"].get(quant)
    if not isinstance(files, list) or not files or not all(cache.is_whole(folder, manifest, str(f)) for f in files):
        return None
    return folder / str(files[0])


def _fetch(ref: Ref, listing: Listing, name: str, folder: Path, progress: Progress) -> None:
    from memfirst.hub.transfer import fetch_file

    if not name.lower().endswith(".gguf"):
        fetch_file(ref, listing, name, folder, progress)
        return
    want = listing.files[name]
    front = _header(ref, listing, name, want.size, progress)
    path = folder / name
    with cache.disk_errors(folder):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.part")
        try:
            with part.open("wb") as out:
                out.write(front)
                out.truncate(want.size)
            cache.put_in_place(part, path)
        finally:
            part.unlink(missing_ok=True)
        cache.record(
            folder, name, cache.Stored(want.size, want.digest, f"header of hf:{listing.repo}@{listing.commit}")
        )


def _header(ref: Ref, listing: Listing, name: str, size: int, progress: Progress) -> bytes:
    """The file's first bytes, up to the end of its header at least."""
    front, most = b"", min(size, MAX_HEADER)
    while True:
        front += _range(ref, listing, name, len(front), min(most, max(FIRST, 2 * len(front))))
        progress.update(f"header of {name}", len(front), 0)
        try:
            if _is_whole(front, size, cut=len(front) < most):
                return front
        except FormatError as error:
            raise DownloadError(f"{name} of hf:{ref.repo}: {error.found}", error.expected, error.do) from error


def _is_whole(front: bytes, size: int, cut: bool) -> bool:
    """Whether the header ends within these bytes; FormatError where they are none, or are not cut and make no sense."""
    cursor = Cursor(memoryview(front))
    cursor.file_size = size
    tensors, keys = read_counts(cursor)
    try:
        read_tensor_table(cursor, tensors, alignment_of(read_metadata(cursor, keys)))
    except FormatError:
        if cut:
            return False
        raise
    return True


def _range(ref: Ref, listing: Listing, name: str, start: int, end: int) -> bytes:
    """Bytes start to end of a file; DownloadError where fewer come."""
    from huggingface_hub import get_session, hf_hub_url, hf_raise_for_status

    from memfirst.hub.transfer import IDLE_S, request_headers

    url = hf_hub_url(listing.repo, name, revision=listing.commit, endpoint=endpoint())
    headers = request_headers(0) | {"Range": f"bytes={start}-{end - 1}"}
    taken, skip = bytearray(), 0
    try:
        with get_session().stream("GET", url, headers=headers, timeout=IDLE_S) as response:
            hf_raise_for_status(response)
            skip = start if response.status_code == 200 else 0  # it does not know ranges: from the start, then
            for chunk in response.iter_bytes():
                taken += chunk
                if len(taken) - skip >= end - start:
                    break  # a server that sends more is not listened to
    except Exception as error:
        raise explain(error, ref) from error  # which raises again what is no failure of the hub
    found = bytes(taken[skip : skip + end - start])
    if len(found) < end - start:
        raise DownloadError(f"{name} ended after {start + len(found)} bytes", f"{end} bytes", "run the command again")
    return found
