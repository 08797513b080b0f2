"""What no client should do: each gets a 4xx at once, costs little memory, and nobody beside it waits."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from memfirst.server import guard
from memfirst.server.guard import Guard
from memfirst.server.settings import HEADER_SECONDS, Settings
from tests.support.serving import Served
from tests.support.tiny_served import tiny_model

JSON = {"content-type": "application/json"}
PATHS = ("/v1/chat/completions", "/v1/responses", "/v1/messages", "/completion", "/api/chat", "/tokenize")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A model that answers at once."""
    with Served(tiny_model(tmp_path_factory.mktemp("tiny")), ["--ctx", "512", "--threads", "1"]) as made:
        yield made


@pytest.fixture
def plain(tiny: Served) -> Iterator[httpx.Client]:
    """A client of it."""
    with httpx.Client(base_url=tiny.url, timeout=30) as client:
        yield client


def raw(served: Served, data: bytes, seconds: float = 5.0) -> bytes:
    """What comes back for bytes, until the server closes or says nothing for so long."""
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), seconds) as connection:
        with suppress(OSError):  # it may stop reading before we stop writing
            connection.sendall(data)
        got = b""
        with suppress(OSError):
            while part := connection.recv(1 << 16):
                got += part
        return got


def cpu_seconds(served: Served) -> float:
    """What the HTTP process has used of a core: the machine's other work does not count."""
    times = psutil.Process(served.process.pid).cpu_times()
    return times.user + times.system


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


BODIES: dict[str, bytes] = {
    "nul": b"\0",
    "nul in a string": b'{"prompt": "a\0b"}',
    "deep arrays": b"[" * 100_000 + b"]" * 100_000,
    "deep objects": b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
    "unclosed": b"[" * 1_000_000,
    "brackets": b"[" + b"[]," * 1_000_000,
    "a string that does not end": b'"' + b'\\"' * 1_000_000,
    "lone surrogate": b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
    "lone surrogate as a name": b'{"\\udfff": 1}',
    "not UTF-8": b'{"prompt": "\xff\xfe"}',
    "overlong UTF-8": b'{"prompt": "\xc0\xaf"}',
    "UTF-16": '{"prompt": "x"}'.encode("utf-16"),
    "NaN": b'{"temperature": NaN}',
    "too large a float": b'{"messages": [], "tools": [{"x": 1e999}]}',
    "too large an integer": b'{"max_tokens": ' + b"9" * 10_000 + b"}",
    "no object": b'"x"',
    "null": b"null",
    "empty": b"",
    "two documents": b"{}{}",
    "a list": b"[1, 2]",
}


@pytest.mark.parametrize("name", BODIES)
def test_bodies_that_are_none(tiny: Served, plain: httpx.Client, name: str) -> None:
    for path in PATHS:
        began = cpu_seconds(tiny)
        response = plain.post(path, content=BODIES[name], headers=JSON)
        assert response.status_code == 400 and "error" in response.json(), (path, response.text)
        assert cpu_seconds(tiny) - began < 2


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large_is_not_read(tiny: Served, plain: httpx.Client, chunked: bool) -> None:
    before = psutil.Process(tiny.process.pid).memory_info().rss

    def parts() -> Iterator[bytes]:
        for _ in range(64):
            yield b" " * (1 << 20)

    content: Any = parts() if chunked else b" " * (64 << 20)
    with suppress(httpx.WriteError, httpx.ReadError):  # it may close while we write
        assert plain.post("/v1/completions", content=content, headers=JSON).status_code == 413
    assert psutil.Process(tiny.process.pid).memory_info().rss - before < 100 << 20
    assert plain.get("/health").status_code == 200


def test_large_requests_within_the_limits_are_refused_soon(tiny: Served, plain: httpx.Client) -> None:
    word = "x" * 5_000_000
    for path, body in (
        ("/v1/completions", {"prompt": word}),
        ("/v1/completions", {"prompt": [1] * 2_000_000}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}] * 50_000}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], "stop": ["x"] * 100_000}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], "tools": [{}] * 100_000}),
        ("/v1/completions", {"prompt": "x", "logit_bias": {str(i): 1 for i in range(100_000)}}),
        ("/v1/responses", {"input": [{"role": "user", "content": "a"}] * 50_000}),
        ("/api/generate", {"model": "tested", "prompt": word, "raw": True}),
        ("/completion", {"prompt": [1] * 2_000_000}),
        ("/completion", {"prompt": [[1]] * 500_000}),
    ):
        began = cpu_seconds(tiny)
        response = plain.post(path, json=body)
        assert response.status_code == 400 and len(response.content) < 2000, (path, response.text[:300])
        assert cpu_seconds(tiny) - began < 3


def test_many_names_are_not_all_said_back(plain: httpx.Client) -> None:
    body = {"prompt": "x", "max_tokens": 1} | {f"name_{i}": i for i in range(20_000)}
    response = plain.post("/v1/completions", json=body)
    assert response.status_code == 200 and len(response.headers["x-memfirst-ignored"]) <= 1000
    split = plain.post("/v1/completions", json={"prompt": "x", "max_tokens": 1, "a\r\nset-cookie: b": 1, "é": 2})
    assert split.status_code == 200 and "x-memfirst-ignored" not in split.headers and "set-cookie" not in split.headers


def test_headers(tiny: Served) -> None:
    line = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
    many = b"".join(b"X-A%d: b\r\n" % i for i in range(20_000))
    assert status(raw(tiny, line + many + b"\r\n")) in (400, 431)
    few = b"".join(b"a%d:b\r\n" % i for i in range(200))
    assert status(raw(tiny, line + few + b"\r\n")) == 431
    assert status(raw(tiny, line + b"X-Long: " + b"a" * (1 << 20) + b"\r\n\r\n")) in (400, 431)
    both = b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    assert status(raw(tiny, line + both)) == 400
    assert status(raw(tiny, line + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n")) == 400
    assert status(raw(tiny, line + b"Content-Length: -1\r\n\r\n")) == 400
    assert status(raw(tiny, b"TRACE / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")) == 405
    assert status(raw(tiny, b"GET / HTTP/1.1\r\n\r\n")) == 400  # no Host
    assert raw(tiny, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 200)[:12] in (b"", b"HTTP/1.1 400")
    assert httpx.get(f"{tiny.url}/health").status_code == 200


def test_who_says_half_or_reads_nothing_keeps_nobody_waiting(tiny: Served, plain: httpx.Client) -> None:
    """100 connections with half of their headers are closed by the server; 15 streams that nobody reads."""
    host, port = tiny.url.removeprefix("http://").split(":")
    body = json.dumps({"prompt": "On", "max_tokens": 400, "ignore_eos": True, "stream": True, "logprobs": 20}).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += b"Content-Length: %d\r\n\r\n" % len(body)
    with ExitStack() as stack:

        def connect(data: bytes) -> socket.socket:
            made = stack.enter_context(socket.socket())
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            made.connect((host, int(port)))
            made.sendall(data)
            return made

        began = time.monotonic()
        half = [connect(b"GET /health HTTP/1.1\r\nHost: loc") for _ in range(100)]
        mute = [connect(head + body) for _ in range(15)]
        for _ in range(5):
            asked = time.monotonic()
            response = plain.post("/v1/completions", json={"prompt": "x", "max_tokens": 4})
            assert response.status_code == 200 and time.monotonic() - asked < 20
            assert plain.get("/health").status_code == 200
        for connection in half:
            connection.settimeout(max(0.1, began + HEADER_SECONDS + 20 - time.monotonic()))
            assert connection.recv(1) == b""  # closed by the server
        assert time.monotonic() - began >= HEADER_SECONDS - 1
        assert len(mute) == 15
    for _ in range(300):
        stats = plain.get("/memfirst/stats").json()
        if not stats["live"]:
            break
        time.sleep(0.1)
    assert stats["live"] == 0 and stats["memory"]["kv_requests"] == 0


# --- the guard's times, without waiting for them


def asked_of(app: Any, messages: list[Any]) -> list[dict[str, Any]]:
    """What a guard sends for a POST whose body comes in these messages, the last of which takes for ever."""
    sent: list[dict[str, Any]] = []
    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": headers}

    async def receive() -> Any:
        if not messages:
            await asyncio.sleep(60)
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(Guard(app, Settings("m"))(scope, receive, send))
    return sent


async def never(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("it was handed on")


def test_a_body_that_does_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.05)
    sent = asked_of(never, [{"type": "http.request", "body": b"{", "more_body": True}])
    assert sent[0]["status"] == 408 and (b"connection", b"close") in sent[0]["headers"]
    assert asked_of(never, [{"type": "http.disconnect"}]) == []


def test_a_client_that_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "WRITE_SECONDS", 0.05)

    async def stuck(message: Any) -> None:
        await asyncio.sleep(60)

    with pytest.raises(TimeoutError):
        asyncio.run(guard._within(stuck)({"type": "http.response.body"}))


def test_an_access_log_says_who_and_what_it_cost_and_never_what_was_said(tmp_path: Path) -> None:
    log = tmp_path / "access.jsonl"
    with Served(tiny_model(tmp_path), ["--ctx", "512", "--access-log", str(log)]) as served:
        body = {"prompt": "a secret", "max_tokens": 3, "n": 2, "ignore_eos": True}
        response = httpx.post(f"{served.url}/v1/completions?q=secret", json=body, headers={"x-api-key": "secret"})
        httpx.get(f"{served.url}/no%0Aecho%20x")
        httpx.post(f"{served.url}/v1/completions", content=b"[", headers=JSON)
        with httpx.stream("POST", f"{served.url}/v1/completions", json=body | {"stream": True, "max_tokens": 400}):
            pass  # left at once
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert "secret" not in log.read_text() and len(lines) == 4
    first = next(line for line in lines if line["id"] == response.headers["x-request-id"])
    assert (first["status"], first["ends"], first["tokens"]) == (200, ["length", "length"], 6)
    assert first["prompt_tokens"] == response.json()["usage"]["prompt_tokens"] and first["client"] == "127.0.0.1"
    assert first["bytes"] == len(response.content) and first["whole"] and first["seconds"] > 0
    by_status = {line["status"]: line for line in lines}
    assert by_status[404]["path"] == "/no\necho x" and "ends" not in by_status[400]
    assert len({line["id"] for line in lines}) == 4
