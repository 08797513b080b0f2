"""Which tokens the engine's process sends together, and that each is an event of its own all the same."""

from __future__ import annotations

import json
import multiprocessing
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from memfirst import load
from memfirst.runtime.sampling import SamplingParams
from memfirst.server import engine, messages
from memfirst.server.engine import Loading, Serving
from memfirst.server.messages import Ask
from tests.support.serving import Served
from tests.support.tiny_served import tiny_model

TOKENS = 30


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("tiny"))


def batches(model: Path, requests: int) -> list[list[Any]]:
    """What is sent for so many requests that come at once."""
    ours, theirs = multiprocessing.Pipe()
    with load(model, ctx=256, threads=1, sequences=4, progress=False, speculate="off") as loaded:
        for n in range(requests):
            params = messages.fields_of(SamplingParams(temperature=0))
            ours.send_bytes(messages.encoded(messages.ASK, *Ask(n, [1, 2, 3 + n], TOKENS, [], params, endless=True)))
        serving = threading.Thread(target=Serving(theirs, loaded, 1).run)
        serving.start()
        found: list[list[Any]] = []
        while sum(event[0] == "e" for batch in found for event in batch) < requests:
            kind, parts = messages.decoded(ours.recv_bytes())
            found += [parts[0]] if kind == messages.BATCH else []
        ours.send_bytes(messages.encoded(messages.CLOSE))
        serving.join()
    return found


def kinds(batch: list[Any]) -> str:
    return "".join(event[0] for event in batch)


@pytest.fixture
def never(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tokens that may wait do so to the end."""
    monkeypatch.setattr(engine, "TOGETHER_SECONDS", 1e9)
    return


@pytest.mark.usefixtures("never")
def test_of_one_request_the_first_token_is_sent_at_once_and_the_others_together(model: Path) -> None:
    found = batches(model, 1)
    assert kinds(found[0]) == "t" and kinds(found[-1])[-1] == "e"
    assert len(found) == 2 and sum(kinds(batch).count("t") for batch in found) >= TOKENS - 2


@pytest.mark.usefixtures("never")
def test_of_several_requests_each_steps_tokens_are_sent_at_once(model: Path) -> None:
    assert all(kinds(batch).count("t") <= 2 for batch in batches(model, 2))


def test_tokens_that_come_slowly_are_sent_as_they_come(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "TOGETHER_SECONDS", 0.0)
    assert all(kinds(batch).count("t") <= 1 for batch in batches(model, 1))


def test_a_loaded_models_objects_are_no_garbage_to_look_for(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = multiprocessing.Pipe()
    done = list[str]()
    monkeypatch.setattr("memfirst.server.engine.signal.signal", lambda *_: None)
    monkeypatch.setattr("memfirst.server.engine.gc.collect", lambda: done.append("collect"))
    monkeypatch.setattr("memfirst.server.engine.gc.freeze", lambda: done.append("freeze"))
    ours.send_bytes(messages.encoded(messages.CLOSE))
    engine.main(theirs, Loading(str(model), threads=1, ctx=256))
    assert done == ["collect", "freeze"]
    kinds = set[str]()
    while ours.poll():
        kinds.add(messages.decoded(ours.recv_bytes())[0])
    assert messages.LOADED in kinds


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_each_token_is_an_event(model: Path, path: str) -> None:
    """Log-probabilities of exactly one token in each, though several come in one write."""
    asked = {"messages": [{"role": "user", "content": "On"}], "logprobs": True, "top_logprobs": 1}
    if path == "/v1/completions":
        asked = {"prompt": "On and on", "logprobs": 1}
    body = asked | {"max_tokens": TOKENS, "ignore_eos": True, "stream": True, "temperature": 0}
    with Served(model, ["--ctx", "256", "--threads", "1"]) as served:
        lines = httpx.post(f"{served.url}{path}", json=body, timeout=60).text.split("\n")
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    listed = [c["choices"][0]["logprobs"] for c in chunks if c["choices"] and c["choices"][0]["logprobs"]]
    counts = [len(one.get("content") or one.get("tokens")) for one in listed]
    assert sum(counts) == TOKENS and max(counts) == 1
