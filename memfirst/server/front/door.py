"""The front door as an ASGI application: a request goes to a replica and its answer comes back as it is made.

A request that has given its client nothing yet is moved when its replica is lost or refuses it for want of room; a
stream that has begun ends with an error event. Answers that are no streams are passed on when they are whole, so that
they can be moved until their end.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from contextlib import aclosing, suppress
from typing import Any
from urllib.parse import quote

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from starlette.responses import JSONResponse, Response

from memfirst.server import failures, live
from memfirst.server.front import sums
from memfirst.server.front.choice import Choice, pages_of
from memfirst.server.front.exchange import Exchange, Headers, LostError, exchange, fetch
from memfirst.server.front.replica import InFlight, Replica
from memfirst.server.settings import Settings
from memfirst.server.stream import EVENTS, LINES, compact, event

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

RETURN_SECONDS = 10.0
"""A request for which no replica is up waits for one so long: a restarted process takes some seconds."""
MOST_HELD = 32 << 20
"""Bytes of an answer that is held back until it is whole; a longer one is passed on, and can then break."""
OF_CONNECTION = {
    b"connection", b"keep-alive", b"transfer-encoding", b"te", b"trailer", b"upgrade", b"proxy-authenticate",
    b"proxy-authorization", b"proxy-connection", b"host", b"expect",
}  # fmt: skip
"""Headers that are about one connection, not about the request (RFC 9110, 7.6.1)."""
NOT_ASKED = OF_CONNECTION | {b"origin", b"content-length", b"accept-encoding"}
NOT_ANSWERED = OF_CONNECTION | {b"date", b"server", b"x-request-id", b"content-length"}
LOST, LEAVING = "the replica that answered was lost; ask again", "the server is shutting down"
PAGE = {"/": "index.html", "/page/page.css": "page.css", "/page/page.js": "page.js"}


class RefusedThereError(Exception):
    """A replica has no room: 503, which is passed on if no other has."""

    def __init__(self, response: Response) -> None:
        super().__init__()
        self.response = response


class BrokenError(Exception):
    """The replica was lost within an answer that the client has begun to read."""


class FrontDoor:
    """ASGI application over `replicas`; `watch` keeps what is known of them."""

    def __init__(self, replicas: Sequence[Replica], settings: Settings) -> None:
        self.replicas, self._settings = list(replicas), settings
        self._choice = Choice(replicas)
        self._changed = asyncio.Event()
        self._began = time.time()
        self.closing = asyncio.Event()
        """Set when answers have to end now."""
        for replica in self.replicas:
            replica.on_change += [self._choice.forget, self._on_change]

    def _on_change(self, replica: Replica) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    @property
    def live(self) -> int:
        """Requests that have not been answered whole."""
        return sum(replica.ours for replica in self.replicas)

    async def watch(self) -> None:
        """Ask all replicas how they are, until cancelled."""
        await asyncio.gather(*(replica.watch() for replica in self.replicas))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As of ASGI."""
        if scope["type"] != "http":
            return
        body = (await receive()).get("body", b"")
        work = asyncio.ensure_future(self._answer(scope, body, send))
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        finally:
            for task in (work, gone):
                task.cancel()
            for task in (work, gone):
                with suppress(asyncio.CancelledError, OSError, TimeoutError):
                    await task

    async def _answer(self, scope: Scope, body: bytes, send: Send) -> None:
        path, get = scope["path"], scope["method"] in ("GET", "HEAD")
        if get and path in PAGE and self._settings.page:
            response: Response = live.page_file(PAGE[path])
        elif get and path in ("/health", "/v1/health"):
            response = self._health(path)
        elif get and path in ("/v1/models", "/models"):
            response = JSONResponse({"object": "list", "data": self._models()})
        elif get and path == "/memfirst/stats":
            response = JSONResponse(await self._stats())
        elif get and path == "/metrics":
            response = await self._metrics(scope)
        else:
            await self._forward(scope, body, send)
            return
        await response(scope, _nothing, send)

    # --- what it says itself

    def _health(self, path: str) -> Response:
        up = sum(replica.up for replica in self.replicas)
        if up:
            return JSONResponse({"status": "ok", "replicas": {"up": up, "all": len(self.replicas)}})
        why = "; ".join(f"{r.index + 1}: {r.why}" for r in self.replicas)
        return failures.failure(path, 503, f"no replica takes requests ({why})", code="unavailable")

    def _models(self) -> list[dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for replica in self.replicas:
            if replica.up:
                found = {**replica.models, **found}
        return list(found.values())

    async def _stats(self) -> dict[str, Any]:
        said = await asyncio.gather(*(_asked(r, "/memfirst/stats", r.headers) for r in self.replicas))
        found = [json.loads(text) for text in said if text]
        about = {"up_s": round(time.time() - self._began, 1), "replicas": [r.about() for r in self.replicas]}
        return (
            sums.stats(found) | about if found else {"model": "", "state": "starting", "live": 0, "waiting": 0} | about
        )

    async def _metrics(self, scope: Scope) -> Response:
        said = await asyncio.gather(*(_asked(r, "/metrics", r.headers) for r in self.replicas))
        made = [*sums.metrics(text.decode() for text in said if text), *sums.of_door(self.replicas)]
        registry = CollectorRegistry()
        registry.register(_Collected(made))
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    # --- what replicas answer

    async def _forward(self, scope: Scope, body: bytes, send: Send) -> None:
        """To the best replica, and to others while the client has nothing of an answer."""
        asked = _object(body)
        model, pages = asked.get("model"), pages_of(asked)
        deadline = time.monotonic() + RETURN_SECONDS
        tried: set[Replica] = set()
        refused: Response | None = None
        while not self.closing.is_set():
            replica = self._choice.best(model, pages, tried)
            if replica is None:
                if refused is not None:
                    await refused(scope, _nothing, send)
                    return
                if not await self._one_returns(deadline):
                    break
                tried.clear()
                continue
            tried.add(replica)
            self._choice.sent(replica, pages)
            try:
                await self._ask(replica, scope, body, send)
                return
            except RefusedThereError as error:
                refused = _sooner(refused, error.response)
                replica.counts["moved"] += 1
            except LostError as error:
                if not self.closing.is_set():
                    replica.lost(str(error))
                    replica.counts["moved"] += 1
            except BrokenError:
                replica.counts["broken"] += 1
                return
        said = LEAVING if self.closing.is_set() else "no replica takes requests"
        response = failures.failure(scope["path"], 503, said, code="unavailable")
        response.headers["retry-after"] = "5"
        await response(scope, _nothing, send)

    async def _one_returns(self, deadline: float) -> bool:
        """Wait until a replica comes back; False where none does in time."""
        changed = self._changed
        if any(replica.up for replica in self.replicas):
            return True  # one was lost and is back, or is lost by one request only
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                await changed.wait()
        except TimeoutError:
            return False
        return True

    async def _ask(self, replica: Replica, scope: Scope, body: bytes, send: Send) -> None:
        target = quote(scope["path"], safe="/:@!$&'()*+,;=-._~%")
        if scope.get("query_string"):
            target += "?" + scope["query_string"].decode("latin-1")
        headers = [(name, value) for name, value in scope["headers"] if name.lower() not in NOT_ASKED]
        with InFlight(replica) as spent:
            async with exchange(replica.address, scope["method"], target, headers, body) as asked:
                answer = _Passing(scope, send)
                passing = asyncio.ensure_future(_passed(asked, replica, answer))
                ends = [asyncio.ensure_future(e.wait()) for e in (replica.gone, self.closing)]
                try:
                    await asyncio.wait({passing, *ends}, return_when=asyncio.FIRST_COMPLETED)
                    if not passing.done():  # its connection stands, but nobody answers there; or we are to end
                        answer.cut = LEAVING if self.closing.is_set() else LOST
                        passing.cancel()
                    await passing
                finally:
                    for task in (passing, *ends):
                        task.cancel()
            replica.ended(spent.seconds if scope["method"] == "POST" else replica.seconds)


async def _passed(asked: Exchange, replica: Replica, passing: _Passing) -> None:
    """Pass an answer on: a stream as it comes, anything else when it is whole.

    Raises:
        RefusedThereError: It is 503. LostError: the replica is lost, and nothing was sent. BrokenError: something was;
            the stream ended with an error event.
    """
    try:
        status, headers = await asked.head()
        kept = [(name, value) for name, value in headers if name.lower() not in NOT_ANSWERED]
        passing.start = status, [*kept, (b"x-memfirst-replica", str(replica.index + 1).encode())]
        kind = dict(headers).get(b"content-type", b"").decode("latin-1").split(";")[0]
        passing.kind = kind if kind in (EVENTS, LINES) else ""
        async with aclosing(asked.body()) as parts:  # type: ignore[type-var]
            async for part in parts:
                await passing.part(part)
        if status == 503 and not passing.sent:
            raise RefusedThereError(passing.whole())
        await passing.end()
    except (LostError, asyncio.CancelledError) as error:
        if isinstance(error, asyncio.CancelledError) and not passing.cut:
            raise  # the client left
        if not passing.sent:
            raise LostError(str(error) or "lost") from None
        await passing.broken()
        raise BrokenError from None


class _Passing:
    """What of an answer the client has."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._path, self._scope, self._send = scope["path"], scope, send
        self.start: tuple[int, list[tuple[bytes, bytes]]] = 502, []
        self.kind = ""
        self.sent = False
        self.cut = ""
        """Why it ends before its end."""
        self._held: list[bytes] = []
        self._size = self._events = 0
        self._tail = b""

    async def part(self, data: bytes) -> None:
        """More of the body."""
        self._size += len(data)
        if not self.kind and self._size <= MOST_HELD:
            self._held.append(data)
            return
        await self._begin([])
        for held in self._held:
            await self._send({"type": "http.response.body", "body": held, "more_body": True})
        self._held.clear()
        # Events are counted, a separator that two parts share included: an error event has the next number.
        joined = self._tail[-1:] + data
        self._events += joined.count(b"\n\n")
        self._tail = (self._tail + data)[-2:]
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def _begin(self, more: Headers) -> None:
        if not self.sent:
            self.sent = True
            status, headers = self.start
            await self._send({"type": "http.response.start", "status": status, "headers": [*headers, *more]})

    def whole(self) -> Response:
        """The answer, where nothing of it was sent."""
        status, headers = self.start
        made = Response(b"".join(self._held), status)
        made.raw_headers[:0] = headers
        return made

    async def end(self) -> None:
        """It is whole."""
        body = b"".join(self._held)
        if not self.sent and not self.kind:
            length = [(b"content-length", str(len(body)).encode())]
            await self._begin(length if self._scope["method"] != "HEAD" else [])
        else:
            await self._begin([])
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def broken(self) -> None:
        """Its replica was lost: say so where the kind of body can, else leave it without its end."""
        if not self.kind:
            return
        said = _error(self._path, self._events, self.cut or LOST)
        if self.kind == LINES:
            said = ("" if self._tail.endswith(b"\n") else "\n") + said
        elif self._tail and self._tail != b"\n\n":
            said = "\n\n" + said
        await self._send({"type": "http.response.body", "body": said.encode(), "more_body": False})


def _error(path: str, number: int, message: str) -> str:
    """An event that says that the answer ends here, in the form of those who ask at `path`."""
    if path.startswith("/api/"):
        return compact({"error": message}) + "\n"
    if path.startswith("/v1/messages"):
        return event({"type": "error", "error": {"type": "api_error", "message": message}}, "error")
    said = failures.body(503, message, code="unavailable")
    if path.endswith("/responses"):
        return event(said | {"type": "error", "sequence_number": number}, "error")
    return event({"error": said})


def _sooner(one: Response | None, other: Response) -> Response:
    """Of two refusals the one that says to come again sooner."""

    def seconds(response: Response) -> float:
        said = response.headers.get("retry-after", "")
        return float(said) if said.isdigit() else float("inf")

    return other if one is None or seconds(other) < seconds(one) else one


def _object(body: bytes) -> dict[str, Any]:
    """A body's JSON, if that is an object; the guard has read it once."""
    found = json.loads(body) if body else None
    return found if isinstance(found, dict) else {}


async def _asked(replica: Replica, path: str, headers: Headers) -> bytes:
    """What a replica says there; what it said last where it is too busy to, so that sums of counters do not fall."""
    if not replica.up:
        return b""
    try:
        status, body = await fetch(replica.address, path, headers)
    except LostError:
        return replica.heard.get(path, b"")
    if status == 200:
        replica.heard[path] = body
    return replica.heard.get(path, b"")


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _nothing() -> MutableMapping[str, Any]:
    """A `receive` for answers whose request was read."""
    return {"type": "http.request", "body": b"", "more_body": False}


class _Collected:
    """What a registry asks for metrics."""

    def __init__(self, made: list[Metric]) -> None:
        self._made = made

    def collect(self) -> list[Metric]:
        """As of prometheus_client."""
        return self._made
