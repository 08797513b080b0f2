"""Section 5 of the article, the KV cache: statements 45 to 54."""

from __future__ import annotations

from benchmarks.claims import published
from benchmarks.claims.figures import (
    KIB,
    bandwidth,
    ceiling,
    kv,
    overtakes,
    read,
    stored,
    trained,
    weights,
    without_windows,
)
from benchmarks.claims.introduction import QWEN, SPARK
from benchmarks.claims.statement import Opinion, Section, Statement
from benchmarks.claims.verdict import Case, at_least, at_most, inside
from memfirst.graph import KVCache, decode, prefill
from memfirst.plan import subject

EIGHT, SEVENTY, QWEN_7B = "llama-3:8b", "llama-3:70b", "qwen2.5:7b"
LONG = 128 * KIB


def generated_only() -> list[Case]:
    """Positions that steps leave in the cache."""
    cache = next(c for c in subject(EIGHT, "f16").graph.caches if isinstance(c, KVCache))
    one, prompt = (
        sum(map(cache.write_bytes, s.sequences)) // cache.position_bytes for s in (decode(512), prefill(512))
    )
    return [
        at_least("a generated token: positions written in each layer", one, 1),
        at_most("a prompt of 512, nothing generated: positions written in each layer", prompt, 0),
    ]


def long_contexts() -> list[Case]:
    """What models were trained for."""
    names = (SEVENTY, "llama-3.1:70b", QWEN_7B, "deepseek-v3", "gemma-2:9b")
    return [at_least(name, trained(name), 100_000, "tokens", of="trained for") for name in names]


def massive() -> list[Case]:
    """Beside the weights in four bits."""
    cases = []
    for name in ("llama-3.1:8b", "llama-3.1:70b", QWEN_7B):
        ratio = kv(name, LONG) / stored(name, "q4_k_m")
        what = f"{name}, {LONG:,} tokens: {kv(name, LONG) / 1e9:.1f} GB of F16 KV ÷ its weights in Q4_K_M"
        cases.append(at_least(what, ratio, 1, "×"))
    return cases


def per_thousand(name: str, low: float, high: float) -> list[Case]:
    """Bytes of 1,024 tokens by the configuration, against the said range."""
    return [inside(f"{name}, F16 KV of {KIB:,} tokens", kv(name, KIB) / 1e6, low, high, "MB")]


def qwen_kv() -> list[Case]:
    """The configuration; and what a published slow-down leaves room for, at the peak of 273 GB/s."""
    short, deep = (
        published.one(SPARK, "NVIDIA DGX Spark", "Qwen2.5-Coder-7B", "Q8_0", f"tg32 @ depth {d}") for d in (0, 32768)
    )
    most = (1 / deep.rate - 1 / short.rate) * bandwidth("dgx-spark") / 32 / 1e6
    what = f"{deep.text}, {short.rate:g} → {deep.rate:g} tok/s at 32,768 tokens: KV of {KIB:,} is at most"
    return [*per_thousand(QWEN_7B, 80, 120), at_least(what, most, 120, "MB", deep.source)]


def new_bottleneck() -> list[Case]:
    """Bytes of KV for bytes of weights."""
    cases = []
    for name, mix, context, batch in (
        (EIGHT, "f16", 8192, 1),
        ("llama-3.1:8b", "q4_k_m", LONG, 1),
        (EIGHT, "q4_k_m", 8192, 32),
    ):
        ratio = kv(name, context, batch) / weights(name, mix, batch)
        what = f"{name} in {mix.upper()}, {batch} × {context:,} tokens: KV ÷ weights"
        cases.append(at_least(what, ratio, 1, "×"))
    return cases


def slow_down() -> list[Case]:
    """Published pairs at a short and a long context, and the ceilings' ratio."""
    cases = []
    for name, quant in (("Qwen2.5-Coder-7B", "Q8_0"), ("Qwen3-Coder-30B-A3B", "Q8_0"), ("gpt-oss-120b", "MXFP4")):
        short, deep = (published.one(SPARK, "NVIDIA DGX Spark", name, quant, f"tg32 @ depth {d}") for d in (0, 32768))
        cases.append(
            at_most(f"{deep.text}, 32,768 tokens ÷ none: tokens/s", deep.rate / short.rate, 0.9, "×", deep.source)
        )
    short, deep = (published.one(QWEN, "A100 80GB", "Qwen2.5-7B-Instruct", "BF16", f"input {n} ", backend="vLLM")
                   for n in (1, 63488))  # fmt: skip
    cases.append(at_most(f"{deep.text}, 63,488 tokens ÷ 1: tokens/s", deep.rate / short.rate, 0.9, "×", deep.source))
    ratio = ceiling(EIGHT, "q4_k_m", "rtx-4090", 8192) / ceiling(EIGHT, "q4_k_m", "rtx-4090")
    return [*cases, at_most(f"{EIGHT} in Q4_K_M, 8,192 tokens ÷ 1: ceiling", ratio, 0.9, "×")]


def windows() -> list[Case]:
    """Bytes of a token with the windows, and if every layer attended everything."""
    cases = []
    for name, context in (("gemma-3:4b", 32768), ("gpt-oss:20b", 32768), ("gemma-3:4b", 1024)):
        windowed, full = kv(name, context), without_windows(name, context)
        total = read(name, "q4_0" if name.startswith("gemma") else "mxfp4", context)
        what = f"{name}, {context:,} tokens, KV {windowed / 1e9:.2g} GB, without windows {full / 1e9:.2g}"
        cases.append(at_least(what, (total - windowed + full) / total, 1.1, "×", of="speed-up of the ceiling"))
    return cases


_CROSS = {
    key: overtakes(*key) for key in ((EIGHT, "f16"), (EIGHT, "q4_k_m"), (SEVENTY, "q4_k_m"), ("llama-2:7b", "q4_0"))
}

SECTION = Section("5. The KV cache", (
    Statement(45, "each generated token gets stored as a key/value vector",
              "One key and one value for each layer and KV head, and for the tokens of the prompt too.", generated_only,
              "memfirst plan llama-3:8b --codec f16 --on a100-80gb --ctx 512"),
    Statement(46, "long contexts (100K-1M tokens)",
              f"Some models reach that: llama-3:70b was trained for {trained(SEVENTY):,},"
              f" llama-3.1:70b for {trained('llama-3.1:70b'):,}, qwen2.5:7b for {trained(QWEN_7B):,}.", long_contexts),
    Statement(47, "KV cache becomes massive", "At 128K it is as large as the weights in four bits, and larger.",
              massive,
              "memfirst plan llama-3.1:8b llama-3.1:70b --codec q4_k_m --on h200 --ctx 131072"),
    Statement(48, "Qwen2.5-7B → 80-120 MB per 1K",
              f"28 layers × 2 × 4 KV heads × 128 × 2 bytes = {kv(QWEN_7B, 1):,} bytes a token; the range holds what"
              " float32 would take.", qwen_kv, "memfirst plan qwen2.5:7b --codec f16 --on rtx-4090 --ctx 1024"),
    Statement(49, "Llama3-70B → 600-800 MB per 1K",
              f"80 layers × 2 × 8 KV heads × 128 × 2 bytes = {kv(SEVENTY, 1):,} bytes a token; the range holds what"
              " float32 would take.", lambda: per_thousand(SEVENTY, 600, 800),
              "memfirst plan llama-3:70b --codec f16 --on h200 --ctx 1024"),
    Statement(
        50, "KV cache bandwidth becomes the new bottleneck",
        f"It does where it passes the weights: at {_CROSS[EIGHT, 'f16']:,.0f} tokens for llama-3:8b in F16,"
        f" {_CROSS[EIGHT, 'q4_k_m']:,.0f} in Q4_K_M, {_CROSS[SEVENTY, 'q4_k_m']:,.0f} for 70B,"
        f" {_CROSS['llama-2:7b', 'q4_0']:,.0f} for llama-2:7b in Q4_0; a batch divides that.",
        new_bottleneck, "memfirst plan llama-3.1:8b --codec q4_k_m --on a100-80gb --sweep ctx=1k,8k,32k,128k",
    ),
    Statement(51, "Long contexts slow down generation", "Each token of context is read for each token generated.",
              slow_down,
              "memfirst plan qwen2.5:7b --codec q8_0 --on dgx-spark --sweep ctx=1k,32k"),
    Statement(52, "Sliding-window attention models run faster",
              "They do beyond the window, on the layers that have one; within it nothing is saved.", windows,
              "memfirst plan gemma-3:4b --codec q4_0 --on dgx-spark --sweep ctx=1k,32k"),
    Opinion(53, "Mamba / RWKV / SSMs are becoming popular",
            "popularity is not measured here; what ships is mostly hybrids"),
    Opinion(54, "breaks under the weight of its own memory access patterns", "a figure of speech"),
))  # fmt: skip
