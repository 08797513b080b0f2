"""What a server is started with: a chat template, defaults of requests, sites whose pages may use it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from memfirst.errors import ConfigError
from memfirst.server.fields import Chat, Sampled, defaults_of
from memfirst.text.chat import ChatTemplate
from tests.support.serving import Served
from tests.support.tiny_served import tiny_model

SITE = "https://notes.example"
MESSAGES = [{"role": "user", "content": "a b c"}]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A tiny model with all of them."""
    folder = tmp_path_factory.mktemp("options")
    template = folder / "short.jinja"
    template.write_text("{% for m in messages %}[{{ m.role }}] {{ m.content }} {% endfor %}")
    options = ["--threads", "1", "--ctx", "256", "--chat-template", str(template), "--allow-origin", SITE]
    options += ["--allow-origin", "localhost"]
    for default in ("temperature=0", "max_tokens=5", "seed=7", "top_k=3"):
        options += ["--default", default]
    with Served(tiny_model(folder), options) as made:
        yield made


def test_conversations_go_through_the_template_that_was_given(http: httpx.Client) -> None:
    assert http.post("/apply-template", json={"messages": MESSAGES}).json()["prompt"] == "[user] a b c "
    assert "[{{ m.role }}]" in http.get("/props").json()["chat_template"]


def test_requests_that_say_nothing_get_the_defaults(http: httpx.Client) -> None:
    def tokens(path: str, **more: Any) -> int:
        body = {"messages": MESSAGES} if "chat" in path else {"prompt": "a b c"}
        answer = http.post(path, json=body | {"ignore_eos": True} | more).json()
        return int(answer["usage"]["completion_tokens"] if "usage" in answer else answer["tokens_predicted"])

    assert tokens("/v1/chat/completions") == tokens("/v1/completions") == tokens("/completion") == 5
    assert tokens("/v1/chat/completions", max_completion_tokens=3) == tokens("/v1/completions", max_tokens=3) == 3
    assert tokens("/completion", n_predict=3) == 3
    params = http.get("/props").json()["default_generation_settings"]["params"]
    assert (params["temperature"], params["n_predict"], params["seed"], params["top_k"]) == (0, 5, 7, 3)


def test_a_verbose_answer_shows_its_prompt(http: httpx.Client) -> None:
    shown = http.post("/v1/chat/completions", json={"messages": MESSAGES, "verbose": True}).json()
    assert shown["__verbose"]["prompt"] == "[user] a b c "
    assert "__verbose" not in http.post("/v1/chat/completions", json={"messages": MESSAGES}).json()


def test_what_contradicts_itself_is_refused(http: httpx.Client) -> None:
    both = {"messages": MESSAGES, "add_generation_prompt": True, "continue_final_message": True}
    odd = {"messages": MESSAGES, "response_format": {"type": "json_object", "schema": 123}}
    for body, says in (both, "one of them"), (odd, "schema 123"):
        response = http.post("/v1/chat/completions", json=body)
        assert response.status_code == 400 and says in response.json()["error"]["message"], response.text


def test_settings_say_what_is_excluded(http: httpx.Client) -> None:
    body = {"prompt": "a b c", "n_predict": 1, "logit_bias": [[7, False], [8, 2.5]]}
    said = http.post("/completion", json=body).json()["generation_settings"]["logit_bias"]
    assert said == [{"token": 7, "bias": None}, {"token": 8, "bias": 2.5}]


def test_only_what_is_missing_is_filled_in() -> None:
    defaults = defaults_of(["temperature=0.5", "repetition_penalty=1.1", "max_tokens=9"])
    made = Sampled(temperature=0, repeat_penalty=1.3).completed(defaults)
    assert (made.temperature, made.repetition_penalty, made.max_tokens) == (0, None, 9)
    chat = Chat(messages=MESSAGES, max_completion_tokens=4).completed(defaults)  # type: ignore[arg-type]
    assert (chat.temperature, chat.max_tokens) == (0.5, None)


@pytest.mark.parametrize("given", ["temperature", "temperature=warm", "temperature=9", "stop=1", "seed=true"])
def test_a_default_that_no_request_could_have_is_refused(given: str) -> None:
    with pytest.raises(ConfigError, match=given):
        defaults_of([given])


def test_a_template_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no\.jinja"):
        ChatTemplate.read(str(tmp_path / "no.jinja"))
    assert ChatTemplate.read("chatml") == "chatml"


def test_a_page_of_an_allowed_site_asks_first_and_may_read(http: httpx.Client) -> None:
    wants = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}
    asked = http.options("/v1/chat/completions", headers={"origin": SITE, **wants})
    assert asked.status_code == 200 and asked.headers["access-control-allow-origin"] == SITE
    assert asked.headers["access-control-allow-headers"] == wants["access-control-request-headers"]
    assert "POST" in asked.headers["access-control-allow-methods"]
    for body, status in ({"messages": MESSAGES}, 200), ({}, 400):
        answer = http.post("/v1/chat/completions", json=body, headers={"origin": SITE})
        assert answer.status_code == status and answer.headers["access-control-allow-origin"] == SITE
        assert answer.headers["vary"] == "origin"
    for origin in ("https://evil.example", "http://localhost.evil.example", "http://notlocalhost"):
        other = http.options("/v1/chat/completions", headers={"origin": origin, **wants})
        assert not any(name.startswith("access-control") for name in other.headers)
        assert http.post("/v1/chat/completions", json={}, headers={"origin": origin}).status_code == 403
    for origin in ("http://localhost:5173", "https://localhost", "http://[::1]:3000", "http://127.0.0.1"):
        near = http.options("/v1/chat/completions", headers={"origin": origin, **wants})
        assert near.headers["access-control-allow-origin"] == origin
    assert "access-control-allow-origin" not in http.get("/health").headers


def test_a_prompt_says_how_far_it_is(http: httpx.Client) -> None:
    """First what was cached, then what is computed, up to the whole."""
    long = {"prompt": "a b c d e f g h " * 12, "n_predict": 2, "stream": True, "return_progress": True}
    chat = {"messages": [{"role": "user", "content": long["prompt"]}], "stream": True, "return_progress": True}
    for path, body in ("/completion", long), ("/completion", long), ("/v1/chat/completions", chat):
        lines = http.post(path, json=body).text.splitlines()
        events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
        came = [one["prompt_progress"] for one in events if "prompt_progress" in one]
        assert came and all(one["total"] == came[0]["total"] and one["cache"] == came[0]["cache"] for one in came)
        done = [one["processed"] for one in came]
        assert done[0] == came[0]["cache"] and done[-1] == came[0]["total"] and sorted(set(done)) == done
    again = [json.loads(line[6:]) for line in http.post("/completion", json=long).text.splitlines() if line]
    assert again[0]["prompt_progress"]["cache"] > 0
    whole = http.post("/completion", json=long | {"stream": False}).json()
    assert "prompt_progress" not in whole and not whole["truncated"]


def test_an_answer_that_fills_the_context_is_truncated(http: httpx.Client) -> None:
    answer = http.post("/completion", json={"prompt": "a b c", "n_predict": -1, "ignore_eos": True}).json()
    assert answer["truncated"] and answer["stop_type"] == "limit"


def test_metrics_have_llama_cpps_names(http: httpx.Client) -> None:
    http.post("/completion", json={"prompt": "a b c"})
    response = http.get("/metrics")
    found = dict(line.rsplit(" ", 1) for line in response.text.splitlines() if line.startswith("llamacpp:"))
    assert float(found["llamacpp:tokens_predicted_total"]) > 0 and float(found["llamacpp:n_decode_total"]) > 0
    assert float(found["llamacpp:requests_processing"]) == 0 and "process-start-time-unix" in response.headers
