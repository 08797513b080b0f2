"""`memfirst probe` against servers of known times: what it recovers, and how it finds out how to ask."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest

from memfirst import ledger
from memfirst.cli import run_command
from memfirst.errors import ProbeError
from memfirst.formats.open import open_checkpoint
from memfirst.graph import decode
from memfirst.hardware import machines as machine
from memfirst.measure.probe.fit import Line, robust_line
from memfirst.measure.probe.price import price, shares
from memfirst.measure.probe.prompt import Prompts
from memfirst.measure.probe.report import report
from memfirst.measure.probe.run import Measured, Options, probe
from memfirst.measure.probe.sample import FEWEST, Sample, pace, sample
from memfirst.measure.probe.stream import BY_CHUNK, BY_CHUNKS, BY_USAGE, Event, Stream
from memfirst.models import build
from tests.support.fake_openai import Fake, Handler, serve

QUICK = Options((16, 64), (1,), tokens=28, seconds=20)
LLAMA = {"/props": {"total_slots": 2, "default_generation_settings": {"n_ctx": 300}, "build_info": "b42-abc"}}


def measured(fake: Fake, options: Options = QUICK, key: str = "") -> Measured:
    """Probe it."""
    with serve(fake):
        return probe(fake.url, options, key)


# the line


def test_a_line_is_found_exactly() -> None:
    found = robust_line([0, 10, 20, 40], [5, 7, 9, 13])
    assert found is not None
    assert found.intercept == pytest.approx(5) and found.slope == pytest.approx(0.2)
    assert found.slope_error == pytest.approx(0, abs=1e-9)


def test_wild_points_do_not_move_the_line() -> None:
    xs = [16, 16, 16, 512, 512, 512, 1024, 1024, 1024, 2048, 2048, 2048]
    rng = np.random.default_rng(3)
    ys = [5e-3 + 2e-6 * x * (1 + 0.01 * rng.standard_normal()) for x in xs]
    ys[4], ys[10] = 40e-3, 90e-3  # hiccups of 7 and 10 times
    found = robust_line(xs, ys)
    assert found is not None
    assert found.intercept == pytest.approx(5e-3, rel=0.02)
    assert found.slope == pytest.approx(2e-6, rel=0.04)


def test_standard_errors_are_what_repetition_shows() -> None:
    rng = np.random.default_rng(4)
    xs = np.repeat([16.0, 512.0, 1024.0, 2048.0], 3)
    lines = [robust_line(xs, 5 + 0.002 * xs + rng.normal(0, 0.1, 12)) for _ in range(400)]
    for name in ("slope", "intercept"):
        seen = np.std([getattr(line, name) for line in lines])
        told = np.sqrt(np.mean([getattr(line, f"{name}_error") ** 2 for line in lines]))
        assert told == pytest.approx(seen, rel=0.15)


@pytest.mark.parametrize(("xs", "ys"), [([], []), ([1], [2]), ([3, 3], [1, 2])])
def test_too_few_points_make_no_line(xs: list[float], ys: list[float]) -> None:
    assert robust_line(xs, ys) is None


def test_two_points_have_no_error() -> None:
    assert robust_line([0, 1], [1, 3]) == Line(pytest.approx(1), pytest.approx(2), None, None, 2)


# from arrivals to a pace


def stream(arrivals: list[tuple[float, float]], prompt: int = 100) -> Stream:
    return Stream(0.0, tuple(Event(at, n) for at, n in arrivals), prompt, 0, "length", BY_CHUNK, None)


def test_hiccups_and_bunches_leave_the_pace_alone() -> None:
    smooth = [(0.01 * i, i) for i in range(1, 65)]
    hiccup = [(t + (20 if n > 30 else 0), n) for t, n in smooth]
    bunched = [(0.01 * (-(-n // 3) * 3), n) for _, n in smooth]  # three packets arrive as one
    for arrivals in (smooth, hiccup, bunched):
        found = sample(stream(arrivals), 100)
        assert found is not None and found.seconds == pytest.approx(0.01, rel=0.02)
        assert found.context == pytest.approx(100 + 34.5)


def test_slow_first_tokens_are_not_timed() -> None:
    found = sample(stream([(1.0 * i, i) for i in range(1, 5)] + [(4 + 0.01 * i, 4 + i) for i in range(1, 30)]), 0)
    assert found is not None and found.seconds == pytest.approx(0.01) and found.first_s == 1.0


def test_short_streams_give_nothing() -> None:
    assert sample(stream([(0.1 * i, i) for i in range(1, 17)]), 0) is None


def test_pace_weighs_blocks_by_their_tokens() -> None:
    assert pace([(4, 0.4), (8, 0.8)]) == pytest.approx(0.1)
    assert pace([(4, 4.0), (12, 4.0)]) == pytest.approx(0.5)


# servers of known times


def left(fake: Fake, last: slice) -> list[Sample]:
    """The pace of answers as they left the server, which on a busy machine is not quite its timetable's."""
    found = [sample(stream, stream.prompt_tokens or 0) for stream in fake.written[last]]
    return [each for each in found if each]


def test_the_fit_recovers_the_servers_times() -> None:
    fake = Fake(token_s=6e-3, context_s=6e-6, prompt_s=5e-5)
    found = measured(fake, Options((16, 512, 1024, 2048), (1,), tokens=32, seconds=60))
    own = left(fake, slice(-12, None))
    decode = robust_line([s.context for s in own], [s.seconds for s in own])
    prefill = robust_line([s.prompt_tokens for s in own], [s.first_s for s in own])
    assert decode and decode.intercept == pytest.approx(6e-3, rel=0.2) and decode.slope > 0
    assert found.decode and found.prefill and prefill
    assert found.decode.intercept == pytest.approx(decode.intercept, rel=0.04)
    assert found.decode.slope == pytest.approx(decode.slope, rel=0.04)
    assert found.prefill.slope == pytest.approx(prefill.slope, rel=0.1)
    assert found.decode.points == 12 and found.counted == BY_USAGE
    assert found.notes == ()


def test_streams_side_by_side_take_what_the_server_makes_them_take() -> None:
    found = measured(Fake(token_s=10e-3, crowd=0.5), Options((16, 64), (1, 2), tokens=32, seconds=30))
    alone, two = found.rows
    assert (alone.streams, two.streams) == (1, 2)
    assert two.seconds / alone.seconds == pytest.approx(1.5, rel=0.06)
    assert two.tok_s == pytest.approx(2 / two.seconds, rel=0.02)
    assert found.notes == ()


@pytest.mark.parametrize(("usage", "counted"), [("end", BY_USAGE), ("each", BY_CHUNK)])
def test_chunks_of_several_tokens_are_counted_by_what_the_server_says(usage: str, counted: str) -> None:
    fake = Fake(token_s=6e-3, chunk=3, usage=usage)
    found = measured(fake, Options((16, 64), (1,), tokens=48, seconds=30))
    assert found.counted == counted
    assert [s.seconds for s in found.samples] == [
        pytest.approx(s.seconds, rel=0.06) for s in left(fake, slice(-6, None))
    ]
    assert [s.tokens for s in found.samples] == [s.tokens for s in left(fake, slice(-6, None))]


def test_without_usage_in_streams_prompts_are_counted_by_an_answer_at_once() -> None:
    found = measured(Fake(usage="whole", overhead=9))
    assert found.counted == BY_CHUNKS
    assert {s.prompt_tokens for s in found.samples} == {16, 64}


def test_without_any_usage_there_is_no_context_to_fit() -> None:
    with pytest.raises(ProbeError, match="without usage"):
        measured(Fake(usage="never"))


def test_chat_servers_are_asked_to_chat() -> None:
    fake = Fake(chat_only=True, overhead=20)
    found = measured(fake)
    paths = [path for path, body, _ in fake.requests if body]
    assert paths[0] == "/v1/completions" and set(paths[1:]) == {"/v1/chat/completions"}
    assert all(
        abs(s.prompt_tokens - want) <= 26 for s, want in zip(found.samples, (16, 64, 64, 16, 16, 64), strict=True)
    )


def test_fields_that_a_server_refuses_are_left_out() -> None:
    fake = Fake(refuses=frozenset({"stream_options"}), usage="each")
    assert measured(fake).counted == BY_CHUNK
    assert ["stream_options" in body for body in fake.completions()][:2] == [True, False]


def test_llama_cpp_is_told_from_its_properties() -> None:
    fake = Fake(pages=LLAMA)
    found = measured(fake, Options((16, 64, 512), (1, 2, 4), tokens=28, seconds=20))
    server = found.server
    assert (server.kind, server.version, server.context, server.slots) == ("llama.cpp", "b42-abc", 300, 2)
    assert [r.streams for r in found.rows] == [1, 2]
    assert any("context 512 is left out: the server holds 300" in n for n in found.notes)
    assert any("4 streams are left out: the server has 2 slots" in n for n in found.notes)
    body = fake.completions()[-1]
    assert body["ignore_eos"] and body["cache_prompt"] is False


def test_vllm_counts_in_each_chunk() -> None:
    metrics = b'# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{engine="0"} 3.0\n'
    fake = Fake(
        pages={"/version": {"version": "0.11.0"}, "/metrics": metrics},
        row={"owned_by": "vllm", "max_model_len": 200}, usage="each",
    )  # fmt: skip
    found = measured(fake)
    assert (found.server.kind, found.server.version, found.server.context) == ("vLLM", "0.11.0", 200)
    assert found.server.busy == 3 and "busy with 3" in found.notes[0]
    assert fake.completions()[0]["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}


def test_ollama_is_told_from_its_version() -> None:
    found = measured(Fake(pages={"/api/version": {"version": "0.12.6"}}))
    assert (found.server.kind, found.server.version) == ("Ollama", "0.12.6")


def test_a_context_that_is_refused_is_left_out() -> None:
    found = measured(Fake(context=120), Options((16, 64, 512), (1,), tokens=28, seconds=20))
    assert {s.prompt_tokens for s in found.samples} == {16, 64}
    assert len(found.notes) == 1 and "exceeds the context" in found.notes[0]


def test_streams_that_are_refused_are_left_out() -> None:
    found = measured(Fake(at_once=1), Options((16, 64), (1, 2), tokens=28, seconds=20))
    assert [r.streams for r in found.rows] == [1]
    assert any("2 streams are left out" in n and "429" in n for n in found.notes)


@pytest.mark.parametrize("answers", [4, 9])
def test_short_answers_are_timed_together(answers: int) -> None:
    fake = Fake(answers=answers, token_s=3e-3)
    found = measured(fake, Options((16, 64), (1, 2), tokens=28, seconds=20))
    assert {s.prompt_tokens for s in found.samples} == {16, 64} and found.decode is not None
    assert all(s.tokens >= FEWEST for s in found.samples) and [r.streams for r in found.rows] == [1]
    spans = [(s.events[-1].at - s.events[0].at) / (answers - 1) for s in fake.written[1:]]
    assert 0.95 * min(spans) <= found.rows[0].seconds <= 1.05 * max(spans), "as they left the server"
    assert all("timed together" in n or "streams side by side are left out" in n for n in found.notes)


def test_answers_of_one_token_cannot_be_timed() -> None:
    with pytest.raises(ProbeError, match=r"ended after 1 tokens \(stop\)"):
        measured(Fake(answers=1))


def test_a_server_that_limits_requests_is_waited_for() -> None:
    fake = Fake(busy=4, pages={"/version": {"version": "1"}})
    found = measured(fake)
    assert [s.prompt_tokens for s in found.samples] == [16, 64, 64, 16, 16, 64]
    assert len(fake.completions()) >= 9, "each that was refused was asked for again"


@pytest.mark.parametrize("done", [0, 3])
def test_a_server_that_is_busy_for_longer_than_there_is_time(done: int) -> None:
    """What was measured until then counts."""
    fake = Fake()

    def until_then(handler: Handler) -> None:
        if len(fake.completions()) > done + 1:
            handler.answer(429, {}, Retry_After="600")
        else:
            body = fake.completions()[-1]
            handler.complete(body, len(body["prompt"].split()), chat=False)

    fake.raw = {"/v1/completions": until_then}
    if not done:
        with pytest.raises(ProbeError, match=r"429.*try again in 600 s"):
            measured(fake)
        return
    found = measured(fake)
    assert len(found.samples) == done and any("try again in 600 s" in n for n in found.notes)


def test_waiting_ends() -> None:
    fake = Fake(busy=1)
    with pytest.raises(ProbeError, match="429"):
        measured(fake)
    assert len(fake.completions()) == 6


def test_a_list_of_models_without_an_object_around_it() -> None:
    found = measured(Fake(raw={"/v1/models": lambda h: h.answer(200, [{"id": "bare", "object": "model"}])}))
    assert found.server.model == "bare" and found.samples


def test_events_over_several_lines() -> None:
    found = measured(Fake(indented=True))
    assert found.counted == BY_USAGE and {s.prompt_tokens for s in found.samples} == {16, 64}


def test_one_context_gives_times_but_no_line() -> None:
    fake = Fake(token_s=2e-3)
    found = measured(fake, Options((32,), (1,), tokens=28, seconds=20))
    assert found.decode is None and found.prefill is None
    own = median(s.seconds for s in left(fake, slice(-3, None)))
    assert found.rows[0].seconds == pytest.approx(own, rel=0.1)
    assert "tok/s" in report(found, "", None, 1e9, "as given").page()
    ours = replace(found, server=replace(found.server, kind="llama.cpp", version="memfirst 0.1.0", context=1024))
    head = report(ours, "", None, 1e9, "as given").page().split("\n")[0]
    assert "memfirst 0.1.0" in head and "llama.cpp" not in head and "1,024 tokens of context" in head


# prompts and limits


def test_no_prompt_begins_like_another() -> None:
    fake = Fake()
    measured(fake)
    beginnings = [" ".join(body["prompt"].split()[:4]) for body in fake.completions()]
    assert len(set(beginnings)) == len(beginnings) > 5


def test_the_same_prompt_is_sent_when_asked_for() -> None:
    fake = Fake(pages=LLAMA)
    measured(fake, Options((16, 64), (1,), tokens=28, same_prompt=True))
    assert len({" ".join(body["prompt"].split()[:4]) for body in fake.completions()}) == 1
    assert fake.completions()[0]["cache_prompt"] is True


def test_prompts_learn_what_a_word_comes_to() -> None:
    prompts = Prompts()
    prompts.learn(64, 64 * 2 + 30)
    prompts.learn(16, 16 * 2 + 30)
    assert prompts.words(1030) == 500 and prompts.words(10) == 4


@pytest.mark.parametrize("requests", [4, 6, 9])
def test_requests_are_bounded(requests: int) -> None:
    fake = Fake()
    options = Options((16, 64), (1, 2), tokens=28, requests=requests)
    if requests == 4:  # models, and three pages that tell the kind of server
        with pytest.raises(ProbeError, match="all 4 requests are used; allow more with --max-requests"):
            measured(fake, options)
    else:
        found = measured(fake, options)
        assert found.requests <= requests and any("requests are used" in n for n in found.notes)
    assert len(fake.requests) <= requests


def test_time_is_bounded_and_what_was_measured_counts() -> None:
    began = time.monotonic()
    found = measured(Fake(token_s=0.02), Options((16, 64, 128), (1, 4), tokens=28, seconds=1.5))
    assert time.monotonic() - began < 2.5
    assert found.samples and any("--seconds" in n for n in found.notes)


# the command


def config(folder: Path) -> Path:
    """A bare config.json of a llama: 2 layers, width 64, 4 heads of 16 over 2 of keys, 512 words."""
    path = folder / "config.json"
    path.write_text(json.dumps({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 128, "vocab_size": 512,
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
        "tie_word_embeddings": True, "torch_dtype": "bfloat16",
    }))  # fmt: skip
    return path


def test_prices_are_the_ledgers(tmp_path: Path) -> None:
    graph = build(open_checkpoint(config(tmp_path)))
    cost = price(graph, [20.0, 1000.0, 2000.0])
    assert cost.per_context == 2 * 2 * 16 * 2 * 2  # layers, heads, head_dim, k and v, bytes
    expected = ledger.price(graph, decode(999)).streamed.mean
    assert cost.fixed + 1000 * cost.per_context == pytest.approx(expected)
    found = shares(Line(1e-3, 1e-8, None, None, 3), cost, 1e9)
    assert found.weights_rate == pytest.approx(cost.fixed / 1e-3) and found.kv == pytest.approx(256 / 1e-8 / 1e9)
    assert found.weights == pytest.approx(cost.fixed / 1e-3 / 1e9)
    nothing = shares(Line(1e-3, -1e-8, None, None, 3), cost, 1e9)
    assert nothing.kv_rate is None and nothing.kv is None


def run(fake: Fake, capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    """The command, in this process."""
    with serve(fake):
        code = run_command(["probe", fake.url, "--contexts", "16,64", "--tokens", "28", "--seconds", "20", *args])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_json_has_every_figure(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    fake = Fake(context_s=5e-5)
    args = ["--json", "--model", str(config(tmp_path)), "--bandwidth", "2", "--concurrency", "1,2"]
    code, out, err = run(fake, capsys, *args)
    found: dict[str, Any] = json.loads(out)
    assert (code, err) == (0, "")
    assert found["decode"]["seconds_per_context_token"] == pytest.approx(5e-5, rel=0.1)
    assert found["kv_GBps"] == pytest.approx(256 / found["decode"]["seconds_per_context_token"] / 1e9)
    assert found["kv_share"] == pytest.approx(found["kv_GBps"] / 2)
    assert found["weights_share"] == pytest.approx(found["weights_GBps"] / 2)
    assert found["bandwidth_of"] == "as given" and [r["streams"] for r in found["concurrency"]] == [1, 2]
    assert found["requests"] == len(fake.requests) and len(found["contexts"]) == 6


def test_the_page_says_what_was_measured(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    fake = Fake(models=("evil\x1b[2Jname",), context_s=2e-5)
    code, out, err = run(fake, capsys, "--model", str(config(tmp_path)), "--bandwidth", "1")
    assert (code, err) == (0, "") and "\x1b" not in out
    for words in ("a token takes", "tok/s", "GB/s", "% of the bandwidth", "for each token of context"):
        assert words in out


@pytest.mark.parametrize(
    ("args", "megabytes", "context"),
    [
        (["llama-3:8b"], 16_060.0 - 1050.7, 131_072),  # all but the input embedding, in bf16; one row of that
        (["llama-3:8b", "--codec", "q8_0", "--kv", "q8_0"], (16_060.0 - 1050.7) * 34 / 64, 131_072 * 34 / 64),
    ],
)
def test_a_name_is_priced_without_its_files(
    capsys: pytest.CaptureFixture[str], args: list[str], megabytes: float, context: float
) -> None:
    code, out, _ = run(Fake(context_s=1e-5), capsys, "--json", "--model", *args)
    assert code == 0
    cost = json.loads(out)["bytes"]
    assert cost["fixed"] / 1e6 == pytest.approx(megabytes, rel=2e-4)
    assert cost["per_context"] == context


def test_a_bandwidth_alone_bounds_the_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    name = next(m for m in machine.machines() if m.bandwidth).name
    code, out, _ = run(Fake(context_s=1e-6), capsys, "--on", name)
    assert code == 0 and "can read" in out


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["--contexts", "16,x"], 2, "--contexts"),
        (["--contexts", ""], 2, "--contexts"),
        (["--contexts", "9" * 5000], 2, "--contexts"),
        (["--concurrency", "0"], 2, "--concurrency"),
        (["--bandwidth", "-1"], 2, "bandwidth"),
        (["--bandwidth", "5", "--on", "rtx-4090"], 2, "--on"),
        (["--api-key", "a\nb"], 2, "--api-key"),
        (["--seconds", "nan"], 2, "seconds"),
        (["--bandwidth", "nan"], 2, "bandwidth"),
        (["--model", "no-such-model"], 1, "no-such-model"),
        (["--on", "no-such-machine"], 1, "no-such-machine"),
        (["--codec", "q4_0"], 2, "--model"),
        (["--model", "llama-3:8b", "--codec", "q9"], 1, "q9"),
        (["--model", "llama-3:8b", "--kv", "q9"], 1, "q9"),
        (["--model", "hf:owner/unseen"], 1, "hf:owner/unseen"),
        (["--served", "other"], 1, "other"),
    ],
)
def test_wrong_options_are_said(capsys: pytest.CaptureFixture[str], args: list[str], code: int, says: str) -> None:
    found, out, err = run(Fake(), capsys, *args)
    assert (found, out) == (code, "") and says in err and err.count("\n") == 1


def test_one_of_several_models_is_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    fake = Fake(models=("a", "b"))
    code, _, err = run(fake, capsys)
    assert code == 1 and "2 models: a, b" in err and "--served" in err
    code, _, _ = run(fake, capsys, "--served", "b")
    assert code == 0 and {body["model"] for body in fake.completions()} == {"b"}


def test_the_key_is_sent(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMFIRST_API_KEY", "from-the-environment")
    fake = Fake()
    code, out, _ = run(fake, capsys)
    assert code == 0 and {key for _, _, key in fake.requests} == {"Bearer from-the-environment"}
    assert "from-the-environment" not in out


def test_a_probe_imports_no_kernels() -> None:
    code = (
        "import sys, memfirst.cli.probe, memfirst.measure.probe.report\n"
        "print([m for m in ('numba', 'llvmlite', 'memfirst.kernels', 'torch') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_tokens_that_arrive_at_once_have_a_pace() -> None:
    """On a busy machine all chunks may be there when the reader looks: a speed, if a high one, and no division by 0."""
    assert 0 < pace([(16.0, 0.0), (16.0, 0.0)]) < 1e-6
