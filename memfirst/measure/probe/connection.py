"""HTTP over sockets whose every read is watched, so that a server that drips bytes cannot outlast the deadline."""

from __future__ import annotations

import http.client
import io
import socket
from typing import TYPE_CHECKING

from memfirst.measure.probe.address import Address
from memfirst.measure.probe.limits import Watch

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

POLL_S = 0.2
"""How soon a thread that waits for bytes notices the deadline or an interruption."""

CONNECT_S = 10.0


class _Reader(io.RawIOBase):
    """The receiving half of a socket."""

    def __init__(self, sock: socket.socket, watch: Watch) -> None:
        self._sock, self._watch = sock, watch

    def readable(self) -> bool:
        """What BufferedReader asks."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Some bytes, 0 at the end; the watch raises where it takes too long."""
        self._sock.settimeout(POLL_S)
        while True:
            self._watch.check()
            try:
                return self._sock.recv_into(memoryview(buffer).cast("B"))
            except TimeoutError:
                continue


class WatchedSocket:
    """The part of a socket that http.client uses. It closes us when the headers say so, with the body still to be
    read, so `close` waits for `shut`."""

    def __init__(self, sock: socket.socket, watch: Watch) -> None:
        self._sock, self._watch = sock, watch

    def makefile(self, mode: str) -> io.BufferedReader:
        """The stream that responses are read from."""
        return io.BufferedReader(_Reader(self._sock, self._watch))

    def sendall(self, data: ReadableBuffer) -> None:
        """Send a request within the time that is left."""
        self._watch.check()
        self._sock.settimeout(self._watch.limits.left_s + 0.001)
        self._sock.sendall(data)

    def close(self) -> None:
        """Nothing yet."""

    def shut(self) -> None:
        """Close, whoever reads."""
        self._sock.close()


class _Plain(http.client.HTTPConnection):
    """http."""

    watch: Watch
    watched: WatchedSocket

    def connect(self) -> None:
        """Connect, and watch from then on."""
        super().connect()
        self.sock = self.watched = WatchedSocket(self.sock, self.watch)


class _Secure(http.client.HTTPSConnection):
    """https, certificates checked."""

    watch: Watch
    watched: WatchedSocket

    def connect(self) -> None:
        """Connect, and watch from then on."""
        super().connect()
        self.sock = self.watched = WatchedSocket(self.sock, self.watch)


def connect(address: Address, watch: Watch) -> _Plain | _Secure:
    """A new connection; OSError where there is nobody."""
    kind = _Secure if address.secure else _Plain
    patience = max(0.001, min(CONNECT_S, watch.limits.left_s))
    connection = kind(address.host, address.port, timeout=patience)
    connection.watch = watch
    connection.connect()
    return connection
