"""Which tokens the engine's process sends together, and that each is an event of its own all the same."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import threading
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import pytest

from memfirst import load
from memfirst.formats.open import open_checkpoint
from memfirst.progress import Silent
from memfirst.runtime.sampling import SamplingParams
from memfirst.server import engine, messages
from memfirst.server.engine import Loading, Serving
from memfirst.server.gaps import BOUNDS, Gaps
from memfirst.server.link import EngineLink
from memfirst.server.messages import Ask
from memfirst.server.prompt import Prompts
from memfirst.server.run import Server, listen
from memfirst.server.settings import Settings
from tests.support.serving import Served
from tests.support.tiny_served import tiny_model

TOKENS = 30


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("tiny"))


def batches(model: Path, requests: int, said: list[Any] | None = None) -> list[list[Any]]:
    """What is sent for so many requests that come at once; `said`: takes how the engine was doing meanwhile."""
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
            if said is not None and kind == messages.STATS:
                said.append(messages.Stats(*parts[0]))
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


@pytest.mark.usefixtures("never")
def test_times_between_tokens_are_those_of_steps_not_of_sending(model: Path) -> None:
    """Of an answer whose tokens are sent together at its end each step counts, and takes time."""
    said = list[Any]()
    batches(model, 2, said)
    batches(model, 1, alone := list[Any]())
    for stats, requests in ((said[-1], 2), (alone[-1], 1)):
        assert len(stats.gaps) == len(BOUNDS) + 1 and stats.gap_seconds > 0
        assert requests * (TOKENS - 2) <= sum(stats.gaps) <= requests * (TOKENS - 1)


def test_gaps_are_counted_by_their_bounds() -> None:
    gaps = Gaps()
    for number, now in ((1, 5.0), (2, 5.0), (1, 5.001), (1, 5.0045), (2, 9.0), (2, 9.0)):
        gaps.gave(number, now)
    gaps.ended(1)
    gaps.gave(1, 20.0)
    assert gaps.counts[0] >= 1 and gaps.counts[BOUNDS.index(0.005)] == 1 and gaps.counts[-1] == 1
    assert sum(gaps.counts) == 4 and gaps.seconds == pytest.approx(4.0045)


def test_all_that_prompts_need_is_made_before_the_first(model: Path) -> None:
    """What is made at the first long prompt, or the first chat, keeps every stream waiting meanwhile."""
    checkpoint = open_checkpoint(model)
    prompts = Prompts(checkpoint)
    checkpoint.close()
    made_later = {name for name, kind in vars(Prompts).items() if isinstance(kind, cached_property)}
    prompts.prepare()
    assert {"longest", "family"} <= made_later <= vars(prompts).keys()


def test_a_served_models_objects_are_no_garbage_in_the_http_process(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = list[str]()

    async def started(self: EngineLink) -> None:
        done.append("started")

    monkeypatch.setattr(EngineLink, "start", started)
    monkeypatch.setattr(Prompts, "prepare", lambda self: done.append("prepared"))
    monkeypatch.setattr("memfirst.server.run.gc.collect", lambda: done.append("collect"))
    monkeypatch.setattr("memfirst.server.run.gc.freeze", lambda: done.append("freeze"))
    with listen("127.0.0.1", 0) as listening:
        server = Server(Loading(str(model)), Settings("tested"), listening, Silent())
        asyncio.run(server._start())
        server.service.compiler.close()
    assert sorted(done[:2]) == ["prepared", "started"] and done[2:] == ["collect", "freeze"]


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
