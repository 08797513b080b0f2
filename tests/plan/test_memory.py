"""What must be held: against sizes worked out by hand, what engines report, and laws that hold for all."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memfirst import models
from memfirst.catalog.configs import catalog_checkpoint
from memfirst.errors import ConfigError, UnsupportedError
from memfirst.graph import Graph, KVCache, decode
from memfirst.ledger import memory, price, required
from memfirst.lower import cpu
from memfirst.plan.fit import (
    LARGEST_BATCH,
    Allocator,
    LlamaCpp,
    Memfirst,
    Needs,
    Vllm,
    largest_batch,
    largest_context,
    place,
    plan_memory,
)
from memfirst.plan.fit.spread import boundaries, layer_bytes, parts
from memfirst.plan.framework import FRAMEWORKS, framework
from memfirst.transform.recode import mixed

MIB, GIB = 1 << 20, 1 << 30
ALLOCATORS = tuple({repr(a): a for f in FRAMEWORKS.values() for a in (f.allocator, f.on_gpu)}.values())


@cache
def graph(name: str, mix: str = "") -> Graph:
    found = models.build(catalog_checkpoint(name))
    return mixed(found, mix) if mix else found


def needs(name: str, contexts: list[int], allocator: Allocator | None = None) -> Needs:
    return plan_memory(graph(name), contexts, allocator=allocator).needs


# ---- KV as three numbers, by hand -----------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "tokens", "nbytes"),
    [
        ("llama-3.1:8b", 131072, 16 * GIB),  # 2 · 32 layers · 8 heads · 128 · 2 bytes · 131,072
        ("qwen3:30b-a3b", 64, 64 * 98_304),
        ("deepseek-v3", 64, 64 * 70_272),  # 61 layers · (512 + 64) · 2 bytes: keys and values in one latent
        ("mamba:2.8b", 4096, 0),
    ],
)
@pytest.mark.parametrize("allocator", [Memfirst(), LlamaCpp(), Vllm()], ids=lambda e: e.name)
def test_kv_of_whole_contexts(name: str, tokens: int, nbytes: int, allocator: Allocator) -> None:
    found = needs(name, [tokens], allocator)
    assert (found.kv_read, found.kv_held) == (nbytes, nbytes)
    pad = 256 if allocator.name == "llama.cpp" else 64
    assert found.kv_allocated == nbytes // tokens * math.ceil(tokens / pad) * pad


def test_gpt_oss_reads_half_of_what_vllm_allocates() -> None:
    """8192 tokens for 32 sequences: 12 layers read all, 12 read 128; without its hybrid manager vLLM keeps all."""
    found = needs("gpt-oss:20b", [8192] * 32, Vllm())
    assert found.kv_read == 32 * 12 * 2048 * (8192 + 128)
    assert round(found.kv_read / GIB, 2) == 6.09
    assert found.kv_held == found.kv_read
    assert found.kv_allocated == 12 * GIB
    hybrid = needs("gpt-oss:20b", [8192] * 32, Vllm(hybrid=True)).kv_allocated
    # 31 windows of 128 in up to 9 blocks, and one whole context that is being read in: 512 blocks
    assert hybrid == 6 * GIB + 12 * 2048 * 16 * (31 * 9 + 512)


def test_a_window_of_vllms_hybrid_manager_also_holds_a_step() -> None:
    """127 tokens before the 8192 of a step, which may begin within a block: ⌈8319 / 16⌉ + 1 blocks."""
    found = needs("gpt-oss:20b", [20_000], Vllm(hybrid=True)).kv_allocated
    assert found == 12 * 2048 * (20_000 + 16 * (520 + 1))


@pytest.mark.parametrize(
    ("window", "contexts", "unified", "cells"),
    [
        (None, [4096], False, 4096),
        (None, [5000], False, 5120),  # in 256s
        (None, [5000, 100], False, 2 * 5120),  # the same for all sequences
        (None, [5000, 100], True, 5120),
        (128, [4096], False, 768),  # 128 + 512, in 256s
        (128, [512], False, 512),  # no more than the context
        (128, [8192] * 32, False, 32 * 768),
        (128, [8192] * 32, True, 4608),  # 32 · 128 + 512
        (4096, [8192] * 4, True, 16896),  # 4 · 4096 + 512
    ],
)
def test_cells_of_llama_cpp(window: int | None, contexts: list[int], unified: bool, cells: int) -> None:
    assert LlamaCpp(unified=unified).cells(window, contexts) == cells


def test_llama_cpps_own_report_of_gpt_oss() -> None:
    """ggml-org/llama.cpp#17609, n_ctx 4096: 768 cells, 18.00 MiB in 12 layers; compute buffer 404.00 MiB."""
    found = needs("gpt-oss:20b", [4096], LlamaCpp(gpu=True))
    assert found.kv_allocated == 18 * MIB + 12 * 2048 * 4096
    assert found.buffers.nbytes == 404 * MIB


def test_llama_cpps_own_report_of_smollm2() -> None:
    """0.3.36 with flash attention, n_ctx 8192: KV 180.00 MiB, compute buffer 98.25 MiB."""
    found = needs("smollm2:135m", [8192], LlamaCpp())
    assert (found.kv_allocated, found.buffers.nbytes) == (180 * MIB, 98.25 * MIB)


def test_vllms_own_report_of_llama_3() -> None:
    """vllm-project/vllm#10511: of 79.22 GiB, weights 14.96, elsewhere 1.79, activations 1.26, for KV 53.29."""
    plan = plan_memory(graph("llama-3:8b"), [8192], allocator=Vllm(), memories=[round(79.22 * GIB)])
    assert round(plan.needs.weights / GIB, 2) == 14.96
    assert (plan.spare + plan.needs.kv_allocated) / GIB == pytest.approx(53.29, abs=0.01)


def test_a_block_of_vllm_holds_a_layers_state_in_hybrids() -> None:
    """Granite: (3 · 3328 + 3072 · 128) · 4 bytes of state, 2048 bytes a position: 50 times 16 tokens."""
    assert Vllm().block(graph("granite-4.0-h:tiny")) == 800
    found = needs("granite-4.0-h:tiny", [801] * 3, Vllm())
    assert found.kv_allocated == 3 * 4 * 1600 * 2048
    assert found.state_allocated == 3 * 36 * 800 * 2048
    assert found.state_read == 3 * 36 * 4 * (3 * 3328 + 3072 * 128)


def test_state_does_not_grow_and_memfirst_keeps_two_slots() -> None:
    short, long = needs("mamba:2.8b", [1]), needs("mamba:2.8b", [1 << 20])
    assert short == long
    assert short.state_read == 64 * 5120 * (3 + 16) * 4
    assert short.state_allocated == 2 * short.state_read
    assert needs("mamba:2.8b", [1], LlamaCpp()).state_allocated == short.state_read


def test_codecs_of_keys_and_values_are_chosen_apart() -> None:
    found = {kv: plan_memory(graph("llama-3.1:8b"), [64], kv=kv).needs.kv_held
             for kv in (("f16", "f16"), ("q8_0", "q8_0"), ("q8_0", "q4_0"), ("q4_0", "q4_0"))}  # fmt: skip
    head = {"f16": 256, "q8_0": 136, "q4_0": 72}  # bytes of 128 values
    assert all(nbytes == 64 * 32 * 8 * (head[k] + head[v]) for (k, v), nbytes in found.items())


def test_mla_is_cached_compressed() -> None:
    """The tenth trap: expanded it would be 61 layers · 128 heads · (192 + 128) · 2 bytes, 71 times as much."""
    for allocator in (Memfirst(), LlamaCpp(), Vllm()):
        assert needs("deepseek-v3", [256], allocator).kv_allocated == 256 * 70_272
    assert 61 * 128 * (192 + 128) * 2 // 70_272 == 71
    q8 = plan_memory(graph("deepseek-v3"), [1], kv=("q8_0", "f16")).needs
    assert q8.kv_held == 61 * 576 // 32 * 34


def test_growth_of_peak_memory_is_not_kv() -> None:
    """The ninth trap: HF transformers' peak for Qwen2.5-7B in BF16 grew from 14.38 to 19.97 GiB with 32,768 tokens,
    of which KV is 1.75: activations of the prompt and logits are listed apart."""
    short, long = needs("qwen2.5:7b", [256], LlamaCpp()), needs("qwen2.5:7b", [32768], LlamaCpp())
    grown = long.kv_allocated - short.kv_allocated
    assert grown == (32768 - 256) * 57_344
    assert (19.97 - 14.38) * GIB / long.kv_allocated == pytest.approx(3.2, abs=0.01)
    assert (long.total - short.total, long.buffers) == (grown, short.buffers)


# ---- weights --------------------------------------------------------------------------------


def test_an_untied_table_stays_with_the_host_of_a_gpu() -> None:
    """llama.cpp reports 281.81 MiB on the CPU for Llama-3-8B in Q4_K_M, 4403.49 MiB on the GPU."""
    found = plan_memory(graph("llama-3:8b", "q4_k_m"), [1], allocator=LlamaCpp(gpu=True)).needs
    assert round(found.host / MIB, 2) == 281.81
    assert round(found.weights / MIB, 2) == 4403.49
    assert plan_memory(graph("llama-3:8b", "q4_k_m"), [1]).needs.host == 0


def test_a_tied_table_is_held_once_or_by_host_and_gpu() -> None:
    table = 128_256 * 2048 * 2
    one, gpu = needs("llama-3.2:1b", [1]), needs("llama-3.2:1b", [1], LlamaCpp(gpu=True))
    assert (one.weights, gpu.weights, gpu.host) == (one.weights, one.weights, table)


def test_a_program_gives_its_own_weights_and_buffers() -> None:
    program = cpu.lower(graph("smollm2:135m", "q4_1"), 1, 1024, 2)
    found, asked = plan_memory(program, [1000], workers=2).needs, required(program, [1000], 2, cpu.CAPACITIES[-1])
    held = memory(program, [1000], 2)
    assert (found.weights, found.kv_held, found.kv_allocated) == (held.weights, held.kv_held, held.kv_allocated)
    assert found.buffers.nbytes == asked.buffers > held.buffers and found.overhead.nbytes == asked.process
    assert found.total == asked.total
    assert found.resident == found.total - found.kv_allocated + found.kv_held
    with pytest.raises(ConfigError, match="cache in q8_0"):
        plan_memory(program, [1000], kv=("q8_0", "q8_0"))
    with pytest.raises(ConfigError, match="one device"):
        plan_memory(program, [1000], memories=[GIB, GIB])


RUN = """
from memfirst import load
from memfirst.convert.synthetic import synthetic
from memfirst.plan.fit import plan_memory
model = load(synthetic({shape!r}, "q8_0"), threads=2, ctx=1024)
answer = model.generate("Once upon a time " * 50, max_tokens=24)
tokens = len(list(answer)) + answer.report()["prompt_tokens"]
planned = plan_memory(model.backend.program(1).program, [tokens], workers=2).needs.resident
print(planned, flush=True)
input()
"""
"""A process that answers a prompt of its largest step, prints what was planned for it and waits to be looked at."""


def seen_from_outside(code: list[str]) -> tuple[int, int]:
    """Resident bytes of a process that waits, as the system says, and the bytes that it planned."""
    with subprocess.Popen(code, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        planned = int(process.stdout.readline())
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
        process.stdin.write("\n")
    resident = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(resident) * 1024, planned


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("shape", "within"), [("smollm2-135m", 30e6), ("llama-1b", 0.02 * 1.3e9)])
def test_memfirst_takes_what_is_planned(shape: str, within: float) -> None:
    """Bytes resident in a process of its own, once its kernels are in their cache: compiling takes more."""
    code = [sys.executable, "-c", RUN.format(shape=shape)]
    for _ in range(2):  # the first may compile
        resident, planned = seen_from_outside(code)
        if abs(resident - planned) < within:
            return
    pytest.fail(f"{resident / 1e6:.0f} MB, planned {planned / 1e6:.0f}")


# ---- whether it fits ------------------------------------------------------------------------


def test_fits_to_the_byte() -> None:
    total = needs("llama-3.2:1b", [4096]).total
    exact = plan_memory(graph("llama-3.2:1b"), [4096], memories=[total])
    short = plan_memory(graph("llama-3.2:1b"), [4096], memories=[total - 1])
    assert (exact.fits, exact.spare, short.fits, short.spare) == (True, 0, False, -1)
    with pytest.raises(ConfigError, match="no device"):
        _ = plan_memory(graph("llama-3.2:1b"), [4096]).fits


@pytest.mark.parametrize("allocator", ALLOCATORS, ids=lambda a: a.name)
@pytest.mark.parametrize("name", ["llama-3.2:1b", "gpt-oss:20b", "granite-4.0-h:tiny"])
def test_the_largest_context_and_batch_fit_and_one_more_does_not(name: str, allocator: Allocator) -> None:
    memories = [int(1.2 * needs(name, [1024] * 4, allocator).total)]
    context = largest_context(graph(name), memories, batch=4, allocator=allocator)
    batch = largest_batch(graph(name), memories, context=1024, allocator=allocator)
    assert context >= 1024 and 4 <= batch < LARGEST_BATCH

    def fits(contexts: list[int]) -> bool:
        return plan_memory(graph(name), contexts, allocator=allocator, memories=memories).fits

    assert fits([context] * 4) and (context == graph(name).context or not fits([context + 1] * 4))
    assert fits([1024] * batch) and not fits([1024] * (batch + 1))


def test_nothing_fits_where_the_weights_do_not() -> None:
    assert largest_context(graph("llama-3:70b"), [GIB]) == 0
    assert largest_batch(graph("llama-3:70b"), [GIB], context=1) == 0


# ---- several devices ------------------------------------------------------------------------


@pytest.mark.parametrize("parallel", ["tensor", "pipeline"])
def test_devices_hold_the_whole_model_together(parallel: str) -> None:
    whole = needs("llama-3:70b", [8192])
    plan = plan_memory(graph("llama-3:70b"), [8192], memories=[80 * GIB] * 4, parallel=parallel)
    assert sum(d.kv_allocated for d in plan.devices) == whole.kv_allocated
    copied = 3 * (161 * 8192 * 4 + 128_256 * 8192 * 2)  # norms and the embedding are on all where layers are cut
    assert sum(d.weights for d in plan.devices) == whole.weights + (copied if parallel == "tensor" else 0)
    assert plan.fits and plan.total == sum(d.total for d in plan.devices)


def test_vllm_cuts_the_embedding_too() -> None:
    """It reports 7.48 GiB of weights on each of two devices for Llama-3-8B (vllm-project/vllm#10511)."""
    two = plan_memory(graph("llama-3:8b"), [1], allocator=Vllm(), memories=[80 * GIB] * 2)
    assert [round(d.weights / GIB, 2) for d in two.devices] == [7.48, 7.48]


def test_a_tied_table_is_whole_where_it_is_looked_up() -> None:
    whole, table = needs("llama-3.2:1b", [1]).weights, 128_256 * 2048 * 2
    half = plan_memory(graph("llama-3.2:1b"), [1], memories=[GIB] * 2).devices[0].weights
    norms = 33 * 2048 * 4
    assert half == (whole - table - norms) // 2 + norms + table
    cut = plan_memory(graph("llama-3.2:1b"), [1], memories=[GIB] * 2, allocator=Vllm()).devices[0].weights
    assert cut == half - table // 2


def test_mlas_latent_is_on_every_device() -> None:
    plan = plan_memory(graph("deepseek-v3"), [1024], memories=[80 * GIB] * 8, allocator=Vllm())
    assert {d.kv_allocated for d in plan.devices} == {1024 * 70_272}
    assert not plan.fits and plan_memory(graph("deepseek-v3"), [1024], memories=[141 * GIB] * 8, allocator=Vllm()).fits


def test_kv_heads_are_copied_where_there_are_fewer_than_devices() -> None:
    plan = plan_memory(graph("llama-3:70b"), [8192], memories=[80 * GIB] * 16)
    assert {d.kv_allocated for d in plan.devices} == {8192 * 327_680 // 8}


def test_layers_go_by_each_devices_memory_and_the_tightest_decides() -> None:
    stages = parts(graph("llama-3:8b"), [24 * GIB, 8 * GIB], "pipeline", [1024], Memfirst())
    layers = [len({c.name for c in stage.caches}) for stage in stages]
    assert sum(layers) == 32 and layers[0] > 2.5 * layers[1]
    assert [op.name for op in stages[0].ops][:1] == ["token_embd"]
    assert any(op.name == "output" for op in stages[1].ops)
    plan = plan_memory(graph("llama-3:8b"), [1024], memories=[24 * GIB, 2 * GIB], parallel="pipeline")
    assert plan.needs is min(zip(plan.memories, plan.devices, strict=True), key=lambda d: d[0] - d[1].total)[1]


def test_a_layer_belongs_to_the_device_that_its_middle_falls_to() -> None:
    assert boundaries([10, 10, 10], [2, 1]) == [0, 2, 3]
    assert boundaries([10, 10, 10], [1, 2]) == [0, 1, 3]
    assert boundaries([10, 90], [1, 1, 8]) == [0, 1, 1, 2]


@given(st.lists(st.integers(1, 100), min_size=1, max_size=40), st.lists(st.integers(1, 50), min_size=1, max_size=6))
def test_every_layer_has_one_device_in_order(sizes: list[int], memories: list[int]) -> None:
    first = boundaries(sizes, memories)
    assert first[0] == 0 and first[-1] == len(sizes) and first == sorted(first)
    assert len(first) == len(memories) + 1


def test_a_tied_head_on_the_last_device_takes_its_table_along() -> None:
    plan = plan_memory(graph("llama-3.2:1b"), [1], memories=[GIB, GIB], parallel="pipeline")
    assert sum(d.weights for d in plan.devices) == needs("llama-3.2:1b", [1]).weights + 128_256 * 2048 * 2


# ---- other tiers ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "what", "tier", "memory"),
    [
        ("llama-3:70b", "layers", "slow", 24 * GIB),
        ("llama-3:70b", "layers", "disk", 24 * GIB),
        ("qwen3:30b-a3b", "experts", "slow", 8 * GIB),
        ("deepseek-v3", "experts", "disk", 128 * GIB),
        ("granite-4.0-h:tiny", "layers", "slow", 3 * GIB),
    ],
)
def test_the_fewest_layers_move_and_no_byte_is_lost(name: str, what: str, tier: str, memory: int) -> None:
    model = graph(name, "q4_k_m")
    found = place(model, memory, [4096], what=what, tier=tier)
    assert found.fits and 0 < found.layers < len(layer_bytes(model, [4096], Memfirst()))
    assert found.spare < max(layer_bytes(model, [4096], Memfirst()))
    assert found.fast.total + found.moved == plan_memory(model, [4096]).total
    step = decode(4095)
    reads = found.reads(step)
    assert sum(r.mean for r in reads.values()) == pytest.approx(price(model, step).streamed.mean)
    assert found.bound(step, 50e9) == pytest.approx(50e9 / reads[tier].mean)
    away = {w.name for op in found.graph.ops for w in op.weights if w.tier == tier}
    assert {int(n.split(".")[1]) for n in away} <= set(range(found.layers))
    assert all("_exps" in n for n in away) == (what == "experts")


def test_no_layer_moves_without_need() -> None:
    model = graph("llama-3:8b")
    total, layer = plan_memory(model, [8192]).total, 2 * 218_103_808 + 2 * 4096 * 4 + 8192 * 4096
    moved = [place(model, total - missing, [8192]).layers for missing in (0, 1, layer, layer + 1)]
    assert moved == [0, 1, 1, 2]


def test_caches_follow_layers_into_slow_memory_but_not_onto_disk() -> None:
    model, memory = graph("llama-3:8b"), 8 * GIB
    slow, disk = place(model, memory, [8192]), place(model, memory, [8192], tier="disk")
    assert len(slow.caches) == slow.layers and not disk.caches
    layer = 218_103_808 * 2  # parameters of a layer's matrices, bf16
    assert slow.reads(decode(8191))["slow"].mean == slow.layers * (layer + 2 * 4096 * 4 + 8192 * 4096)
    assert disk.reads(decode(8191))["disk"].mean == disk.layers * (layer + 2 * 4096 * 4)
    assert disk.evicted(decode(8191)).mean == sum(w.nbytes for w in model.weights().values()) - 128_256 * 4096 * 2


def test_what_fits_stays_and_what_cannot_fit_says_so() -> None:
    found = place(graph("llama-3.2:1b"), 64 * GIB, [1024])
    assert (found.layers, found.moved, found.bound(decode(5), 1e9)) == (0, 0, float("inf"))
    assert found.evicted(decode(5)).mean == 0
    assert not place(graph("llama-3:70b"), GIB, [1024]).fits


# ---- laws -----------------------------------------------------------------------------------

ANY = st.sampled_from(
    ["llama-3.2:1b", "gemma-3:1b", "gpt-oss:20b", "mamba:130m", "granite-4.0-h:1b", "deepseek-v2:lite"]
)
LENGTHS = st.lists(st.integers(1, 40_000), min_size=1, max_size=5)
ALLOCATOR = st.sampled_from(ALLOCATORS)


@settings(deadline=None, max_examples=60)
@given(ANY, LENGTHS, ALLOCATOR, st.integers(0, 4), st.integers(1, 5000))
def test_needs_grow_with_every_context_and_sequence(
    name: str, contexts: list[int], allocator: Allocator, which: int, more: int
) -> None:
    before = needs(name, contexts, allocator)
    longer = [n + more if i == which % len(contexts) else n for i, n in enumerate(contexts)]
    for after in (needs(name, longer, allocator), needs(name, [*contexts, more], allocator)):
        for key in ("kv_read", "kv_held", "kv_allocated", "state_read", "state_allocated", "total"):
            assert getattr(after, key) >= getattr(before, key), key
    assert before.kv_read <= before.kv_held <= before.kv_allocated
    assert before.state_read <= before.state_allocated
    assert before.resident <= before.total


@settings(deadline=None, max_examples=20)
@given(ANY, LENGTHS)
def test_fewer_bits_need_less(name: str, contexts: list[int]) -> None:
    mixes = [plan_memory(graph(name, mix), contexts).needs for mix in ("f32", "f16", "q8_0", "q4_k_m", "q2_k")]
    assert all(more.weights > less.weights for more, less in itertools.pairwise(mixes))
    assert len({(n.kv_allocated, n.state_allocated) for n in mixes}) == 1
    caches = [plan_memory(graph(name), contexts, kv=(c, c)).needs.kv_held for c in ("f16", "q8_0", "q4_0")]
    grows = any(isinstance(c, KVCache) for c in graph(name).caches)
    assert (caches[0] > caches[1] > caches[2]) if grows else caches == [0, 0, 0]


# ---- refusals -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "error", "says"),
    [
        ({"contexts": [0]}, ConfigError, "0 tokens"),
        ({"contexts": [1 << 40]}, ConfigError, "tokens"),
        ({"contexts": []}, ConfigError, "0 sequences"),
        ({"allocator": Vllm(), "kv": ("q8_0", "q8_0")}, UnsupportedError, "vllm with keys or values in q8_0"),
        ({"memories": [GIB, GIB], "parallel": "rows"}, ConfigError, "'rows' parallelism"),
        ({"memories": [GIB, 0], "parallel": "pipeline"}, ConfigError, "2 devices"),
        ({"memories": [GIB] * 3}, UnsupportedError, "over 3 devices"),
    ],
)
def test_what_cannot_be_is_refused(changed: dict[str, object], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        plan_memory(graph("llama-3.2:1b"), **({"contexts": [64]} | changed))  # type: ignore[arg-type]


def test_unknown_engines_parts_and_tiers_are_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"'olama'.*llama\.cpp"):
        framework("olama")
    with pytest.raises(ConfigError, match="layers in 'tape'"):
        place(graph("llama-3.2:1b"), GIB, [1], tier="tape")
    with pytest.raises(UnsupportedError, match="routed experts"):
        place(graph("llama-3.2:1b"), GIB, [1], what="experts")
