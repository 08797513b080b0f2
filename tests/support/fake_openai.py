"""An OpenAI-compatible server on loopback with known times per token, and one for each way to misbehave."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from memfirst.measure.probe.stream import BY_CHUNK, Event, Stream

Misbehaviour = Callable[["Handler"], None]


@dataclass
class Fake:
    """What the server is like.

    token_s, context_s  a token takes token_s + context_s · tokens of context
    prompt_s   of each token of the prompt, before the first token
    crowd      a token takes so many times longer for each other stream that is served at the time
    chunk      tokens in each chunk; usage: "end", "each" (in every chunk), "whole" (only unstreamed) or "never"
    busy       each such completion is refused with 429, to be asked again after 0 seconds
    indented   events over several lines of data
    answers    tokens after which every answer ends by itself, with "stop"
    context    tokens that a request may hold; more is refused with 400
    raw        by path, what happens instead
    refuses    fields of a request that are answered with 400
    """

    models: tuple[str, ...] = ("fake",)
    token_s: float = 0.0004
    context_s: float = 0.0
    prompt_s: float = 0.0
    crowd: float = 0.0
    chunk: int = 1
    usage: str = "end"
    busy: int = 1 << 30
    indented: bool = False
    answers: int = 1 << 30
    context: int = 1 << 20
    told_context: int | None = None
    chat_only: bool = False
    at_once: int = 1 << 10
    overhead: int = 0
    refuses: frozenset[str] = frozenset()
    pages: Mapping[str, Any] = field(default_factory=dict)
    raw: Mapping[str, Misbehaviour] = field(default_factory=dict)
    row: Mapping[str, Any] = field(default_factory=dict)
    url: str = ""
    requests: list[tuple[str, dict[str, Any], str]] = field(default_factory=list)
    sent: int = 0
    active: int = 0
    most_active: int = 0
    written: list[Stream] = field(default_factory=list)
    """Streamed answers as they left, of those that had the server for themselves: a busy machine is late with a
    timetable."""

    def completions(self) -> list[dict[str, Any]]:
        """Bodies of the streamed completions."""
        return [body for path, body, _ in self.requests if path.endswith("completions") and body.get("stream")]


class Handler(BaseHTTPRequestHandler):
    """Answers as its `fake` says; closes after each answer."""

    fake: Fake

    def log_message(self, *args: object) -> None:
        """Tests want quiet."""

    def handle(self) -> None:
        """A client that leaves early is what some tests are about."""
        try:
            super().handle()
        except OSError:
            self.close_connection = True

    def put(self, data: bytes) -> None:
        """Raw bytes, counted."""
        self.wfile.write(data)
        self.fake.sent += len(data)

    def answer(self, status: int, data: object, kind: str = "application/json", **headers: str) -> None:
        """One whole answer."""
        body = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.send_response(status)
        for key, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        self.put(body)

    def events(self) -> None:
        """The headers of a stream."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()

    def event(self, data: object) -> None:
        """One event."""
        text = json.dumps(data, indent=1 if self.fake.indented else None).replace("\n", "\ndata: ")
        self.put(f"data: {text}\n\n".encode())

    def text(self, text: str = " word", **more: object) -> None:
        """One piece of a completion."""
        self.event({"choices": [{"index": 0, "text": text, "finish_reason": None}], **more})

    def do_GET(self) -> None:
        """The lists."""
        self.note({})
        if self.path in self.fake.raw:
            self.fake.raw[self.path](self)
        elif self.path == "/v1/models":
            rows = [{"id": name, "object": "model", **self.fake.row} for name in self.fake.models]
            self.answer(200, {"object": "list", "data": rows})
        elif self.path in self.fake.pages:
            self.answer(200, self.fake.pages[self.path])
        else:
            self.answer(404, {"error": {"message": "no such page"}})

    def note(self, body: dict[str, Any]) -> None:
        self.fake.requests.append((self.path, body, self.headers.get("Authorization", "")))

    def do_POST(self) -> None:
        """A completion."""
        fake, body = self.fake, json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.note(body)
        chat = self.path == "/v1/chat/completions"
        if self.path in fake.raw:
            fake.raw[self.path](self)
        elif not chat and (fake.chat_only or self.path != "/v1/completions"):
            self.answer(404, {"error": {"message": "not here"}})
        elif fake.refuses & set(body):
            self.answer(400, {"error": {"message": f"unknown field {sorted(fake.refuses & set(body))[0]}"}})
        else:
            text = body["messages"][0]["content"] if chat else body["prompt"]
            self.complete(body, len(text.split()) + fake.overhead, chat)

    def complete(self, body: dict[str, Any], prompt: int, chat: bool) -> None:
        fake = self.fake
        if prompt + body["max_tokens"] > fake.context:
            self.answer(400, {"error": {"message": "the prompt exceeds the context", "code": 400}})
        elif len(fake.completions()) % fake.busy == 0:
            self.answer(429, {"error": {"message": "slow down"}}, Retry_After="0")
        elif fake.active >= fake.at_once:
            self.answer(429, {"error": {"message": "one at a time"}}, Retry_After="7")
        elif not body["stream"]:
            usage = {} if fake.usage == "never" else {"usage": {"prompt_tokens": prompt, "completion_tokens": 1}}
            self.answer(200, {"choices": [{"text": " word"}], **usage})
        else:
            fake.active += 1
            fake.most_active = max(fake.most_active, fake.active)
            try:
                self.stream(body, prompt, chat)
            finally:
                fake.active -= 1
            self.put(b"data: [DONE]\n\n")  # after the count: the client may ask again as soon as it reads this

    def stream(self, body: dict[str, Any], prompt: int, chat: bool) -> None:
        """Tokens by an absolute timetable: what one sleep is late, the next makes up."""
        fake, count = self.fake, min(body["max_tokens"], self.fake.answers)
        self.events()
        begun, left, alone = time.monotonic(), [], True
        due, done = begun + fake.prompt_s * prompt, 0
        if chat:
            self.event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
        while done < count:
            some = min(fake.chunk, count - done)
            time.sleep(max(0.0, due - time.monotonic()))
            done += some
            usage = {"prompt_tokens": prompt, "completion_tokens": done}
            choice = {"delta": {"content": " w" * some}} if chat else {"text": " w" * some}
            left.append(Event(time.monotonic(), done))
            self.event({"choices": [{"index": 0, **choice}], "usage": usage if fake.usage == "each" else None})
            alone = alone and fake.active == 1
            slower = 1 + fake.crowd * (fake.active - 1)
            due += some * (fake.token_s + fake.context_s * (prompt + done)) * slower
        if alone:
            fake.written.append(Stream(begun, tuple(left), prompt, 0, "length", BY_CHUNK, None))
        reason = "length" if count == body["max_tokens"] else "stop"
        self.event({"choices": [{"index": 0, "text": "", "delta": {}, "finish_reason": reason}]})
        if fake.usage in ("end", "each") and "stream_options" in body:
            self.event({"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": done}})


@contextmanager
def serve(fake: Fake, port: int = 0, tls: ssl.SSLContext | None = None) -> Iterator[Fake]:
    """The server, while in use; `fake.url` is its address."""
    handler = type("Bound", (Handler,), {"fake": fake})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    fake.url = f"http{'s' if tls else ''}://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        thread.join()
        server.socket.close()
