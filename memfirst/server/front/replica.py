"""A replica as the front door knows it: whether it takes requests, what it serves, how long a request would wait."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

from memfirst.server.front.exchange import Address, Headers, LostError, fetch

BUSY_SECONDS, IDLE_SECONDS = 0.25, 1.0
"""How often a replica is asked how it is, with and without requests of ours. It tells its own numbers five times a
second at most."""
PATIENCE_SECONDS, MISSES = 5.0, 2
"""A replica that lets so many questions in a row wait so long is lost, though its connections stand."""
LEARNS = 0.1
"""What the newest request's time weighs in the mean."""
DEFAULT_SEQUENCES = 16


class Replica:
    """One server behind the front door; `watch` keeps what is known of it.

    up      it takes requests
    models  what it serves, by name; empty: not known
    stats   its /memfirst/stats as last heard; empty for servers that have none
    heard   what it said last, by path
    ours    requests that the front door has there now
    counts  of requests: done, moved (to another, as this one was lost or refused them), broken (streams that ended
            with an error)
    """

    def __init__(self, index: int, url: str, key: str) -> None:
        self.index, self.address = index, Address.of(url)
        self.headers: Headers = [(b"authorization", b"Bearer " + key.encode())] if key else []
        self.up, self.why = False, "not heard of yet"
        self.models: dict[str, dict[str, Any]] = {}
        self.stats: dict[str, Any] = {}
        self.heard: dict[str, bytes] = {}
        self.ours, self.seconds = 0, 1.0
        self.counts = {"done": 0, "moved": 0, "broken": 0}
        self.gone = asyncio.Event()
        """Set once it is lost, for those who wait for an answer of it."""
        self.gone.set()
        self.on_change: list[Callable[[Replica], None]] = []
        self._others, self._kick, self._misses = 0, asyncio.Event(), 0

    # --- what is known

    @property
    def sequences(self) -> int:
        """Requests that share a step there."""
        return int(self.stats.get("sequences") or DEFAULT_SEQUENCES)

    @property
    def live(self) -> int:
        """Requests there: ours now, and those of others when it was asked."""
        return self.ours + self._others

    @property
    def load(self) -> float:
        """Share of its places that are taken; above 1 where requests wait."""
        return self.live / self.sequences

    @property
    def wait(self) -> float:
        """Predicted seconds until a request that comes now is begun: as the replica says, and for those that came
        since, where all places are taken, as long as requests took lately."""
        ahead = max(0, self.live + 1 - self.sequences)
        since = ahead * self.seconds / self.sequences if ahead else 0.0
        return max(float(self.stats.get("predicted_wait") or 0.0), since)

    def ended(self, seconds: float) -> None:
        """A request of ours was answered."""
        self.counts["done"] += 1
        self.seconds += LEARNS * (seconds - self.seconds)

    def lost(self, why: str) -> None:
        """It did not answer: nothing more is sent there until its /health says 200."""
        was, self.up, self.why = self.up, False, why
        self.gone.set()
        self.heard.clear()
        self._kick.set()
        if was:
            self._tell()

    def _tell(self) -> None:
        for tell in self.on_change:
            tell(self)

    # --- asking it

    async def watch(self) -> None:
        """Ask how it is, until cancelled."""
        while True:
            await self.look()
            self._kick.clear()
            try:
                async with asyncio.timeout(BUSY_SECONDS if self.ours or not self.up else IDLE_SECONDS):
                    await self._kick.wait()
                await asyncio.sleep(BUSY_SECONDS / 2)  # it has just broken: not at once again
            except TimeoutError:
                pass

    async def look(self) -> None:
        """Ask once."""
        before = self.ours
        try:
            status, _ = await fetch(self.address, "/health", seconds=PATIENCE_SECONDS)
            if status != 200:
                raise LostError(f"/health says {status}")
            self.stats = await self._json("/memfirst/stats")
            if not self.up:
                listed = await self._json("/v1/models")
                self.models = {m["id"]: m for m in listed.get("data", ()) if isinstance(m, dict) and "id" in m}
        except LostError as error:
            self._misses += 1
            if not self.up or self._misses >= MISSES or "no answer" not in str(error):
                self.lost(str(error))
            return
        self._misses, self._others = 0, max(0, int(self.stats.get("live") or 0) - max(before, self.ours))
        if not self.up:
            self.up, self.why = True, ""
            self.gone.clear()
            self._tell()

    async def _json(self, path: str) -> dict[str, Any]:
        """An object that it tells; nothing where it has none."""
        status, body = await fetch(self.address, path, self.headers, PATIENCE_SECONDS)
        if status in (401, 403):
            raise LostError(f"{path} says {status}: start this server with the --api-key of its replicas")
        try:
            found = json.loads(body) if status == 200 else {}
        except ValueError:
            found = {}
        return found if isinstance(found, dict) else {}

    def about(self) -> dict[str, Any]:
        """For /memfirst/stats."""
        return {
            "url": str(self.address), "up": self.up, "why": self.why, "models": sorted(self.models), "ours": self.ours,
            "live": self.live, "sequences": self.sequences, "predicted_wait": round(self.wait, 3), **self.counts,
        }  # fmt: skip


class InFlight:
    """A request of ours at a replica, while it lasts."""

    def __init__(self, replica: Replica) -> None:
        self._replica, self._began = replica, 0.0

    def __enter__(self) -> InFlight:
        self._replica.ours += 1
        self._began = time.monotonic()
        return self

    def __exit__(self, *exc: object) -> None:
        self._replica.ours -= 1

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._began
