"""Many requests to a server, of which one in five hangs up at some point: `make hang-ups`, or
`python -m tests.support.hang_ups COUNT`. Nobody else may notice, and nothing may stay."""

from __future__ import annotations

import json
import random
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import psutil

from tests.support.serving import Served
from tests.support.tiny_served import tiny_model

KINDS = 16
"""Different requests, each with one right answer."""
AT_ONCE = 12


def body_of(kind: int) -> dict[str, Any]:
    """A request; its length, its sampling and its form differ."""
    prompt = f"Story {kind}: " + "once upon a time " * (1 + 7 * (kind % 5))
    return {"prompt": prompt, "max_tokens": 8 + 9 * (kind % 8), "seed": kind, "temperature": 1.0, "ignore_eos": True,
            "stream": kind % 2 == 0}  # fmt: skip


@dataclass
class Held:
    """What a server holds once nothing runs."""

    files: int
    memory: int
    kv: int
    live: int


def held(served: Served) -> Held:
    """After at most 30 s."""
    process, deadline = psutil.Process(served.process.pid), time.monotonic() + 30
    while True:
        stats = httpx.get(f"{served.url}/memfirst/stats").json()
        processes = [process, *process.children(recursive=True)]
        files = sum(one.num_fds() for one in processes)
        memory = sum(one.memory_info().rss for one in processes)
        found = Held(files, memory, stats["memory"]["kv_requests"], stats["live"])
        if (found.live, found.kv) == (0, 0) or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


def answered(client: httpx.Client, kind: int) -> str:
    """The answer's text, by either form."""
    body = body_of(kind)
    if not body["stream"]:
        text: str = client.post("/v1/completions", json=body).raise_for_status().json()["choices"][0]["text"]
        return text
    said = ""
    with client.stream("POST", "/v1/completions", json=body) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                said += httpx.Response(200, text=line[6:]).json()["choices"][0]["text"]
    return said


def left(served: Served, kind: int, chance: random.Random) -> None:
    """A request whose client leaves: before it is sent whole, before the answer, or within it; politely or not."""
    content = json.dumps(body_of(kind) | {"max_tokens": 200}).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    whole = head + b"Content-Length: %d\r\n\r\n" % len(content) + content
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 30) as connection:
        if chance.random() < 0.5:  # a reset instead of an end
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        if chance.random() < 0.2:
            connection.sendall(whole[: chance.randrange(1, len(whole))])
            return
        connection.sendall(whole)
        time.sleep(chance.random() * 0.05)
        for _ in range(chance.randrange(4)):
            connection.recv(256)


def hang_up(served: Served, count: int, seed: int = 1) -> None:
    """So many requests; AssertionError for an answer that differs from what it is alone, or for what stays behind."""
    with httpx.Client(base_url=served.url, timeout=120) as client:
        alone = [answered(client, kind) for kind in range(KINDS)]

        def one(number: int) -> None:
            chance = random.Random(seed * 1_000_003 + number)
            kind = chance.randrange(KINDS)
            if chance.random() < 0.2:
                left(served, kind, chance)
            else:
                assert answered(client, kind) == alone[kind], f"request {number} of kind {kind}"

        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(one, range(max(KINDS, count // 10))))  # pools and caches have their size
            before = held(served)
            list(pool.map(one, range(count)))
    after = held(served)
    assert (after.live, after.kv) == (0, 0), after
    assert after.files <= before.files + AT_ONCE, (before, after)  # connections that are kept alive
    assert after.memory - before.memory < 20 << 20, (before, after)
    assert served.process.poll() is None
    grown = (after.memory - before.memory) / 1e6
    print(f"{count:,} requests: memory {grown:+.1f} MB, files {before.files} -> {after.files}")


if __name__ == "__main__":
    with TemporaryDirectory() as folder, Served(tiny_model(Path(folder)), ["--ctx", "512"]) as tiny:
        hang_up(tiny, int(sys.argv[1]))
