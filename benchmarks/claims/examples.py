"""Section 3 of the article, its examples: statements 27 to 36."""

from __future__ import annotations

from benchmarks.claims import published
from benchmarks.claims.figures import bandwidth, ceiling, flops, model, parameters, parts, planned, read, weights
from benchmarks.claims.introduction import GPT_FAST, QWEN, SPARK, XIONGJIE, usual
from benchmarks.claims.statement import Section, Statement
from benchmarks.claims.verdict import Case, Scope, at_least, at_most, inside, near, percent
from memfirst.hardware.machines import find_machine
from memfirst.plan.fit import place
from memfirst.plan.framework import framework

EIGHT, SEVENTY = "llama-3:8b", "llama-3:70b"


def not_always_slower() -> list[Case]:
    """A bigger model for a smaller: the ceilings' ratio is that of their bytes."""
    pairs = ((SEVENTY, EIGHT), ("qwen3:30b-a3b", "qwen3:8b"), ("deepseek-v3", "llama-3.1:405b"))
    return [at_least(f"{big} ÷ {small} in Q4_K_M: tokens/s at one bandwidth",
                     read(small, "q4_k_m") / read(big, "q4_k_m"), 0.9, "×") for big, small in pairs]  # fmt: skip


def qwen_size() -> list[Case]:
    """Counted from its configuration."""
    return [near("qwen2.5:7b", parameters("qwen2.5:7b") / 1e9, 7, "billion weights")]


def llama_size() -> list[Case]:
    """Counted from its configuration."""
    return [inside(EIGHT, parameters(EIGHT) / 1e9, 7, 8, "billion weights")]


def forty() -> list[Case]:
    """Published, by engine and format."""
    rows = [
        published.one(XIONGJIE, "RTX 4090 24GB", "Llama-3-8B", "F16", "tg512"),
        published.one(XIONGJIE, "RTX 4090 24GB", "Llama-3-8B", "Q4_K_M", "tg512"),
        published.one(QWEN, "A100 80GB", "Qwen2.5-7B-Instruct", "BF16", "input 1 ", backend="HF"),
    ]
    return [near(row.text, row.rate, 40, "tok/s", row.source) for row in rows]


def two_hundred() -> list[Case]:
    """Batches of 32: the usual share of what an A100 allows, and what a slower machine was published with."""
    row = published.one(
        SPARK, "NVIDIA DGX Spark", "Qwen2.5-Coder-7B", "Q8_0", "32 new tokens after PP 512 ", batch="32"
    )
    rate = usual() * ceiling("qwen2.5:7b", "f16", "a100-80gb", 1024, 32)
    what = (
        f"qwen2.5:7b in F16, 32 sequences of 1,024 on 1 × A100 80 GB SXM: {percent(usual())} of the ceiling (computed)"
    )
    return [near(what, rate, 200, "tok/s"), near(row.text, row.rate, 200, "tok/s", row.source)]


def offloaded() -> float:
    """Tokens/s that bytes allow an RTX 4090 whose processor has DDR5, for what does not fit."""
    gpu, host = find_machine("rtx-4090"), bandwidth("laptop-ddr5")
    found = place(model(SEVENTY, "q4_k_m").graph, gpu.memory or 0, [512], allocator=framework("llama.cpp").on_gpu)
    return 1 / (found.fast.weights / bandwidth("rtx-4090") + found.moved / host)


def consumer_gpu() -> list[Case]:
    """One card that it does not fit, two that it fits, and one at 2.5 bits."""
    rows = (
        published.one(XIONGJIE, "RTX 4090 24GB", "Llama-3-70B", "Q4_K_M", "tg512", n_devices="2"),
        published.one("turboderp", "RTX 4090", "Llama-2-70B", "EXL2 2.5bpw"),
    )
    what = f"llama-3:70b in Q4_K_M, 1 × RTX 4090 and DDR5 for the rest: {percent(usual())} of the ceiling (computed)"
    return [
        inside(what, usual() * offloaded(), 2, 4, "tok/s"),
        *(inside(r.text, r.rate, 2, 4, "tok/s", r.source) for r in rows),
    ]


def clusters() -> list[Case]:
    """Every published row of one short sequence of a 70B model on A100s or H100s."""
    return [inside(row.text, row.rate, 12, 15, "tok/s", row.source) for row in seventies()]


def seventies() -> list[published.Speed]:
    """These rows."""
    found = []
    for source, test in ((XIONGJIE, "tg512"), (QWEN, "input 1 "), (GPT_FAST, "5-token"), ("vllm", "short")):
        for hardware in ("A100", "H100"):
            for name in ("Llama-3-70B", "Llama-2-70B", "Llama-3.1-70B", "Qwen2.5-72B-Instruct"):
                found += published.all_of(source, hardware=hardware, model=name, context_or_test=test, batch="1")
    return found


def memory_did() -> list[Case]:
    """Growth of the operations for growth of the bytes, from 8B to 70B."""
    return [
        at_most(f"{mix.upper()}, from 8B to 70B: growth of the operations ÷ growth of the bytes",
                flops(SEVENTY) / flops(EIGHT) / (read(SEVENTY, mix) / read(EIGHT, mix)), 0.9, "×")
        for mix in ("f16", "q4_k_m")
    ]  # fmt: skip


def attention_ten() -> list[Case]:
    """Growth of attention's weights, of the MLP's, and of both."""
    small, large = parts(EIGHT), parts(SEVENTY)
    return [
        near("weights of attention, from 8B to 70B", large[0] / small[0], 10, "×"),
        near("weights of the MLP", large[1] / small[1], 10, "×"),
        near("weights of whole layers", sum(large) / sum(small), 10, "×"),
    ]


def explodes() -> list[Case]:
    """Growth of the time for growth of the bytes: where both fit, and where the larger does not."""
    growth = read(SEVENTY, "q4_k_m") / read(EIGHT, "q4_k_m")
    times = [s.decode.seconds for n in (EIGHT, SEVENTY) if (s := planned(n, "q4_k_m", "a100-80gb")).decode]
    fitting = round((times[1] or 0.0) / (times[0] or 1.0) / growth, 1)  # of predictions: two digits are known
    beyond = ceiling(EIGHT, "q4_k_m", "rtx-4090", 512) / offloaded() / growth
    what = "Q4_K_M, from 8B to 70B: growth of the time ÷ growth of the bytes"
    return [
        at_least(f"{what}, both in 1 × A100 80 GB SXM (predicted)", fitting, 1.5, "×"),
        at_least(f"{what}, 1 × RTX 4090, which 70B does not fit (computed)", beyond, 1.5, "×"),
    ]


def _counted(name: str) -> str:
    return f"It has {parameters(name):,}; a token reads {weights(name) / 2e9:.2f} billion of them."


_PUBLISHED = sorted(row.rate for row in seventies())
_A100 = published.one(XIONGJIE, "A100", "Llama-3-70B", "Q4_K_M", "tg512")

SECTION = Section("3. Examples", (
    Statement(27, "Bigger models don't always run slower",
              "Its own example runs nine times slower; mixtures of experts are bigger and faster.", not_always_slower,
              "memfirst plan llama-3:8b llama-3:70b qwen3:8b qwen3:30b-a3b --codec q4_k_m --on a100-80gb"),
    Statement(28, "Qwen2.5-7B: 7 billion params", _counted("qwen2.5:7b"), qwen_size,
              "memfirst plan qwen2.5:7b --codec f16 --on rtx-4090"),
    Statement(29, "Llama3-8B, also 7-8B", _counted(EIGHT), llama_size,
              "memfirst plan llama-3:8b --codec f16 --on rtx-4090"),
    Statement(
        30, "40 tokens/s on 4090",
        f"Without format and engine it means nothing: at most {ceiling(EIGHT, 'f16', 'rtx-4090'):.0f} in F16 and"
        f" {ceiling(EIGHT, 'q4_k_m', 'rtx-4090'):.0f} in Q4_K_M; 40 is what transformers reaches.",
        forty, "memfirst plan llama-3:8b --on rtx-4090 --ctx 512 --sweep codec=f16,q4_k_m",
    ),
    Statement(31, "200 tokens/s on A100 batch", "Low by ten: a batch of 32 is worth thousands.", two_hundred,
              "memfirst plan qwen2.5:7b --codec f16 --on a100-80gb --ctx 1024 --batch 32 --engine vllm"),
    Statement(32, "2-4 tokens/s on a consumer GPU",
              "That is where it does not fit; two cards, or fewer bits, give five times as much and more.",
              consumer_gpu, "memfirst plan llama-3:70b --codec q4_k_m --on rtx-4090 --ctx 512 --sweep devices=1,2"),
    Statement(33, "12-15 tokens/s on A100/H100 clusters",
              f"Published speeds spread from {_PUBLISHED[0]:.0f} to {_PUBLISHED[-1]:.0f}, one A100 with llama.cpp gives"
              f" {_A100.rate:.0f} in Q4_K_M, and 1 × H100 SXM allows {ceiling(SEVENTY, 'q4_k_m', 'h100-80gb'):.0f}.",
              clusters, "memfirst plan llama-3:70b --codec q4_k_m --on a100-80gb --on h100-80gb --ctx 512",
              scope=Scope.TYPICAL),
    Statement(
        34, "Compute did not grow 10x slower. Memory movement did",
        f"Both grow alike, operations ×{flops(SEVENTY) / flops(EIGHT):.2f} and bytes ×{read(SEVENTY) / read(EIGHT):.2f}"
        " in F16, so what binds does not change.",
        memory_did,
    ),
    Statement(
        35, "attention layers now load 10x more weights",
        f"Attention loads {parts(SEVENTY)[0] / parts(EIGHT)[0]:.1f} times as much and is"
        f" {percent(parts(SEVENTY)[0] / sum(parts(SEVENTY)))} of it; the MLP grows tenfold.",
        attention_ten,
    ),
    Statement(36, "bottleneck explodes", "Time grows with the bytes, no faster, until the model stops fitting.",
              explodes,
              "memfirst plan llama-3:8b llama-3:70b --codec q4_k_m --on a100-80gb --ctx 512"),
))  # fmt: skip
