"""Section 2 of the article, why FLOPs mislead: statements 19 to 26."""

from __future__ import annotations

from benchmarks.claims import published
from benchmarks.claims.fetch import little_math
from benchmarks.claims.figures import kv, mfu, model, parameters, parts, read, weights
from benchmarks.claims.introduction import ARITHMETIC, GPT_FAST, SPARK, XIONGJIE
from benchmarks.claims.statement import Section, Statement
from benchmarks.claims.verdict import Case, at_least, at_most, inside, percent
from memfirst.graph import decode, prefill
from memfirst.plan import Speculation

VOCABULARIES = ("llama-3:8b", "qwen2.5:7b", "mistral:7b-v0.3", "gemma-2:9b", "deepseek-v3")


def no_batches() -> list[Case]:
    """What more sequences in a step add, published."""
    cases = []
    for streams in ("8", "32"):
        one, many = (_spark("Qwen2.5-Coder-7B", n) for n in ("1", streams))
        cases.append(at_most(f"{many.text} ÷ one stream", many.rate / one.rate, 1.1, "×", many.source))
    return cases


def _spark(name: str, streams: str) -> published.Speed:
    quant = "Q8_0"
    return published.one(SPARK, "NVIDIA DGX Spark", name, quant, "32 new tokens after PP 512 ", batch=streams)


def one_at_a_time() -> list[Case]:
    """Tokens that a pass over the weights gives."""
    drafted = Speculation(4, 0.7)
    return [
        at_most("plain decoding: tokens a pass", decode(0).tokens, 1),
        at_most(f"{drafted.tokens} drafted, 70 % accepted: tokens a pass", drafted.gained, 1),
        at_most("a prompt of 512: tokens a pass", prefill(512).tokens, 1),
    ]


def every_layer() -> list[Case]:
    """Weights that a token reads, of all that can be read."""
    names = ("llama-3:8b", "llama-3:70b", "mixtral:8x7b", "qwen3:30b-a3b", "deepseek-v3")
    return [at_least(n, weights(n) / 2 / parameters(n), 0.9, "%", of="of its weights a token reads") for n in names]


def rotary_data() -> list[Case]:
    """Angles of a token's rotation: head_dim / 2 pairs in float32."""
    caches = model("llama-3:8b").graph.caches
    angles = 2 * 4 * caches[0].k_dim / 2  # type: ignore[union-attr]
    return [
        at_least("llama-3:8b in F16: rotary angles, of a token's bytes", angles / read("llama-3:8b"), 0.001, "%"),
        at_least("softmax: parameters", 0, 1),
    ]


def thirty_percent() -> list[Case]:
    """Share of the arithmetic, published: decoding, and a prompt."""
    rows = [(published.one(XIONGJIE, "RTX 4090 24GB", "Llama-3-8B", q, "tg512"), "rtx-4090") for q in ("F16", "Q4_K_M")]
    rows.append((published.one(GPT_FAST, "A100-80GB", "Llama-3.1-8B", "BF16"), "a100-80gb"))
    cases = [inside(r.text, mfu("llama-3:8b", r.rate, m), 0.3, 0.4, "%", r.source, of=ARITHMETIC) for r, m in rows]
    prompt = published.prompt(XIONGJIE, "RTX 4090 24GB", "Llama-3-8B", "F16", 512)
    share = mfu("llama-3:8b", prompt.rate, "rtx-4090", 512)
    return [*cases, inside(prompt.text, share, 0.3, 0.4, "%", prompt.source, of=ARITHMETIC)]


def few_thousand() -> list[Case]:
    """Rows of the logits."""
    return [at_most(name, model(name).graph.vocab_size, 10_000, of="probabilities:") for name in VOCABULARIES]


def especially_attention() -> list[Case]:
    """Attention's part of the weights, and operations a byte of KV beside those of a weight."""
    cases = []
    for name in ("llama-3:8b", "llama-3:70b"):
        attention, rest = parts(name)
        cases.append(
            at_least(name, attention / (attention + rest), 0.5, "%", of="attention, of the weights of layers:")
        )
        steps = decode(8191), decode(0)
        priced = model(name).priced("f16")
        added = priced.flops(steps[0]) - priced.flops(steps[1])
        per_byte = added / (kv(name, 8192) - kv(name, 1))
        cases.append(at_most(name, per_byte, 0.9, of="operations a byte of KV, where a weight in F16 has 1:"))
    return cases


def _head(name: str) -> float:
    """The head's part of a token's bytes in F16."""
    graph = model(name).graph
    return 2 * graph.vocab_size * graph.hidden_size / read(name)


_HEAD = {name: _head(name) for name in ("llama-3:8b", "gemma-3:1b")}
_ATTENTION = parts("llama-3:70b")[0] / sum(parts("llama-3:70b"))

SECTION = Section("2. Why FLOPs are misleading", (
    Statement(19, "don't process entire batches",
              "Every server batches: the streams of a step share one read of the weights.", no_batches,
              "memfirst plan qwen2.5:7b --codec q8_0 --on dgx-spark --ctx 544 --sweep batch=1,8,32"),
    Statement(
        20, "generate tokens one at a time",
        "A plain sequence takes one a pass; drafts and prompts many (a 7B draft took llama-2:70b from"
        " 25.25 to 48.4 tok/s in gpt-fast's README).",
        one_at_a_time, "memfirst plan llama-3:70b --on a100-80gb --speculate 4:0.7",
    ),
    Statement(21, "every attention layer's and MLP block's parameters",
              "A dense model does; a mixture reads the experts that it routes to.", every_layer,
              "memfirst plan llama-3:8b mixtral:8x7b qwen3:30b-a3b --codec q4_k_m --on m2-ultra --ctx 512"),
    Statement(
        22, "rotary / positional / softmax data",
        f"Nothing to speak of; what it leaves out is the KV cache, and the head:"
        f" {percent(_HEAD['llama-3:8b'])} of a token's bytes in llama-3:8b, {percent(_HEAD['gemma-3:1b'])} in"
        " gemma-3:1b.",
        rotary_data, "memfirst plan llama-3:8b --codec f16 --on a100-80gb --ctx 512",
    ),
    Statement(23, "likely use only 30-40% of that",
              "Decoding one sequence uses about 1 %; 30 % and more is for prompts and training.", thirty_percent,
              "memfirst plan llama-3:8b --codec f16 --on rtx-4090 --ctx 512"),
    Statement(24, "a tiny amount of math", "As statement 7.", little_math,
              "memfirst plan llama-3:8b --codec q4_k_m --on rtx-4090 --on raspberry-pi-5 --ctx 512"),
    Statement(25, "a few thousand probabilities", "As many as the vocabulary has entries: 32 to 262 thousand.",
              few_thousand),
    Statement(
        26, "especially attention",
        f"Weights of attention and MLP have the same operations a byte, attention is {percent(_ATTENTION)}"
        " of a 70B layer, and over the cache grouped queries share each byte.",
        especially_attention,
    ),
))  # fmt: skip
