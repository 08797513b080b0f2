"""Answers that are sent as they come, and requests whose client goes away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from fastapi import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from memfirst.errors import MemfirstError
from memfirst.server import failures

Result = TypeVar("Result")

EVENTS, LINES = "text/event-stream", "application/x-ndjson"


class ClientGoneError(Exception):
    """The client closed its connection before the answer was there."""


class Stream(Response):
    """A body of events. The first is made before the status is sent, so that a request that is refused is answered by a
    status; a later error is an event. The client's leaving ends it within a step."""

    def __init__(
        self, events: AsyncIterator[str | bytes], headers: Mapping[str, str] | None = None, kind: str = EVENTS
    ) -> None:
        self._events, self._first = events, b""
        super().__init__(b"", headers=dict(headers or {}), media_type=kind)
        del self.headers["content-length"]
        self.headers["cache-control"] = "no-cache"
        self.headers["x-accel-buffering"] = "no"  # proxies of nginx's kind pass events on at once

    async def begin(self) -> Stream:
        """Wait for the first event; raises what refuses the request."""
        self._first = _bytes(await anext(self._events, b""))
        return self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As of ASGI."""
        pump = asyncio.ensure_future(self._pump(send))
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait({pump, gone}, return_when=asyncio.FIRST_COMPLETED)
            if pump.done():
                pump.result()
        finally:
            for task in (pump, gone):
                task.cancel()
            for task in (pump, gone):
                with suppress(asyncio.CancelledError, OSError, TimeoutError):
                    await task

    async def _pump(self, send: Send) -> None:
        async with aclosing(self._events) as events:  # type: ignore[type-var]
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": self._first, "more_body": True})
            async for event in events:
                await send({"type": "http.response.body", "body": _bytes(event), "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


def event(data: Mapping[str, Any] | str, name: str = "") -> str:
    """A server-sent event."""
    text = data if isinstance(data, str) else compact(data)
    return f"event: {name}\ndata: {text}\n\n" if name else f"data: {text}\n\n"


def compact(data: Mapping[str, Any]) -> str:
    """JSON on a line."""
    return _ENCODE(data)


_ENCODE = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
"""Made once: `json.dumps` makes one for each chunk."""


async def guarded(events: AsyncIterator[str]) -> AsyncIterator[str]:
    """The events of an OpenAI stream; what goes wrong after the first becomes one."""
    begun = False
    async with aclosing(events) as inner:  # type: ignore[type-var]
        try:
            async for one in inner:
                yield one
                begun = True
        except MemfirstError as error:
            if not begun:
                raise
            status, code = failures.status_of(error)
            yield event({"error": failures.body(status, str(error), code=code)})


async def unless_gone(request: Request, work: Awaitable[Result]) -> Result:
    """The result of `work`, which is cancelled if the client leaves; ClientGoneError then."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request.receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGoneError
    finally:
        for one in (task, gone):
            if not one.done():
                one.cancel()
                with suppress(asyncio.CancelledError):
                    await one


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _bytes(data: str | bytes) -> bytes:
    return data.encode() if isinstance(data, str) else data
