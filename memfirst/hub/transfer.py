"""Fetch one file: resumed where it broke, bounded, verified, and only then given its name.

huggingface_hub's own download starts anew after an interruption and trusts the size alone, so the bytes
are moved here, through its session (proxies, tokens, certificates and offline mode stay the user's).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memfirst import __version__
from memfirst.errors import CapacityError, DownloadError
from memfirst.hub.cache import Stored, disk_errors, put_in_place, record, require_space
from memfirst.hub.names import Ref
from memfirst.hub.remote import Listing, RemoteFile, endpoint, explain, transport_errors
from memfirst.progress import Progress

if TYPE_CHECKING:
    from hashlib import _Hash

CHUNK = 1 << 20
TRIES = 5
"""Attempts in a row that may bring no byte before we give up."""
PAUSE_S = 0.5
"""Wait after the first such attempt; doubled each time, so 7.5 s in all."""
IDLE_S = 30.0
"""A connection that brings nothing for so long is broken."""


@dataclass
class Incoming:
    """A file being fetched: `part` holds its first `done` bytes, and `digest` has hashed them."""

    want: RemoteFile
    part: Path
    digest: _Hash
    done: int = 0
    restarts: int = 0

    @property
    def left(self) -> int:
        """Bytes that are missing."""
        return self.want.size - self.done

    def take(self, chunk: bytes, out: Any) -> None:
        """Append `chunk`; DownloadError where it goes past the promised size."""
        if self.done + len(chunk) > self.want.size:
            raise DownloadError(f"{self.want.name} is longer than promised", f"{self.want.size} bytes", "not kept")
        out.write(chunk)
        self.digest.update(chunk)
        self.done += len(chunk)


def hasher(want: RemoteFile) -> _Hash:
    """The hash that `want.digest` names; git hashes "blob SIZE\\0" before the content."""
    if want.digest.startswith("sha256:"):
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % want.size, usedforsecurity=False)


def fetch_file(ref: Ref, listing: Listing, name: str, folder: Path, progress: Progress) -> None:
    """Fetch one file of `listing` into `folder` (locked by the caller) and record it in the manifest."""
    with receiving(listing.files[name], folder, f"hf:{listing.repo}@{listing.commit}") as incoming:
        require_space(folder, incoming.left)
        _receive(ref, listing, incoming, progress)


@contextmanager
def receiving(want: RemoteFile, folder: Path, source: str) -> Iterator[Incoming]:
    """A file to be completed by the caller, then verified, named and recorded as coming from `source`.

    Whatever `source` is, the first bytes of the same file that an earlier attempt left are kept.
    """
    final = folder / want.name
    with disk_errors(folder):
        final.parent.mkdir(parents=True, exist_ok=True)
        incoming = _begin(want, final)
        yield incoming
        _verify(incoming)
        put_in_place(incoming.part, final)
    _drop_other_parts(final)
    record(folder, want.name, Stored(want.size, want.digest, source))


def _begin(want: RemoteFile, final: Path) -> Incoming:
    """Resume what an earlier attempt left; the digest in its name says that it is the same file."""
    tag = want.digest.partition(":")[2][:12]
    incoming = Incoming(want, final.with_name(f"{final.name}.{tag}.part"), hasher(want))
    if incoming.part.exists() and incoming.part.stat().st_size > want.size:
        incoming.part.unlink()
    if incoming.part.exists():
        with incoming.part.open("rb") as f:
            while chunk := f.read(CHUNK):
                incoming.digest.update(chunk)
                incoming.done += len(chunk)
    return incoming


def _drop_other_parts(final: Path) -> None:
    for stale in final.parent.glob("*.part"):
        if stale.name.startswith(f"{final.name}."):
            stale.unlink(missing_ok=True)


def _receive(ref: Ref, listing: Listing, incoming: Incoming, progress: Progress) -> None:
    """Ask until all bytes are here; an attempt that brought some counts as none lost."""
    idle = 0
    while incoming.done < incoming.want.size:
        before, failure = incoming.done, _attempt(ref, listing, incoming, progress)
        idle = 0 if incoming.done > before else idle + 1
        if idle >= TRIES:
            raise failure or _short(incoming)
        if incoming.done < incoming.want.size:
            progress.note(f"{incoming.want.name}: the connection broke at {incoming.done / 1e6:.1f} MB; resuming")
            time.sleep(PAUSE_S * 2 ** max(idle - 1, 0))
    progress.update(incoming.want.name, incoming.want.size, incoming.want.size)


def _short(incoming: Incoming) -> DownloadError:
    return DownloadError(
        f"{incoming.want.name} ended after {incoming.done} bytes",
        f"{incoming.want.size} bytes",
        "run the command again to go on from there",
    )


def _attempt(ref: Ref, listing: Listing, incoming: Incoming, progress: Progress) -> DownloadError | None:
    """One request for the missing bytes. Returns what may be tried again, raises what may not."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        _stream(listing, incoming, progress)
    except HfHubHTTPError as e:
        if e.response.status_code < 500 and e.response.status_code not in (408, 416, 429):
            raise explain(e, ref) from e
        return DownloadError(f"the hub answered {e.response.status_code} for {incoming.want.name}")
    except transport_errors() as e:
        return DownloadError(
            f"the connection broke ({type(e).__name__}) at byte {incoming.done}", do="run it again to resume"
        )
    except CapacityError:
        raise
    except (DownloadError, OSError):
        # Too long, or the disk refuses: what is here is of no use, and may be what fills the disk.
        incoming.part.unlink(missing_ok=True)
        raise
    return None


def request_headers(start: int) -> dict[str, str]:
    """Ask for plain bytes from `start` on, as the user whose token is set (HF_TOKEN, or a login)."""
    from huggingface_hub import get_token

    headers = {"Accept-Encoding": "identity", "User-Agent": f"memfirst/{__version__}"}
    if token := get_token():
        headers["Authorization"] = f"Bearer {token}"
    return headers | ({"Range": f"bytes={start}-"} if start else {})


def _stream(listing: Listing, incoming: Incoming, progress: Progress) -> None:
    from huggingface_hub import get_session, hf_hub_url, hf_raise_for_status

    want = incoming.want
    url = hf_hub_url(listing.repo, want.name, revision=listing.commit, endpoint=endpoint())
    headers = request_headers(incoming.done)
    with get_session().stream("GET", url, headers=headers, timeout=IDLE_S) as response:
        if response.status_code == 416 or (incoming.done and response.status_code == 200):
            _start_over(incoming)  # the server does not resume; a 416 is asked again without a range
        hf_raise_for_status(response)
        with incoming.part.open("ab") as out:
            for chunk in response.iter_bytes():  # as they come: a broken connection loses none
                incoming.take(chunk, out)
                progress.update(want.name, incoming.done, want.size)


def _start_over(incoming: Incoming) -> None:
    """Drop what is here; DownloadError where that happens again and again."""
    if incoming.restarts >= TRIES:
        raise _short(incoming)
    incoming.part.unlink(missing_ok=True)
    incoming.done, incoming.digest, incoming.restarts = 0, hasher(incoming.want), incoming.restarts + 1


def _verify(incoming: Incoming) -> None:
    """DownloadError, and no file left, unless the digest is the promised one."""
    incoming.part.touch()  # an empty file is legal and brings no chunk
    found = f"{incoming.want.digest.partition(':')[0]}:{incoming.digest.hexdigest()}"
    if found != incoming.want.digest:
        incoming.part.unlink(missing_ok=True)
        raise DownloadError(
            f"{incoming.want.name} arrived damaged: its digest is {found}",
            incoming.want.digest,
            "it was not kept; run the command again",
        )
