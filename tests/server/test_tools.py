"""Tools over HTTP: calls whole and streamed, as OpenAI's and Anthropic's own clients put them together."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import httpx
import jsonschema
import openai
import pytest

from tests.support.serving import Served

PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "unit": {"enum": ["celsius", "fahrenheit"]},
        "where": {"$ref": "#/$defs/point"},
    },
    "required": ["city", "unit", "where"],
    "$defs": {"point": {"type": "object", "properties": {"x": {"type": "integer", "maximum": 9}}, "required": ["x"]}},
}
WEATHER = {"name": "get_weather", "description": "The weather in a city.", "parameters": PARAMETERS}
TIME = {"name": "get_time", "description": "The time.", "parameters": {"type": "object", "properties": {}}}
TOOLS: Any = [{"type": "function", "function": one} for one in (WEATHER, TIME)]
ASKED: dict[str, Any] = {
    "model": "tested", "messages": [{"role": "user", "content": "What is the weather in Paris?"}], "tools": TOOLS,
    "temperature": 0, "max_tokens": 200,
}  # fmt: skip
NAMED: Any = {"type": "function", "function": {"name": "get_weather"}}


@pytest.fixture
def client(served: Served) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)


def test_a_named_call_whole_and_streamed(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(**ASKED, tool_choice=NAMED, parallel_tool_calls=False).choices[0]
    assert whole.finish_reason == "tool_calls" and whole.message.content is None
    (call,) = whole.message.tool_calls or ()
    assert call.type == "function" and call.function.name == "get_weather" and call.id
    jsonschema.validate(json.loads(call.function.arguments), PARAMETERS)
    parts = []
    with client.chat.completions.stream(**ASKED, tool_choice=NAMED, parallel_tool_calls=False) as stream:
        for event in stream:
            if event.type == "tool_calls.function.arguments.delta":
                parts.append(event.arguments_delta)
        final = stream.get_final_completion().choices[0]
    assert final.finish_reason == "tool_calls" and len(parts) > 1
    (streamed,) = final.message.tool_calls or ()
    assert streamed.function.arguments == call.function.arguments == "".join(parts)
    assert streamed.function.name == "get_weather" and streamed.index == 0  # type: ignore[attr-defined]


def test_some_call_is_required(client: openai.OpenAI) -> None:
    for seed in range(3):
        asked = ASKED | {"temperature": 1, "seed": seed, "max_tokens": 300}
        choice = client.chat.completions.create(**asked, tool_choice="required", parallel_tool_calls=False).choices[0]
        (call,) = choice.message.tool_calls or ()
        assert call.type == "function"
        parameters = {"get_weather": PARAMETERS, "get_time": TIME["parameters"]}[call.function.name]
        jsonschema.validate(json.loads(call.function.arguments), parameters)  # type: ignore[arg-type]


def test_the_deltas_of_a_stream(http: httpx.Client) -> None:
    """Index, id and name once; parts of arguments after them; one reason at the end."""
    body = ASKED | {"tool_choice": NAMED, "parallel_tool_calls": False, "stream": True}
    chunks: list[Any] = []
    with http.stream("POST", "/v1/chat/completions", json=body) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                chunks.append(json.loads(line[6:])["choices"][0])
    deltas = [call for chunk in chunks for call in chunk["delta"].get("tool_calls", ())]
    assert [call["index"] for call in deltas] == [0] * len(deltas)
    assert deltas[0]["type"] == "function" and deltas[0]["id"].startswith("call_")
    assert deltas[0]["function"] == {"name": "get_weather", "arguments": ""}
    assert all("id" not in call and "name" not in call["function"] for call in deltas[1:])
    assert [chunk["finish_reason"] for chunk in chunks if chunk["finish_reason"]] == ["tool_calls"]


def test_with_auto_an_answer_may_be_text_and_with_none_it_is(client: openai.OpenAI) -> None:
    for choice in ("auto", "none"):
        made = client.chat.completions.create(**ASKED | {"max_tokens": 12, "tool_choice": choice}).choices[0]
        assert made.message.content or made.message.tool_calls
        assert choice == "auto" or not made.message.tool_calls


def test_what_came_of_calls_is_read(http: httpx.Client) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
    turns = [
        *ASKED["messages"], {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "Sunny, 21 degrees."},
    ]  # fmt: skip
    plain = http.post("/v1/chat/completions", json=ASKED | {"messages": turns, "max_tokens": 12})
    assert plain.status_code == 200
    shorter = http.post("/v1/chat/completions", json=ASKED | {"messages": turns[:1], "max_tokens": 12})
    assert plain.json()["usage"]["prompt_tokens"] > shorter.json()["usage"]["prompt_tokens"] + 20


def test_a_form_or_a_call(client: openai.OpenAI) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "boolean"}, "strict": True}}
    choice = client.chat.completions.create(**ASKED, response_format=form).choices[0]
    if choice.message.tool_calls:
        assert all(json.loads(call.function.arguments) is not None for call in choice.message.tool_calls)  # type: ignore[union-attr]
    else:
        assert choice.message.content in ("true", "false")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"tool_choice": {"type": "function", "function": {"name": "other"}}}, "other"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice"),
        ({"tool_choice": "required", "tools": []}, "required without tools"),
        ({"tools": [{"type": "web_search"}]}, "web_search"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "a b"),
        ({"tools": [{"type": "function", "function": {"name": "a", "parameters": []}}]}, "parameters of a"),
        (
            {
                "tools": [{"type": "function", "function": {"name": "a", "parameters": {"type": "object", "if": {}}}}],
                "tool_choice": "required",
            },
            '"if"',
        ),
        ({"guided_regex": "a+"}, "regex"),
    ],
)
def test_what_is_wrong_with_tools_is_said(http: httpx.Client, change: dict[str, Any], says: str) -> None:
    response = http.post("/v1/chat/completions", json=ASKED | change)
    assert response.status_code == 400 and says in response.json()["error"]["message"], response.text


def test_anthropic_tool_use(served: Served) -> None:
    client = anthropic.Anthropic(base_url=served.url, api_key="none", max_retries=0)
    asked: dict[str, Any] = {
        "model": "tested", "max_tokens": 200, "temperature": 0, "messages": ASKED["messages"],
        "tools": [{"name": "get_weather", "description": "The weather.", "input_schema": PARAMETERS}],
        "tool_choice": {"type": "tool", "name": "get_weather", "disable_parallel_tool_use": True},
    }  # fmt: skip
    temperature = asked.pop("temperature")
    asked["extra_body"] = {"temperature": temperature}
    whole = client.messages.create(**asked)
    (block,) = whole.content
    assert whole.stop_reason == "tool_use" and block.type == "tool_use" and block.name == "get_weather"
    jsonschema.validate(block.input, PARAMETERS)
    kinds = []
    with client.messages.stream(**asked) as stream:
        for event in stream:
            if event.type == "content_block_delta":
                kinds.append(event.delta.type)
        final = stream.get_final_message()
    assert set(kinds) == {"input_json_delta"} and len(kinds) > 1
    assert final.stop_reason == "tool_use" and final.content[0].input == block.input  # type: ignore[union-attr]
    turns: Any = [
        *asked["messages"], {"role": "assistant", "content": [block.model_dump()]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": block.id, "content": [{"type": "text", "text": "Sunny."}]},
            {"type": "text", "text": "So?"},
        ]},
    ]  # fmt: skip
    after = client.messages.create(**asked | {"messages": turns, "tool_choice": {"type": "none"}, "max_tokens": 8})
    assert after.content[0].type == "text" and after.usage.input_tokens > 0
    with pytest.raises(anthropic.BadRequestError, match="web_search"):
        client.messages.create(**asked | {"tools": [{"type": "web_search_20250305", "name": "web_search"}]})
