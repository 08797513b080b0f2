"""`memfirst probe` against whatever may answer at an address: it ends, in bounded memory, and says what it found."""

from __future__ import annotations

import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from shutil import which
from typing import Any

import pytest

from memfirst.cli import run_command
from memfirst.errors import ProbeError
from memfirst.measure.probe import limits
from memfirst.measure.probe.address import parse
from memfirst.measure.probe.client import MOST_JSON, Answer
from memfirst.measure.probe.run import Options, probe
from memfirst.measure.probe.stream import MOST_BYTES, MOST_LINE, Stream, read_stream
from tests.support.fake_openai import Fake, Handler, serve

MODELS, COMPLETIONS = "/v1/models", "/v1/completions"


def status(code: int, data: object = b"", kind: str = "application/json", **headers: str) -> Callable[[Handler], None]:
    """An answer of that status."""
    return lambda handler: handler.answer(code, data, kind, **headers)


def raw(data: bytes) -> Callable[[Handler], None]:
    """Just these bytes, no HTTP of ours."""
    return lambda handler: handler.put(data)


def streams(*pieces: bytes) -> Callable[[Handler], None]:
    """A stream's headers, then these bytes, then the connection closes."""

    def answer(handler: Handler) -> None:
        handler.events()
        for piece in pieces:
            handler.put(piece)

    return answer


def endless(piece: bytes, headers: bool = True, pause: float = 0.0) -> Callable[[Handler], None]:
    """`piece` again and again, until the client leaves."""

    def answer(handler: Handler) -> None:
        if headers:
            handler.events()
        while True:
            handler.put(piece)
            time.sleep(pause)

    return answer


def stalls(handler: Handler) -> None:
    """Six tokens, then silence on an open connection."""
    handler.events()
    for _ in range(6):
        handler.text()
    time.sleep(2)


def breaks_a_chunk(handler: Handler) -> None:
    """Dies within a chunk of a chunked body."""
    handler.put(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    handler.put(b'ff\r\ndata: {"choices":[{"text":" w"}]}\n\n')


def dies_rudely(handler: Handler) -> None:
    """Resets the connection after two tokens."""
    handler.events()
    handler.text()
    handler.text()
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


TOKEN = b'data: {"choices":[{"text":" w"}]}\n\n'
HTML = b"<!doctype html><title>hello</title>"
HOSTILE = {
    # the list of models
    "html": (MODELS, status(200, HTML, "text/html"), "an HTML page"),
    "text": (MODELS, status(200, b"hello"), "not valid JSON"),
    "array": (MODELS, status(200, b"[1]"), "lists no model"),
    "number": (MODELS, status(200, b"7"), "lists no model"),
    "nesting": (MODELS, status(200, b'{"data":' + b"[" * 100_000), "not valid JSON"),
    "utf-8": (MODELS, status(200, b'{"data": "\xff\xfe"}'), "not valid JSON"),
    "long number": (MODELS, status(200, b'{"data": %s}' % (b"9" * 10_000)), "not valid JSON"),
    "no model": (MODELS, status(200, {"data": []}), "lists no model"),
    "odd model": (MODELS, status(200, {"data": [3, {"id": 7}, {"id": ""}]}), "lists no model"),
    "huge list": (MODELS, endless(b'{"data": [' + b" " * 60_000), "longer than 8 MiB"),
    "compressed": (MODELS, status(200, b"x", Content_Encoding="gzip"), "compressed"),
    "401": (MODELS, status(401, {"error": {"message": "who?"}}), "refuses without a key: 401"),
    "404": (MODELS, status(404, HTML, "text/html"), "404 Not Found: an HTML page"),
    "429": (MODELS, status(429, b"", Retry_After="30"), "try again in 30 s"),
    "500": (MODELS, status(500, {"error": {"message": "out \x1b[2J of memory"}}), "500"),
    "redirect": (MODELS, status(302, b"", Location="http://example.invalid/v1"), "redirects to http://example.invalid"),
    "not http": (MODELS, raw(b"SSH-2.0-OpenSSH_9.6\r\n"), "does not speak HTTP"),
    "nothing": (MODELS, raw(b""), "broke off"),
    "headers": (MODELS, endless(b"A: b\r\n", headers=False), "does not speak HTTP"),
    "long header": (MODELS, raw(b"HTTP/1.1 200 OK\r\nA: " + b"b" * 200_000), "does not speak HTTP"),
    "continues": (MODELS, endless(b"HTTP/1.1 100 Continue\r\n\r\n", headers=False), "s are over"),
    "drips": (MODELS, endless(b"H", headers=False, pause=0.05), "s are over"),
    "negative length": (MODELS, raw(b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n{"), "not valid JSON"),
    "cut": (MODELS, raw(b'HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{"data": ['), "broke off"),
    # completions
    "completions 401": (COMPLETIONS, status(401), "refuses without a key"),
    "completions 500": (COMPLETIONS, status(500, b"\xff\xfe"), "500 Internal Server Error"),
    "html stream": (COMPLETIONS, status(200, HTML, "text/html"), "HTML page"),
    "at once": (COMPLETIONS, status(200, {"choices": [{"text": "hello"}]}), "all at once"),
    "error at once": (COMPLETIONS, status(200, {"error": {"message": "no memory"}}), "no memory"),
    "empty": (COMPLETIONS, streams(), "broke off after 0"),
    "no text": (COMPLETIONS, streams(b"data: [DONE]\n\n"), "holds no text"),
    "only empty text": (COMPLETIONS, streams(b'data: {"choices":[{"text":""}]}\n\n', b"data: [DONE]\n\n"), "no text"),
    "dies": (COMPLETIONS, streams(TOKEN * 5), "broke off after 5"),
    "dies in a chunk": (COMPLETIONS, breaks_a_chunk, "broke off"),
    "resets": (COMPLETIONS, dies_rudely, "broke off"),
    "bad json": (COMPLETIONS, streams(TOKEN, b"data: {oops\n\n"), "not valid JSON"),
    "bad utf-8": (COMPLETIONS, streams(TOKEN, b'data: {"a": "\xff"}\n\n'), "not valid JSON"),
    "event is a list": (COMPLETIONS, streams(b"data: [1, 2]\n\n"), "holds a list"),
    "odd choices": (COMPLETIONS, streams(b'data: {"choices":[7]}\n\ndata: {"choices":"x"}\n\n'), "broke off after 0"),
    "error event": (COMPLETIONS, streams(TOKEN, b'data: {"error": {"message": "slot died"}}\n\n'), "slot died"),
    "event without end": (COMPLETIONS, endless(b'data: {\n' * 8000), "without end"),
    "bad json on lines": (COMPLETIONS, streams(b'data: {"a":\n', b"data: 1]\n\n"), "not valid JSON"),
    "error line": (COMPLETIONS, streams(b'error: {"error": "slot died"}\n\n'), "slot died"),
    "ignores max_tokens": (COMPLETIONS, endless(TOKEN), "pieces of text where 16 tokens were asked for"),
    "endless comments": (COMPLETIONS, endless(b": ping\n\n", pause=0.001), "s are over"),
    "flood of comments": (COMPLETIONS, endless(b": ping\n\n" * 8000), "without end"),
    "endless line": (COMPLETIONS, endless(b"data: " + b"x" * 60_000), "without end"),
    "stalls": (COMPLETIONS, stalls, "stalled"),
    "drips text": (COMPLETIONS, endless(b"d", pause=0.02), "s are over"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_what_is_no_good_server_is_named(
    case: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, answer, says = HOSTILE[case]
    monkeypatch.setattr(limits, "STALL_S", 0.3)
    began = time.monotonic()
    with serve(Fake(raw={path: answer})) as fake:
        code = run_command(["probe", fake.url, "--seconds", "0.3" if says == "s are over" else "5"])
    said = capsys.readouterr()
    assert (code, said.out) == (1, "")
    assert says in said.err and said.err.startswith("memfirst: ") and said.err.count("\n") == 1
    assert "\x1b" not in said.err and len(said.err) < 600
    assert time.monotonic() - began < 6
    assert fake.sent < MOST_BYTES + (8 << 20)  # what was read, and what the sockets' buffers hold


def test_neither_completions_nor_chat(capsys: pytest.CaptureFixture[str]) -> None:
    with serve(Fake(raw={COMPLETIONS: status(404), "/v1/chat/completions": status(405)})) as fake:
        assert run_command(["probe", fake.url]) == 1
    assert "/v1/chat/completions answers 405 Method Not Allowed" in capsys.readouterr().err


@pytest.mark.parametrize("page", [status(200, HTML, "text/html"), status(200, b"[1]"), status(500), status(200, b"")])
def test_pages_that_only_some_servers_have_may_be_anything(page: Callable[[Handler], None]) -> None:
    raws = dict.fromkeys(("/props", "/version", "/api/version"), page)
    with serve(Fake(raw=raws)) as fake:
        server = probe(fake.url, Options((16, 64), (1,), tokens=28)).server
    assert (server.kind, server.version) == ("unknown", "")


@pytest.mark.parametrize(("case", "most"), [("huge list", MOST_JSON), ("endless line", MOST_LINE)])
def test_what_is_endless_is_read_no_further_than_it_must(case: str, most: int) -> None:
    path, answer, _ = HOSTILE[case]
    with serve(Fake(raw={path: answer})) as fake:
        assert run_command(["probe", fake.url]) == 1
    assert fake.sent < most + (8 << 20)


def test_a_redirect_is_not_followed_and_learns_no_key(capsys: pytest.CaptureFixture[str]) -> None:
    with serve(Fake()) as other, serve(Fake()) as fake:
        fake.raw = {MODELS: status(307, b"", Location=other.url + MODELS)}
        assert run_command(["probe", fake.url, "--api-key", "secret"]) == 1
    assert other.requests == [] and "secret" not in capsys.readouterr().err


def test_a_refused_key_is_said_to_be_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with serve(Fake(raw={MODELS: status(403)})) as fake:
        assert run_command(["probe", fake.url, "--api-key", "secret"]) == 1
    said = capsys.readouterr().err
    assert "refuses this key: 403" in said and "secret" not in said


def test_a_server_that_dies_later_is_an_error_too(capsys: pytest.CaptureFixture[str]) -> None:
    fake = Fake()

    def dies_at_the_fifth(handler: Handler) -> None:
        healthy = len(fake.completions()) < 5
        (handler.complete(fake.requests[-1][1], 20, False) if healthy else streams(TOKEN)(handler))

    fake.raw = {COMPLETIONS: dies_at_the_fifth}
    with serve(fake):
        assert run_command(["probe", fake.url, "--contexts", "16,64", "--tokens", "28"]) == 1
    assert "broke off after 1" in capsys.readouterr().err


class Canned:
    """A response whose body is there already, in pieces of a few bytes."""

    def __init__(self, data: bytes, piece: int) -> None:
        self._data, self._piece = data, piece

    def read1(self, most: int) -> bytes:
        """The next piece."""
        found, self._data = self._data[: self._piece], self._data[self._piece :]
        return found


WHOLE = (
    b'data: {"choices":[{"text":" a","index":0}],"timings":{"predicted_n":1,"predicted_ms":0.5}}\n\n'
    b'data: {"choices":[{"delta":{"content":"b"}}],"usage":{"completion_tokens":2,"prompt_tokens":9}}\r\n\r\n'
    b'data: {"choices":[{"text":"","finish_reason":"length"}],"usage":{"prompt_tokens":9,"completion_tokens":2,'
    b'"prompt_tokens_details":{"cached_tokens":3}}}\n\ndata: [DONE]\n\n'
)


def read(data: bytes, piece: int = 4096) -> Stream:
    """A stream of these bytes."""
    response: Any = Canned(data, piece)
    return read_stream(Answer(response, limits.Watch(limits.Limits(10, 1)), time.monotonic(), ""), 8)


@pytest.mark.parametrize("piece", [1, 2, 7, 4096])
def test_where_packets_are_cut_does_not_matter(piece: int) -> None:
    found = read(WHOLE, piece)
    assert [e.tokens for e in found.events] == [1, 2]
    assert (found.prompt_tokens, found.cached, found.finished) == (9, 3, "length")


def test_changed_bytes_are_read_or_refused() -> None:
    rng = random.Random(5)
    outcomes = set()
    for _ in range(1500):
        data = bytearray(WHOLE)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.choice(b'\x00\xff"{}[]:,0-9ent\n')
        try:
            found = read(bytes(data), rng.choice([3, 64, 4096]))
            assert all(b.tokens > a.tokens for a, b in pairwise(found.events))
            outcomes.add("read")
        except ProbeError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


# addresses


def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://127.0.0.1:PORT", "nothing listens"),  # a port that was free a moment ago
        ("http://name.invalid", "no host is called 'name.invalid'"),
        ("http://" + "a" * 80 + ".invalid", "http"),
        ("ftp://host", "no server's URL"),
        ("http://", "no server's URL"),
        ("", "no server's URL"),
        ("http://host:99999", "no URL"),
        ("http://host:x", "no URL"),
        ("http://[::1", "no URL"),
        ("http://me:secret@host", "--api-key"),
        ("http://host/?a=b", "no server's URL"),
        ("http://ho st", "no URL"),
        ("http://host\x1b", "no URL"),
        ("http://h\u00f6st", "no URL"),
    ],
)
def test_bad_addresses_are_said(url: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["probe", url.replace("PORT", str(closed_port())), "--seconds", "5"]) == 1
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1 and "secret" not in said and "\x1b" not in said


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("localhost:8080", "http://localhost:8080"),
        ("http://host", "http://host:80"),
        ("https://host/api/v1/", "https://host:443/api"),
        ("http://[::1]:8000/v1", "http://[::1]:8000"),
        (" HTTP://Host:1/ ", "http://host:1"),
    ],
)
def test_good_addresses(url: str, address: str) -> None:
    assert str(parse(url)) == address


def test_https_asked_of_a_server_without_it(capsys: pytest.CaptureFixture[str]) -> None:
    with serve(Fake()) as fake:
        assert run_command(["probe", fake.url.replace("http://", "https://"), "--seconds", "5"]) == 1
    assert "TLS" in capsys.readouterr().err


@pytest.mark.skipif(not which("openssl"), reason="makes a certificate with openssl")
def test_a_certificate_that_nobody_vouches_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The advice is not to give up TLS, and what it says to do works."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(
        [*made, "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    args = ["--api-key", "secret", "--contexts", "16", "--concurrency", "1", "--tokens", "28"]
    with serve(Fake(), tls=context) as fake:
        assert fake.url.startswith("https://")
        assert run_command(["probe", fake.url, *args]) == 1
        said = capsys.readouterr().err
        assert "is not trusted" in said and "SSL_CERT_FILE=" in said and "http://" not in said and not fake.requests
        monkeypatch.setenv("SSL_CERT_FILE", str(cert))
        assert run_command(["probe", fake.url, *args]) == 0
    assert "tok/s" in capsys.readouterr().out


@contextmanager
def silent() -> Iterator[str]:
    """Accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_a_silent_server_costs_the_time_that_was_allowed(capsys: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    with silent() as url:
        assert run_command(["probe", url, "--seconds", "0.5"]) == 1
    assert "the 0.5 s are over" in capsys.readouterr().err and time.monotonic() - began < 1.5


# interruption


@pytest.mark.parametrize("streams_at_once", [1, 3])
def test_an_interruption_is_felt(streams_at_once: int) -> None:
    """Ctrl-C within a stream that goes on for minutes, alone or among several."""
    fake = Fake(token_s=1e-3)
    waiting = threading.Event()

    def answer(handler: Handler) -> None:
        if len(fake.completions()) > 1 + (streams_at_once > 1):
            waiting.set()
            endless(b": ping\n\n", pause=0.05)(handler)
        handler.complete(fake.requests[-1][1], 20, False)

    with serve(replace(fake, raw={COMPLETIONS: answer})) as served:
        fake.requests = served.requests
        args = ["probe", served.url, "--contexts", "16", "--tokens", "28", "--concurrency", str(streams_at_once)]
        process = subprocess.Popen(
            [sys.executable, "-m", "memfirst", *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert waiting.wait(20), process.communicate(timeout=5)
        time.sleep(0.1)
        began = time.monotonic()
        os.kill(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=10)
    assert time.monotonic() - began < 2
    assert (process.returncode, out, err) == (130, "", "")


def test_an_error_of_one_stream_waits_for_no_other_for_long() -> None:
    with serve(Fake(at_once=0)) as fake, pytest.raises(ProbeError, match="429"):
        probe(fake.url, Options(seconds=5))  # it asks for 7
