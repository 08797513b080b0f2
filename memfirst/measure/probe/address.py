"""Where a server is: the URL that a person types, taken apart and checked."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from memfirst.errors import ProbeError

_WANTED = "an address such as http://localhost:8080 or https://host/api"
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Address:
    """`path` is what stands before /v1 and the like: "" or "/api"."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def secure(self) -> bool:
        """True for https."""
        return self.scheme == "https"

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"


def parse(url: str) -> Address:
    """The address that `url` names; without a scheme, http. A trailing /v1 is dropped. ProbeError if it is none."""
    text = url.strip()
    if not text.isascii() or not text.isprintable() or " " in text or len(text) > 2000:
        raise ProbeError(f"{text[:60]!r} is no URL", _WANTED)
    text = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:  # "[::1", a port that is no number or above 65535
        raise ProbeError(f"{url[:60]!r} is no URL: {error}", _WANTED) from error
    if parts.scheme not in _PORTS or not parts.hostname or parts.query or parts.fragment:
        raise ProbeError(f"{url[:60]!r} is no server's URL", _WANTED, "leave out what follows ? and #")
    if parts.username is not None:
        raise ProbeError("the URL holds a user or a password", _WANTED, "give a key by --api-key")
    path = parts.path.rstrip("/").removesuffix("/v1")
    return Address(parts.scheme, parts.hostname, port or _PORTS[parts.scheme], path)
