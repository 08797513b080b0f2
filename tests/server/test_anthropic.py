"""Anthropic's form of a chat, by its own client."""

from __future__ import annotations

from typing import Any

import anthropic
import httpx
import pytest

from tests.support.serving import Served

ASKED: dict[str, Any] = {
    "model": "tested", "max_tokens": 24, "extra_body": {"temperature": 0}, "system": "You answer briefly.",
    "messages": [{"role": "user", "content": [{"type": "text", "text": "What is the capital of France?"}]}],
}  # fmt: skip


@pytest.fixture
def client(served: Served) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=served.url, api_key="none", max_retries=0)


def test_whole_and_stream_say_the_same(client: anthropic.Anthropic, http: httpx.Client) -> None:
    whole = client.messages.create(**ASKED)
    assert whole.content[0].type == "text" and whole.stop_reason in ("end_turn", "max_tokens")
    with client.messages.stream(**ASKED) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == whole.content[0].text and final.usage.output_tokens == whole.usage.output_tokens
    assert final.stop_reason == whole.stop_reason
    messages = [{"role": "system", "content": ASKED["system"]}, *ASKED["messages"]]
    openai = http.post("/v1/chat/completions", json={"messages": messages, "max_tokens": 24, "temperature": 0}).json()
    assert openai["choices"][0]["message"]["content"] == text
    usage = client.messages.create(**ASKED).usage
    counted = client.messages.count_tokens(model="tested", messages=ASKED["messages"], system=ASKED["system"])
    assert counted.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)


def test_a_stop_sequence_is_named(client: anthropic.Anthropic) -> None:
    text = client.messages.create(**ASKED).content[0].text  # type: ignore[union-attr]
    stop = text[5:9]
    answer = client.messages.create(**ASKED | {"stop_sequences": [stop, "never comes"]})
    assert answer.stop_reason == "stop_sequence" and answer.stop_sequence == stop
    assert answer.content[0].text == text[: text.index(stop)]  # type: ignore[union-attr]


def test_errors_are_in_its_form(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(**ASKED | {"model": "other"})
    with pytest.raises(anthropic.BadRequestError, match="1024"):
        client.messages.create(**ASKED | {"messages": [{"role": "user", "content": "word " * 2000}]})


def test_a_stream_begins_with_the_prompts_tokens(client: anthropic.Anthropic) -> None:
    with client.messages.stream(**ASKED) as stream:
        first = next(iter(stream))
        assert first.type == "message_start" and first.message.usage.input_tokens > 0
        stream.until_done()
    asked = {name: ASKED[name] for name in ("model", "messages", "system")}
    counted = client.messages.count_tokens(**asked)
    assert first.message.usage.input_tokens == counted.input_tokens
