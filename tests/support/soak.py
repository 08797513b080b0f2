"""Minutes of eight clients that ask all kinds of things of a server: `make soak`, or
`python -m tests.support.soak MINUTES [MODEL]`. No answer may be an error or wrong in form, and memory stays as it is.
"""

from __future__ import annotations

import json
import random
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import jsonschema
import psutil

from memfirst import hub
from tests.support.hang_ups import held
from tests.support.serving import Served

AT_ONCE = 8
FLAT = 0.02
"""Of resident memory: the last quarter's median beside that of the first quarter after the warm-up."""

WARM = 0.3
"""Of the time, at most `MOST_WARM_S`: until then prefixes fill the KV cache, and grammars their cache."""
MOST_WARM_S, SAMPLE_S = 300.0, 1.0

OPTIONS = ["--ctx", "1024", "--kv-memory", "60M", "--max-sequences", "8", "--threads", "2"]
"""KV cache of 2,600 tokens for eight requests: it is full within seconds, and what is in it has to make room."""

SCHEMAS: list[dict[str, Any]] = [
    {"type": "object", "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer"}},
     "required": ["name", "age"]},
    {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "minItems": 1, "maxItems": 4},
    {"type": "object", "properties": {"ok": {"type": "boolean"}, "at": {"type": "number"}}, "required": ["ok"]},
    {"anyOf": [{"type": "null"}, {"type": "string", "maxLength": 12}]},
]  # fmt: skip

TOOL = {
    "type": "function",
    "function": {
        "name": "weather", "description": "The weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string", "maxLength": 16}},
                       "required": ["city"]},
    },
}  # fmt: skip


TEXT = "the harbour wakes before the town does; boats leave early, gulls follow; nets dry on walls of old stone"


@dataclass
class Soak:
    """What eight clients do; `errors` ends them all."""

    url: str
    until: float
    done: Counter[str] = field(default_factory=Counter)
    tokens: int = 0
    errors: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def client(self, seed: int) -> None:
        """One client, until the time is over."""
        chance = random.Random(seed)
        kinds: list[Callable[[httpx.Client, random.Random], int]] = [
            self.completion, self.stream, self.schema, self.tool, self.regex, self.leave
        ]  # fmt: skip
        with httpx.Client(base_url=self.url, timeout=300) as http:
            while time.monotonic() < self.until and not self.errors:
                kind = chance.choice(kinds)
                try:
                    tokens = kind(http, chance)
                except Exception as error:
                    self.errors.append(f"{kind.__name__}: {type(error).__name__}: {error}")
                    return
                with self.lock:
                    self.done[kind.__name__] += 1
                    self.tokens += tokens

    def text(self, chance: random.Random) -> str:
        """A prompt of up to 400 words, some of which begin alike."""
        start = "Once upon a time " * chance.choice([0, 0, 20, 40])
        return start + " ".join(chance.choices(TEXT.split(), k=round(4 * 100 ** chance.random())))

    def completion(self, http: httpx.Client, chance: random.Random) -> int:
        """A text to continue: as many tokens as were asked for."""
        most = round(2 * 100 ** chance.random())
        body = {"prompt": self.text(chance), "max_tokens": most, "ignore_eos": True, "seed": chance.randrange(1 << 30)}
        found = answer(http, "/v1/completions", body | {"n": chance.choice([1, 1, 1, 2])})
        assert found["usage"]["completion_tokens"] == most * len(found["choices"]), found["usage"]
        return int(found["usage"]["completion_tokens"])

    def stream(self, http: httpx.Client, chance: random.Random) -> int:
        """A streamed chat, which ends as it should."""
        messages = [{"role": "user", "content": self.text(chance)}]
        body = {"messages": messages, "max_tokens": 1 + chance.randrange(120), "stream": True}
        lines = list(streamed(http, body))
        assert lines[-1] == "[DONE]" and json.loads(lines[-2])["choices"][0]["finish_reason"], lines[-2:]
        return len(lines)

    def schema(self, http: httpx.Client, chance: random.Random) -> int:
        """An answer in a form: valid unless it was cut short."""
        schema = chance.choice(SCHEMAS)
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
        messages = [{"role": "user", "content": self.text(chance)}]
        found = answer(http, "/v1/chat/completions", {"messages": messages, "max_tokens": 120, "response_format": form})
        choice = found["choices"][0]
        if choice["finish_reason"] == "stop":
            jsonschema.validate(json.loads(choice["message"]["content"]), schema)
        return int(found["usage"]["completion_tokens"])

    def tool(self, http: httpx.Client, chance: random.Random) -> int:
        """A call that is forced: its arguments are valid unless it was cut short."""
        messages = [{"role": "user", "content": self.text(chance)}]
        body = {"messages": messages, "max_tokens": 120, "tools": [TOOL], "tool_choice": "required"}
        found = answer(http, "/v1/chat/completions", body | {"parallel_tool_calls": False})
        choice = found["choices"][0]
        if choice["finish_reason"] == "tool_calls":
            function = choice["message"]["tool_calls"][0]["function"]
            assert set(json.loads(function["arguments"])) == {"city"} and function["name"] == "weather", function
        return int(found["usage"]["completion_tokens"])

    def regex(self, http: httpx.Client, chance: random.Random) -> int:
        """An expression; of 500, so that grammars come and go."""
        shape = f"[a-d]{{{1 + chance.randrange(50)}}}-[0-9]{{{1 + chance.randrange(10)}}}"
        body = {"prompt": self.text(chance), "max_tokens": 100, "structured_outputs": {"regex": shape}}
        found = answer(http, "/v1/completions", body)
        text, reason = found["choices"][0]["text"], found["choices"][0]["finish_reason"]
        assert reason == "length" or re.fullmatch(shape, text), (shape, text)
        return int(found["usage"]["completion_tokens"])

    def leave(self, http: httpx.Client, chance: random.Random) -> int:
        """A stream that is left after some pieces."""
        messages = [{"role": "user", "content": self.text(chance)}]
        count = chance.randrange(1, 20)
        for number, _ in enumerate(streamed(http, {"messages": messages, "max_tokens": 200, "stream": True})):
            if number == count:
                return number
        return count


def answer(http: httpx.Client, path: str, body: dict[str, Any]) -> Any:
    """JSON; AssertionError for anything but 200."""
    response = http.post(path, json=body)
    assert response.status_code == 200, response.text[:300]
    return response.json()


def streamed(http: httpx.Client, body: dict[str, Any]) -> Any:
    """Data of a chat's events; AssertionError for an event that says an error."""
    with http.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.status_code == 200, response.read()[:300]
        for line in response.iter_lines():
            if line.startswith("data: "):
                assert '"error"' not in line[:20], line
                yield line[6:]


def resident(process: psutil.Process) -> int:
    """Bytes that the server's processes hold."""
    found = 0
    for one in (process, *process.children(recursive=True)):
        try:
            found += one.memory_info().rss
        except psutil.NoSuchProcess:  # the compiler of grammars is started anew after a limit
            continue
    return found


def grown(samples: list[tuple[float, int]], seconds: float) -> float:
    """Of resident memory, from the first quarter after the warm-up to the last, as a share."""
    warm = min(WARM * seconds, MOST_WARM_S)
    quarter = (seconds - warm) / 4
    first = [n for at, n in samples if warm <= at < warm + quarter]
    last = [n for at, n in samples if at >= seconds - quarter]
    return median(last) / median(first) - 1


def soak(served: Served, seconds: float, seed: int = 1) -> Soak:
    """So many seconds of load; AssertionError for an error, a wrong answer, or memory that is not flat."""
    began = time.monotonic()
    run, process = Soak(served.url, began + seconds), psutil.Process(served.process.pid)
    clients = [threading.Thread(target=run.client, args=(seed * 100 + i,), daemon=True) for i in range(AT_ONCE)]
    for client in clients:
        client.start()
    samples: list[tuple[float, int]] = []
    while any(client.is_alive() for client in clients):
        samples.append((time.monotonic() - began, resident(process)))
        time.sleep(SAMPLE_S)
    assert not run.errors, run.errors
    assert set(run.done) == {"completion", "stream", "schema", "tool", "regex", "leave"}, run.done
    share, after = grown(samples, seconds), held(served)
    assert (after.live, after.kv) == (0, 0), after
    counts = ", ".join(f"{n:,} {kind}" for kind, n in sorted(run.done.items()))
    print(f"{seconds / 60:.0f} min, {run.tokens:,} tokens: {counts}; no error")
    print(
        f"resident {samples[0][1] / 1e6:.0f} -> {samples[-1][1] / 1e6:.0f} MB, {100 * share:+.2f} % after the warm-up"
    )
    assert abs(share) <= FLAT, f"resident memory grew by {100 * share:.2f} %; at most {100 * FLAT:.0f} %"
    return run


if __name__ == "__main__":
    model = Path(hub.resolve(sys.argv[2] if len(sys.argv) > 2 else "smollm2:135m"))
    with Served(model, OPTIONS) as made:
        soak(made, 60 * float(sys.argv[1]))
