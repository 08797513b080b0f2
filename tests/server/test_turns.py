"""Clients of a server by their keys or addresses: who is taken where the queue is full."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from memfirst.server import access
from memfirst.server.engine import Loading
from memfirst.server.guard import Guard
from memfirst.server.link import Answer, EngineLink, QueueFullError
from memfirst.server.messages import Loaded, Stats
from memfirst.server.settings import Settings


def link(queue: int, wait: float = 120.0, **live: int) -> EngineLink:
    """A link to no engine, two requests a step, so many live ones of each client."""
    made = EngineLink(Loading("none"), queue, wait)
    made.state, made.loaded = "ready", Loaded("llama", 512, 512, 2, 64, [8], [1], {}, 1, "q4_0", 1, 512)
    for client, count in live.items():
        for _ in range(count):
            made._live[len(made._live)] = Answer(made, len(made._live), client)
    return made


def test_a_full_queue_takes_who_has_less_than_a_share_of_it() -> None:
    full = link(8, many=10)
    with pytest.raises(QueueFullError, match="9 requests are waiting; expected at most 8"):
        full.check_open(client="many")
    full.check_open(client="one")
    full.check_open(4, "one")
    with pytest.raises(QueueFullError):
        full.check_open(5, "one")  # half of the queue
    with pytest.raises(QueueFullError):
        link(8, many=18).check_open(client="one")  # twice the queue is the end
    link(8, many=9).check_open(client="many")


def test_the_wait_that_is_predicted_is_that_of_a_clients_turns() -> None:
    busy = link(256, 10.0, many=98, one=0)
    busy.stats = Stats(0, 0, 0, 0, 0.0, {}, [], [], [0] * 98, 0, 0.0, 0.0, {}, 60.0)  # type: ignore[list-item]
    with pytest.raises(QueueFullError, match="a wait of 60 s is predicted"):
        busy.check_open(client="many")
    busy.check_open(client="one")


def test_a_client_is_its_key_or_its_address() -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(access.client.get())

    async def ask(guard: Guard, key: str, address: str) -> None:
        headers = [(b"host", b"localhost"), (b"authorization", f"Bearer {key}".encode())]
        scope = {"type": "http", "method": "GET", "path": "/x", "headers": headers, "client": (address, 1)}

        async def nothing(*given: Any) -> Any:
            return {"type": "http.disconnect"}

        await guard(scope, nothing, nothing)

    async def all_of_them() -> None:
        keyed, open_ = Guard(app, Settings("m", keys=("a", "b"))), Guard(app, Settings("m"))
        for key, address in (("a", "1.1.1.1"), ("b", "1.1.1.1"), ("a", "2.2.2.2"), ("c", "1.1.1.1")):
            await ask(keyed, key, address)
        await ask(open_, "", "1.1.1.1")

    asyncio.run(all_of_them())
    assert seen == ["key 0", "key 1", "key 0", "1.1.1.1"]
