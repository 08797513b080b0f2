"""llama-server: started with its n-gram drafts, asked for greedy answers to prompts of tokens, timed by itself.

Its drafts are checked for the same tokens as without, so it may be asked for what memfirst is asked for. Times are its
own (`timings.predicted_ms`, from the first token to the last).
"""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.engines import number
from benchmarks.probe_server import free_port, running
from benchmarks.process import BenchmarkError, parse_json

PORT = "{port}"
"""In a command line: where the port goes."""

ANSWER_S = 300.0


def ngrams(kind: str, n: int, m: int) -> tuple[str, ...]:
    """Switches for drafts of up to `m` tokens behind a match of `n`."""
    return ("--spec-type", kind, f"--spec-{kind}-size-n", str(n), f"--spec-{kind}-size-m", str(m))


SWITCHES: Mapping[str, tuple[str, ...]] = {
    "no drafts": (),
    "ngram-simple": ("--spec-type", "ngram-simple"),
    "ngram-simple 3, 7": ngrams("ngram-simple", 3, 7),
    "ngram-map-k 3, 7": ngrams("ngram-map-k", 3, 7),
    "ngram-map-k4v 3, 7": ngrams("ngram-map-k4v", 3, 7),
    "ngram-cache": ("--spec-type", "ngram-cache"),
}
"""What is tried: its own defaults, and short matches and drafts as memfirst has them."""


@dataclass(frozen=True)
class Timed:
    """Tokens after the first, and their seconds."""

    tokens: int
    seconds: float


def command(program: str, model: str, threads: int, context: int, switches: Sequence[str]) -> list[str]:
    """One slot, on as many threads; `PORT` stands for the port."""
    base = [program, "-m", model, "-t", str(threads), "-tb", str(threads), "-c", str(context), "-np", "1"]
    return [*base, "--host", "127.0.0.1", "--port", PORT, *switches]


def answers(words: Sequence[str], prompts: Mapping[str, Sequence[int]], most: int) -> dict[str, Timed]:
    """Start the server, have every prompt answered once, and end it; by the prompts' names."""
    port = free_port()
    with running([str(port) if word == PORT else word for word in words], port) as url:
        _ready(url)
        return {name: timed(_ask(url, prompt, most)) for name, prompt in prompts.items()}


def timed(found: Mapping[str, Any]) -> Timed:
    """Of an answer's JSON; the first token is not in the server's time."""
    timings = found.get("timings") or {}
    tokens, ms = (number(timings, key, "llama-server") for key in ("predicted_n", "predicted_ms"))
    if tokens < 2:
        raise BenchmarkError(f"llama-server answered with {tokens:.0f} tokens", "two or more")
    return Timed(round(tokens) - 1, ms / 1e3)


def _ready(url: str) -> None:
    """Nothing of earlier answers may be in the way of the first prompt."""
    deadline = time.monotonic() + ANSWER_S
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=10):
                return
        except OSError:
            time.sleep(0.1)
    raise BenchmarkError("llama-server is not ready")


def _ask(url: str, prompt: Sequence[int], most: int) -> Any:
    body = {
        "prompt": list(prompt), "n_predict": most, "temperature": 0, "samplers": ["top_k"], "top_k": 1,
        "cache_prompt": False,
    }  # fmt: skip
    asked = urllib.request.Request(
        f"{url}/completion", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )  # fmt: skip
    try:
        with urllib.request.urlopen(asked, timeout=ANSWER_S) as reply:
            return parse_json(reply.read().decode(), "llama-server")
    except OSError as error:
        raise BenchmarkError(f"llama-server did not answer: {error}") from error
