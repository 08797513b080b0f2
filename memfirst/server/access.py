"""A name for each request, and where it is asked for a line about it: who came, for what, how it ended, what it cost.
Never what was said: no body, no query, no header."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TextIO

from memfirst.errors import ConfigError
from memfirst.server.answers import new_id
from memfirst.server.link import Answer

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

client: ContextVar[str] = ContextVar("client", default="")
"""Whose request it is: the number of its API key, or without keys its address."""

LONGEST_PATH = 200

answers: ContextVar[list[Answer] | None] = ContextVar("answers", default=None)
"""Those that the request at hand asked the engine for."""


def open_log(path: str) -> TextIO | None:
    """The file that lines are added to; "-" is the standard error, "" none. ConfigError where it cannot be written."""
    if path in ("", "-"):
        return sys.stderr if path else None
    try:
        return open(path, "a", encoding="utf-8", buffering=1)  # a line at a time
    except OSError as error:
        raise ConfigError(f"the access log {path} ({error.strerror})", "a file that can be written") from None


class Access:
    """ASGI middleware around everything else."""

    def __init__(self, app: App, log: TextIO | None) -> None:
        self._app, self._log, self._lost = app, log, False

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """As of ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        line = Line(scope)
        asked: list[Answer] = []
        answers.set(asked)
        try:
            await self._app(scope, receive, line.told(send))
        finally:
            self._add(line.text(asked))

    def _add(self, line: str) -> None:
        """A line of the log. A full disk ends no request: it is said once, and lines are lost until there is room."""
        if self._log is None:
            return
        try:
            self._log.write(line)
        except OSError as error:
            if not self._lost:
                with suppress(OSError):
                    print(f"memfirst: the access log loses lines: {error.strerror or error}", file=sys.stderr)
            self._lost = True
        else:
            self._lost = False


class Line:
    """What is known of one request."""

    def __init__(self, scope: MutableMapping[str, Any]) -> None:
        self.id, self._scope, self._began = new_id("req", "_"), scope, time.monotonic()
        self._status, self._bytes, self._whole = 0, 0, False

    def told(self, send: Send) -> Send:
        """A `send` that gives the response its name, and counts."""

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._status = message["status"]
                headers = [*message.get("headers", ()), (b"x-request-id", self.id.encode())]
                message = {**message, "headers": headers}
            await send(message)
            if message["type"] == "http.response.body":
                self._bytes += len(message.get("body", b""))
                self._whole = not message.get("more_body")

        return counted

    def text(self, asked: list[Answer]) -> str:
        """The line. Its strings are escaped: nobody writes lines of his own by a path."""
        client = self._scope.get("client")
        line: dict[str, Any] = {
            "at": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"), "id": self.id,
            "client": client[0] if client else "", "method": self._scope["method"],
            "path": self._scope["path"][:LONGEST_PATH], "status": self._status,
            "seconds": round(time.monotonic() - self._began, 4), "bytes": self._bytes, "whole": self._whole,
        }  # fmt: skip
        ends = [answer.end for answer in asked if answer.end is not None]
        if ends:
            known = [end.usage for end in ends if end.usage]
            line["ends"] = [end.reason or "error" for end in ends]
            line["prompt_tokens"] = max((u["prompt_tokens"] for u in known), default=0)
            line["cached_tokens"] = max((u["cached_tokens"] for u in known), default=0)
            line["tokens"] = sum(u["tokens"] for u in known)
            line["queued_s"] = round(max((u["queued_s"] for u in known), default=0.0), 4)
        return json.dumps(line) + "\n"
