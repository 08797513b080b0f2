"""Advice: each change does what it says, the line to paste gives it, and only what an engine can do is advised."""

from __future__ import annotations

import json
import shlex
from functools import cache
from typing import Any

import pytest

from memfirst.catalog.configs import find_config
from memfirst.cli import run_command
from memfirst.graph import decode
from memfirst.hardware.machines import find_machine
from memfirst.plan import Options, Plan, Speculation, Subject, make, place, subject
from memfirst.plan.advice import LITTLE, Advice, advise, best
from memfirst.plan.advice.change import ELSEWHERE, EXACT, LOSSY, MACHINE, MODEL, SLOW, WINDOW
from memfirst.plan.advice.fitting import LADDER
from memfirst.plan.fit import place as placed
from memfirst.plan.framework import BATCH, CODEC, CONTEXT, DEVICES, FRAMEWORKS, KV, SPECULATION, THREADS
from memfirst.plan.subject import mix_bytes
from memfirst.predict.fitted import FITTED

CASES = {
    "fits": ("llama-3:8b", "rtx-4090", {}),
    "batch": ("qwen3:30b-a3b", "apple-m4-max", {"batch": 4}),
    "long": ("llama-3.1:8b", "rtx-4090", {"context": 65536}),
    "f16": ("llama-3.2:3b", "rtx-4090", {"codec": "f16"}),
    "processor": ("llama-3.1:8b", "epyc-genoa", {}),
    "vllm": ("gemma-3:4b", "h100-80gb", {"engine": "vllm", "batch": 8, "context": 16384}),
    "less memory": ("llama-3.1:8b", "apple-m4-max:48gb", {}),
    "ollama": ("llama-3.1:8b", "rtx-3090", {"engine": "ollama", "context": 32768}),
    "state": ("mamba:2.8b", "rtx-4060", {}),
    "drafts": ("llama-3:70b", "h100-80gb", {"speculation": Speculation(4, 0.7, "llama-3.2:1b")}),
    "too large": ("llama-3:70b", "rtx-4090", {}),
    "too large for vllm": ("llama-3.1:8b", "rtx-4060", {"engine": "vllm"}),
    "too large without a bus": ("llama-3.1:405b", "apple-m4-max", {}),
    "too large for one": ("llama-3:8b", "rtx-4060", {"codec": "f16"}),
    "experts too large": ("gpt-oss:120b", "rtx-5090", {}),
    "cuts that do not divide, too large": ("gpt-oss:120b", "rtx-4060", {"devices": 2, "parallel": "tensor"}),
    "context too large": ("llama-3.1:8b", "rtx-4060", {"context": 131072}),
}
FITTING = [name for name in CASES if "large" in name]


@cache
def known(name: str, codec: str, engine: str) -> Subject:
    return subject(name, codec, engine)


@cache
def case(name: str) -> tuple[Plan, tuple[Advice, ...]]:
    model, machine, options = CASES[name]
    chosen: dict[str, Any] = options
    found = make(known(model, chosen.get("codec", ""), chosen.get("engine", "")), place(machine), Options(**chosen))
    return found, advise(found)


def kinds(name: str) -> dict[str, Advice]:
    """By kind, the best of each."""
    return {a.kind: a for a in reversed(case(name)[1])}


@pytest.mark.parametrize("name", CASES)
def test_a_pasted_line_gives_what_was_said(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for advice in case(name)[1]:
        if advice.after is None:
            continue
        words = shlex.split(advice.command)
        assert words[0] == "memfirst"
        assert run_command([*words[1:], "--json"]) == 0, advice.command
        said = json.loads(capsys.readouterr().out)["plans"][0]
        assert said["decode"]["tok_s"] == pytest.approx(advice.rate), advice.command
        assert said["bytes_per_token"] == pytest.approx(advice.nbytes)
        assert said["memory"]["total"] == advice.memory
        assert said["memory"]["available"] == advice.after.available


@pytest.mark.parametrize("name", CASES)
def test_gains_are_ratios_and_in_order(name: str) -> None:
    before, found = case(name)
    assert found
    for advice in found:
        if before.fits:
            assert advice.gain == pytest.approx((advice.rate or 0) / (before.rate or 1))
        else:
            assert advice.gain is None
    tiers = [2 if (a.gain or 9) < LITTLE else int(a.kind in ELSEWHERE) for a in found]
    if before.fits:
        assert tiers == sorted(tiers)
        for tier in range(3):
            gains = [a.gain or 0 for a, t in zip(found, tiers, strict=True) if t == tier]
            assert gains == sorted(gains, reverse=True)


@pytest.mark.parametrize("name", CASES)
def test_the_best_are_one_of_each_kind_and_help(name: str) -> None:
    found = best(case(name)[1], 3)
    assert len({a.kind for a in found}) == len(found) <= 3
    assert all(a.gain is None or a.gain > 1 or a.kind == WINDOW for a in found)


def test_lossy_is_what_changes_stored_numbers() -> None:
    for name in CASES:
        for advice in case(name)[1]:
            assert (advice.effect == LOSSY) == (advice.kind in (CODEC, KV))
            if advice.kind in (THREADS, WINDOW, DEVICES, SLOW, MACHINE):
                assert advice.effect == EXACT
            if advice.kind in (CONTEXT, SPECULATION, BATCH):
                assert advice.effect.startswith("exact")


# what fits


@pytest.mark.parametrize("name", FITTING)
def test_every_change_makes_it_fit(name: str) -> None:
    before, found = case(name)
    assert before.fits is False
    assert all(a.after is None or a.after.fits for a in found)


def test_the_most_bits_that_fit() -> None:
    """f16 of 8 billion weights on 8.6 GB: Q5_K_M is the first of the ladder that leaves room for the rest."""
    before, _ = case("too large for one")
    codec = kinds("too large for one")[CODEC].after
    assert codec and codec.fits
    above = LADDER[LADDER.index(codec.subject.codec) - 1]
    assert make(before.subject.recoded(above), before.place, before.options).fits is False
    assert CODEC not in kinds("too large")  # not even Q2_K


@pytest.mark.parametrize("mix", LADDER)
def test_bytes_of_a_mix_are_the_graphs(mix: str) -> None:
    for name in ("llama-3:8b", "qwen3:30b-a3b", "gemma-3:4b"):
        found = known(name, "", "")
        stored = found.recoded(mix).graph.weights().values()
        assert mix_bytes(found.origin, mix) == sum(w.nbytes for w in stored)


def test_the_longest_context_that_fits() -> None:
    before, found = case("context too large")
    after = next(a.after for a in found if a.kind == CONTEXT)
    assert after and after.fits and after.context < before.context
    longer = make(before.subject, before.place, Options(context=after.context + 256))
    assert longer.fits is False


def test_the_fewest_devices() -> None:
    after = kinds("too large")[DEVICES].after
    assert after and after.options.devices == 2
    large = make(known("llama-3.1:405b", "", ""), place("h100-80gb"), Options())  # 245 GB on 86 each
    four = next(a.after for a in advise(large) if a.kind == DEVICES)
    assert four and four.options.devices == 4


@pytest.mark.parametrize("name", ["too large for vllm", "too large without a bus"])
def test_weights_that_are_streamed_bound_the_speed(name: str) -> None:
    """No speed is said, but what both memories allow: their bytes over their bandwidths."""
    plan, advice = case(name)[0], kinds(name)[SLOW]
    machine = plan.place.machine
    tier, rate = ("slow", machine.slow_bandwidth) if machine.slow_bandwidth else ("disk", machine.disk_bandwidth)
    assert plan.available and machine.bandwidth and rate
    allocator = plan.memory.allocator
    spread = placed(plan.subject.graph, plan.available, [plan.context], allocator=allocator, what="layers", tier=tier)
    reads = spread.reads(decode(plan.context - 1))
    seconds = reads["fast"].mean / machine.bandwidth + reads[tier].mean / rate
    assert advice.rate is None and advice.most == pytest.approx(1 / seconds)
    assert advice.flags.startswith("vllm serve" if tier == "slow" else "llama-server")
    assert ("--cpu-offload-gb" in advice.flags) == (tier == "slow")


@pytest.mark.parametrize("name", ["fits", "too large", "processor", "experts too large"])
def test_another_machine_holds_it_and_is_worth_it(name: str) -> None:
    before, advice = case(name)[0], kinds(name)[MACHINE]
    assert advice.after and advice.after.fits and advice.after.subject is before.subject
    assert before.fits is False or (advice.gain or 0) >= 1.4
    assert find_machine(advice.after.place.machine.name).name in advice.command


def test_another_model_is_a_smaller_one_of_the_family() -> None:
    for name, other in (("too large", "llama-3"), ("fits", "llama-3"), ("experts too large", "gpt-oss")):
        before, after = case(name)[0], kinds(name)[MODEL].after
        assert after and after.subject.name.startswith(other)
        assert after.subject.parameters < before.subject.parameters


def test_nobody_moves_for_little() -> None:
    """Two sequences: the 4B model is little faster than the mixture, which reads 3B a token."""
    mixture = make(known("qwen3:30b-a3b", "", ""), place("rtx-4090"), Options(batch=2, context=4096))
    smaller = make(known("qwen3:4b", "", ""), place("rtx-4090"), Options(batch=2, context=4096))
    assert 1 < (smaller.rate or 0) / (mixture.rate or 1) < 1.4
    assert all((a.gain or 0) >= 1.4 for a in advise(mixture) if a.kind in (MODEL, MACHINE))


# what engines can do


def test_kv_codecs_are_the_engines() -> None:
    def codec(name: str) -> str:
        after = kinds(name)[KV].after
        return after.options.kv if after else ""

    assert (codec("fits"), codec("vllm")) == ("q8_0", "f8_e4m3")
    assert KV not in kinds("state")
    ours = advise(make(known("llama-3.1:8b", "", "memfirst"), place("epyc-genoa"), Options(engine="memfirst")))
    assert next(a for a in ours if a.kind == KV).flags == "memfirst run llama-3.1:8b --kv q8_0"


def test_drafts_come_from_a_small_model_with_the_same_vocabulary() -> None:
    after = kinds("fits")[SPECULATION].after
    assert after and after.options.speculation
    draft = find_config(after.options.speculation.draft)
    assert draft.config["vocab_size"] == after.subject.graph.vocab_size
    assert (draft.parameters or 0) < after.subject.parameters / 5
    assert SPECULATION not in kinds("state")  # state cannot be taken back
    assert SPECULATION not in kinds("drafts")  # it drafts already


def test_a_relative_that_is_not_much_smaller_does_not_draft() -> None:
    """Llama-3.2-1B has 0.38 of the weights of 3B."""
    after = kinds("f16")[SPECULATION].after
    assert after and after.options.speculation and after.options.speculation.draft == ""


def test_drafts_that_are_never_right_cost_time() -> None:
    plain, _ = case("fits")
    never = make(plain.subject, plain.place, Options(speculation=Speculation(4, 0.0, "llama-3.2:1b")))
    assert (never.rate or 0) < (plain.rate or 0)


def test_windows_only_are_set_aside_where_an_engine_can() -> None:
    before, advice = case("vllm")[0], kinds("vllm")[WINDOW]
    assert advice.after and advice.after.engine == "vllm-hybrid"
    assert advice.memory < before.memory.needs.total
    assert WINDOW not in kinds("fits")


def test_threads_are_those_at_which_a_processor_is_fastest() -> None:
    for plan, found in (case("processor"), case("state")):
        for advice in found:
            if advice.kind == THREADS:
                assert plan.place.machine.kind == "cpu"
                assert advice.after and 0 < advice.after.options.threads < plan.place.machine.cores
    slow = make(known("llama-3.1:8b", "", ""), place("epyc-genoa"), Options(threads=2))
    more = next(a for a in advise(slow) if a.kind == THREADS)
    assert (more.gain or 0) > 1.5


def test_a_batch_shares_its_weights() -> None:
    before, advice = case("fits")[0], kinds("fits")[BATCH]
    assert advice.after and advice.after.options.batch == 8 and (advice.gain or 0) > 2
    assert advice.nbytes < before.nbytes / 3
    assert (advice.after.each or 0) < (before.rate or 0)


def test_fewer_bits_are_faster_and_gguf_only() -> None:
    codecs = {a.after.subject.codec: a for a in case("f16")[1] if a.kind == CODEC and a.after}
    assert codecs.keys() == {"q8_0", "q4_k_m"}
    assert (codecs["q4_k_m"].gain or 0) > (codecs["q8_0"].gain or 0) > 1.4
    assert CODEC not in kinds("vllm")


def test_each_framework_is_described_whole() -> None:
    """Speeds that are fitted (but our own, which are measured, and of three engines that nobody published many of),
    memory on both kinds of devices, a command (but of ExLlama, which is a library)."""
    for name, found in FRAMEWORKS.items():
        wide = ("memfirst", "sglang", "tensorrt-llm", "mlx")
        assert found.name == name and (found.speeds in FITTED or name in wide)
        assert found.allocator.kv_codecs == found.on_gpu.kv_codecs and (found.says or name == "exllama")
