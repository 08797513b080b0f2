"""The form of llama.cpp's server: its /completion against ours, and what others of its clients ask for."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

PROMPT = "Once upon a time"
GREEDY = {"prompt": PROMPT, "temperature": 0, "min_p": 0, "n_predict": 12}


def chunks(http: httpx.Client, body: dict[str, Any]) -> list[dict[str, Any]]:
    """All events of a stream."""
    lines = http.post("/completion", json=body | {"stream": True}).text.splitlines()
    return [json.loads(line[6:]) for line in lines if line.startswith("data: ")]


def ids_of(http: httpx.Client, text: str) -> list[int]:
    """Its tokens."""
    found: list[int] = http.post("/tokenize", json={"content": text, "add_special": True}).json()["tokens"]
    return found


def text_of(http: httpx.Client, ids: list[int]) -> str:
    """The text of tokens."""
    found: str = http.post("/detokenize", json={"tokens": ids}).json()["content"]
    return found


def test_it_says_what_a_completion_says(http: httpx.Client) -> None:
    ours = http.post("/v1/completions", json={"prompt": PROMPT, "temperature": 0, "max_tokens": 12}).json()
    whole = http.post("/completion", json=GREEDY | {"return_tokens": True, "n_probs": 3}).json()
    assert whole["content"] == ours["choices"][0]["text"] and whole["stop_type"] == "limit" and whole["stop"]
    assert whole["tokens_predicted"] == len(whole["tokens"]) == 12 and whole["prompt"] == PROMPT
    assert http.post("/detokenize", json={"tokens": whole["tokens"]}).json()["content"] == whole["content"]
    assert whole["timings"]["predicted_n"] == 12 and whole["generation_settings"]["n_predict"] == 12
    listed = whole["completion_probabilities"]
    assert [one["id"] for one in listed] == whole["tokens"] and all(len(one["top_logprobs"]) == 3 for one in listed)
    assert all(one["top_logprobs"][0]["id"] == one["id"] for one in listed)  # greedy


def test_a_stream_is_a_chunk_a_token(http: httpx.Client) -> None:
    whole = http.post("/completion", json=GREEDY | {"return_tokens": True}).json()
    *parts, last = chunks(http, GREEDY | {"n_probs": 2})
    assert "".join(one["content"] for one in parts) == whole["content"] and last["content"] == ""
    assert [one["tokens"] for one in parts] == [[id] for id in whole["tokens"]]
    assert not any(one["stop"] for one in parts) and last["stop"] and "generation_settings" in last
    assert all(len(one["completion_probabilities"]) == 1 for one in parts)


def test_forms_of_a_prompt(http: httpx.Client) -> None:
    text = http.post("/completion", json=GREEDY).json()["content"]
    ids = ids_of(http, PROMPT)
    for same in (ids, {"prompt_string": PROMPT}, [ids[0], text_of(http, ids[1:])]):
        assert http.post("/completion", json=GREEDY | {"prompt": same}).json()["content"] == text
    several = http.post("/completion", json=GREEDY | {"prompt": [ids, PROMPT, {"prompt_string": "A B"}, [*ids]]}).json()
    assert [one["index"] for one in several] == [0, 1, 2, 3]
    assert several[0]["content"] == several[1]["content"] == several[3]["content"] == text != several[2]["content"]


def test_seeds_stops_and_biases(http: httpx.Client) -> None:
    sampled = {"prompt": PROMPT, "seed": 5, "n_predict": 16, "temperature": 1.2}
    one, two = (http.post("/completion", json=sampled).json() for _ in range(2))
    assert one["content"] == two["content"] and one["generation_settings"]["seed"] == 5
    defaults = {"top_k": 40, "top_p": 0.95, "min_p": 0.05}
    body = {"prompt": PROMPT, "seed": 5, "max_tokens": 16, "temperature": 1.2} | defaults
    assert http.post("/v1/completions", json=body).json()["choices"][0]["text"] == one["content"]
    text = http.post("/completion", json=GREEDY).json()["content"]
    stopped = http.post("/completion", json=GREEDY | {"stop": [text[4:8]]}).json()
    assert stopped["content"] == text[:4] and stopped["stop_type"] == "word" and stopped["stopping_word"] == text[4:8]
    id = ids_of(http, text)[0]
    without = []
    word = text_of(http, [id])
    for bias in ([[id, False]], [[id, -100]], {str(id): -100}, {word: False}, [[word, False]]):
        other = http.post("/completion", json=GREEDY | {"logit_bias": bias, "return_tokens": True}).json()
        assert id not in other["tokens"]
        without.append(other["content"])
    assert len(set(without)) == 1 and without[0] != text


def test_fields_of_the_answer_can_be_picked(http: httpx.Client) -> None:
    wanted = ["content", "generation_settings/n_predict", "x"]
    picked = http.post("/completion", json=GREEDY | {"response_fields": wanted}).json()
    assert picked.keys() == set(wanted[:2])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"grammar": "root ::= a"}, "'a' not found"),
        ({"json_schema": {"type": "object", "if": {}}}, '"if"'),
        ({"post_sampling_probs": True}, "post_sampling_probs"),
        ({"prompt": {"prompt_string": "x", "multimodal_data": "AAAA"}}, "multimodal_data"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["x"] * 17}, "16 items"),
        ({"prompt": [1 << 20]}, "1048576"),
        ({"prompt": "word " * 2000}, "1024"),
        ({"logit_bias": [[1, True]]}, "true"),
        ({"logit_bias": [[1, 1e9]]}, "logit_bias"),
        ({"n_predict": -5}, "n_predict"),
        ({"model": "other"}, "other"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(http: httpx.Client, change: dict[str, Any], says: str) -> None:
    response = http.post("/completion", json=GREEDY | change)
    assert response.status_code == (404 if "model" in change else 400), response.text
    assert says in response.json()["error"]["message"], response.text


def test_what_cannot_be_done_is_not_missing(http: httpx.Client) -> None:
    for path in ("/v1/embeddings", "/embedding", "/infill", "/v1/rerank"):
        response = http.post(path, json={"input": "x"})
        assert response.status_code == 501 and response.json()["error"]["code"] == "not_supported"
    for path, text in (("/api/embed", "input"), ("/api/embeddings", "prompt")):
        said = http.post(path, json={"model": "tested", text: "x"})
        assert said.status_code == 501 and "--pooling mean" in said.json()["error"]


def test_tokens_of_a_conversation_are_counted(http: httpx.Client) -> None:
    body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
    usage = http.post("/v1/chat/completions", json=body).json()["usage"]
    counted = http.post("/v1/chat/completions/input_tokens", json=body).json()
    assert counted == {"object": "response.input_tokens", "input_tokens": usage["prompt_tokens"]}
    assert http.post("/chat/completions/input_tokens", json=body).json() == counted


def test_the_description_names_every_answer(http: httpx.Client) -> None:
    made = http.get("/openapi.json").json()
    assert "HTTPValidationError" not in made["components"]["schemas"] and "security" not in made
    for path, methods in made["paths"].items():
        for operation in methods.values():
            assert {"200", "4XX", "5XX"} == operation["responses"].keys(), path
    chat = made["paths"]["/v1/chat/completions"]["post"]["responses"]["200"]["content"]
    assert chat.keys() == {"application/json", "text/event-stream"}
    assert made["components"]["schemas"]["Chat"]["properties"]["model"]["enum"] == ["tested", "default", None]
