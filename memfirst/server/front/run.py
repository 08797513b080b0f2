"""From replicas' addresses to a front door that runs until it is told to stop."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from memfirst.errors import ConfigError
from memfirst.progress import Progress
from memfirst.server.access import Access, open_log
from memfirst.server.front.door import FrontDoor
from memfirst.server.front.replica import Replica
from memfirst.server.guard import Guard
from memfirst.server.run import Http
from memfirst.server.settings import DRAIN_SECONDS, Settings
from memfirst.server.signals import stop_on_signals

MOST_REPLICAS = 256


class FrontServer:
    """A front door on a socket.

    Raises:
        ConfigError: A replica's address is none, or is given twice.
    """

    def __init__(self, urls: Sequence[str], settings: Settings, listening: socket.socket, progress: Progress) -> None:
        key = settings.keys[0] if settings.keys else ""
        replicas = [Replica(i, url, key) for i, url in enumerate(urls)]
        addresses = [replica.address for replica in replicas]
        if len(set(addresses)) < len(addresses) or len(addresses) > MOST_REPLICAS:
            raise ConfigError(f"{len(addresses)} replicas", f"at most {MOST_REPLICAS}, each given once")
        self._listening, self._progress = listening, progress
        self.door = FrontDoor(replicas, settings)
        for replica in replicas:
            replica.on_change.append(self._note)
        self._http = Http(Access(Guard(self.door, settings), open_log(settings.access_log)), listening)
        self._stopped = asyncio.Event()

    def _note(self, replica: Replica) -> None:
        what = "takes requests" if replica.up else f"is lost: {replica.why}"
        self._progress.note(f"replica {replica.index + 1}, {replica.address}, {what}")

    @property
    def port(self) -> int:
        """Where it listens."""
        found: int = self._listening.getsockname()[1]
        return found

    async def run(self, ready: Callable[[FrontServer], None] | None = None) -> None:
        """Serve until a signal says stop, then let answers end. `ready` is called once every replica was asked."""
        stop_on_signals(self.stop)
        await asyncio.gather(*(replica.look() for replica in self.door.replicas))
        for replica in self.door.replicas:
            if not replica.up:
                self._note(replica)
        watching = asyncio.ensure_future(self.door.watch())
        http = asyncio.ensure_future(self._http.run())
        try:
            if ready is not None:
                ready(self)
            await self._stopped.wait()
            deadline = time.monotonic() + DRAIN_SECONDS
            while self.door.live and time.monotonic() < deadline and not self.door.closing.is_set():
                await asyncio.sleep(0.02)
            self.door.closing.set()
            self._http.stop()
            await http
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
            self._listening.close()

    def stop(self) -> None:
        """As a signal does: let answers end, within `DRAIN_SECONDS`; a second one ends them now."""
        if self._stopped.is_set():
            self.door.closing.set()
        self._stopped.set()
