"""What a long prompt costs those who are being answered: gaps of four streams before it comes and until it is read.

    python -m benchmarks.long_prompt smollm2:135m --threads 2
    python -m benchmarks.long_prompt --url http://127.0.0.1:8080 --tokens 4000

A server of its own, unless --url names one. The bar: no gap beside the prompt is longer than 2.5 times the median
before. The longest gap before is what the machine does by itself: one beside the prompt that is no longer says nothing.
The client runs on the same machine; its threads only note when lines come.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from memfirst.measure.load.own import own_server
from memfirst.measure.probe.prompt import WORDS
from memfirst.progress import Silent

LIMIT = 2.5


def lines(url: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The chunks of a streamed completion, as they come."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=600)
    body = {"temperature": 1.0, "stream": True, "ignore_eos": True} | body
    connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
    answer = connection.getresponse()
    if answer.status != 200:
        raise SystemExit(f"the server answered {answer.status}: {answer.read()[:300]!r}")
    for line in answer:
        if line.startswith(b"data: {"):
            yield json.loads(line[6:])
    connection.close()


@dataclass
class Stream:
    """One who is being answered; `at`: when pieces of the answer came."""

    url: str
    seed: int
    tokens: int
    at: list[float] = field(default_factory=list)
    left: bool = False

    def run(self) -> None:
        """Until it is left, or has all its tokens."""
        body = {"prompt": words(80, self.seed), "max_tokens": self.tokens, "seed": self.seed}
        for _ in lines(self.url, body):
            self.at.append(time.perf_counter())
            if self.left:
                return

    def gaps(self, start: float, end: float) -> list[float]:
        """Seconds between pieces, of those that ended within."""
        return [b - a for a, b in zip(self.at, self.at[1:], strict=False) if start < b <= end]


def words(count: int, seed: int) -> str:
    """A prompt of so many words, most of which are one token."""
    return " ".join(random.Random(seed).choices(WORDS.split(), k=count))


def measure(url: str, streams: int, tokens: int, alone: float, seed: int) -> dict[str, float]:
    """Gaps of `streams` for `alone` seconds, then beside a prompt of about `tokens` tokens until its first is there."""
    running = [Stream(url, seed * 100 + n, 8 * tokens) for n in range(streams)]
    threads = [threading.Thread(target=stream.run, daemon=True) for stream in running]
    for thread in threads:
        thread.start()
    while any(len(stream.at) < 20 for stream in running):
        time.sleep(0.05)
    start = time.perf_counter()
    time.sleep(alone)
    asked = time.perf_counter()
    prompt = {"prompt": words(tokens, 1000 + seed), "max_tokens": 2, "stream_options": {"include_usage": True}}
    first, used = 0.0, 0
    for chunk in lines(url, prompt):
        first = first or time.perf_counter()
        used = (chunk.get("usage") or {}).get("prompt_tokens", used)
    for stream in running:
        stream.left = True
    for thread in threads:
        thread.join()
    before = [gap for stream in running for gap in stream.gaps(start, asked)]
    beside = [gap for stream in running for gap in stream.gaps(asked, first)]
    return {"prompt_tokens": used, "ttft": first - asked, **spread("before", before), **spread("beside", beside)}


def spread(name: str, gaps: Sequence[float]) -> dict[str, float]:
    """Percentiles, in seconds."""
    cuts = statistics.quantiles(gaps, n=100)
    return {f"{name}_p50": cuts[49], f"{name}_p90": cuts[89], f"{name}_p99": cuts[98], f"{name}_worst": max(gaps)}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="smollm2:135m")
    parser.add_argument("--url", help="a server that runs, instead of one of its own")
    parser.add_argument("--threads", default="2")
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=4000, help="words of the long prompt")
    parser.add_argument("--alone", type=float, default=8.0, help="seconds without it")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    if given.url:
        rounds(given.url, given)
        return
    options = ["--threads", given.threads, "--speculate", "off"]
    with own_server(given.model, options, Silent()) as url:
        rounds(url, given)


def rounds(url: str, given: argparse.Namespace) -> None:
    """All of them, a line each."""
    print(
        "prompt first token | ms before: p50 p99 worst | beside: p50 p99 worst | times the median before: p50 p99 worst"
    )
    worst = []
    for seed in range(given.rounds):
        found = measure(url, given.streams, given.tokens, given.alone, seed)
        ms = {name: 1e3 * value for name, value in found.items()}
        times = {name: found[f"beside_{name}"] / found["before_p50"] for name in ("p50", "p99", "worst")}
        worst.append(times["worst"])
        print(
            f"{found['prompt_tokens']:6.0f} {found['ttft']:10.2f} s  |"
            f" {ms['before_p50']:13.1f} {ms['before_p99']:9.1f} {ms['before_worst']:6.1f} |"
            f" {ms['beside_p50']:8.1f} {ms['beside_p99']:9.1f} {ms['beside_worst']:6.1f} |"
            f" {times['p50']:8.2f} {times['p99']:9.2f} {times['worst']:6.2f}"
            f"  (worst before {found['before_worst'] / found['before_p50']:.2f})",
            flush=True,
        )
    met = "met" if max(worst) <= LIMIT else "not met"
    print(f"worst gap {max(worst):.2f} times the median before; bar {LIMIT}: {met}")


if __name__ == "__main__":
    main()
