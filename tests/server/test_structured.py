"""Answers in a form, over HTTP: OpenAI's, vLLM's and llama.cpp's names, typed answers, and schemas meant to do harm."""

from __future__ import annotations

import json
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import jsonschema
import openai
import pytest
from pydantic import BaseModel, Field

from tests.server.test_serving import idle
from tests.support.schemas import HOSTILE, REFUSED, SCHEMAS
from tests.support.serving import Served

QUESTION = [{"role": "user", "content": "Give an example, as JSON."}]
ASKED: dict[str, Any] = {"messages": QUESTION, "max_tokens": 60, "temperature": 0}


@pytest.fixture
def client(served: Served) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)


def as_format(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


def said(http: httpx.Client, **asked: Any) -> str:
    response = http.post("/v1/chat/completions", json=ASKED | asked)
    assert response.status_code == 200, response.text
    content: str = response.json()["choices"][0]["message"]["content"]
    return content


def test_a_typed_answer(client: openai.OpenAI) -> None:
    class City(BaseModel):
        name: str = Field(max_length=12)
        population: int

    class Cities(BaseModel):
        country: str = Field(max_length=12)
        cities: list[City] = Field(max_length=2)

    parsed = client.chat.completions.parse(
        model="tested", messages=[{"role": "user", "content": "Name two cities of France."}], response_format=Cities,
        temperature=0, max_tokens=200,
    )  # fmt: skip
    assert parsed.choices[0].finish_reason == "stop"
    answer = parsed.choices[0].message.parsed
    assert isinstance(answer, Cities) and answer.country
    with client.chat.completions.stream(
        model="tested", messages=[{"role": "user", "content": "Name two cities of France."}], response_format=Cities,
        temperature=0, max_tokens=200,
    ) as stream:  # fmt: skip
        assert stream.get_final_completion().choices[0].message.parsed == answer
    whole = client.responses.parse(
        model="tested", input="Name two cities of France.", text_format=Cities, temperature=0, max_output_tokens=200
    )
    assert whole.output_parsed == answer


@pytest.mark.parametrize("name", SCHEMAS)
def test_answers_are_valid(http: httpx.Client, name: str) -> None:
    body = ASKED | {"response_format": as_format(SCHEMAS[name]), "temperature": 1, "seed": 3}
    choice = http.post("/v1/chat/completions", json=body).json()["choices"][0]
    if choice["finish_reason"] == "stop":
        jsonschema.validate(json.loads(choice["message"]["content"]), SCHEMAS[name])
    else:
        assert choice["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("asked", "form"),
    [
        ({"response_format": {"type": "text"}}, ".*"),
        ({"response_format": {"type": "json_object", "schema": SCHEMAS["enum"]}}, '"(red|green|blue)"'),
        ({"structured_outputs": {"regex": "[0-9]{4}"}}, "[0-9]{4}"),
        ({"structured_outputs": {"choice": ["yes", "no"]}}, "yes|no"),
        ({"structured_outputs": {"json": SCHEMAS["flag"], "disable_any_whitespace": True}}, "true|false"),
        ({"structured_outputs": {"grammar": 'root ::= "<" [a-z]+ ">"\n'}, "max_tokens": 200}, "<[a-z]+>?"),
        ({"guided_regex": "[0-9]{4}"}, "[0-9]{4}"),
        ({"guided_choice": ["yes", "no"]}, "yes|no"),
        ({"guided_json": json.dumps(SCHEMAS["flag"])}, "true|false"),
        ({"guided_grammar": 'start: "x" | "y"'}, "x|y"),
        ({"grammar": 'root ::= "x" | "y"\n'}, "x|y"),
        ({"json_schema": SCHEMAS["flag"]}, "true|false"),
    ],
)
def test_each_name_has_an_effect(http: httpx.Client, asked: dict[str, Any], form: str) -> None:
    assert re.fullmatch(form, said(http, **asked), re.DOTALL)
    body = {"prompt": "Once", "temperature": 0, **asked, "max_tokens": asked.get("max_tokens", 60)}
    if "response_format" not in asked:
        assert re.fullmatch(form, http.post("/v1/completions", json=body).json()["choices"][0]["text"], re.DOTALL)


def test_any_object(http: httpx.Client) -> None:
    body = ASKED | {"response_format": {"type": "json_object"}, "max_tokens": 250}
    choice = http.post("/v1/chat/completions", json=body).json()["choices"][0]
    assert choice["message"]["content"].startswith("{")
    if choice["finish_reason"] == "stop":
        assert isinstance(json.loads(choice["message"]["content"]), dict)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_followed_is_refused_by_name(http: httpx.Client, name: str) -> None:
    schema, says = REFUSED[name]
    for stream in (False, True):
        response = http.post(
            "/v1/chat/completions", json=ASKED | {"response_format": as_format(schema), "stream": stream}
        )
        assert response.status_code == 400 and says in response.json()["error"]["message"], response.text


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"response_format": {"type": "json_schema"}}, "schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, "schema"),
        ({"response_format": {"type": "xml"}}, "xml"),
        ({"guided_choice": []}, "list of texts"),
        ({"guided_regex": "(a"}, "unclosed"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structural_tag"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "regex and choice"),
        ({"guided_regex": "a", "response_format": {"type": "json_object"}}, "response_format and guided_regex"),
    ],
)
def test_what_is_no_form_is_said(http: httpx.Client, asked: dict[str, Any], says: str) -> None:
    response = http.post("/v1/chat/completions", json=ASKED | asked)
    assert response.status_code == 400 and says in response.json()["error"]["message"], response.text


def test_hostile_ones_end_nothing_and_take_no_time(http: httpx.Client) -> None:
    """Each is answered within 4 s, on a machine that does nothing else, while somebody else goes on."""
    steady = {"prompt": "Once", "max_tokens": 8, "temperature": 0}
    http.post("/v1/completions", json=steady)
    started = time.monotonic()
    expected = http.post("/v1/completions", json=steady).json()["choices"][0]["text"]
    most = 4 + 30 * (time.monotonic() - started)
    for name, asked in HOSTILE.items():
        kind, value = next(iter(asked.items()))
        if isinstance(value, str) and kind == "schema":
            kind = "json"
        body = ASKED | {"max_tokens": 2, "structured_outputs": {"json" if kind == "schema" else kind: value}}
        started = time.monotonic()
        with ThreadPoolExecutor(1) as pool:
            beside = pool.submit(http.post, "/v1/completions", json=steady)
            response = http.post("/v1/chat/completions", json=body)
            assert beside.result().json()["choices"][0]["text"] == expected
        assert time.monotonic() - started < most, name
        assert response.status_code in (200, 400), (name, response.text)
        if response.status_code == 400:
            assert len(response.json()["error"]["message"]) < 600
    assert re.fullmatch("yes|no", said(http, guided_choice=["yes", "no"]))
    assert idle(http)["engine_restarts"] == 0


def test_they_are_the_same_beside_others(http: httpx.Client) -> None:
    def ask(i: int) -> str:
        form = {"response_format": as_format(list(SCHEMAS.values())[i])} if i % 3 else {}
        return said(http, **form, seed=i, temperature=1, max_tokens=30)

    alone = [ask(i) for i in range(18)]
    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(ask, range(18))) == alone


def test_who_leaves_while_a_grammar_is_compiled_leaves_nothing(http: httpx.Client) -> None:
    for i in range(3):  # an enum of its own each time, so that none is answered from the cache
        schema = {"enum": [f"{i}w{n}" for n in range(20_000)]}
        body = json.dumps(ASKED | {"structured_outputs": {"json": schema}, "max_tokens": 500}).encode()
        with socket.create_connection((http.base_url.host, http.base_url.port or 80), timeout=10) as gone:
            gone.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
            )  # closed at once, whatever the server's speed
    stats = idle(http)
    assert stats["memory"]["kv_requests"] == 0


def test_the_end_is_counted_once_and_bytes_sum_up(http: httpx.Client) -> None:
    before = idle(http)["bytes"]
    body = ASKED | {"response_format": as_format(SCHEMAS["tool call"])}
    usage = http.post("/v1/chat/completions", json=body).json()["usage"]
    after = idle(http)["bytes"]
    assert usage["memfirst"]["bytes_read"] == {
        purpose: n - before.get(purpose, 0) for purpose, n in after.items() if n > before.get(purpose, 0)
    }
    free = http.post("/v1/chat/completions", json=ASKED | {"max_tokens": usage["completion_tokens"]}).json()["usage"]
    assert usage["memfirst"]["bytes_read"]["head"] < 0.85 * free["memfirst"]["bytes_read"]["head"]
