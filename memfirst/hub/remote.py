"""What the hub says of a repository: its files, their sizes and digests, at one commit."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass

from memfirst.catalog.models import models
from memfirst.errors import DownloadError, MemfirstError, ModelNotFoundError
from memfirst.hub.names import Ref, check_file

LISTING_TIMEOUT_S = 8.0


@dataclass(frozen=True)
class RemoteFile:
    """One file on offer: size in bytes, digest ("sha256:…", or "git-sha1:…" for files outside LFS)."""

    name: str
    size: int
    digest: str


@dataclass(frozen=True)
class Listing:
    """A repository at one commit."""

    repo: str
    commit: str
    files: Mapping[str, RemoteFile]


def endpoint() -> str:
    """HF_ENDPOINT as it is now, or the public hub."""
    from huggingface_hub import constants

    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids the network."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def transport_errors() -> tuple[type[BaseException], ...]:
    """What a failing connection raises: huggingface_hub 1.x speaks httpx, 2.x httpx2."""
    import importlib

    from huggingface_hub import get_session

    roots = {c.__module__.partition(".")[0] for c in type(get_session()).__mro__}
    clients = [importlib.import_module(r) for r in sorted(roots) if r.startswith("httpx")]
    return tuple(c.TransportError for c in clients)


def list_repo(ref: Ref) -> Listing:
    """The repository's files at the newest commit; one request.

    Raises ModelNotFoundError (no such repository) or DownloadError (gated, unreachable, malformed answer).
    """
    from huggingface_hub import HfApi

    try:
        api = HfApi(endpoint=endpoint())
        info = api.model_info(ref.repo, files_metadata=True, timeout=LISTING_TIMEOUT_S)
    except Exception as e:
        raise explain(e, ref) from e
    files = [_remote_file(s) for s in info.siblings or []]
    return Listing(ref.repo, info.sha or "main", {f.name: f for f in files if f})


def _remote_file(sibling: object) -> RemoteFile | None:
    """A row of the hub's listing; without size or digest it could not be verified, so it is not on offer."""
    name, size = getattr(sibling, "rfilename", None), getattr(sibling, "size", None)
    lfs, blob = getattr(sibling, "lfs", None), getattr(sibling, "blob_id", None)
    digest = f"sha256:{lfs.sha256}" if lfs else f"git-sha1:{blob}" if blob else ""
    if not isinstance(name, str) or not isinstance(size, int) or size < 0 or not digest:
        return None
    try:
        return RemoteFile(check_file(name), size, digest)
    except DownloadError:
        return None


def explain(e: Exception, ref: Ref) -> MemfirstError:
    """The hub client's exception as an error that says what to do; a bug of ours is raised as it is."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    if isinstance(e, GatedRepoError):
        return _gated(ref)
    if isinstance(e, RepositoryNotFoundError):
        return _no_repository(ref)
    if isinstance(e, HfHubHTTPError):
        status = getattr(e.response, "status_code", "?")
        return _gated(ref) if status in (401, 403) else DownloadError(f"the hub answered {status} for hf:{ref.repo}")
    if isinstance(e, OfflineModeIsEnabled):
        return offline(ref)
    if isinstance(e, (*transport_errors(), OSError)):
        reason = f"{type(e).__name__}: {e}".strip().rstrip(":")
        return DownloadError(f"cannot reach the hub at {endpoint()} ({reason})", do="check the network, or HF_ENDPOINT")
    if isinstance(e, (ValueError, KeyError, TypeError)):
        return DownloadError(f"{endpoint()} does not answer like a model hub", do="check HF_ENDPOINT and proxies")
    raise e


def offline(ref: Ref) -> DownloadError:
    """The error for a model that is not in the cache while the network is off limits."""
    return DownloadError(
        f"{ref.label} is not in the cache, and the network is switched off (--offline or HF_HUB_OFFLINE)",
        do="pull it once with the network on",
    )


def _gated(ref: Ref) -> DownloadError:
    from huggingface_hub import get_token

    token = "the token in use has no access" if get_token() else "no token is set"
    return DownloadError(
        f"hf:{ref.repo} is gated or private, and {token}",
        do=f"accept its terms at {endpoint()}/{ref.repo}, then set HF_TOKEN (or run: hf auth login)",
    )


def _no_repository(ref: Ref) -> ModelNotFoundError:
    others = [m.repo for m in models() if m.repo.lower() != ref.repo.lower()]
    close = difflib.get_close_matches(ref.repo, others, n=2, cutoff=0.6)
    hint = f"did you mean {' or '.join(f'hf:{c}' for c in close)}? " if close else ""
    return ModelNotFoundError(
        f"the hub has no repository {ref.repo}, or it is private",
        do=f"{hint}check the name; private ones need HF_TOKEN",
    )
