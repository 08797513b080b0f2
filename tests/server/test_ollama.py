"""Ollama's API over plain HTTP; its own client stands in tests/server/clients."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from memfirst.server.calls import CallDelta
from memfirst.server.messages import Piece
from memfirst.server.ollama import Job
from memfirst.server.reply import Delta

MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]
GREEDY = {"temperature": 0, "num_predict": 24}


def lines(http: httpx.Client, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """All lines of a stream: a request streams unless it says otherwise."""
    response = http.post(path, json={"model": "tested"} | body)
    assert response.headers["content-type"] == "application/x-ndjson", response.text
    return [json.loads(line) for line in response.text.splitlines()]


def test_it_says_what_a_chat_says(http: httpx.Client) -> None:
    chat = http.post("/v1/chat/completions", json={"messages": MESSAGES, "temperature": 0, "max_tokens": 24}).json()
    text = chat["choices"][0]["message"]["content"]
    body = {"messages": MESSAGES, "options": GREEDY}
    *parts, last = lines(http, "/api/chat", body)
    assert "".join(one["message"]["content"] for one in parts) == text
    assert not any(one["done"] for one in parts) and last["done"] and last["done_reason"] == "length"
    assert last["eval_count"] == 24 and last["prompt_eval_count"] == chat["usage"]["prompt_tokens"]
    assert last["total_duration"] >= last["eval_duration"] > 0
    whole = http.post("/api/chat", json={"model": "tested", "stream": False} | body).json()
    assert whole["message"] == {"role": "assistant", "content": text} and whole.keys() == last.keys()
    asked = {"prompt": MESSAGES[0]["content"], "options": GREEDY}
    assert "".join(one["response"] for one in lines(http, "/api/generate", asked)) == text


def test_raw_text_is_gone_on_with(http: httpx.Client) -> None:
    body = {"prompt": "One two three", "max_tokens": 8, "temperature": 0, "logprobs": 2}
    completion = http.post("/v1/completions", json=body).json()["choices"][0]
    asked: dict[str, Any] = {"model": "tested", "prompt": "One two three", "raw": True, "stream": False}
    asked |= {"logprobs": True, "top_logprobs": 2, "options": {"temperature": 0, "num_predict": 8}}
    whole = http.post("/api/generate", json=asked).json()
    assert whole["response"] == completion["text"]
    assert [one["logprob"] for one in whole["logprobs"]] == completion["logprobs"]["token_logprobs"]


def test_options_are_those_of_other_forms(http: httpx.Client) -> None:
    options = {"temperature": 1.3, "seed": 5, "top_k": 20, "top_p": 0.8, "min_p": 0.01, "repeat_penalty": 1.1,
               "presence_penalty": 0.2, "frequency_penalty": 0.1, "stop": ["zzz"]}  # fmt: skip
    chat = http.post("/v1/chat/completions", json={"messages": MESSAGES, "max_tokens": 20} | options).json()
    asked = {"messages": MESSAGES, "options": options | {"num_predict": 20, "num_ctx": 4096}, "keep_alive": "5m"}
    response = http.post("/api/chat", json=asked | {"model": "tested:latest", "stream": False})
    assert response.json()["message"]["content"] == chat["choices"][0]["message"]["content"]
    assert response.headers["x-memfirst-ignored"] == "keep_alive,options.num_ctx"


def test_what_is_served(http: httpx.Client) -> None:
    assert http.get("/api/version").json()["version"]
    listed = http.get("/api/tags").json()["models"]
    assert [one["model"] for one in listed] == ["tested"] and listed[0]["size"] > 9e7
    assert http.get("/api/ps").json()["models"][0]["context_length"] == 1024
    shown = http.post("/api/show", json={"model": "tested"}).json()
    assert shown["model_info"]["llama.context_length"] == 8192 and shown["details"]["quantization_level"] == "q4_1"
    assert "completion" in shown["capabilities"] and "im_start" in shown["template"]
    for path, body in (("chat", {}), ("chat", {"messages": []}), ("generate", {}), ("generate", {"keep_alive": 0})):
        there = http.post(f"/api/{path}", json={"model": "tested"} | body).json()
        assert there["done"] and there["done_reason"] == "load"


@pytest.mark.parametrize(
    ("path", "change", "status", "says"),
    [
        ("chat", {"model": "other"}, 404, "other"),
        ("show", {"model": "other"}, 404, "other"),
        ("show", {}, 404, "tested"),
        ("chat", {"messages": [{"role": "user", "content": "x", "images": ["AAAA"]}]}, 400, "images"),
        ("chat", {"options": {"temperature": "hot"}}, 400, "temperature"),
        ("chat", {"messages": [{"role": "user", "content": "word " * 2000}]}, 400, "1024"),
        ("generate", {"prompt": "x", "context": [1, 2]}, 400, "context"),
        ("generate", {"prompt": "x", "template": "{{ .Prompt }}"}, 400, "template"),
        ("generate", {"prompt": "x", "suffix": "y"}, 400, "suffix"),
        ("generate", {"prompt": "word " * 2000, "raw": True}, 400, "1024"),
        ("pull", {"model": "x"}, 404, "/api/pull"),
        ("create", {"model": "x"}, 404, "/api/create"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_its_form(
    http: httpx.Client, path: str, change: dict[str, Any], status: int, says: str
) -> None:
    body = {"model": "tested", "messages": MESSAGES} if path == "chat" else {"model": "tested"} if change else {}
    response = http.post(f"/api/{path}", json=body | change)
    assert response.status_code == status and says in response.json()["error"], response.text


def test_nothing_is_deleted(http: httpx.Client) -> None:
    assert http.request("DELETE", "/api/delete", json={"model": "tested"}).status_code == 404
    assert http.request("DELETE", "/api/tags", json={"model": "tested"}).status_code == 405


def test_calls_come_whole() -> None:
    """A line for each, once its arguments are complete; what was cut off has none."""
    said = [
        [Delta("Let me see."), Delta(call=CallDelta(0, "a", "one"))],
        [Delta(call=CallDelta(0, arguments='{"x": ')), Delta(call=CallDelta(0, arguments="1}"))],
        [Delta(call=CallDelta(1, "b", "two", '{"y"'))],
    ]
    parser: Any = SimpleNamespace(push=lambda text: said[int(text)], end=list)
    service: Any = SimpleNamespace(prompts=SimpleNamespace(tokenizer=None))
    job = Job(service, service, service, parser, True, "m")
    lines = [line for i in range(3) for line in job.grown([Piece(0, str(i), 0, None)], i == 2)]
    messages = [line["message"] for line in lines]
    assert [m.get("content") for m in messages] == ["Let me see.", "", ""]
    assert [m.get("tool_calls", [{}])[0].get("function") for m in messages] == [
        None, {"index": 0, "name": "one", "arguments": {"x": 1}}, {"index": 1, "name": "two", "arguments": {}},
    ]  # fmt: skip
