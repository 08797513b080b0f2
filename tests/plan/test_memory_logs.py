"""What must be held, against what engines reported when they started: 25 logs of llama.cpp, 5 of vLLM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from memfirst.hardware.machines import find_machine
from memfirst.plan.fit import LlamaCpp, Vllm, plan_memory
from memfirst.predict.fitted import PIPELINE, TENSOR
from tests.support.memory_logs import GIB, LOGS, MIB, POOLS, WITHIN, graph, of_llama_cpp, of_vllm, off
from tests.support.planting import Mutant, planted


def test_there_are_thirty_logs_with_a_source() -> None:
    assert len(LOGS) + len(POOLS) >= 30
    assert all(row["source"] for row in LOGS + POOLS)
    assert {row["flash"] for row in LOGS} == {"0", "1"}
    assert {row["devices"] for row in LOGS} == {"1", "2"}


@pytest.mark.parametrize("row", LOGS, ids=[row["source"][-40:] for row in LOGS])
def test_what_llama_cpp_reported(row: Mapping[str, str]) -> None:
    """Weights, keys and values within 0.5 %, buffers within 10 %."""
    for name, (ours, said) in of_llama_cpp(row).items():
        assert ours == pytest.approx(said, rel=WITHIN.get(name, 0.005)), name


@pytest.mark.parametrize("row", POOLS, ids=[row["source"] for row in POOLS])
def test_what_vllm_left_for_keys_and_values(row: Mapping[str, str]) -> None:
    """Within 5 %."""
    ours, said = of_vllm(row)["pool"]
    assert ours == pytest.approx(said, rel=WITHIN["pool"])


LLAMA, VLLM = "memfirst.plan.fit.allocators:LlamaCpp", "memfirst.plan.fit.allocators:Vllm"

PLANTED = (
    Mutant("scores of one head", f"{LLAMA}.buffers", "self.ubatch * heads * max(", "self.ubatch * max(", "", "buffers"),
    Mutant("scores with flash attention", f"{LLAMA}.buffers", "0 if self.flash else 4", "4", "", "buffers"),
    Mutant("no mask", f"{LLAMA}.buffers", "masks = sum(cells)", "masks = 0 * sum(cells)", "", "buffers"),
    Mutant("one copy on two cards", f"{LLAMA}.buffers", "(self.copies - 1)", "0", "", "buffers"),
    Mutant("no logits", f"{LLAMA}.buffers", "head_rows(graph)", "0", "", "buffers"),
    Mutant("a window without its micro-batch", f"{LLAMA}.cells", " + self.ubatch", "", "", "kv"),
    Mutant("a window of one sequence", f"{LLAMA}.cells", "(sequences if self.unified else 1)", "1", "", "kv"),
    Mutant("contexts side by side", f"{LLAMA}.cells", "1 if self.unified else sequences", "sequences", "", "kv"),
    Mutant("state of one sequence", f"{LLAMA}.state", "max(1, sequences)", "1", "", "state"),
    Mutant("no sampling", f"{VLLM}.buffers", "max(sampling, feeding)", "feeding", "", "pool"),
    Mutant("no feed-forward", f"{VLLM}.buffers", "max(sampling, feeding)", "sampling", "", "pool"),
    Mutant("every card is an H100", f"{VLLM}.on", "ELSEWHERE[large]", "ELSEWHERE[1]", "", "pool"),
)  # fmt: skip


@pytest.mark.parametrize("mutant", PLANTED, ids=lambda m: m.name)
def test_logs_see_each_mistake(mutant: Mutant) -> None:
    """A wrong formula planted in the allocators: a figure of some log is then off, and not without it."""
    with planted(mutant):
        assert mutant.figures in off()
    assert off() == set()


def test_scores_without_flash_attention_grow_with_the_context() -> None:
    """Llama-3-8B: 32 heads, 512 tokens of a micro-batch, 4 bytes; and the mask."""
    short, long = (plan_memory(graph("llama-3:8b"), [n], allocator=LlamaCpp(flash=False)).needs for n in (4096, 8192))
    assert long.buffers.nbytes - short.buffers.nbytes == 4096 * 512 * 4 * (32 + 1)


def test_several_devices_keep_copies_of_masks() -> None:
    """Layers on two cards: masks and the stream four times; layers that are cut: once."""
    memories, contexts = [80 * GIB] * 2, [65_536]
    gpu = LlamaCpp(gpu=True)
    plan = {how: plan_memory(graph("llama-3:8b"), contexts, allocator=gpu, memories=memories, parallel=how)
            for how in (PIPELINE, TENSOR)}  # fmt: skip
    mask, stream = 65_536 * 512 * 2, 4096 * 512 * 4
    alone = plan_memory(graph("llama-3:8b"), contexts, allocator=gpu).needs.buffers.nbytes
    more = plan[PIPELINE].devices[1].buffers.nbytes - alone
    assert more == 4 * mask + 3 * stream
    assert plan[TENSOR].devices[0].buffers.nbytes < plan[PIPELINE].devices[1].buffers.nbytes


def test_llama_cpp_keeps_what_phi_3s_window_leaves() -> None:
    """32 layers of 2 x 3072 numbers for all 4,096 tokens, not for 2,047 and a micro-batch."""
    found = plan_memory(graph("phi-3:mini-4k"), [4096], allocator=LlamaCpp()).needs
    assert found.kv_allocated == 32 * 2 * 3072 * 2 * 4096


def test_cuda_graphs_are_in_vllms_share() -> None:
    card = find_machine("rtx-4090")
    now, before = Vllm().on(card), replace(Vllm().on(card), graphs=0)
    both = [plan_memory(graph("llama-3:8b"), [64], allocator=a).needs.overhead.nbytes for a in (now, before)]
    assert both[0] - both[1] == 86 * 8 * MIB
