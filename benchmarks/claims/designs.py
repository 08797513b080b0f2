"""Section 6 of the article, memory-first models: statements 55 to 62."""

from __future__ import annotations

from benchmarks.claims.figures import (
    bits,
    distinct,
    flops,
    kv,
    model,
    parameters,
    read,
    routed,
    scores,
    state,
    weights,
)
from benchmarks.claims.statement import Opinion, Section, Statement
from benchmarks.claims.verdict import Case, Scope, at_least, at_most, near
from memfirst.graph import decode
from memfirst.graph.ops.channel_scan import ChannelScan
from memfirst.graph.ops.scan import SelectiveScan

EIGHT, RECURRENT = "llama-3:8b", "falcon-mamba:7b"
LISTED = ("state-space models", "sparse models and mixtures of experts", "Flash Attention", "on-device compression")
MIXTURES = ("mixtral:8x7b", "jamba:52b", "gpt-oss:20b", "gpt-oss:120b", "granite-4.0-h:tiny", "deepseek-v2:lite",
            "qwen3:30b-a3b", "qwen3:235b-a22b", "deepseek-v3")  # fmt: skip


def directions() -> list[Case]:
    """Counted."""
    return [near("directions that it lists", len(LISTED), 3)]


def less_bandwidth() -> list[Case]:
    """State beside a growing cache; and how that cache grows."""
    growth = kv(EIGHT, 16384) / kv(EIGHT, 8192)
    cases = [at_least(f"{EIGHT}, twice the context: KV that a token reads (quadratic: ×4)", growth, 3.6, "×")]
    for context in (64, 32768):
        less = (kv(EIGHT, context) - state(RECURRENT)) / 1e6
        what = f"{RECURRENT} beside {EIGHT}, {context:,} tokens: bytes saved a token, weights left out"
        cases.append(at_least(what, less, 0, "MB"))
    return cases


def rwkv() -> list[Case]:
    """What a state-space model has: a state of fixed size, and a scan."""
    priced = model("rwkv-6:1.6b").priced("f16")
    sizes = [sum(a.mean for a in priced.amounts(decode(past)).values()) for past in (0, 32768)]
    scans = sum(isinstance(kind.op, ChannelScan | SelectiveScan) for kind in priced.kinds)
    return [
        at_most("rwkv-6:1.6b: bytes that 32,768 tokens of context add to a token", sizes[1] - sizes[0], 0),
        at_least("rwkv-6:1.6b: operations that are a state-space scan", scans, 1),
    ]


def one_or_two() -> list[Case]:
    """Routed experts of a layer and token."""
    return [
        at_most(f"{name}, of {routed(name)[0]}", routed(name)[1], 2, of="experts that a token picks in a layer:")
        for name in MIXTURES
    ]


def flash() -> list[Case]:
    """Bytes that scores would move, for the cache that is read anyway: of a prompt, and of a decoded token."""
    moved, context, cache = 2 * 2, 8192, kv(EIGHT, 8192)  # float16, written and read
    return [
        at_least(f"{EIGHT}, {what}", moved * scores(EIGHT, queries, context) / cache, 1, "×",
                 of="scores that need not be moved ÷ the KV cache")
        for what, queries in ((f"a prompt of {context:,}", context), (f"a token after {context:,}", 1))
    ]  # fmt: skip


def compressed() -> list[Case]:
    """Bits that a token streams for each weight that it uses."""
    return [
        at_most(f"{name} in {mix.upper()}", 8 * weights(name, mix) / used, 8, of="bits streamed for a weight:")
        for name, mix, used in (
            (EIGHT, "q4_k_m", weights(EIGHT) / 2), (EIGHT, "q2_k", weights(EIGHT) / 2),
            ("gpt-oss:20b", "mxfp4", weights("gpt-oss:20b") / 2),
        )
    ]  # fmt: skip


def one_thing() -> list[Case]:
    """Operations of a token, which would stay if only traffic fell."""
    dense, sparse = flops("qwen3:32b") / parameters("qwen3:32b"), flops("qwen3:30b-a3b") / parameters("qwen3:30b-a3b")
    packed = model(EIGHT, "q4_k_m").priced("f16").flops(decode(0)) / flops(EIGHT)
    return [
        at_least("compression, llama-3:8b in Q4_K_M ÷ in F16: operations of a token", packed, 0.9, "×"),
        at_least("experts, qwen3:30b-a3b ÷ qwen3:32b: operations for each weight held", sparse / dense, 0.9, "×"),
        at_least("state, falcon-mamba:7b ÷ llama-3:8b after 32,768 tokens: operations of a token",
                 flops(RECURRENT, decode(32768)) / flops(EIGHT, decode(32768)), 0.9, "×"),
    ]  # fmt: skip


_EVEN = state(RECURRENT) / kv(EIGHT, 1)
_RATIO = read("qwen3:30b-a3b", batch=32) / read("qwen3:30b-a3b")

SECTION = Section("6. Memory-first models", (
    Opinion(55, "architectures that solve the memory bottleneck will dominate", "a forecast"),
    Statement(56, "Three directions", f"It lists four: {', '.join(LISTED)}.", directions),
    Statement(
        57, "avoid quadratic attention → less bandwidth per token",
        f"A decoded token reads a cache that grows in proportion, not with the square; falcon-mamba:7b's float32"
        f" state is {state(RECURRENT) / 1e6:.0f} MB, the KV of {_EVEN:.0f} tokens of llama-3:8b, and its weights are"
        " read all the same.",
        less_bandwidth, "memfirst plan falcon-mamba:7b llama-3:8b --codec f16 --on a100-80gb --sweep ctx=64,8k",
    ),
    Statement(58, "RWKV (listed as an SSM)", "Its state is as constant; its recurrence is a linear attention.", rwkv,
              "memfirst plan rwkv-6:1.6b --codec f16 --on rtx-4090 --sweep ctx=1k,32k"),
    Statement(
        59, "Only load 1-2 experts",
        f"Most pick four to eight a layer, all must be held, and a batch touches nearly all: 32 tokens"
        f" {distinct(128, 8, 32):.1f} of qwen3:30b-a3b's 128, {_RATIO:.1f} times the bytes of one.",
        one_or_two, "memfirst plan qwen3:30b-a3b --codec q4_k_m --on a100-80gb --ctx 512 --sweep batch=1,8,32",
        Scope.TYPICAL,
    ),
    Statement(60, "more efficient caching, fewer memory reads",
              "It spares a prompt the matrix of scores; a decoded token reads the same cache, by more cores at a time.",
              flash),
    Statement(61, "compression formats, decompressed during compute",
              f"Packed weights are what memory moves: {bits(EIGHT, 'q4_k_m'):.2f} bits a weight in Q4_K_M.", compressed,
              "memfirst plan llama-3:8b --on rtx-4090 --ctx 512 --sweep codec=f16,q4_k_m,q2_k"),
    Statement(62, "All aim at one thing: reduce memory traffic",
              "Only compression does just that; experts and recurrent state spare arithmetic too.",
              one_thing),
))  # fmt: skip
