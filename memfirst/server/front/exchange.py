"""One HTTP/1.1 request to a replica over a connection of its own, by h11: the response's parts come as they arrive."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import h11

from memfirst.errors import ConfigError

CONNECT_SECONDS = 5.0
"""A machine that is there answers a SYN within a round trip; a lost SYN is sent again after 1 and 3 s."""
READ = 64 << 10

Headers = Sequence[tuple[bytes, bytes]]


class LostError(Exception):
    """A replica cannot be reached, or its connection broke before the response was whole."""


@dataclass(frozen=True)
class Address:
    """Where a replica listens. `prefix` is the path that its endpoints are below."""

    host: str
    port: int
    tls: bool = False
    prefix: str = ""

    @staticmethod
    def of(url: str) -> Address:
        """From http://HOST:PORT or https://HOST[/PREFIX]; a /v1 at the end is what clients' base URLs have.

        Raises:
            ConfigError: It is no such address.
        """
        try:
            found = urlsplit(url)
            port = found.port
        except ValueError:
            found, port = urlsplit(""), None
        if found.scheme not in ("http", "https") or not found.hostname or found.query or found.username:
            raise ConfigError(
                f"the replica {url[:100]!r}", "http://HOST:PORT", "give the address that memfirst serve said on start"
            )
        tls = found.scheme == "https"
        prefix = found.path.rstrip("/").removesuffix("/v1")
        return Address(found.hostname, port or (443 if tls else 80), tls, prefix)

    @property
    def authority(self) -> str:
        """Host and port, as in the header Host."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"http{'s' * self.tls}://{self.authority}{self.prefix}"


class Exchange:
    """A request that was sent; `head` waits for the response, `body` gives its parts."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._http = h11.Connection(h11.CLIENT)

    async def send(self, address: Address, method: str, target: str, headers: Headers, body: bytes) -> None:
        """The whole request; LostError where the connection breaks."""
        fixed = [(b"host", address.authority.encode()), (b"connection", b"close")]
        if body or method == "POST":
            fixed.append((b"content-length", str(len(body)).encode()))
        request = h11.Request(method=method, target=address.prefix + target, headers=[*fixed, *headers])
        data = self._http.send(request) or b""
        if body:
            data += self._http.send(h11.Data(body)) or b""
        data += self._http.send(h11.EndOfMessage()) or b""
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError as error:
            raise LostError(str(error)) from None

    async def head(self) -> tuple[int, list[tuple[bytes, bytes]]]:
        """Status and headers."""
        while True:
            event = await self._next()
            if isinstance(event, h11.Response):
                return event.status_code, list(event.headers)
            if not isinstance(event, h11.InformationalResponse):
                raise LostError("the connection was closed before an answer")

    async def body(self) -> AsyncIterator[bytes]:
        """Parts of the body; LostError where it ends before its end."""
        while True:
            event = await self._next()
            if isinstance(event, h11.Data):
                yield bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return
            else:
                raise LostError("the connection was closed within an answer")

    async def _next(self) -> Any:
        try:
            while (event := self._http.next_event()) is h11.NEED_DATA:
                self._http.receive_data(await self._reader.read(READ))
        except (OSError, h11.RemoteProtocolError) as error:
            raise LostError(str(error)) from None
        return event


@asynccontextmanager
async def exchange(
    address: Address, method: str, target: str, headers: Headers = (), body: bytes = b""
) -> AsyncIterator[Exchange]:
    """Send a request; the connection is closed at the end, which cancels what the replica does for it.

    Raises:
        LostError: There is no connection within `CONNECT_SECONDS`, or it breaks.
    """
    context = ssl.create_default_context() if address.tls else None
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            reader, writer = await asyncio.open_connection(address.host, address.port, ssl=context)
    except (OSError, TimeoutError) as error:
        raise LostError(str(error) or f"no connection within {CONNECT_SECONDS:.0f} s") from None
    try:
        made = Exchange(reader, writer)
        await made.send(address, method, target, headers, body)
        yield made
    finally:
        writer.close()
        with suppress(OSError, asyncio.CancelledError):
            await writer.wait_closed()


async def fetch(address: Address, target: str, headers: Headers = (), seconds: float = 5.0) -> tuple[int, bytes]:
    """GET: status and the whole body. LostError where that takes longer than `seconds`."""
    try:
        async with asyncio.timeout(seconds), exchange(address, "GET", target, headers) as asked:
            status, _ = await asked.head()
            return status, b"".join([part async for part in asked.body()])
    except TimeoutError:
        raise LostError(f"no answer within {seconds:.0f} s") from None
