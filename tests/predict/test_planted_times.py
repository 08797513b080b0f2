"""Terms of a step's time, worked out by hand from data sheets, and mistakes planted in the formulas: each must show."""

from __future__ import annotations

import pytest

from memfirst.hardware.machines import find_machine
from memfirst.predict.fitted import Cost, Deployment
from memfirst.predict.fitted.pieces import pieces
from tests.support.planting import Mutant, planted

BATCH = Cost({"weights": 1.5e9, "experts": 8e9, "kv_read": 4e8}, 4e10, 8, 36, "mxfp4", 8, 2880, 2e9, attention=1e10)
PROMPT = Cost({"weights": 4e9, "kv_read": 1e8}, 3e13, 2048, 32, "q4_k", 1, 4096, attention=2e12)
HYBRID = Cost({"weights": 4e9, "kv_read": 1e8}, 8e9, 1, 40, "bf16", 1, 4096, recurrent=30)
TOKEN = Cost({"weights": 4.5e9, "kv_read": 1e8}, 1.6e10, 1, 32, "q4_k", 1, 4096)

CASES = {
    "batch": (BATCH, "dgx-spark", Deployment()),
    "vulkan prompt": (PROMPT, "r9700", Deployment(backend="vulkan")),
    "cuda prompt": (PROMPT, "rtx-4090", Deployment()),
    "old vllm": (HYBRID, "a100-80gb", Deployment("vllm", age=2.0)),
    "ampere": (TOKEN, "rtx-3090", Deployment()),
    "a100": (TOKEN, "a100-80gb", Deployment()),
    "threads": (TOKEN, "ryzen-7950x", Deployment(threads=4)),
}  # fmt: skip

BITS_Q4_K = 144 * 8 / 256
BY_HAND = {
    # even experts / fewest = 4, of which routers leave 4^-0.14; a share of 85 % of 273 GB/s
    "batch": {"experts": 8e9 * 4**-0.14 / (0.85 * 273e9), "few": 3e10 / (0.8 * 29.7e12),
              "attend": 1e10 / (0.25 * 29.7e12), "cache": 4e8 / (0.7 * 273e9)},
    # weights once for each 512 tokens; 22 % of 191 TFLOP/s
    "vulkan prompt": {"memory": 4 * 4e9 / (0.85 * 644.6e9), "matmul": 2.8e13 / (0.22 * 191e12),
                      "attention": 2e12 / (0.25 * 191e12), "layer": 4 * 32 * 50e-6},
    # 22 % of the rate of 8-bit integers
    "cuda prompt": {"matmul": 2.8e13 / (0.22 * 660.6e12)},
    "old vllm": {"prepared": 2e-3, "recurrent": 30 * 50e-6, "layer": 40 * 50e-6},
    # 8 operations a weight, halved by dot products; integers at half of float32's rate on GeForce cards of that family
    "ampere": {"unpack": 4.5e9 * 8 / BITS_Q4_K * 4 / (35.58e12 / 2)},
    "a100": {"unpack": 4.5e9 * 8 / BITS_Q4_K * 4 / 19.5e12},
    "threads": {"core": 4.5e9 / (4 * 30e9), "unpack": 4.5e9 * 8 / BITS_Q4_K * 4 / (2.3e12 * 4 / 16)},
}  # fmt: skip


def found(case: str) -> dict[str, float]:
    """Seconds before any fit by the head of a piece's constants, of experts and recurrent layers apart."""
    cost, machine, how = CASES[case]
    seconds: dict[str, float] = {}
    for piece in pieces(cost, find_machine(machine), how):
        names = [name for name, _ in piece.constants]
        head = next((n for n in ("experts", "recurrent") if n in names), names[0].partition("/")[0])
        seconds[head] = seconds.get(head, 0.0) + piece.seconds
    return seconds


def off(case: str) -> set[str]:
    """Terms that differ from those by hand."""
    ours = found(case)
    return {term for term, seconds in BY_HAND[case].items() if ours.get(term) != pytest.approx(seconds, rel=1e-6)}


PIECES = "memfirst.predict.fitted.pieces"
PLANTED = (
    Mutant("routing is even", f"{PIECES}:_memory", "** SKEW if skew", "** 0 if skew", "batch", "experts"),
    Mutant("attention counted twice", f"{PIECES}:_matmul", "cost.flops - cost.attention", "cost.flops", "batch", "few"),
    Mutant("a batch at the whole peak", f"{PIECES}:_matmul", "(plain * FEW)", "plain", "batch", "few"),
    Mutant("attention is free", f"{PIECES}:_attend", "cost.attention  #", "0.0  #", "batch", "attend"),
    Mutant("weights read once a prompt", f"{PIECES}:passes", "ceil(cost.tokens / UBATCH[how.family])", "1",
           "vulkan prompt", "memory layer"),
    Mutant("one rate for every backend", f"{PIECES}:_prompt_rate", "MATMUL[there]", "0.5", "vulkan prompt", "matmul"),
    Mutant("backend as usual", f"{PIECES}:where", "how.backend", "backend(machine)", "vulkan prompt", "matmul"),
    Mutant("float units for blocks", f"{PIECES}:_prompt_rate", 'if there == "cuda" and blocks', "if False and blocks",
           "cuda prompt", "matmul"),
    Mutant("nothing is prepared", f"{PIECES}:_overhead", 'if how.family == "vllm" else 0.0', "* 0", "old vllm",
           "prepared"),
    Mutant("state costs no launches", f"{PIECES}:_overhead", "cost.recurrent * launch", "0 * launch", "old vllm",
           "recurrent"),
    Mutant("integers as fast as floats", f"{PIECES}:unpack_rate", "0.5 if", "1.0 if", "ampere", "unpack"),
    Mutant("slow integers everywhere", f"{PIECES}:unpack_rate", "else 1.0", "else 0.5", "a100", "unpack"),
    Mutant("no dot products", f"{PIECES}:_arithmetic", "else DOT", "else 1.0", "a100", "unpack"),
    Mutant("all cores unpack", f"{PIECES}:_share", "how.threads / machine.cores)", "1.0)", "threads", "unpack"),
)  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_terms_are_what_they_are_by_hand(case: str) -> None:
    assert off(case) == set()


@pytest.mark.parametrize("mutant", PLANTED, ids=lambda m: m.name)
def test_each_mistake_shows_in_a_term(mutant: Mutant) -> None:
    with planted(mutant):
        assert off(mutant.probe) >= set(mutant.figures.split())
    assert off(mutant.probe) == set()
