"""Section 7 of the article, the hard truth: statements 63 to 70."""

from __future__ import annotations

from benchmarks.claims import published
from benchmarks.claims.figures import ceiling, knee, kv, planned, read
from benchmarks.claims.introduction import GPT_FAST, XIONGJIE, usual
from benchmarks.claims.statement import Opinion, Section, Statement
from benchmarks.claims.verdict import Case, Scope, at_least, at_most, percent
from memfirst.hardware.machines import catalogue, find_machine

READING = 5.0
"""Tokens/s at which people read: 240 words a minute, 0.8 words a token."""


def cannot_feed() -> list[Case]:
    """Tokens a step from which arithmetic binds, in F16: above 1, one sequence does not feed it."""
    known = [m for m in catalogue() if m.bandwidth and m.compute]
    least = min(known, key=knee)
    named = [find_machine(n) for n in ("a100-80gb", "h100-80gb", "rtx-4090")]
    cases = [at_least(m.title, knee(m), 2, "tokens a step", of="knee in F16") for m in named]
    return [
        *cases,
        at_least(
            f"the lowest of {len(known)} machines, {least.title}", knee(least), 2, "tokens a step", of="knee in F16"
        ),
    ]


def plateau() -> list[Case]:
    """Speed gained for bytes saved: small models, and one of 8B."""
    fast, slow = (published.one("turboderp", "RTX 4090", "TinyLlama-1.1B", f"EXL2 {bpw}.0bpw") for bpw in (3, 4))
    gained = (fast.rate / slow.rate - 1) / (4 / 3 - 1)
    q4, f16 = (published.one(XIONGJIE, "RTX 4090 24GB", "Llama-3-8B", q, "tg512") for q in ("Q4_K_M", "F16"))
    fewer = read("llama-3:8b", "f16", 256) / read("llama-3:8b", "q4_k_m", 256)
    share = (q4.rate / f16.rate - 1) / (fewer - 1)
    return [
        at_most(f"{fast.text}, from 4 bits ({slow.rate:g} → {fast.rate:g} tok/s): of the speed that bytes allow",
                gained, 0.5, "%", fast.source),
        at_most(f"{q4.text}, from F16 ({f16.rate:g} → {q4.rate:g} tok/s): of the speed that bytes allow",
                share, 0.5, "%", q4.source),
    ]  # fmt: skip


def not_linear() -> list[Case]:
    """Speed-up for the number of devices, published."""
    pairs = (
        (GPT_FAST, "A100-80GB", "Llama-2-7B", "BF16", "", "1", "8"),
        (GPT_FAST, "A100-80GB", "Llama-2-70B", "BF16", "", "2", "8"),
        (XIONGJIE, "RTX 4090 24GB", "Llama-3-8B", "Q4_K_M", "tg512", "1", "8"),
    )
    cases = []
    for source, hardware, name, quant, test, few, many in pairs:
        one, all_ = (published.one(source, hardware, name, quant, test, n_devices=n) for n in (few, many))
        times = int(many) / int(few)
        what = f"{all_.text} ÷ {few}, {one.rate:g} → {all_.rate:g} tok/s: for a ratio of {times:g}"
        cases.append(at_most(what, all_.rate / one.rate, 0.9 * times, "×", all_.source))
    return cases


def snappier() -> list[Case]:
    """Ceilings of one family by size."""
    names = ("llama-3.1:70b", "llama-3.1:8b", "llama-3.2:3b", "llama-3.2:1b")
    rates = [ceiling(name, "q4_k_m", "a100-80gb") for name in names]
    return [at_least(f"{small} ÷ {big}", fast / slow, 1.1, "×", of="ceilings in Q4_K_M")
            for big, small, slow, fast in zip(names, names[1:], rates, rates[1:], strict=False)]  # fmt: skip


def flash_gains() -> list[Case]:
    """The most that a token gains if reading the cache took no time."""
    cases = []
    for context in (512, 131072):
        total = read("llama-3.1:8b", "q4_k_m", context)
        what = f"llama-3.1:8b in Q4_K_M, {context:,} tokens: speed-up of the ceiling if KV cost nothing"
        cases.append(at_least(what, total / (total - kv("llama-3.1:8b", context)), 1.1, "×"))
    return cases


def processors() -> list[Case]:
    """Published rows of processors, and the usual share of one more ceiling."""
    rows = [
        published.one("ik_llama.cpp discussion 63", "Ryzen 9 7950X (4 threads)", "Llama-3.2-3B", "Q4_K_S"),
        published.one("geerlingguy/ai-benchmarks issue 47", "Raspberry Pi 5", "Qwen3-30B-A3B-Instruct-2507",
                      "2.70 bpw (Byteshape)"),
        published.one("geerlingguy/ai-benchmarks issue 53", "Core i5 4278U", "Llama-3.2-3B-Instruct", "Q4_K_M"),
    ]  # fmt: skip
    cases = [at_least(row.text, row.rate, READING, "tok/s", row.source) for row in rows]
    rate = usual() * ceiling("llama-3:8b", "q4_k_m", "laptop-ddr5", 512)
    return [
        *cases,
        at_least(
            f"llama-3:8b in Q4_K_M on dual-channel DDR5: {percent(usual())} of the ceiling (computed)",
            rate,
            READING,
            "tok/s",
        ),
    ]


DEPLOYED = (("llama-3:8b", "f16", "a100-80gb", 512, 1), ("llama-3.1:8b", "q4_k_m", "a100-80gb", 131072, 1),
            ("tinyllama", "q4_0", "rtx-4090", 512, 1), ("llama-3:70b", "q4_k_m", "rtx-4090", 512, 1))  # fmt: skip


def bandwidth_only() -> list[Case]:
    """What `memfirst plan` names as binding, in five deployments and on a prompt."""
    cases = []
    for name, mix, machine, context, batch in DEPLOYED:
        plan = planned(name, mix, machine, context, batch)
        cases.append(_binds(f"{name} in {mix.upper()} on {machine}, {context:,} tokens", plan.binding))
    prompt = planned("llama-3:8b", "f16", "a100-80gb").prefill
    return [*cases, _binds("llama-3:8b in F16 on a100-80gb, a prompt of 512", prompt.binding if prompt else "")]


def _binds(what: str, term: str) -> Case:
    return Case(f"{what}: bound by {term}", "bound by weights, experts or KV", term in ("weights", "experts", "KV"))


SECTION = Section("7. The hard truth", (
    Statement(63, "so fast that transformers can't feed them",
              "At batch 1 no machine is fed; batches and prompts feed them.", cannot_feed,
              "memfirst plan llama-3:8b --codec f16 --on h100-80gb --ctx 32 --sweep batch=1,64,512"),
    Statement(64, "Token generation rates plateau",
              "They do where fixed costs of each layer pass the bytes: in small models.",
              plateau,
              "memfirst plan tinyllama --on rtx-4090 --ctx 512 --sweep codec=f16,q8_0,q4_0"),
    Statement(65, "Adding more GPUs doesn't scale linearly",
              "Exchanges and fixed costs remain; layers one after another (llama.cpp's default) gain nothing.",
              not_linear,
              "memfirst plan llama-3:8b --codec f16 --on a100-80gb --parallel tensor --sweep devices=1,2,8"),
    Statement(66, "Smaller models feel snappier", "They read fewer bytes a token.", snappier,
              "memfirst plan llama-3.2:1b llama-3.2:3b llama-3.1:8b llama-3.1:70b --codec q4_k_m --on a100-80gb"),
    Statement(67, "Flash decoding gives big gains",
              "At long contexts, where KV is much of a token's bytes.", flash_gains,
              "memfirst plan llama-3.1:8b --codec q4_k_m --on a100-80gb --sweep ctx=512,128k"),
    Statement(68, "CPU inference is becoming viable again",
              "It is faster than people read, for small models and mixtures.",
              processors, "memfirst plan llama-3.2:3b qwen3:30b-a3b --codec q4_k_m --on laptop-ddr5 --ctx 512"),
    Opinion(69, "On-device LLMs are exploding", "a trend, not measured here"),
    Statement(70, "bandwidth, not FLOPs, not cores, not tensor units",
              "Five things bind by turns: weights, KV, arithmetic, fixed costs, and room.", bandwidth_only,
              "memfirst plan llama-3:8b tinyllama llama-3:70b --codec q4_k_m --on rtx-4090 --ctx 512",
              Scope.UNIVERSAL),
))  # fmt: skip
