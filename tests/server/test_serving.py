"""The server as OpenAI's own client and plain HTTP see it, over the real model."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest

import memfirst
from tests.support.serving import Served

QUESTION = [{"role": "user", "content": "What is the capital of France, and what is it known for?"}]


@pytest.fixture
def client(served: Served) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)


def idle(http: httpx.Client) -> dict[str, Any]:
    """The server's snapshot once nothing runs."""
    for _ in range(500):
        stats: dict[str, Any] = http.get("/memfirst/stats").json()
        if not stats["live"] and not stats["requests"]:
            return stats
        time.sleep(0.02)
    raise AssertionError(f"requests did not end: {stats}")


def test_an_answer_is_that_of_run(client: openai.OpenAI, smollm2: Path) -> None:
    asked: dict[str, Any] = {"model": "tested", "messages": QUESTION, "temperature": 0, "max_tokens": 24}
    chat = client.chat.completions.create(**asked)
    with memfirst.load(smollm2, ctx=1024, progress=False) as model:
        alone = model.generate(QUESTION, temperature=0, max_tokens=24)
        assert chat.choices[0].message.content == str(alone)
        assert chat.usage and chat.usage.completion_tokens == len(alone.ids)
    assert chat.choices[0].finish_reason == "length"


def test_a_stream_says_the_same_as_the_whole(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": "tested", "messages": QUESTION, "max_tokens": 40, "seed": 7, "temperature": 1.2, "n": 3,
        "logprobs": True, "top_logprobs": 2,
    }  # fmt: skip
    whole = client.chat.completions.create(**asked)
    texts, reasons, logprobs, usage = Counter[int](), {}, Counter[int](), None
    said: dict[int, str] = {0: "", 1: "", 2: ""}
    for chunk in client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            said[choice.index] += choice.delta.content or ""
            logprobs[choice.index] += len(choice.logprobs.content or ()) if choice.logprobs else 0
            if choice.finish_reason:
                texts[choice.index] += 1
                reasons[choice.index] = choice.finish_reason
    assert said == {c.index: c.message.content for c in whole.choices}
    assert set(texts.values()) == {1} and reasons == {c.index: c.finish_reason for c in whole.choices}
    assert usage and whole.usage and usage.completion_tokens == whole.usage.completion_tokens
    for choice in whole.choices:
        listed = choice.logprobs.content if choice.logprobs else None
        assert listed and len(listed) == logprobs[choice.index]
        assert all(len(one.top_logprobs) == 2 and one.logprob <= 0 for one in listed)
    assert len(set(said.values())) == 3  # each choice has a seed of its own


def test_neighbours_change_nothing(http: httpx.Client) -> None:
    def ask(seed: int) -> str:
        body = {"prompt": f"Story {seed}: once upon a time", "max_tokens": 32, "seed": seed, "temperature": 1.0}
        text: str = http.post("/v1/completions", json=body).json()["choices"][0]["text"]
        return text

    alone = [ask(seed) for seed in range(12)]
    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(ask, range(12))) == alone


def test_what_requests_say_they_read_is_what_was_read(http: httpx.Client) -> None:
    before = idle(http)["bytes"]

    def ask(i: int) -> dict[str, int]:
        body = {"prompt": "word " * (5 + 17 * i), "max_tokens": 5 + i, "ignore_eos": True, "n": 1 + i % 2}
        found: dict[str, int] = http.post("/v1/completions", json=body).json()["usage"]["memfirst"]["bytes_read"]
        return found

    with ThreadPoolExecutor(7) as pool:
        parts = sum((Counter(part) for part in pool.map(ask, range(14))), Counter[str]())
    after = idle(http)["bytes"]
    assert parts == {purpose: n - before.get(purpose, 0) for purpose, n in after.items()}
    assert parts["weights"] > 0 and parts["kv_read"] > 0
    listed = re.findall(r'memfirst_bytes_total{purpose="(.*)"} (.*)', http.get("/metrics").text)
    assert {purpose: int(float(n)) for purpose, n in listed} == after


def test_a_prompt_that_began_alike_is_not_read_again(http: httpx.Client) -> None:
    body = {"messages": [{"role": "user", "content": "Tell me of " + "ships and the sea, " * 20}], "max_tokens": 2}
    first = http.post("/v1/chat/completions", json=body).json()["usage"]
    second = http.post("/v1/chat/completions", json=body).json()["usage"]
    assert second["prompt_tokens_details"]["cached_tokens"] == first["prompt_tokens"] - 1
    assert second["memfirst"]["bytes_read"]["kv_write"] < first["memfirst"]["bytes_read"]["kv_write"]


def test_who_leaves_frees_the_engine(http: httpx.Client) -> None:
    body = {"prompt": "On and on", "max_tokens": 900, "ignore_eos": True, "stream": True}
    with http.stream("POST", "/v1/completions", json=body) as response:
        next(response.iter_lines())
    started = time.monotonic()
    stats = idle(http)
    assert time.monotonic() - started < 2
    assert stats["memory"]["kv_requests"] == 0
    with pytest.raises(httpx.ReadTimeout):
        http.post("/v1/completions", json=body | {"stream": False}, timeout=0.3)
    assert idle(http)["memory"]["kv_requests"] == 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"temperature": -3}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 7}, "top_p"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "image_url"),
        ({"n": 17}, "n"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"logit_bias": {"999999": 1}}, "999999"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"top_logprobs": 5}, "logprobs"),
        ({"response_format": {"type": "xml"}}, "json_object"),
        ({"functions": []}, "functions"),
        ({"messages": [{"role": "user", "content": "word " * 2000}]}, "1024"),
        ({"seed": 1 << 70}, "seed"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(http: httpx.Client, change: dict[str, Any], says: str) -> None:
    response = http.post("/v1/chat/completions", json={"messages": QUESTION, "max_tokens": 1} | change)
    error = response.json()["error"]
    assert response.status_code == 400 and error["type"] == "invalid_request_error"
    assert says in error["message"], error


def test_other_models_and_paths_are_not_there(http: httpx.Client) -> None:
    response = http.post("/v1/chat/completions", json={"model": "gpt-9", "messages": QUESTION})
    assert response.status_code == 404 and response.json()["error"]["code"] == "model_not_found"
    assert http.get("/v1/models/tested").json()["max_model_len"] == 1024
    assert http.get("/v1/models/other").status_code == 404
    assert http.get("/v1/nothing").json()["error"]["type"] == "not_found_error"
    assert http.get("/v1/chat/completions").status_code == 405


def test_a_predicted_answer_is_the_same_from_fewer_steps(http: httpx.Client) -> None:
    body = {"messages": QUESTION, "max_tokens": 80, "temperature": 0}
    plain = http.post("/v1/chat/completions", json=body).json()
    text = plain["choices"][0]["message"]["content"]
    assert plain["usage"]["completion_tokens_details"]["accepted_prediction_tokens"] == 0
    for content in (text, [{"type": "text", "text": text}]):
        predicted = {**body, "prediction": {"type": "content", "content": content}}
        found = http.post("/v1/chat/completions", json=predicted).json()
        assert found["choices"] == plain["choices"]
        details, own = found["usage"]["completion_tokens_details"], found["usage"]["memfirst"]
        assert details["accepted_prediction_tokens"] == own["kept_drafts"] > 20
        assert details["rejected_prediction_tokens"] == own["drafted_tokens"] - own["kept_drafts"]
        assert own["bytes_per_token"] < plain["usage"]["memfirst"]["bytes_per_token"]
    wrong = http.post("/v1/chat/completions", json={**body, "prediction": {"type": "content", "content": 3}})
    assert wrong.status_code == 400


def test_unknown_fields_are_named(http: httpx.Client) -> None:
    body = {"messages": QUESTION, "max_tokens": 1, "frobnicate": 3, "user": "me"}
    response = http.post("/v1/chat/completions", json=body)
    assert response.status_code == 200 and response.headers["x-memfirst-ignored"] == "frobnicate,user"


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"host": "evil.example"}, b"{}", 403),
        ({"origin": "http://evil.example"}, b"{}", 403),
        ({"content-type": "text/plain"}, b"{}", 415),
        ({}, b"[" * 5000 + b"]" * 5000, 400),
        ({}, b'{"prompt": NaN}', 400),
        ({}, b'{"prompt": "\\ud800"}', 400),
        ({}, b"\0", 400),
        ({}, b'{"prompt": "x"', 400),
        ({}, b"\xff\xfe", 400),
        ({}, b" " * (9 << 20), 413),
    ],
)
def test_what_no_client_should_send(http: httpx.Client, headers: dict[str, str], body: bytes, status: int) -> None:
    sent = {"content-type": "application/json"} | headers
    response = http.post("/v1/completions", content=body, headers=sent)
    assert response.status_code == status and "message" in response.json()["error"]
    assert http.get("/health").status_code == 200


def test_words_of_the_model(http: httpx.Client) -> None:
    ids = http.post("/tokenize", json={"content": "Hello, wörld"}).json()["tokens"]
    assert http.post("/detokenize", json={"tokens": ids}).json()["content"] == "Hello, wörld"
    assert http.post("/detokenize", json={"tokens": [1 << 20]}).status_code == 400
    prompt = http.post("/apply-template", json={"messages": QUESTION}).json()["prompt"]
    assert prompt.endswith("<|im_start|>assistant\n")
    assert http.get("/props").json()["total_slots"] == 8 and len(http.get("/slots").json()) == 8


def test_an_answer_that_was_begun_goes_on(http: httpx.Client) -> None:
    body = {
        "messages": [*QUESTION, {"role": "assistant", "content": "The capital of France is"}],
        "max_tokens": 4,
        "temperature": 0,
    }
    text = http.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]
    assert text.startswith(" Paris")


def test_completion_forms(http: httpx.Client) -> None:
    body: dict[str, Any] = {
        "prompt": ["One two three", "A B C"],
        "max_tokens": 3,
        "echo": True,
        "logprobs": 2,
        "temperature": 0,
    }
    found = http.post("/v1/completions", json=body).json()
    assert [c["text"][:5] for c in found["choices"]] == ["One t", "A B C"]
    assert all(len(c["logprobs"]["tokens"]) == 3 for c in found["choices"])
    ids = http.post("/tokenize", json={"content": "One two three"}).json()["tokens"]
    again = http.post("/v1/completions", json=body | {"prompt": ids, "echo": False}).json()
    assert "One two three" + again["choices"][0]["text"] == found["choices"][0]["text"]
    biased = http.post(
        "/v1/completions", json={"prompt": "x", "max_tokens": 5, "logit_bias": {str(ids[0]): 100}}
    ).json()
    assert biased["choices"][0]["text"] == "One" * 5


def test_the_engine_may_die(smollm2: Path) -> None:
    """Streams end with an error, and the server serves again."""
    with Served(smollm2, ["--ctx", "1024"]) as served, httpx.Client(base_url=served.url, timeout=60) as http:
        engine = next(p for p in psutil.Process(served.process.pid).children() if "spawn_main" in " ".join(p.cmdline()))
        body = {"prompt": "On and on", "max_tokens": 900, "ignore_eos": True, "stream": True}
        with http.stream("POST", "/v1/completions", json=body) as response:
            lines = response.iter_lines()
            next(lines)
            engine.kill()
            last = [line for line in lines if line][-1]
        assert "error" in json.loads(last.removeprefix("data: "))
        for _ in range(1200):
            if http.get("/health").status_code == 200:
                break
            time.sleep(0.1)
        assert http.post("/v1/completions", json={"prompt": "x", "max_tokens": 2}).status_code == 200


def test_a_signal_lets_answers_end(smollm2: Path) -> None:
    with Served(smollm2, ["--ctx", "1024"]) as served, httpx.Client(base_url=served.url, timeout=60) as http:
        body = {"prompt": "On and on", "max_tokens": 60, "ignore_eos": True}
        found: list[httpx.Response] = []
        thread = threading.Thread(target=lambda: found.append(http.post("/v1/completions", json=body)))
        thread.start()
        while not httpx.get(f"{served.url}/memfirst/stats").json()["live"]:
            time.sleep(0.01)
        os.kill(served.process.pid, signal.SIGTERM)
        thread.join(30)
        assert found[0].status_code == 200, found[0].text
        assert found[0].json()["usage"]["completion_tokens"] == 60
        assert served.process.wait(20) == 0
        children = [p for p in psutil.process_iter(["ppid"]) if p.info["ppid"] == served.process.pid]
        assert children == []


def test_a_key_is_asked_for(smollm2: Path) -> None:
    with Served(smollm2, ["--ctx", "512", "--api-key", "secret"]) as served:
        assert httpx.get(f"{served.url}/health").status_code == 200
        assert httpx.get(f"{served.url}/metrics").status_code == 401
        assert httpx.get(f"{served.url}/v1/models", headers={"authorization": "Bearer wrong"}).status_code == 401
        assert httpx.get(f"{served.url}/v1/models", headers={"authorization": "Bearer secret"}).status_code == 200
        assert httpx.get(f"{served.url}/v1/models", headers={"x-api-key": "secret"}).status_code == 200
