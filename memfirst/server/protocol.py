"""HTTP/1.1 with limits that uvicorn has not: time for headers, their number, connections of one address."""

from __future__ import annotations

import asyncio
from collections import Counter
from ipaddress import ip_address
from typing import Any, ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol

from memfirst.server.settings import CONNECTIONS_PER_ADDRESS, HEADER_SECONDS, MOST_HEADERS


def _here(address: str) -> bool:
    """Of this machine: a proxy has all its clients' connections, and is not to be kept out."""
    return address == "local" or ip_address(address.partition("%")[0]).is_loopback


class LimitedProtocol(H11Protocol):
    """Closes a connection whose headers do not come, and what is too much of one address."""

    addresses: ClassVar[Counter[str]] = Counter()
    _reaper: asyncio.TimerHandle | None = None
    _address = ""

    def connection_made(self, transport: Any) -> None:
        """As of asyncio."""
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        self._address = str(peer[0]) if isinstance(peer, tuple) and peer else "local"
        self.addresses[self._address] += 1
        if not _here(self._address) and self.addresses[self._address] > CONNECTIONS_PER_ADDRESS:
            transport.write(b"HTTP/1.1 429 Too Many Requests\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            transport.close()
            return
        self._reaper = self.loop.call_later(HEADER_SECONDS, self._reap)

    def data_received(self, data: bytes) -> None:
        """As of asyncio. A new request's headers have as long again."""
        if self._reaper is None and (self.cycle is None or self.cycle.response_complete):
            self._reaper = self.loop.call_later(HEADER_SECONDS, self._reap)
        super().data_received(data)

    def handle_events(self) -> None:
        """As of uvicorn's protocol: once headers are whole, nothing is waited for."""
        before = self.cycle
        super().handle_events()
        if self.cycle is not before and self._reaper is not None:
            self._reaper.cancel()
            self._reaper = None
            if self.scope is not None and len(list(self.scope["headers"])) > MOST_HEADERS:
                self.transport.write(
                    b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
                )
                self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """As of asyncio."""
        if self._reaper is not None:
            self._reaper.cancel()
            self._reaper = None
        self.addresses[self._address] -= 1
        if self.addresses[self._address] <= 0:
            del self.addresses[self._address]
        super().connection_lost(exc)

    def _reap(self) -> None:
        """No headers came: an idle connection of a pool sent none either, and is closed later, by keep-alive."""
        self._reaper = None
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()
