"""A model hub on loopback that does what a test tells it to: break off, lie, refuse."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FakeRepo:
    """Files by name, and what goes wrong with them.

    small        names that are not in LFS: their digest is git's SHA-1
    breaks       connections that are cut, each after so many bytes of its body
    replace      bytes sent instead of those that the listing promised
    elsewhere    address of another server that files are redirected to
    """

    files: dict[str, bytes]
    small: frozenset[str] = frozenset()
    gated: bool = False
    breaks: list[int] = field(default_factory=list)
    replace: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    failures: list[int] = field(default_factory=list)
    elsewhere: str = ""


@dataclass
class FakeHub:
    """The server's address, its repositories, and every request it got: (path, Range, Authorization)."""

    url: str
    repos: dict[str, FakeRepo] = field(default_factory=dict)
    requests: list[tuple[str, str, str]] = field(default_factory=list)

    def downloads(self) -> list[tuple[str, str]]:
        """(file, Range) of each request for a file's bytes."""
        return [(p.rpartition("/")[2], r) for p, r, _ in self.requests if "/resolve/" in p]


def row(name: str, data: bytes, small: bool) -> dict[str, object]:
    """A file as the hub lists it."""
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    lfs = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "pointerSize": 130}
    return {"rfilename": name, "size": len(data), "blobId": blob} | ({} if small else {"lfs": lfs})


class Handler(BaseHTTPRequestHandler):
    """Answers /api/models/OWNER/NAME and /OWNER/NAME/resolve/COMMIT/FILE."""

    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def log_message(self, *args: object) -> None:
        """Tests want quiet."""

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        """One whole response."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        """Route by path."""
        path = self.path.partition("?")[0]
        self.hub.requests.append((path, self.headers.get("Range", ""), self.headers.get("Authorization", "")))
        parts = path.strip("/").split("/")
        listing = parts[:2] == ["api", "models"]
        repo = self.hub.repos.get("/".join(parts[2:4] if listing else parts[:2]))
        if repo is None:
            return self.answer(401, b"{}", X_Error_Code="RepoNotFound")
        if repo.failures:
            return self.answer(repo.failures.pop(0), b"{}")
        if listing:
            rows = [row(n, d, n in repo.small) for n, d in repo.files.items()]
            body = {"id": "/".join(parts[2:4]), "sha": COMMIT, "siblings": rows, "tags": []}
            return self.answer(200, json.dumps(body).encode(), Content_Type="application/json")
        if repo.elsewhere:
            return self.answer(302, Location=repo.elsewhere + path)
        return self.send_file(repo, "/".join(parts[4:]))

    def send_file(self, repo: FakeRepo, name: str) -> None:
        """The file's bytes from the asked start on, perhaps cut short."""
        if repo.gated and not self.headers.get("Authorization"):
            return self.answer(403, b"{}", X_Error_Code="GatedRepo", X_Error_Message="Access is restricted.")
        data = repo.replace.get(name, repo.files[name])
        first, _, last = self.headers.get("Range", "bytes=0-")[6:].partition("-") if repo.ranges else ("0", "", "")
        start, end = int(first), int(last) + 1 if last else len(data)
        if start and start >= len(data):
            return self.answer(416)
        body = data[start:end]
        self.send_response(206 if start or last else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if repo.breaks:
            self.wfile.write(body[: repo.breaks.pop(0)])
            self.close_connection = True
            return None
        self.wfile.write(body)
        return None


@contextmanager
def serve() -> Iterator[FakeHub]:
    """A fresh hub for the length of a test."""
    handler = type("BoundHandler", (Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    handler.hub = FakeHub(f"http://127.0.0.1:{server.server_port}")  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield handler.hub  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
