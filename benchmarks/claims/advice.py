"""The article's advice and its close: statements 71 to 80. Advice is tested by what following it gives."""

from __future__ import annotations

from statistics import quantiles

from benchmarks.claims import published
from benchmarks.claims.designs import RECURRENT
from benchmarks.claims.figures import kv, layers, overtakes, read, roof, scores, state, weights
from benchmarks.claims.introduction import SPARK, reached, usual
from benchmarks.claims.statement import Opinion, Section, Statement
from benchmarks.claims.verdict import Case, at_least, at_most
from memfirst.graph import decode, prefill
from memfirst.plan import Speculation

EIGHT = "llama-3:8b"
MLX = "mlx-lm, mlx_lm/BENCHMARKS.md, https://github.com/ml-explore/mlx-lm"
MMLU_PRO = {"8 bits": 63.85, "6 bits": 63.53, "5 bits": 62.38, "4 bits": 60.72}
"""Of Qwen3-4B-Instruct-2507, 64.05 in bfloat16, from MLX."""


def chase_flops() -> list[Case]:
    """Time left where a machine computes twice as fast."""
    cases = []
    for how, step in (("decoding after 512 tokens", decode(511)), ("a prompt of 30,720", prefill(30720))):
        found = roof("qwen2.5:7b", "f16", "a100-80gb", step)
        less = max(found.memory, found.compute / 2) / found.seconds
        what = f"qwen2.5:7b in F16 on 1 × A100 80 GB SXM, {how}, {found.seconds:.2g} s: twice the FLOPs leave"
        cases.append(at_least(what, less, 0.9, "%"))
    return cases


def optimize_memory() -> list[Case]:
    """Time left where half as many bytes are read."""
    cases = []
    for machine in ("rtx-4090", "a100-80gb", "m2-ultra", "laptop-ddr5"):
        found = roof(EIGHT, "q8_0", machine, decode(511))
        less = max(found.memory / 2, found.compute) / found.seconds
        cases.append(at_most(f"{EIGHT} in Q8_0 on {machine}", less, 0.6, "%", of="half the bytes leave, of the time,"))
    return cases


def aggressively() -> list[Case]:
    """What it costs in quality, published; and what two bits gain."""
    cases = [at_least(f"Qwen3-4B in {bits}", score / 64.05, 0.97, "%", MLX, of="MMLU-Pro, of bfloat16's 64.05,")
             for bits, score in MMLU_PRO.items()]  # fmt: skip
    fast, slow = (published.one("llama.cpp tools/quantize", "", "Llama-3.1-8B", q, "tg128") for q in ("Q2_K", "Q4_K_M"))
    return [*cases, at_least("Llama-3.1-8B, Q2_K ÷ Q4_K_M: tokens/s", fast.rate / slow.rate, 1.2, "×", fast.source)]


def use_ssms() -> list[Case]:
    """Bytes of a token of two models of one size class, by context."""
    cases = []
    for context in (512, 8192, 131072):
        other = weights("llama-3.1:8b") + kv("llama-3.1:8b", context)
        ratio = other / (weights(RECURRENT) + 2 * state(RECURRENT))  # state is written too
        cases.append(
            at_least(f"{context:,} tokens", ratio, 1.1, "×", of=f"llama-3.1:8b ÷ {RECURRENT} in F16, bytes of a token:")
        )
    return cases


def reduce_context() -> list[Case]:
    """Bytes saved by half the context."""
    cases = []
    for context in (1024, 131072):
        half = read("llama-3.1:8b", "q4_k_m", context // 2) / read("llama-3.1:8b", "q4_k_m", context)
        what = f"llama-3.1:8b in Q4_K_M, {context // 2:,} ÷ {context:,} tokens: bytes of a token"
        cases.append(at_most(what, half, 0.9, "×"))
    return cases


def monitor() -> list[Case]:
    """Growth, and what a smaller codec leaves of it."""
    full = kv("llama-3.1:8b", 131072)
    what = "llama-3.1:8b, 131,072 tokens: KV in {} ÷ in F16"
    return [
        at_least(
            "llama-3.1:8b in Q4_K_M, 131,072 tokens: KV ÷ weights", full / weights("llama-3.1:8b", "q4_k_m"), 1, "×"
        ),
        *(
            at_most(what.format(c.upper()), kv("llama-3.1:8b", 131072, codec=c) / full, 0.6, "×")
            for c in ("q8_0", "q4_0")
        ),
    ]


def flash_kernels() -> list[Case]:
    """What there is to gain at long contexts: scores of a prompt, and KV of a token."""
    context = 32768
    kept = 2 * scores("llama-3.1:8b", context, context) / layers("llama-3.1:8b")  # float16
    share = kv("llama-3.1:8b", context) / read("llama-3.1:8b", "q4_k_m", context)
    return [
        at_least(f"llama-3.1:8b, a prompt of {context:,}: scores of one layer, if they were kept", kept / 1e9, 1, "GB"),
        at_least(f"llama-3.1:8b in Q4_K_M, {context:,} tokens: KV of a token's bytes", share, 0.1, "%"),
    ]


def small_batches() -> list[Case]:
    """A single user's tokens a pass with drafts; what eight streams leave each of them, dense and with experts."""
    cases = [
        at_most(
            "one user, 4 tokens drafted, 70 % accepted: tokens a pass over the weights", Speculation(4, 0.7).gained, 1.1
        )
    ]
    for name in ("Qwen2.5-Coder-7B", "Qwen3-Coder-30B-A3B"):
        one, eight = (
            published.one(SPARK, "NVIDIA DGX Spark", name, "Q8_0", "32 new tokens after PP 512 ", batch=n)
            for n in ("1", "8")
        )
        left = eight.rate / 8 / one.rate
        cases.append(at_most(f"{eight.text}: each has, of its speed alone", left, 0.5, "%", eight.source))
    return cases


def bytes_moved() -> list[Case]:
    """Published rows beside bandwidth ÷ bytes, all at the usual share: how far eight of ten are off."""
    low, *_, high = quantiles(reached(), n=10)
    off = max(usual() / low, high / usual())
    what = f"bandwidth ÷ bytes × {usual():.1f} for {len(reached())} published rows of one sequence: eight of ten within"
    return [at_most(what, off, 2.5, "×"), at_most(what, off, 1.1, "×")]


_CROSS = overtakes("llama-3.1:8b", "q4_k_m")

SECTION = Section("Advice and close", (
    Statement(71, "Don't chase FLOPs",
              "Right for decoding; the time to the first token of a long prompt is arithmetic.", chase_flops,
              "memfirst plan qwen2.5:7b --codec f16 --on a100-80gb --ctx 32768 --prompt 30720"),
    Statement(72, "Optimize memory", "Count bytes: weights, KV, and where each lies.", optimize_memory,
              "memfirst plan llama-3:8b --on rtx-4090 --ctx 512 --sweep codec=q8_0,q4_0"),
    Statement(73, "Quantize aggressively",
              "Down to about five bits it costs little; below four quality goes and the speed gained is small.",
              aggressively,
              "memfirst plan llama-3.1:8b --on rtx-4090 --ctx 512 --sweep codec=f16,q8_0,q4_k_m,q2_k"),
    Statement(74, "Use SSMs where possible", "They pay where context × batch is long.", use_ssms,
              "memfirst plan falcon-mamba:7b llama-3.1:8b --codec f16 --on a100-80gb --sweep ctx=512,8k,128k"),
    Statement(75, "Reduce context window",
              f"It helps where KV is a good part of the bytes: llama-3.1:8b in Q4_K_M has as much KV as weights at"
              f" {_CROSS:,.0f} tokens."
              " A window that is not filled costs room only.", reduce_context,
              "memfirst plan llama-3.1:8b --codec q4_k_m --on a100-80gb --sweep ctx=512,1k,64k,128k"),
    Statement(76, "Monitor KV cache growth",
              "It passes the weights at long contexts; stored in Q8_0 it is half.", monitor,
              "memfirst plan llama-3.1:8b --codec q4_k_m --on a100-80gb --ctx 131072 --sweep kv=f16,q8_0,q4_0"),
    Statement(77, "Use Flash-specific kernels", "Right at long contexts; at short ones they change nothing.",
              flash_kernels,
              "memfirst plan llama-3.1:8b --codec q4_k_m --on a100-80gb --ctx 32768"),
    Statement(78, "Keep batch small unless serving multiple users",
              "Batch 1 is the worst use of bandwidth: one user gains by drafting, many cost each other little; with"
              " experts more.",
              small_batches,
              "memfirst plan qwen2.5:7b qwen3:30b-a3b --codec q8_0 --on dgx-spark --ctx 544 --sweep batch=1,8"),
    Statement(79, "how fast your hardware can move bytes",
              "Within a factor of about two, which is engine, format and fixed costs.", bytes_moved),
    Opinion(80, "The future of AI is not compute-first", "a forecast"),
))  # fmt: skip
