"""OpenAI's newer form of a chat: by its own client, whose types were made from OpenAI's published file."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import openai
import pytest
from openai.types.responses import Response, ResponseCompletedEvent, ResponseStreamEvent
from pydantic import TypeAdapter

from memfirst.errors import ConfigError
from memfirst.server.calls import CallDelta
from memfirst.server.reply import Delta
from memfirst.server.responses_items import Item, Output, conversation
from tests.support.serving import Served

QUESTION = "Answer with one word: yes or no?"
ASKED: dict[str, Any] = {
    "model": "tested", "instructions": "You answer briefly.", "temperature": 0, "max_output_tokens": 64,
    "input": [{"role": "user", "content": [{"type": "input_text", "text": QUESTION}]}],
}  # fmt: skip

WHOLE = {"id", "object", "created_at", "error", "incomplete_details", "instructions", "metadata", "model", "output"}
WHOLE |= {"parallel_tool_calls", "temperature", "tool_choice", "tools", "top_p", "status", "text", "usage"}
"""What OpenAI's file requires of a response, and what its clients read besides."""


@pytest.fixture
def client(served: Served) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)


def events_of(http: httpx.Client, **more: Any) -> list[dict[str, Any]]:
    """All events of a stream, whose names are their types."""
    with http.stream("POST", "/v1/responses", json=ASKED | more | {"stream": True}) as response:
        lines = [line for line in response.iter_lines() if line]
    named, data = lines[::2], [httpx.Response(200, text=line[6:]).json() for line in lines[1::2]]
    assert [line[7:] for line in named] == [one["type"] for one in data]
    return data


def test_it_says_what_a_chat_says(client: openai.OpenAI, http: httpx.Client) -> None:
    messages = [{"role": "system", "content": ASKED["instructions"]}, {"role": "user", "content": QUESTION}]
    chat = http.post("/v1/chat/completions", json={"messages": messages, "temperature": 0, "max_tokens": 64}).json()
    response = client.responses.create(**ASKED)
    assert response.output_text == chat["choices"][0]["message"]["content"] and response.status == "completed"
    assert response.id.startswith("resp_") and response.output[0].id.startswith("msg_")  # type: ignore[union-attr]
    assert response.usage and response.usage.output_tokens == chat["usage"]["completion_tokens"]
    counted = client.responses.input_tokens.count(input=ASKED["input"], instructions=ASKED["instructions"])
    assert counted.input_tokens == response.usage.input_tokens == chat["usage"]["prompt_tokens"]


@pytest.mark.parametrize("most", [64, 1])
def test_a_stream_amounts_to_the_whole(client: openai.OpenAI, http: httpx.Client, most: int) -> None:
    whole = http.post("/v1/responses", json=ASKED | {"max_output_tokens": most}).json()
    assert whole.keys() >= WHOLE and Response.model_validate(whole, strict=True)
    events = events_of(http, max_output_tokens=most)
    kinds: TypeAdapter[ResponseStreamEvent] = TypeAdapter(ResponseStreamEvent)
    for number, one in enumerate(events):
        kinds.validate_python(one, strict=True)
        assert one["sequence_number"] == number
        assert "response" not in one or one["response"].keys() >= WHOLE
    last = events[-1]["response"]
    assert whole["status"] == ("completed" if most == 64 else "incomplete")
    assert events[-1]["type"] == f"response.{whole['status']}"
    assert last["incomplete_details"] == (None if most == 64 else {"reason": "max_output_tokens"})
    text = "".join(one["delta"] for one in events if one["type"] == "response.output_text.delta")
    assert text == last["output"][0]["content"][0]["text"] == whole["output"][0]["content"][0]["text"]
    varies = {"id", "created_at", "completed_at", "output", "usage"}
    assert {k: v for k, v in last.items() if k not in varies} == {k: v for k, v in whole.items() if k not in varies}


def test_the_client_puts_a_stream_together(client: openai.OpenAI) -> None:
    text = client.responses.create(**ASKED).output_text
    with client.responses.stream(**ASKED) as stream:
        seen = [event for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert final.output_text == text == seen[-1].snapshot


def test_the_asynchronous_client(served: Served) -> None:
    async def ask() -> tuple[str, str]:
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
            whole = await client.responses.create(**ASKED)
            said = ""
            async for event in await client.responses.create(**ASKED, stream=True):
                said += event.delta if event.type == "response.output_text.delta" else ""
                done = event
        assert isinstance(done, ResponseCompletedEvent)
        return whole.output_text, said

    whole, said = asyncio.run(ask())
    assert whole == said != ""


def test_log_probabilities(http: httpx.Client) -> None:
    asked = {
        "top_logprobs": 2,
        "include": ["message.output_text.logprobs"],
        "max_output_tokens": 5,
        "input": "Tell a story",
    }
    part = http.post("/v1/responses", json=ASKED | asked).json()["output"][0]["content"][0]
    assert len(part["logprobs"]) == 5 and all(len(one["top_logprobs"]) == 2 for one in part["logprobs"])
    assert "".join(one["token"] for one in part["logprobs"]) == part["text"]
    events = [one for one in events_of(http, **asked) if one["type"] == "response.output_text.delta"]
    assert [entry["logprob"] for one in events for entry in one["logprobs"]] == [e["logprob"] for e in part["logprobs"]]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": {"id": "c"}}, "conversation"),
        ({"background": True}, "background"),
        ({"store": True}, "store"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"input": []}, "input"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "item_reference"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input_image"),
        ({"input": [{"role": "wizard", "content": "x"}]}, "wizard"),
        ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "call_id"),
        ({"input": [{"type": "web_search_call", "id": "ws"}]}, "web_search_call"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"input": "word " * 2000}, "1024"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(http: httpx.Client, change: dict[str, Any], says: str) -> None:
    for stream in (False, True):
        response = http.post("/v1/responses", json=ASKED | change | {"stream": stream})
        assert response.status_code == 400 and says in response.json()["error"]["message"], response.text


def test_what_has_no_effect_is_named(http: httpx.Client) -> None:
    tools = [{"type": "web_search"}, {"type": "local_shell"}, {"type": "x y"}]
    body = ASKED | {"store": False, "tools": tools, "include": ["reasoning.encrypted_content"], "prompt_cache_key": "k"}
    response = http.post("/v1/responses", json=body | {"max_output_tokens": 1})
    assert response.status_code == 200 and response.json()["tools"] == []
    named = "include.reasoning.encrypted_content,prompt_cache_key,tools.local_shell,tools.web_search"
    assert response.headers["x-memfirst-ignored"] == named


def test_items_become_messages() -> None:
    given = [
        {"role": "user", "content": "Weather?"},
        {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"type": "function_call", "call_id": "a", "name": "f", "arguments": '{"x": 1}'},
        {"type": "function_call", "call_id": "b", "name": "g", "arguments": ""},
        {"type": "function_call_output", "call_id": "a", "output": [{"type": "input_text", "text": "sun"}]},
        {"type": "function_call_output", "call_id": "b", "output": "rain"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Both."}]},
    ]
    made = [m.model_dump(exclude_none=True) for m in conversation("Be brief.", [Item(**one) for one in given])]
    calls = [{"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}},
             {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}}]  # fmt: skip
    assert made == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "", "tool_calls": calls, "reasoning_content": "hm"},
        {"role": "tool", "content": "sun", "tool_call_id": "a"},
        {"role": "tool", "content": "rain", "tool_call_id": "b"},
        {"role": "assistant", "content": "Both."},
    ]
    with pytest.raises(ConfigError, match="wizard"):
        conversation(None, [Item(role="wizard")])


def test_what_was_thought_is_an_item_of_its_own() -> None:
    output = Output()
    events = [e for d in (Delta(reasoning="hm"), Delta(content="A"), Delta(content="B")) for e in output.push(d)]
    events += output.close()
    assert [item["type"] for item in output.items] == ["reasoning", "message"]
    assert [item["content"][0]["text"] for item in output.items] == ["hm", "AB"]
    assert all(item["status"] == "completed" for item in output.items)
    added = [e for e in events if e["type"] == "response.output_item.added"]
    assert [(e["output_index"], e["item"]["content"]) for e in added] == [(0, []), (1, [])]
    kinds: TypeAdapter[ResponseStreamEvent] = TypeAdapter(ResponseStreamEvent)
    for number, one in enumerate(events):
        kinds.validate_python(one | {"sequence_number": number}, strict=True)


PARAMETERS = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 12}}, "required": ["city"]}
WEATHER: Any = {"type": "function", "name": "get_weather", "parameters": PARAMETERS}


def test_a_call_is_an_item_whole_and_streamed(client: openai.OpenAI) -> None:
    asked = ASKED | {"tools": [WEATHER], "tool_choice": "required", "parallel_tool_calls": False}
    (call,) = client.responses.create(**asked).output
    assert call.type == "function_call" and call.name == "get_weather" and call.call_id and call.status == "completed"
    with client.responses.stream(**asked) as stream:
        kinds = [event.type for event in stream]
        (streamed,) = stream.get_final_response().output
    assert streamed.type == "function_call" and streamed.arguments == call.arguments
    assert kinds[2] == "response.output_item.added" and "response.output_text.delta" not in kinds
    assert kinds[-3:-1] == ["response.function_call_arguments.done", "response.output_item.done"]


def test_calls_stand_behind_what_was_said_and_white_space_is_no_message() -> None:
    out, events = Output(), list[dict[str, Any]]()
    parts = [
        Delta("\n"), Delta(call=CallDelta(0, "a", "one")), Delta(call=CallDelta(0, arguments='{"x":')),
        Delta(call=CallDelta(0, arguments="1}")), Delta(" "), Delta(call=CallDelta(1, "b", "two", "{}")), Delta("done"),
    ]  # fmt: skip
    for part in parts:
        events += out.push(part)
    events += out.close()
    assert [item["type"] for item in out.items] == ["function_call", "function_call", "message"]
    assert [item.get("arguments") for item in out.items] == ['{"x":1}', "{}", None]
    assert out.items[2]["content"][0]["text"] == "done" and all(item["status"] == "completed" for item in out.items)
    done = [one["arguments"] for one in events if one["type"] == "response.function_call_arguments.done"]
    assert done == ['{"x":1}', "{}"] and [one["output_index"] for one in events] == sorted(
        one["output_index"] for one in events
    )
