"""The benchmark of exact speculation: prompts, figures, bars, a tiny model's answer, a server that is asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

import memfirst
from benchmarks import edits, llama_server
from benchmarks.edits import Answer, Asked, Prompt, Row
from benchmarks.process import BenchmarkError
from benchmarks.rounds import Kept
from memfirst.convert.synthetic import synthetic

TOKENS = 24


def of(mode: str, seconds: float, nbytes: int, ids: tuple[int, ...] = (1, 2, 3)) -> Answer:
    """Two tokens after the first."""
    steps = 2 if mode == "off" else 1
    return Answer(ids, 2, seconds, nbytes, steps, 0 if mode == "off" else 1, 2 - steps)


def row(name: str, clock: float = 2.0, account: float = 2.0, different: bool = False) -> Row:
    """Plain answers take a second for two tokens of 100 bytes."""
    found = edits.figures([of("off", 1.0, 200)], [of("auto", 1 / clock, round(200 / account))])
    return Row(Prompt(name, "edit", "here", ()), Kept((found,), 0), different)


def verdicts(rows: list[Row]) -> dict[str, bool]:
    """Which bars are met."""
    return {found["what"]: found["ok"] for found in edits.verdicts(rows)}


def test_there_are_twice_twelve_prompts_with_their_source() -> None:
    found = edits.read_prompts()
    sources = [p.source for p in found]
    assert len({p.name for p in found}) == 24 and [sources.count(s) for s in dict.fromkeys(sources)] == [12, 12]
    assert {p.name for p in found if p.kind == "edit"} == set(edits.EDITS)
    assert all(p.messages[-1]["role"] == "user" and p.messages[-1]["content"] for p in found)


def test_a_round_counts_all_of_its_answers() -> None:
    found = edits.figures([of("off", 1.0, 200), of("off", 3.0, 200)], [of("auto", 0.5, 100), of("auto", 0.5, 60)])
    assert (found["off_tok_s"], found["auto_tok_s"], found["clock"]) == (1.0, 4.0, 4.0)
    assert found["account"] == pytest.approx(400 / 160)
    assert (found["steps"], found["tokens"], found["kept"], found["drafted"]) == (1, 2, 1, 1)


def test_both_modes_take_turns_and_a_difference_is_kept() -> None:
    asked: list[str] = []

    def ask(ids: Any, mode: str) -> Answer:
        asked.append(mode)
        return of(mode, edits.PART_S, 100, ids=(1, 9) if asked == ["off", "auto"] else (1, 2))

    one = Asked(Prompt("a", "chat", "here", ()), [1], ask)
    one.pair()
    assert one.different
    one.pair()
    assert asked == ["off", "auto", "auto", "off"]
    assert one.different  # once is enough


def test_every_bar_can_be_missed() -> None:
    good = [row(name) for name in (*edits.EDITS, "chat")]
    assert all(verdicts(good).values())
    mean, together = "geometric mean by the clock", "the four edits together by the clock"
    clock, account = "least by the clock", "least by the account"
    cases = {
        "text": row("chat", different=True), clock: row("chat", clock=0.94), account: row("chat", account=0.97),
    }  # fmt: skip
    for what, bad in cases.items():
        assert [name for name, ok in verdicts([*good[:4], bad]).items() if not ok] == [what]
    slow = [row(name, clock=1.4) for name in edits.EDITS] + [row("chat", clock=1.0)] * 4
    assert [name for name, ok in verdicts(slow).items() if not ok] == [mean, together]
    with pytest.raises(BenchmarkError, match="3 of the edits"):
        verdicts(good[1:])


def test_the_edits_together_are_weighed_by_their_time() -> None:
    rows = [row(name, clock=1.0) for name in edits.EDITS[:3]] + [row(edits.EDITS[3], clock=4.0)]
    assert edits.together(rows, "s") == pytest.approx(4 / 3.25)
    assert edits.together(rows, "bytes") == pytest.approx(2)


@pytest.fixture(scope="module")
def model() -> Iterator[memfirst.Model]:
    with memfirst.load(synthetic("tiny-llama", "q4_0"), threads=1, ctx=256) as found:
        yield found


def test_an_answer_is_the_same_in_both_modes_and_its_bytes_are_counted(model: memfirst.Model) -> None:
    prompt = [5, 6, 7, 8] * 8
    off, auto = (edits.answer(model, prompt, mode, TOKENS) for mode in edits.MODES)
    assert off.ids == auto.ids and off.tokens == auto.tokens == len(off.ids) - 1
    assert (off.steps, off.drafted, off.kept) == (off.tokens, 0, 0)
    assert auto.steps + auto.kept == auto.tokens
    middle = model.price(context=len(prompt) + off.tokens // 2).bytes_per_token
    assert off.nbytes / off.tokens == pytest.approx(middle, rel=0.02)


def test_a_pass_of_each_engine_is_compared(model: memfirst.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a server that is as fast as told: the fastest switches are kept for each set of prompts."""
    speed = {(): (1.0, 1.0), ("simple",): (4.0, 1.0), ("map",): (2.0, 3.0)}  # of edits and others
    monkeypatch.setattr(llama_server, "SWITCHES", {"none": (), "simple": ("simple",), "map": ("map",)})

    def answers(words: list[str], prompts: dict[str, Any], most: int) -> Any:
        at = speed[tuple(words[words.index(llama_server.PORT) + 1 :])]
        return {name: llama_server.Timed(10, 10 / at[name not in edits.EDITS]) for name in prompts}

    monkeypatch.setattr(llama_server, "answers", answers)
    prompts = [Prompt(name, "edit", "here", ({"role": "user", "content": name},)) for name in (*edits.EDITS, *"abcde")]
    monkeypatch.setattr(model, "encode", lambda messages: [5, 6, 7, 8] * 4)
    pair = edits.Beside(model, prompts, "llama-server", 4)
    said: list[str] = []
    settings = pair.screen(said.append)
    assert settings == {"edits": ("simple",), "all": ("map",)} and len(said) == 3
    found = pair.round(settings)
    assert found["llama_edits_tok_s"] == pytest.approx(4) and found["llama_all_tok_s"] == pytest.approx(
        90 / (20 + 50 / 3)
    )
    assert found["edits_ratio"] == pytest.approx(found["edits_tok_s"] / 4)


class Llama(BaseHTTPRequestHandler):
    """As llama-server answers."""

    asked: ClassVar[list[dict[str, Any]]] = []

    def do_GET(self) -> None:
        self._say({"status": "ok"})

    def do_POST(self) -> None:
        self.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self._say({"content": "x", "timings": {"predicted_n": 11, "predicted_ms": 50.0}})

    def _say(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: Any) -> None:
        """Nothing."""


def test_llama_server_is_asked_for_the_same_tokens_greedily(monkeypatch: pytest.MonkeyPatch) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Llama)
    Thread(target=server.serve_forever, daemon=True).start()
    started: list[list[str]] = []

    class Running:
        def __init__(self, words: list[str], port: int) -> None:
            started.append(words)

        def __enter__(self) -> str:
            return f"http://127.0.0.1:{server.server_port}"

        def __exit__(self, *error: object) -> None:
            """The server goes on."""

    monkeypatch.setattr(llama_server, "running", Running)
    monkeypatch.setattr(llama_server, "free_port", lambda: 4711)
    try:
        words = llama_server.command("llama-server", "m.gguf", 2, 2048, llama_server.SWITCHES["ngram-simple 3, 7"])
        found = llama_server.answers(words, {"a": [1, 2]}, 12)
    finally:
        server.shutdown()
        server.server_close()
    assert found == {"a": llama_server.Timed(10, 0.05)}
    assert started[0][started[0].index("--port") + 1] == "4711" and "ngram-simple" in started[0]
    asked = Llama.asked[-1]
    assert (asked["prompt"], asked["n_predict"], asked["temperature"], asked["cache_prompt"]) == ([1, 2], 12, 0, False)


@pytest.mark.parametrize("timings", [None, {}, {"predicted_n": 1, "predicted_ms": 3.0}, {"predicted_n": 5}])
def test_an_answer_without_times_is_refused(timings: Any) -> None:
    with pytest.raises(BenchmarkError):
        llama_server.timed({"timings": timings})


def test_another_backend_has_nothing_to_compare() -> None:
    with pytest.raises(BenchmarkError, match="another backend"):
        edits.threads_of(SimpleNamespace(backend=object()))  # type: ignore[arg-type]
