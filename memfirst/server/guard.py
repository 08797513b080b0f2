"""What stands before every request: who may come, how large it may be, how long it may take.

A server on a loopback address is reachable by every page that a browser on the machine shows: names that an attacker
points there are refused by `Host`, pages by `Origin`, and forms by `Content-Type`.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import math
import re
from collections.abc import Awaitable, Callable, MutableMapping
from hmac import compare_digest
from typing import Any

import numpy as np
from starlette.responses import Response

from memfirst.server import access
from memfirst.server.failures import failure
from memfirst.server.settings import BODY_SECONDS, MOST_BODY, MOST_DEPTH, WRITE_SECONDS, Settings

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN = frozenset({"/", "/page/page.css", "/page/page.js", "/health", "/v1/health"})
"""Paths that need no key: what an orchestrator asks, and the page, whose data does."""

LOCAL = "localhost"
"""The origin that stands for every port of this machine."""

_LOCAL_PAGE = re.compile(r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?")

_STRINGS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
"""A string, or what begins as one and never ends: a pattern that could fail would try again at each quote within."""

_STEPS = np.zeros(256, np.int8)
_STEPS[[*b"[{"]], _STEPS[[*b"]}"]] = 1, -1
"""What a byte does to the depth."""


EXPOSE, EXPOSED = b"access-control-expose-headers", b"x-request-id, x-memfirst-ignored, retry-after"
"""Headers that pages of other origins may read, too."""


class RefusedError(Exception):
    """An answer instead of the request's own."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


class Guard:
    """ASGI middleware: refuses, or hands on a request whose body is here whole."""

    def __init__(self, app: App, settings: Settings) -> None:
        self._app, self._settings = app, settings
        self._keys = [key.encode() for key in settings.keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As of ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(reversed(scope["headers"]))
        send = self._shared(headers, _within(send))
        try:
            self._check_host(headers.get(b"host", b"").decode("latin-1"))
            if scope["method"] == "OPTIONS" and b"access-control-request-method" in headers:
                await self._preflight(headers)(scope, receive, send)
                return
            self._check_origin(headers)
            access.client.set(self._check_key(scope, headers))
            body = await _body(scope, headers, receive) if scope["method"] in ("POST", "PUT", "PATCH") else b""
        except RefusedError as refused:
            response = failure(scope["path"], refused.status, refused.message, code=refused.code)
            if refused.status in (408, 413):
                response.headers["connection"] = "close"
            await response(scope, receive, send)
            return
        except ConnectionResetError:
            return
        await self._app(scope, _replayed(body, receive), send)

    def _check_key(self, scope: Scope, headers: dict[bytes, bytes]) -> str:
        """Whose request it is: the number of its key, without keys its address."""
        if self._keys and scope["path"] not in OPEN:
            given = headers.get(b"authorization", b"").removeprefix(b"Bearer ").strip() or headers.get(
                b"x-api-key", b""
            )
            same = [compare_digest(given, key) for key in self._keys]  # all of them: time says nothing
            if True in same:
                return f"key {same.index(True)}"
            raise RefusedError(
                401, "the API key is missing or wrong: send Authorization: Bearer KEY", "invalid_api_key"
            )
        return str((scope.get("client") or ("",))[0])

    def _check_host(self, host: str) -> None:
        name = host.rsplit(":", 1)[0] if not host.endswith("]") and host.count(":") != 0 else host
        name = name.strip("[]").rstrip(".").lower()
        if name in ("localhost", *self._settings.hosts) or name.endswith(".localhost"):
            return
        try:
            ipaddress.ip_address(name)
        except ValueError:
            raise RefusedError(
                403, f"the Host {host[:80]!r} is not this server's: start it with --allow-host to take that name"
            ) from None

    def _check_origin(self, headers: dict[bytes, bytes]) -> None:
        """A page of another site may not use this server, whatever it would be allowed to read."""
        origin = headers.get(b"origin", b"").decode("latin-1")
        if not origin or self._is_allowed(origin):
            return
        if origin.split("://", 1)[-1] != headers.get(b"host", b"").decode("latin-1"):
            raise RefusedError(403, f"pages of {origin[:80]!r} may not use this server: start it with --allow-origin")

    def _is_allowed(self, origin: str) -> bool:
        known = self._settings.origins
        return origin in known or "*" in known or (LOCAL in known and _LOCAL_PAGE.fullmatch(origin) is not None)

    def _preflight(self, headers: dict[bytes, bytes]) -> Response:
        """What a browser asks before it sends JSON or a key from a page of another origin. Of one that is not allowed
        it hears nothing of what it may, and goes no further."""
        if not self._is_allowed(headers.get(b"origin", b"").decode("latin-1")):
            return Response(status_code=200)
        wanted = headers.get(b"access-control-request-headers", b"").decode("latin-1")
        return Response(status_code=200, headers={
            "access-control-allow-methods": "GET, POST, DELETE, OPTIONS", "access-control-allow-headers": wanted,
            "access-control-max-age": "600",
        })  # fmt: skip

    def _shared(self, headers: dict[bytes, bytes], send: Send) -> Send:
        """A `send` that lets pages of an origin that may use this server read what it answers."""
        origin = headers.get(b"origin", b"")
        if not origin or not self._is_allowed(origin.decode("latin-1")):
            return send

        async def shared(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                more = ((b"access-control-allow-origin", origin), (b"vary", b"origin"), (EXPOSE, EXPOSED))
                message = {**message, "headers": [*message.get("headers", ()), *more]}
            await send(message)

        return shared


async def _body(scope: Scope, headers: dict[bytes, bytes], receive: Receive) -> bytes:
    """The whole body, JSON of bounded size and depth; RefusedError for anything else."""
    said = headers.get(b"content-length", b"")
    if said.isdigit() and int(said) > MOST_BODY:
        raise RefusedError(413, f"a body of {int(said):,} bytes; the most is {MOST_BODY:,}")
    try:
        async with asyncio.timeout(BODY_SECONDS):
            parts, size = [], 0
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ConnectionResetError
                part = message.get("body", b"")
                size += len(part)
                if size > MOST_BODY:
                    raise RefusedError(413, f"a body of more than {MOST_BODY:,} bytes")
                parts.append(part)
                if not message.get("more_body"):
                    break
    except TimeoutError:
        raise RefusedError(408, f"the body did not come within {BODY_SECONDS:.0f} s") from None
    body = b"".join(parts)
    kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
    if body and kind != b"application/json":
        raise RefusedError(415, f"a body of type {kind.decode('latin-1')[:60]!r}: send application/json")
    _check_json(body)
    return body


def _check_json(body: bytes) -> None:
    """RefusedError for what no parser should see: too deep, not UTF-8, half a surrogate pair, NaN."""
    if not body:
        return
    outside = np.frombuffer(_STRINGS.sub(b"", body), np.uint8)
    most = int(np.cumsum(_STEPS[outside], dtype=np.int32).max(initial=0))
    if most > MOST_DEPTH:
        raise RefusedError(400, f"JSON of {most} levels; the most is {MOST_DEPTH}")
    try:
        json.loads(body, parse_constant=_no_number, parse_float=_finite)
        text = body.decode("utf-8")
    except (ValueError, RecursionError) as error:
        raise RefusedError(400, f"the body is no JSON: {str(error)[:200]}") from None
    if "\\ud" in text.lower():
        try:
            json.dumps(json.loads(body), ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            raise RefusedError(400, "the body has half of a surrogate pair: it is no Unicode text") from None


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _finite(digits: str) -> float:
    """A number; one that no float can hold would come back as something else than JSON."""
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"{digits[:40]} is too large a number")
    return value


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body once, then what the connection gives."""
    given = False

    async def again() -> MutableMapping[str, Any]:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return again


def _within(send: Send) -> Send:
    """A `send` that gives up on a client that takes nothing."""

    async def timed(message: MutableMapping[str, Any]) -> None:
        async with asyncio.timeout(WRITE_SECONDS):
            await send(message)

    return timed
