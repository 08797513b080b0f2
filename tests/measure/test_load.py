"""`bench --serve` on a server of known times: who asks when, what is counted, what is said."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from memfirst.cli import INTERRUPTED, run_command
from memfirst.cli.load import is_url
from memfirst.errors import ConfigError, ProbeError
from memfirst.measure.load import run as loads
from memfirst.measure.load.predicted import miss, predictions, predictor
from memfirst.measure.load.run import Found, Options, between, load
from memfirst.measure.load.workload import SHAREGPT, Workload
from memfirst.measure.probe.stream import stream_of
from memfirst.plan import subject
from memfirst.predict.load import Ask, Slo
from memfirst.progress import Silent
from tests.support.fake_openai import Fake, serve
from tests.support.tiny_served import tiny_model

SHORT = Workload(prompt=24, answer=8)


def put(fake: Fake, **options: Any) -> Found:
    return load(fake.url, Options(**{"workload": SHORT, **options}), "", Silent())


@pytest.fixture
def fake() -> Iterator[Fake]:
    with serve(Fake(token_s=0.002)) as made:
        yield made


def test_a_closed_loop_keeps_so_many_clients(fake: Fake) -> None:
    fake.token_s = 0.005  # an answer takes 40 ms: what requests cost beside it hardly counts
    found = put(fake, clients=(1, 4), requests=12, slo=Slo(ttft=5.0, itl=5.0))
    one, four = (level.figures for level in found.levels)
    assert one and four and (one.requests, one.tokens) == (12, 96) == (four.requests, four.tokens)
    assert four.tok_s > 2.5 * one.tok_s and fake.most_active == 4 and not found.levels[0].errors
    assert 0.0015 < one.itl.p50 < 0.01 and one.e2e.p50 == pytest.approx(one.ttft.p50 + 7 * one.itl.mean, rel=0.5)
    assert one.good and one.good[1] == 1.0 and [level.label for level in found.levels] == ["1 client", "4 clients"]
    assert not any("ignore_eos" in body for body in fake.completions())  # OpenAI's API has no such field


def test_pieces_of_one_read_share_the_time_before_it() -> None:
    """Three tokens in a write every 12 ms are one each 4 ms; a token in a write of its own took what it took."""
    assert between([1.0, 1.012, 1.012, 1.012, 1.024, 1.024, 1.032]) == pytest.approx(
        (0.004, 0.004, 0.004, 0.006, 0.006, 0.008)
    )
    assert between([2.0, 2.0, 2.5]) == (0.0, 0.5) and between([3.0]) == () == between([])


def test_prompts_have_the_length_that_was_asked_for_and_share_their_beginning(fake: Fake) -> None:
    fake.overhead = 5  # as a template adds
    found = put(fake, clients=(2,), requests=6, workload=Workload(prompt=40, answer=4, prefix=16))
    assert {ask.prompt for ask in found.levels[0].asked} == {40}
    prompts = [body["prompt"].split() for body in fake.completions()[-6:]]
    assert len({tuple(words[:11]) for words in prompts}) == 1 and len({tuple(words) for words in prompts}) == 6


def test_an_open_loop_sends_at_its_own_times(fake: Fake) -> None:
    """Answers of 16 ms at 50 a second: the last is sent when its time has come, not when the others are done."""
    found = put(fake, clients=(), rates=(50.0,), requests=40)
    times = [ask.at for ask in found.levels[0].asked]
    gaps = [b - a for a, b in pairwise(times)]
    assert sum(gaps) / len(gaps) == pytest.approx(1 / 50, rel=0.35) and min(gaps) < 0.3 / 50 < max(gaps)
    again = put(fake, clients=(), rates=(50.0,), requests=40).levels[0].asked
    assert [ask.at - again[0].at for ask in again] == pytest.approx([at - times[0] for at in times])
    fake.at_once = 1
    refused = put(fake, clients=(), rates=(200.0,), requests=20).levels[0]
    assert sum(refused.errors.values()) and "429" in next(iter(refused.errors))
    assert len(refused.asked) + sum(refused.errors.values()) == 20


def test_time_that_runs_out_leaves_answers_unfinished() -> None:
    with serve(Fake(token_s=0.02)) as slow:
        began = time.monotonic()
        level = put(slow, clients=(2,), requests=8, seconds=1.0, workload=Workload(16, 400)).levels[0]
    assert level.figures is None and level.unfinished == 2 and time.monotonic() - began < 7


def test_chat_and_refused_fields_are_found_out() -> None:
    with serve(Fake(chat_only=True, pages={"/props": {"total_slots": 2}}, refuses=frozenset({"seed"}))) as odd:
        found = put(odd, clients=(1,), requests=2)
        assert found.levels[0].figures and "messages" in odd.completions()[-1]
        assert "seed" not in odd.completions()[-1] and any("end tokens" in note for note in found.notes)
    with serve(Fake(usage="never")) as silent:
        assert any("no usage" in note for note in put(silent, clients=(1,), requests=2).notes)


def test_requests_that_cannot_fit_are_refused_before_they_are_sent() -> None:
    with (
        serve(Fake(row={"max_model_len": 128})) as small,
        pytest.raises(ConfigError, match="requests of 208 tokens; expected at most the 128"),
    ):
        put(small, clients=(1,), workload=Workload(200, 8))
    with pytest.raises(ProbeError, match="nothing listens"):
        load("http://127.0.0.1:9", Options(), "", Silent())
    with pytest.raises(ConfigError, match="a prefix of 64 tokens in prompts of 64"):
        Workload(64, 8, 64)


def test_drawn_lengths_have_the_stated_means() -> None:
    drawn = Workload(lengths="sharegpt").requests(4000, 0, None)
    assert drawn == Workload(lengths="sharegpt").requests(4000, 0, None) != Workload(lengths="sharegpt", seed=1)
    for mean, tokens in zip(SHAREGPT, ([w.prompt for w in drawn], [w.answer for w in drawn]), strict=True):
        assert sum(tokens) / len(tokens) == pytest.approx(mean, rel=0.08)
        assert sorted(tokens)[2000] == pytest.approx(mean * 2.718281828**-0.5, rel=0.08)
    cut = Workload(lengths="sharegpt", prefix=100).requests(500, 0, 512)
    assert max(w.prompt + w.answer for w in cut) <= 504 and all(w.shared < w.prompt for w in cut)


def test_ctrl_c_prints_what_there_is(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.token_s = 0.05
    real, began = loads.time.sleep, time.monotonic()

    def interrupted(seconds: float) -> None:
        if threading.current_thread() is threading.main_thread() and time.monotonic() - began > 1.5:
            raise KeyboardInterrupt
        real(seconds)

    monkeypatch.setattr(loads.time, "sleep", interrupted)
    words = ["--clients", "2,4", "--requests", "400", "--prompt", "16", "--generate", "4"]
    assert run_command(["bench", "--serve", fake.url, *words]) == INTERRUPTED
    page = capsys.readouterr().out
    assert "2 clients" in page and "interrupted: what had been answered by then" in page and "4 clients" not in page
    monkeypatch.setattr(loads.time, "sleep", real)
    for _ in range(100):
        if not fake.active:
            break
        real(0.02)
    assert not fake.active, "the streams were left"


def test_the_page_and_json(fake: Fake, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["bench", "--serve", fake.url, "--clients", "1,2", "--requests", "4", "--prompt", "16", "--generate", "4"]
    monkeypatch.setenv("COLUMNS", "80")
    assert run_command([*words, "--slo", "ttft=500,itl=1s"]) == 0
    page = capsys.readouterr().out
    assert max(map(len, page.split("\n"))) <= 80 and "TTFT ms" in page and "100 % within the SLO" in page
    assert "nothing is predicted: give the served MODEL" in page
    assert run_command([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [level["clients"] for level in found["levels"]] == [1, 2] and found["levels"][0]["predicted"] is None
    measured = found["levels"][1]["measured"]
    assert measured["tokens"] == 16 and measured["ttft"]["p99"] >= measured["ttft"]["p50"] > 0


@pytest.mark.parametrize(
    "words", [["--clients", "0"], ["--clients", "x"], ["--rate", "-1"], ["--slo", "ttft"], ["--prefix", "300"],
              ["--lengths", "odd"], ["--synthetic", "llama-1b"], ["--clients", ""]],
)  # fmt: skip
def test_bad_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["bench", "--serve", "http://127.0.0.1:9", *words]) == 2
    assert words[0] in capsys.readouterr().err


def test_what_names_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert all(map(is_url, ("http://a.b/api", "localhost:8080", "127.0.0.1:80/v1", "[::1]:8080")))
    assert not any(map(is_url, ("smollm2:135m", "model.gguf", "hf:owner/repo:Q4_0", "./x")))
    (tmp_path / "odd:1").touch()
    assert not is_url("odd:1")


def test_a_server_of_our_own_beside_what_is_predicted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Started, measured, ended; its engine's steps and seconds are known, so a miss is the product of its causes."""
    model, seen = tiny_model(tmp_path), []
    real = loads.load
    monkeypatch.setattr(loads, "load", lambda *given: seen.append(real(*given)) or seen[-1])
    words = ["--clients", "3", "--requests", "9", "--prompt", "48", "--prefix", "24", "--generate", "12"]
    assert run_command(["bench", "--serve", str(model), *words, "--ctx", "256", "--threads", "1", "--json"]) == 0
    level = json.loads(capsys.readouterr().out)["levels"][0]
    assert level["measured"]["requests"] == 9 and level["errors"] == {} and level["measured"]["tokens"] == 9 * 12
    due, engine, predicted = level["miss"], level["engine"], level["predicted"]
    assert due["busy"] == pytest.approx(due["steps"] * due["each"] * due["around"])
    assert engine["steps"] >= 11 * 3 and 0 < engine["seconds"] < level["measured"]["busy"]
    assert predicted["requests"] == 9 and predicted["tokens"] == 9 * 12 and predicted["longest_queue"] == 0
    found = seen[0]
    by = predictor(subject(str(model)), found, "", "f16")
    assert by.sharing.sequences == 16 and by.options.threads == 1 and by.sharing.positions == 16 * 256
    simulated = predictions(found, by)[0]
    assert simulated and miss(found.levels[0], simulated) is not None
    assert all(isinstance(ask, Ask) and ask.shared == 24 for ask in found.levels[0].asked)


@pytest.mark.parametrize(("reason", "tokens"), [("length", 3), ("stop", 2)])
def test_two_tokens_in_a_chunk_count_as_two_and_an_end_token_as_none(reason: str, tokens: int) -> None:
    """A usage of three in two chunks of text: at the limit all three are text."""
    events: list[dict[str, Any]] = [{"choices": [{"text": text, "finish_reason": None}]} for text in ("a", "bc")]
    events += [{"choices": [{"text": "", "finish_reason": reason}], "usage": {"completion_tokens": 3}}]
    lines = [(float(i), b"data: " + json.dumps(event).encode()) for i, event in enumerate(events)]
    assert stream_of(lines, 0.0).events[-1].tokens == tokens
