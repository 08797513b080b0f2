"""Answers against OpenAI's published shapes: its client's types were made from its OpenAPI file, and read strictly
here; what the file requires and the types leave optional (nulls) is listed by hand."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from openai.types import Completion, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Say hi."}], "max_tokens": 6, "temperature": 0}
KINDS: dict[str, dict[str, Any]] = {
    "plain": {}, "several": {"n": 2, "temperature": 1}, "logprobs": {"logprobs": True, "top_logprobs": 3},
    "no likeliest": {"logprobs": True}, "stopped": {"stop": ["i", "e", "a", "o"]},
}  # fmt: skip
USAGE = {"prompt_tokens", "completion_tokens", "total_tokens"}


def events(http: httpx.Client, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The events of a stream, which ends with [DONE]."""
    options = {"stream": True, "stream_options": {"include_usage": True}}
    lines = [line for line in http.post(path, json=body | options).text.splitlines() if line]
    assert all(line.startswith("data: ") for line in lines) and lines[-1] == "data: [DONE]"
    return [json.loads(line[6:]) for line in lines[:-1]]


@pytest.mark.parametrize("kind", KINDS)
def test_chats(http: httpx.Client, kind: str) -> None:
    body = CHAT | KINDS[kind]
    whole = http.post("/v1/chat/completions", json=body).json()
    ChatCompletion.model_validate_json(json.dumps(whole), strict=True)
    assert whole.keys() >= {"id", "object", "created", "model", "choices", "usage", "system_fingerprint"}
    for choice in whole["choices"]:
        assert choice.keys() == {"index", "message", "logprobs", "finish_reason"}
        assert choice["message"].keys() >= {"role", "content", "refusal"} and choice["finish_reason"]
        for one in (choice["logprobs"] or {"content": []})["content"]:
            assert one.keys() == {"token", "logprob", "bytes", "top_logprobs"}
            assert all(other.keys() == {"token", "logprob", "bytes"} for other in one["top_logprobs"])
    assert whole["usage"].keys() >= USAGE
    *chunks, last = events(http, "/v1/chat/completions", body)
    for chunk in [*chunks, last]:
        ChatCompletionChunk.model_validate_json(json.dumps(chunk), strict=True)
        assert chunk["id"] == chunks[0]["id"] and chunk.keys() >= {
            "id",
            "object",
            "created",
            "model",
            "choices",
            "usage",
        }
    assert last["choices"] == [] and last["usage"].keys() >= USAGE and all(one["usage"] is None for one in chunks)
    for index in range(len(whole["choices"])):
        own = [c for chunk in chunks for c in chunk["choices"] if c["index"] == index]
        assert own[0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
        assert all("role" not in c["delta"] for c in own[1:])
        assert [bool(c["finish_reason"]) for c in own] == [False] * (len(own) - 1) + [True]


@pytest.mark.parametrize("more", [{}, {"n": 2, "temperature": 1}, {"logprobs": 2}, {"echo": True}])
def test_completions(http: httpx.Client, more: dict[str, Any]) -> None:
    body = {"prompt": "Once upon a time", "max_tokens": 5, "temperature": 0} | more
    whole = http.post("/v1/completions", json=body).json()
    for one in [whole, *events(http, "/v1/completions", body)]:
        assert one.keys() >= {"id", "object", "created", "model", "choices", "usage"}
        assert one["object"] == "text_completion"
    Completion.model_validate_json(json.dumps(whole), strict=True)
    for choice in whole["choices"]:
        assert choice.keys() == {"index", "text", "logprobs", "finish_reason"}
        if "logprobs" in more:
            listed = choice["logprobs"]
            assert listed.keys() == {"tokens", "token_logprobs", "top_logprobs", "text_offset"}
            assert len({len(values) for values in listed.values()}) == 1


def test_models(http: httpx.Client) -> None:
    listed = http.get("/v1/models").json()
    assert listed.keys() >= {"object", "data"} and listed["object"] == "list"
    for one in [*listed["data"], http.get("/v1/models/tested").json()]:
        Model.model_validate_json(json.dumps(one), strict=True)
        assert one.keys() >= {"id", "object", "created", "owned_by"}


def test_responses(http: httpx.Client) -> None:
    whole = http.post("/v1/responses", json={"input": "Say hi.", "max_output_tokens": 4}).json()
    Response.model_validate_json(json.dumps(whole), strict=True)
    assert whole["usage"].keys() >= {"input_tokens", "input_tokens_details", "output_tokens", "output_tokens_details"}


@pytest.mark.parametrize(
    ("path", "body", "status", "kind"),
    [
        ("/v1/chat/completions", {}, 400, "invalid_request_error"),
        ("/v1/chat/completions", {"messages": [], "model": "x"}, 400, "invalid_request_error"),
        ("/v1/completions", {"prompt": "x", "model": "gpt-9"}, 404, "not_found_error"),
        ("/v1/responses", {"input": 3}, 400, "invalid_request_error"),
        ("/v1/nothing", {}, 404, "not_found_error"),
        ("/v1/embeddings", {"input": "x"}, 501, "server_error"),
    ],
)
def test_errors(http: httpx.Client, path: str, body: dict[str, Any], status: int, kind: str) -> None:
    response = http.post(path, json=body)
    error = response.json()["error"]
    assert response.status_code == status and error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == kind and isinstance(error["message"], str)
    assert all(error[name] is None or isinstance(error[name], str) for name in ("param", "code"))
