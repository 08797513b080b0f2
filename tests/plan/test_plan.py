"""`memfirst plan`: what it says against the ledger and formulas worked out here, what it refuses, what a user sees."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from memfirst.catalog.configs import configs, find_config
from memfirst.cli import run_command
from memfirst.cli.plan_page import page
from memfirst.convert.synthetic import synthetic, write
from memfirst.convert.synthetic_shapes import NAMED
from memfirst.errors import ConfigError, MemfirstError, ModelNotFoundError, UnsupportedError
from memfirst.formats.json_file import parse_object
from memfirst.graph import Sequence, Step, decode, prefill
from memfirst.graph.traffic import KV_READ, STREAMED
from memfirst.ledger import price
from memfirst.measure import verify
from memfirst.models import build
from memfirst.plan import Options, Plan, Priced, Speculation, Subject, make, place, plan, subject, this_machine
from memfirst.plan.options import DEFAULT_CONTEXT
from memfirst.plan.subject import USUAL
from memfirst.predict import fitted as timing
from memfirst.predict import measured as rates
from memfirst.progress import Silent
from memfirst.runtime import arguments

OF_EACH_KIND = (
    "llama-3:8b", "qwen2.5:0.5b", "qwen3:0.6b", "mistral:7b-v0.1", "mixtral:8x7b", "gemma-2:2b", "gemma-3:4b",
    "phi-3:mini-4k", "phi-4:mini", "qwen3:30b-a3b", "gpt-oss:20b", "deepseek-v2:lite", "mamba:130m", "mamba2:130m",
    "falcon-mamba:7b", "rwkv-6:1.6b", "rwkv-7:0.4b", "jamba:52b", "granite-4.0-h:tiny",
)  # fmt: skip
BATCH = Step((Sequence(100), Sequence(5000), Sequence(0, 3), Sequence(7, 5, logits=(0, 1, 2))))


@cache
def known(name: str, codec: str = "") -> Subject:
    return subject(name, codec)


def planned(name: str, machine: str, **options: Any) -> Plan:
    return make(known(name, options.get("codec", "")), place(machine), Options(**options))


# prices


@pytest.mark.parametrize("name", OF_EACH_KIND)
def test_alike_operations_priced_once_are_the_ledger(name: str) -> None:
    graph = known(name).graph
    program, priced = graph, Priced(graph)
    for step in (decode(0), decode(6000), decode(300, 7), prefill(200), BATCH):
        expected = {p: a for p, a in price(program, step).by_purpose().items() if p in STREAMED}
        found = priced.amounts(step)
        assert {p: (a.low, a.high) for p, a in found.items()} == {p: (a.low, a.high) for p, a in expected.items()}
        assert {p: a.mean for p, a in found.items()} == pytest.approx({p: a.mean for p, a in expected.items()})
        cost, whole = priced.cost(step), timing.cost(program, step)
        assert replace(cost, streamed={}) == replace(whole, streamed={})
    assert len(priced.kinds) < 80 < len(graph.ops)


def test_every_model_of_the_catalogue_is_planned() -> None:
    """With its published number of parameters, where there is one."""
    for row in configs():
        found = subject(row.name)
        assert found.parameters == row.parameters or not row.published, row.name


def test_the_speeds_of_a_plan_are_those_of_its_steps() -> None:
    plan = planned("llama-3:8b", "rtx-4090", context=2048, batch=3, prompt=700)
    cost = timing.cost(plan.subject.graph, decode(2047, 3))
    expected = timing.predict(cost, plan.place.machine, timing.Deployment("llama.cpp"))
    assert plan.decode and plan.decode.seconds == pytest.approx(expected.seconds)
    assert plan.rate == pytest.approx(expected.tokens_per_second)
    assert plan.each == pytest.approx(plan.rate / 3 if plan.rate else 0)
    assert plan.decode.ceiling == pytest.approx(3 * 1008e9 / cost.total)
    assert plan.step_bytes == pytest.approx(cost.total)
    first = timing.predict(timing.cost(plan.subject.graph, prefill(700)), plan.place.machine)
    assert plan.prefill and plan.prefill.seconds == pytest.approx(first.seconds)


def test_several_models_on_several_machines_are_pairs() -> None:
    models, places = [known("llama-3:8b"), known("mamba:130m")], [place("rtx-4090"), place("apple-m4-max")]
    found = plan(models, places, Options())
    assert [(p.subject, p.place) for p in found] == [(m, w) for m in models for w in places]
    assert [p.rate for p in found] == [make(m, w, Options()).rate for m in models for w in places]


def test_nothing_is_faster_than_its_ceiling() -> None:
    for name in OF_EACH_KIND:
        for batch in (1, 16):
            plan = planned(name, "h200", batch=batch)
            if plan.decode and plan.decode.fastest and plan.decode.ceiling:
                assert plan.decode.fastest <= 0.9501 * plan.decode.ceiling, name


@pytest.mark.parametrize("name", ["llama-3:8b", "gemma-3:4b", "jamba:52b", "deepseek-v2:lite"])
@pytest.mark.parametrize("batch", [1, 6])
def test_kv_overtakes_where_it_is_first_as_many_bytes(name: str, batch: int) -> None:
    plan = planned(name, "b200", batch=batch)
    assert plan.overtakes
    program = plan.subject.graph

    def kv(tokens: int) -> float:
        return price(program, decode(tokens - 1, batch)).by_purpose()[KV_READ].mean

    rest = plan.step_bytes - plan.amounts[KV_READ].mean
    assert kv(plan.overtakes) >= rest > kv(plan.overtakes - 1)


def test_kv_of_llama_overtakes_at_weights_over_131072_bytes() -> None:
    plan = planned("llama-3:8b", "rtx-4090")
    weights = plan.step_bytes - plan.amounts[KV_READ].mean
    assert plan.growth == 2 * 32 * 8 * 128 * 2 == 131072
    assert plan.overtakes == -(-int(weights) // 131072)


@pytest.mark.parametrize("context", [4096, 8191, 8192, 8193, 16384])
def test_a_token_adds_to_a_chunk_and_overtakes_for_good(context: int) -> None:
    """Llama 4 keeps a chunk of 8,192 in 36 of 48 layers: a token adds to all of them also where it begins the next;
    from where KV exceeds all else on it does so at the beginning of each chunk, where the fewest positions are."""
    plan = planned("llama-4:scout", "rtx-4090", context=context)
    assert plan.growth == 48 * 2 * 8 * 128 * 2
    rest = sum(a.mean for purpose, a in plan.amounts.items() if purpose != KV_READ)
    assert plan.overtakes and plan.overtakes % 8192 == 1
    priced = plan.subject.priced(plan.options.kv)
    assert priced.kv(decode(plan.overtakes - 1)) >= rest > priced.kv(decode(plan.overtakes - 1 - 8192))
    assert all(priced.kv(decode(plan.overtakes - 1 + n)) >= rest for n in range(0, 30_000, 127))


def test_state_never_overtakes_and_a_full_window_adds_nothing() -> None:
    assert planned("mamba:130m", "rtx-4090").overtakes is None
    windowed = planned("mistral:7b-v0.1", "h200", context=8192)
    assert (windowed.growth, windowed.amounts[KV_READ].low) == (0, 4096 * 131072)


def test_llama_cpp_does_not_apply_phi_3s_window() -> None:
    """Pull 13676 of llama.cpp: 4096 positions of 32 layers are cached and read, by vLLM and memfirst 2047 read."""
    position = 2 * 3072 * 2  # keys and values of a layer, f16
    for engine, read in (("llama.cpp", 4096), ("ollama", 4096), ("vllm", 2047), ("memfirst", 2047)):
        machine = "ryzen-7950x" if engine == "memfirst" else "rtx-4090"
        plan = planned("phi-3:mini-4k", machine, context=4096, engine=engine)
        assert plan.amounts[KV_READ].low == 32 * position * read, engine
        assert any("does not apply Phi-3's window" in note for note in plan.notes) == (read == 4096)
    llama = planned("phi-3:mini-4k", "rtx-4090", context=4096, engine="llama.cpp")
    assert llama.memory.needs.kv_allocated == 32 * position * 4096
    assert not any(
        "Phi-3" in note for note in planned("phi-3.5:mini", "rtx-4090", context=4096).notes
    )  # no shorter one


def test_distinct_experts() -> None:
    """128 · (1 − (120/128)^16) = 82.42 for 16 tokens that pick 8."""
    found = planned("qwen3:30b-a3b", "h200", batch=16).distinct
    assert found and found.mean == pytest.approx(82.42, abs=0.005)
    assert (found.experts, found.picked, found.low, found.high) == (128, 8, 8, 128)
    assert planned("llama-3:8b", "h200").distinct is None


# speculation


@pytest.mark.parametrize("accepted", [0.0, 0.3, 0.7, 0.99])
@pytest.mark.parametrize("k", [1, 4, 7])
def test_tokens_gained_are_the_expectation(accepted: float, k: int) -> None:
    """i drafts right and the next one wrong give i + 1 tokens; all right give k + 1."""
    expected = sum(accepted**i * (1 - accepted) * (i + 1) for i in range(k)) + accepted**k * (k + 1)
    assert Speculation(k, accepted).gained == pytest.approx(expected)


def test_a_speculating_step_is_k_drafts_and_one_check() -> None:
    plan = planned("llama-3:8b", "rtx-4090", speculation=Speculation(3, 0.5, "llama-3.2:1b"))
    check = timing.cost(plan.subject.graph, Step((Sequence(8188, 4, logits=(0, 1, 2, 3)),)))
    draft = timing.cost(known("llama-3.2:1b").graph, decode(8188))
    seconds = [timing.predict(c, plan.place.machine).seconds or 0.0 for c in (check, draft)]
    assert plan.decode and plan.decode.seconds == pytest.approx(seconds[0] + 3 * seconds[1])
    assert plan.rate == pytest.approx(1.875 / (seconds[0] + 3 * seconds[1]))
    assert plan.decode.nbytes == pytest.approx(check.total + 3 * draft.total)
    assert sum(t.seconds for t in plan.decode.terms) == pytest.approx(plan.decode.seconds)
    alone = planned("llama-3:8b", "rtx-4090").memory.needs
    assert plan.memory.needs.weights > alone.weights and plan.memory.needs.kv_held > alone.kv_held


# fits or not


def test_what_does_not_fit_has_no_speed() -> None:
    plan = planned("llama-3:70b", "rtx-4090")
    assert plan.fits is False and plan.memory.spare < -15e9 and plan.binding == "capacity"
    assert (plan.decode, plan.empty, plan.prefill, plan.rate, plan.each) == (None,) * 5
    said = plan.json()
    assert (said["decode"], said["prefill"], said["memory"]["fits"]) == (None, None, False)
    row = plan.row()
    assert (row["tok_s"], row["ceiling_tok_s"], row["first_token_s"]) == (None, None, None)


def test_two_devices_hold_what_one_does_not() -> None:
    for kind in ("pipeline", "tensor"):
        plan = planned("llama-3:70b", "rtx-4090", devices=2, parallel=kind)
        assert plan.fits and plan.rate
    one, two = (planned("llama-3:8b", "a100-80gb", devices=n, parallel="tensor") for n in (1, 2))
    line = planned("llama-3:8b", "a100-80gb", devices=2)
    assert 1.2 < (two.rate or 0) / (one.rate or 1) < 2 and (line.rate or 0) < (one.rate or 0)
    assert one.decode and two.decode and line.decode  # in a pipeline one device reads while the other waits
    assert two.decode.ceiling == pytest.approx(2 * (one.decode.ceiling or 0))
    assert line.decode.ceiling == pytest.approx(one.decode.ceiling)


@pytest.mark.parametrize(
    ("machine", "gib", "lent"), [("m2 16gb", 16, 10.67), ("m1 max 64gb", 64, 48), ("m3 max 36gb", 36, 24)]
)
def test_a_mac_lends_a_part_of_its_memory(machine: str, gib: int, lent: float) -> None:
    """recommendedMaxWorkingSetSize: 10.67 of 16 GB in exo#1672, 48 of 64 in llama.cpp#1870; a processor has it all."""
    plan = planned("llama-3.2:1b", machine)
    assert plan.available == pytest.approx(lent * 2**30, rel=1e-3) and plan.place.machine.memory == gib << 30
    assert plan.notes == () and plan.json()["memory"]["capacity"] == gib << 30
    assert planned("llama-3.2:1b", machine, engine="memfirst").available == gib << 30
    assert "iogpu.wired_limit_mb" in planned("llama-3:70b", "apple-m4-max:48gb").notes[0]


def test_little_to_spare_is_tight() -> None:
    """An owner of an 8 GB card had to offload where 407 MB were to spare."""
    context = 1024
    while planned("llama-3.1:8b", "rtx-4060", context=context).memory.spare >= 0.4 * 2**30:
        context += 1024
    tight, roomy = (
        planned("llama-3.1:8b", "rtx-4060", context=context),
        planned("llama-3.1:8b", "rtx-4060", context=4096),
    )
    assert tight.fits and tight.tight and roomy.fits and not roomy.tight
    assert "GiB: tight, " in page(tight, [], 0) or "MiB to spare" in page(tight, [], 0)
    assert "of 8 GiB: fits, " in page(roomy, [], 0)
    assert not planned("llama-3:70b", "rtx-4090").tight


@pytest.mark.parametrize(
    ("model", "machine", "options"),
    [("llama-3.1:8b", "rtx-4060", {}), ("gemma-3:27b", "rtx-4090", {"batch": 2}), ("mamba2:2.7b", "rtx-4060", {}),
     ("llama-3.3:70b", "8xh100", {"engine": "vllm"}), ("qwen3:8b", "m2 16gb", {"kv": "q8_0"}),
     ("gpt-oss:20b", "2x3060", {}),
     ("llama-3.2:1b", "raspberry pi 5 4gb", {"engine": "memfirst"})],
)  # fmt: skip
def test_the_longest_context_and_the_most_sequences_fit_and_one_more_does_not(
    model: str, machine: str, options: dict[str, Any]
) -> None:
    plan = planned(model, machine, **options)
    found = plan.limits
    assert found and plan.fits and found.context >= plan.context and found.sequences >= plan.options.batch
    longest = planned(model, machine, **options | {"context": found.context})
    assert longest.fits
    if found.context < found.trained:
        more = max(256, found.context // 50) if plan.engine == "memfirst" else 256  # a program for each: near enough
        assert planned(model, machine, **options | {"context": found.context + more}).fits is False
    if found.sequences < 4096:
        most = planned(model, machine, **options | {"batch": found.sequences, "context": plan.context})
        assert most.fits and most.options.batch == found.sequences
    said = page(plan, [], 0)
    assert f"room for {found.context:,} tokens of context" in said and f", or {found.sequences:,} sequence" in said


def test_vllm_lets_sequences_wait() -> None:
    plan = planned("llama-3.1:8b", "rtx-4090", engine="vllm", batch=64, context=8192, codec="q4_k_m")
    assert plan.fits and 1 < plan.options.batch < 64 and plan.limits and plan.limits.sequences == plan.options.batch
    assert "of 64 sequences" in plan.notes[0] and "wait" in plan.notes[0] and plan.rate
    assert planned("llama-3.1:8b", "rtx-4090", batch=64, context=8192).fits is False, "llama.cpp sets all aside"


def test_the_context_is_that_of_run() -> None:
    assert DEFAULT_CONTEXT == arguments.DEFAULT_CONTEXT
    assert planned("llama-3.1:8b", "rtx-4090").context == 8192 and planned("llama-2:7b", "rtx-4090").context == 4096


def test_keys_and_values_apart() -> None:
    both, keys, values = (planned("llama-3:8b", "rtx-4090", kv=kv) for kv in ("q8_0/q4_0", "q8_0", "q4_0"))
    held = [p.memory.needs.kv_held for p in (both, keys, values)]
    assert 2 * held[0] == held[1] + held[2] and values.step_bytes < both.step_bytes < keys.step_bytes


def test_a_drafting_model_takes_room_too() -> None:
    name = "llama-3.1:8b"
    alone = planned(name, "rtx-4090", codec="q8_0")
    context = 100_000
    while planned(name, "rtx-4090", codec="q8_0", context=context).fits:
        context += 4000
    context -= 4000
    drafting = planned(name, "rtx-4090", codec="q8_0", context=context, speculation=Speculation(4, 0.7, "llama-3.2:3b"))
    assert alone.fits and drafting.fits is False and drafting.decode is None


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder of one's own models and machines."""
    monkeypatch.setenv("MEMFIRST_CONFIG_DIR", str(tmp_path))
    yield tmp_path


def own_machine(folder: Path, **row: Any) -> None:
    rows = {"machines": [{"name": "mine", "kind": "gpu", **row}]}
    (folder / "machines.json").write_text(json.dumps(rows), encoding="utf-8")


def test_a_machine_of_which_little_is_known(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own_machine(folder, memory_gib=24)
    page = said(capsys, "llama-3:8b", "--on", "mine")
    assert "no number" in page and "its bandwidth is not known" in page and "fits" in page
    assert "tok/s" not in page
    own_machine(folder, bandwidth_gbs=1000)
    page = said(capsys, "llama-3:8b", "--on", "mine")
    assert "the memory of mine is not known" in page and "its arithmetic rate is not known" in page
    assert "at most 167 tok/s" in page  # 95 % of 1000 GB/s over 5.69 GB


# names


def test_codecs_of_a_name() -> None:
    assert (known("llama-3:8b").codec, known("llama-3:8b").assumed) == (USUAL, True)
    asked = subject("llama-3:8b:Q8_0")
    assert (asked.codec, asked.assumed, asked.name) == ("q8_0", False, "llama-3:8b")
    assert subject("gpt-oss:20b").codec == "mxfp4"
    assert subject("llama-3:8b", engine="vllm").codec == "bf16"
    assert subject("smollm2:135m").codec == "q4_1"  # as `run` fetches it


def test_a_file_is_planned_by_its_header(folder: Path) -> None:
    write(synthetic("tiny-llama", "q4_k_m"), folder / "tiny.gguf")
    found = subject(str(folder / "tiny.gguf"))
    assert (found.codec, found.assumed, found.path) == ("q4_k_m", False, str(folder / "tiny.gguf"))
    expected = build(synthetic("tiny-llama", "q4_k_m"))
    assert make(found, place("rtx-4090"), Options()).step_bytes == price(expected, decode(511)).streamed.mean
    other = subject(str(folder / "tiny.gguf"), "q8_0")
    assert (
        other.codec == "q8_0"
        and sum(w.nbytes for w in other.graph.weights().values()) > expected.weights()["token_embd.weight"].nbytes
    )


@pytest.mark.parametrize(
    ("config", "error", "says"),
    [
        ({"model_type": "novel", "hidden_size": 64, "num_hidden_layers": 3}, ConfigError, "vocab_size is missing"),
        ({"model_type": "llama", "hidden_size": 64}, ConfigError, "num_hidden_layers is missing"),
        ({"hidden_size": 64}, MemfirstError, "model_type"),
    ],
    ids=["architecture", "config", "no architecture"],
)  # fmt: skip
def test_configs_that_cannot_be(folder: Path, config: dict[str, Any], error: type[Exception], says: str) -> None:
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(error, match=says):
        subject(str(folder / "config.json"))


def test_an_architecture_that_is_not_known_is_priced_by_its_tensors(folder: Path) -> None:
    write(synthetic("tiny-llama", "q8_0"), folder / "tiny.gguf")
    data = (folder / "tiny.gguf").read_bytes()
    for old in (b"general.architecture", b"llama."):
        assert old in data
    at = data.index(b"llama", data.index(b"general.architecture"))
    (folder / "novel.gguf").write_bytes((data[:at] + b"novel" + data[at + 5 :]).replace(b"llama.", b"novel."))
    on = place("rtx-4090")
    known, novel = (make(subject(str(folder / f"{name}.gguf")), on, Options()) for name in ("tiny", "novel"))
    assert novel.step_bytes == known.step_bytes and novel.memory.needs.kv_read == known.memory.needs.kv_read
    assert novel.decode and known.decode and novel.decode.high and known.decode.high and known.decode.seconds
    assert novel.decode.high / novel.decode.low > 1.6 * known.decode.high / known.decode.low  # type: ignore[operator]
    assert (novel.json()["architecture_known"], known.json()["architecture_known"]) == (False, True)
    assert any("'novel' is not known" in note for note in novel.notes)
    assert "'novel' is not known" in page(novel, [], 0)


def test_a_config_of_an_architecture_that_is_not_known(folder: Path) -> None:
    """GLM-4.5-Air under another name: its bytes within 1 %, on one device or as whole layers on four."""
    config = dict(find_config("glm-4.5-air").config) | {"model_type": "novel"}
    (folder / "config.json").write_text(json.dumps(config))
    found, expected = subject(str(folder / "config.json")), subject("glm-4.5-air")
    assert (found.codec, found.assumed, found.spread) == (USUAL, True, 1.5)
    for options in (Options(), Options(devices=4)):
        one, other = (make(model, place("h100-80gb"), options) for model in (found, expected))
        assert one.step_bytes == pytest.approx(other.step_bytes, rel=0.01)
        assert one.rate == pytest.approx(other.rate, rel=0.05)


def test_unknown_hyperparameters_may_be_ignored(folder: Path) -> None:
    row = next(m for m in configs() if m.name == "llama-3.2:1b")
    (folder / "config.json").write_text(json.dumps({**row.config, "novel_thing": 3}), encoding="utf-8")
    with pytest.raises(ConfigError, match="novel_thing"):
        subject(str(folder / "config.json"))
    assert subject(str(folder / "config.json"), allow_unknown=True).parameters == row.parameters


@pytest.mark.parametrize("engine", ["", "vllm"])
def test_a_config_that_says_how_it_is_quantized_is_priced_so(folder: Path, engine: str) -> None:
    """Llama 3.1 8B in AWQ, 5.73 GB, whoever runs it; another codec where one is asked for."""
    config = dict(find_config("llama-3.1:8b").config)
    path = folder / "config.json"
    awq = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}
    path.write_text(json.dumps(config | {"quantization_config": awq}))
    found = subject(str(path), engine=engine)
    assert (found.codec, found.assumed) == ("awq", False)
    assert sum(w.nbytes for w in found.graph.weights().values()) == 5_728_387_072
    path.write_text(json.dumps(config | {"quantization_config": {"quant_method": "unheard_of"}}))
    with pytest.raises(UnsupportedError, match=r"unheard-of.*--codec"):
        subject(str(path), engine=engine)
    assert subject(str(path), "q8_0", engine).graph == subject("llama-3.1:8b", "q8_0").graph


def test_missing_names() -> None:
    with pytest.raises(ModelNotFoundError, match="something like llama-3:70b"):
        subject("llama-4:70b")
    with pytest.raises(ModelNotFoundError, match="no file or folder"):
        subject("missing.gguf")


@pytest.mark.parametrize(
    "options",
    [{"codec": "q9"}, {"kv": "q9"}, {"engine": "other"}, {"batch": 0}, {"batch": 1 << 20}, {"context": -1},
     {"devices": 0}, {"parallel": "some"}, {"threads": -1}, {"context": 100, "prompt": 200}],
    ids=str,
)  # fmt: skip
def test_options_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(MemfirstError):
        Options(**options)


# this machine


def measured(folder: Path, threads: int = 1) -> None:
    """Rates as `memfirst machine` might store them: 20 GB/s, 10 ps a product."""
    work = {f"matmul.block32 CODEC=q8_0 TILE={t}": rates.Rate(0.0, 1e-11) for t in (1, 4, 8)}
    work["attention.attend DIM=64 GROUP=2 TILE=1"] = rates.Rate(1e-7, 5e-9)
    by_threads = dict.fromkeys(range(1, threads + 1), 1.0)
    read = {n: 20e9 * n for n in by_threads}
    rates.save(rates.Rates(rates.fingerprint(), "2026-01-01T00:00:00+00:00", 1 << 33, read, by_threads, by_threads,
                           dict.fromkeys(by_threads, 2e-6), 1e-5, work))  # fmt: skip


def test_this_machine_is_the_default_and_its_rates_are_assumed_until_measured(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["plan", "llama-3.2:1b"]) == 0
    page = capsys.readouterr().out
    assert "on this machine (" in page and "run memfirst machine" in page
    assert run_command(["plan", "llama-3.2:1b", "--on", "here"]) == 0 and capsys.readouterr().out.startswith(
        "llama-3.2:1b"
    )
    measured(folder)
    assert run_command(["plan", "llama-3.2:1b", "--json"]) == 0
    said = parse_object(capsys.readouterr().out.encode(), "plan")["plans"][0]
    assert (said["machine"], said["engine"], said["bandwidth"]) == ("here", "memfirst", 20e9)
    here = this_machine()
    assert here.rates and not any("run memfirst machine" in note for note in said["notes"])
    expected = rates.step_time(known("llama-3.2:1b").graph, decode(8191), here.rates)
    assert said["decode"]["tok_s"] == pytest.approx(expected.tokens_per_second)


def test_what_our_engine_does_not_run_here_has_no_speed(folder: Path) -> None:
    measured(folder)
    config = dict(find_config("llama-3.2:1b").config) | {"model_type": "novel"}
    (folder / "config.json").write_text(json.dumps(config))
    plan = make(subject(str(folder / "config.json")), place("here"), Options())
    assert plan.fits and plan.decode and plan.decode.tokens_per_second is None and plan.decode.ceiling
    assert "memfirst does not run it" in plan.decode.notes[0]
    with pytest.raises(ConfigError, match="2 of this machine"):
        make(known("llama-3.2:1b"), place("here"), Options(devices=2))
    wide = make(known("llama-3.2:1b"), place("here"), Options(batch=300, context=256))
    assert wide.decode and wide.decode.tokens_per_second is None


@pytest.mark.parametrize("shape", NAMED)
def test_made_up_weights_have_the_shape_of_the_model(shape: str) -> None:
    expected = synthetic(shape, "q8_0")
    found = synthetic(verify.shape_of(build(expected)), "q8_0")
    assert dict(found.tensors) == dict(expected.tensors)


def test_the_best_change_is_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Tiny, on made-up rates: what is checked is that something ran, and is said beside its prediction."""
    measured(folder)
    config = {"model_type": "llama", "hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
              "num_key_value_heads": 2, "intermediate_size": 512, "vocab_size": 512, "max_position_embeddings": 512,
              "rms_norm_eps": 1e-5, "tie_word_embeddings": True}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    args = ["plan", str(folder / "config.json"), "--codec", "q8_0", "--verify", "--json"]
    assert run_command(args) == 0
    said = parse_object(capsys.readouterr().out.encode(), "plan")["verified"]
    assert said["synthetic"] and said["measured_tok_s"] > 0 and said["predicted_tok_s"] > 0
    assert said["miss"] == pytest.approx(said["measured_tok_s"] / said["predicted_tok_s"] - 1)


def test_nothing_to_run_is_said(folder: Path) -> None:
    measured(folder)
    here = place("here")
    with pytest.raises(UnsupportedError, match="cannot be run here"):
        verify.verify(make(known("mamba:130m"), here, Options()), here, Silent())


# the command


def said(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert run_command(["plan", *args]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


@pytest.mark.parametrize("name", OF_EACH_KIND)
def test_the_screen_is_one_screen(folder: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    page = said(capsys, name, "--on", "rtx-4060", "--batch", "2")
    assert len(page.splitlines()) <= 30, page
    for word in ("held", "read", "decode", "to the first token" if "no speed" not in page else "does not fit"):
        assert word in page


def test_values_are_taken_as_people_write_them(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = said(capsys, "llama-3:8b", "--on", "rtx-4090", "--ctx", "4096", "--kv", "q8_0", "--engine", "ollama")
    given = ["--on", "NVIDIA GeForce RTX 4090", "--ctx", "4k", "--kv", "Q8_0", "--engine", "Ollama"]
    assert said(capsys, "llama-3:8b", *given) == wanted
    for bad in ("3x", "-1", "1.5k", "9999999999"):
        assert run_command(["plan", "llama-3:8b", "--on", "rtx-4090", "--ctx", bad]) == 2
        assert "as in 4096 or 32k" in capsys.readouterr().err
    assert run_command(["plan", "-h"]) == run_command(["-h"]) == 0


def test_what_does_not_fit_is_said_with_what_would(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = said(capsys, "llama-3:70b", "--on", "rtx-4090")
    above, _, below = page.partition("what would make it fit")
    assert "42.3 GiB of 24 GiB: does not fit, 18.3 GiB too much" in above and "tok/s" not in above
    assert "2 × rtx-4090" in below and "36 layers on the CPU" in below and "at most" not in below


def test_one_object_of_json_and_rows_of_csv(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = ["llama-3:8b", "mamba:130m", "--on", "rtx-4090", "--on", "apple-m4-max"]
    plans = json.loads(said(capsys, *both, "--json"), parse_constant=pytest.fail)["plans"]
    assert [(p["model"], p["machine"]) for p in plans] == [
        (m, on) for m in ("llama-3:8b", "mamba:130m") for on in ("rtx-4090", "apple-m4-max")
    ]
    assert all(p["advice"] and p["memory"]["overhead"]["source"] for p in plans)
    rows = list(csv.DictReader(io.StringIO(said(capsys, *both, "--csv"))))
    assert [float(r["tok_s"]) for r in rows] == pytest.approx([p["decode"]["tok_s"] for p in plans])
    assert said(capsys, *both).count("\n") == 7  # what is the same, a blank, a head, four rows


def test_drafts_are_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = said(capsys, "llama-3:8b", "--on", "rtx-4090", "--speculate", "3:0.8:llama-3.2:1b", "--kv", "q8_0")
    assert "3 drafted a step by llama-3.2:1b, 80 % right" in " ".join(page.split()) and "for each token kept" in page


def test_a_name_without_its_file_is_planned_as_run_would_fetch_it(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMFIRST_CACHE_DIR", str(folder / "nothing"))
    monkeypatch.setenv("HF_HOME", str(folder / "nothing"))
    plans = json.loads(said(capsys, "smollm2:135m", "--on", "rtx-4090", "--json"))["plans"]
    assert (plans[0]["codec"], plans[0]["codec_assumed"], plans[0]["path"]) == ("q4_1", True, "")


def test_sweeps_are_tables_of_every_combination(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["llama-3:8b", "--on", "rtx-4090", "--sweep", "ctx=1k,8192", "--sweep", "codec=q8_0,F16", "--csv"]
    rows = list(csv.DictReader(io.StringIO(said(capsys, *args))))
    assert [(r["context"], r["codec"]) for r in rows] == [
        ("1024", "q8_0"), ("1024", "f16"), ("8192", "q8_0"), ("8192", "f16")
    ]  # fmt: skip
    slower = [float(r["tok_s"]) for r in rows]
    assert slower[0] > slower[2] > slower[1] > slower[3]


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["llama-4:70b", "--on", "rtx-4090"], 1),
        (["llama-3:8b", "--on", "rtx-9999"], 1),
        (["missing.gguf", "--on", "rtx-4090"], 1),
        (["hf:nobody/nothing-of-this-name", "--on", "rtx-4090"], 1),
        (["", "--on", "rtx-4090"], 1),
        (["llama-3:8b", "--on", ""], 1),
        (["llama-3:8b", "--on", "rtx-4090", "--engine", "vllm", "--kv", "q4_0"], 1),
        (["llama-3:8b", "--on", "rtx-4090", "--plot", "picture.bmp"], 1),
        (["llama-3:8b", "--on", "rtx-4090", "--codec", "q9"], 2),
        (["llama-3:8b", "--on", "rtx-4090", "--kv", "q9"], 2),
        (["llama-3:8b", "--on", "rtx-4090", "--engine", "other"], 2),
        (["llama-3:8b", "--on", "rtx-4090", "--parallel", "some"], 2),
        (["llama-3:8b", "--on", "rtx-4090", "--speculate", "x"], 2),
        (["llama-3:8b", "--on", "rtx-4090", "--speculate", "4:2"], 2),
        (["llama-3:8b", "--on", "rtx-4090", "--sweep", "ctx=a"], 2),
        (["llama-3:8b", "--on", "rtx-4090", "--sweep", "colour=1"], 2),
        (["llama-3:8b", "--on", "rtx-4090", "--sweep", "ctx=1", "--sweep", "ctx=2"], 2),
        (["llama-3:8b", "--on", "rtx-4090", "--sweep", "codec=q9"], 2),
        (["llama-3:8b", "--on", "rtx-4090", "--json", "--csv"], 2),
        (["llama-3:8b", "--on", "rtx-4090", "--csv", "--verify"], 2),
        (["llama-3:8b", "--on", "rtx-4090", "--ctx", "100", "--prompt", "200"], 2),
        (["--on", "rtx-9999"], 1),
        (["--on", "rtx-4090", "--sweep", "ctx=1k"], 2),
        (["llama-3:8b", "--on", "rtx-4090", "--host", "fast"], 2),
        (["llama-3:8b", "qwen3:8b", "--on", "rtx-4090", "--plot", "picture.png"], 2),
        (["llama-3:8b", "--on", "here", "--devices", "2"], 1),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else str(v),
)
def test_exit_codes(folder: Path, capsys: pytest.CaptureFixture[str], args: list[str], code: int) -> None:
    assert run_command(["plan", *args]) == code
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("memfirst: ") and err.count("\n") == 1


# start


START = ["-m", "memfirst", "plan", "llama-3:70b", "--on", "rtx-4090"]
MAY_LOAD = {
    "memfirst", "numpy", "typer", "platformdirs",
    *("annotated_doc", "annotated_types", "click", "pydantic", "pydantic_core", "shellingham", "typing_extensions",
      "typing_inspection"),
}  # fmt: skip
"""Packages that planning may load; what is below numpy comes with typer."""


def environment(folder: Path) -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | {
        "MEMFIRST_CONFIG_DIR": str(folder)
    }


def test_planning_loads_what_it_may_and_nothing_else(tmp_path: Path) -> None:
    code = (
        "import sys; before = set(sys.modules)\nfrom memfirst.cli import run_command\n"
        f"code = run_command({START[2:]!r})\n"
        "tops = {m.partition('.')[0] for m in set(sys.modules) - before} - set(sys.stdlib_module_names)\n"
        "never = 'memfirst.kernels', 'memfirst.backends', 'memfirst.hub.remote'\n"
        "ours = [m for m in sys.modules if m.startswith(never)]\n"
        "print(code, sorted(t for t in tops if not t.startswith('_')), ours, file=sys.stderr)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment(tmp_path)
    )
    exit_code, _, rest = ran.stderr.strip().partition(" ")
    tops, _, ours = rest.partition("] ")
    assert exit_code == "0" and ours == "[]"
    assert set(tops.strip("[]").replace("'", "").split(", ")) <= MAY_LOAD


def seconds_of_processor(command: list[str], env: dict[str, str]) -> float:
    """Of one run, in user and system mode: others' work on this machine counts less than in wall time."""
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *command], capture_output=True, check=True, env=env)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return float(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def test_a_plan_takes_at_most_4_6_times_what_importing_numpy_does(tmp_path: Path) -> None:
    """It takes 3.9 times (docs/log.md); cores that neighbours slow down slow both.

    Median of 5 pairs, after one that may compile; one thread, as NumPy's idle ones would count.
    """
    env = environment(tmp_path) | {"OPENBLAS_NUM_THREADS": "1"}
    pairs = [[seconds_of_processor(c, env) for c in (START, ["-c", "import numpy"])] for _ in range(6)]
    assert median(plan / numpy for plan, numpy in pairs[1:]) <= 4.6
