"""Many requests over little KV cache: none fails because of others, none costs another's bytes, none changes another's
text."""

from __future__ import annotations

import json
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.test_serving import idle
from tests.support.serving import Served

POOL = 1024
BLOCK_BYTES = 64 * 23_040
"""Of SmolLM2: 30 layers of 3 heads of 64, keys and values in f16."""


@pytest.fixture(scope="module")
def small(smollm2: Path) -> Iterator[Served]:
    """A server whose KV cache holds 1,024 positions: one context."""
    options = ["--ctx", "1024", "--kv-memory", str(POOL // 64 * BLOCK_BYTES), "--threads", "2", "--max-sequences", "16"]
    with Served(smollm2, options) as made:
        yield made


@pytest.fixture
def http(small: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=small.url, timeout=300) as client:
        yield client


def complete(http: httpx.Client, **body: Any) -> dict[str, Any]:
    response = http.post("/v1/completions", json={"ignore_eos": True, "temperature": 0} | body)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def together(http: httpx.Client, bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    with ThreadPoolExecutor(len(bodies)) as pool:
        return list(pool.map(lambda body: complete(http, **body), bodies))


def test_requests_of_which_each_fits_all_end(http: httpx.Client) -> None:
    """Four that together need 1.6 times the pool, then 64: every one gives all its tokens, as alone."""
    four = [{"prompt": f"Letter {i} to a friend:", "max_tokens": 400} for i in range(4)]
    found = together(http, four)
    assert [one["usage"]["completion_tokens"] for one in found] == [400] * 4
    alone = complete(http, **four[3])
    assert alone["choices"][0]["text"] == found[3]["choices"][0]["text"]
    many = [{"prompt": f"{i} things to know about whales:", "max_tokens": 8 + i % 9} for i in range(64)]
    assert [one["usage"]["completion_tokens"] for one in together(http, many)] == [8 + i % 9 for i in range(64)]
    stats = idle(http)
    assert stats["memory"]["kv_requests"] == 0 and stats["waiting"] == 0


def test_neighbours_change_no_bit(http: httpx.Client) -> None:
    """At temperature 1, alone and beside 15 others over a pool that is too small: text and log-probabilities."""

    def ask(seed: int) -> Any:
        body = {"prompt": f"Once upon a time {seed}", "max_tokens": 40, "seed": seed, "temperature": 1, "logprobs": 3}
        choice = complete(http, **body)["choices"][0]
        return choice["text"], choice["logprobs"]["token_logprobs"], choice["logprobs"]["top_logprobs"]

    alone = [ask(seed) for seed in range(16)]
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, range(16))) == alone


def test_bytes_of_requests_are_the_counters_with_cancels_and_prefixes(http: httpx.Client) -> None:
    """Exact integers: answered requests say theirs in `usage`, cancelled ones leave theirs in /metrics."""

    def of_ended() -> Counter[str]:
        listed = re.findall(r'memfirst_answered_bytes_total{purpose="(.*)"} (.*)', http.get("/metrics").text)
        return Counter({purpose: int(float(n)) for purpose, n in listed})

    before, ended = Counter(idle(http)["bytes"]), of_ended()
    common, rng = "The same beginning of all. " * 12, random.Random(5)

    def ask(i: int) -> Counter[str]:
        body = {"prompt": common + str(i), "max_tokens": 40 + i, "ignore_eos": True, "stream": True,
                "stream_options": {"include_usage": True}}  # fmt: skip
        leaves = rng.randrange(30) if i % 3 == 0 else None
        found: Counter[str] = Counter()
        with http.stream("POST", "/v1/completions", json=body) as response:
            for n, line in enumerate(one for one in response.iter_lines() if one.startswith("data: {")):
                if leaves is not None and n >= leaves:
                    return Counter()
                usage = json.loads(line[6:]).get("usage")
                found += Counter(usage["memfirst"]["bytes_read"] if usage else {})
        return found

    with ThreadPoolExecutor(12) as pool:
        said = sum(pool.map(ask, range(24)), Counter[str]())
    after = Counter(idle(http)["bytes"])
    for _ in range(100):
        parts = of_ended() - ended
        if parts == after - before:
            break
        time.sleep(0.05)
    assert parts == after - before
    assert said and not said - parts  # what cancelled requests cost is missing there
    assert idle(http)["prefix_hits"] > 0


def test_a_burst_is_told_what_was_cached(http: httpx.Client) -> None:
    prompt = "Some instructions that all requests have in common. " * 20
    found = together(http, [{"prompt": f"{prompt}{i}", "max_tokens": 2} for i in range(8)])
    cached = sorted(one["usage"]["prompt_tokens_details"]["cached_tokens"] for one in found)
    assert cached[0] == 0 and cached[1] >= 128
    assert cached[1] // 64 == (found[0]["usage"]["prompt_tokens"] - 2) // 64


def test_metrics_have_the_names_that_others_look_for(http: httpx.Client) -> None:
    text = http.get("/metrics").text
    values = dict(re.findall(r"^([a-z:_]+) ([0-9.e+]+)$", text, re.MULTILINE))
    for name in ("memfirst_prefix_queries_total", "memfirst_prefix_hits_total", "memfirst_recomputed_tokens_total",
                 "memfirst_predicted_wait_seconds", "vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total",
                 "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc", "memfirst_inter_token_seconds_sum",
                 "vllm:inter_token_latency_seconds_count"):  # fmt: skip
        assert name in values, name
    assert values["memfirst_prefix_hits_total"] == values["vllm:prefix_cache_hits_total"] != "0.0"
    assert values["memfirst_inter_token_seconds_count"] == values["vllm:inter_token_latency_seconds_count"] != "0.0"
    assert 'memfirst_inter_token_seconds_bucket{le="0.0025"}' in text


def test_the_dashboard_shows_metrics_that_exist(http: httpx.Client) -> None:
    """Every metric that docs/grafana.json asks for is one of the server's, by its whole name."""
    complete(http, prompt="One answer, so that every counter is there.", max_tokens=4)
    dashboard = json.loads((Path(__file__).parents[2] / "docs" / "grafana.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    named = {name for expr in asked for name in re.findall(r"\b(?:memfirst|vllm)[a-z_:]+", expr)}
    there = set(re.findall(r"^([a-z_:]+)[{ ]", http.get("/metrics").text, re.MULTILINE))
    assert len(named) >= 20 and not named - there
    labels = {label for expr in asked for label in re.findall(r"by \(([a-z]+)\)", expr)} - {"le"}
    assert labels == {"state", "purpose", "end"}


def test_what_never_fits_is_refused_with_both_numbers(smollm2: Path) -> None:
    options = ["--ctx", "1024", "--kv-memory", str(6 * BLOCK_BYTES)]
    with Served(smollm2, options) as served, httpx.Client(base_url=served.url, timeout=60) as http:
        response = http.post("/v1/completions", json={"prompt": "word " * 100, "max_tokens": 700})
        message = response.json()["error"]["message"]
        assert response.status_code == 400 and "13 pages" in message and "6 of the KV cache" in message
        assert complete(http, prompt="word " * 100, max_tokens=100)["usage"]["completion_tokens"] == 100


def test_who_would_wait_too_long_is_told_when_to_come_again(smollm2: Path) -> None:
    options = ["--ctx", "2048", "--max-sequences", "1", "--max-wait", "0.5"]
    body = {"prompt": "On and on", "max_tokens": 1500, "ignore_eos": True, "stream": True}
    done = threading.Event()
    with (
        Served(smollm2, options) as served,
        httpx.Client(base_url=served.url, timeout=60) as http,
        ThreadPoolExecutor(2) as pool,
    ):

        def read() -> None:
            with http.stream("POST", "/v1/completions", json=body) as response:
                for _ in response.iter_lines():
                    if done.is_set():
                        return

        for _ in range(2):
            pool.submit(read)
        for _ in range(500):
            if http.get("/memfirst/stats").json().get("predicted_wait", 0) > 0.5:
                break
            time.sleep(0.02)
        response = http.post("/v1/completions", json=body)
        done.set()
        assert response.status_code == 503 and int(response.headers["retry-after"]) >= 1
        assert "is predicted" in response.json()["error"]["message"]
