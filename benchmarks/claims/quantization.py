"""Section 4 of the article, quantization: statements 37 to 44."""

from __future__ import annotations

from benchmarks.claims import published
from benchmarks.claims.figures import bits, ceiling, flops, model, parameters, read, stored
from benchmarks.claims.introduction import GPT_FAST, QWEN, XIONGJIE, usual
from benchmarks.claims.statement import Section, Statement
from benchmarks.claims.verdict import Case, Scope, at_least, at_most, near, percent
from memfirst.graph import decode
from memfirst.hardware.machines import catalogue, find_machine

EIGHT = "llama-3:8b"
TABLE = "llama.cpp tools/quantize README"

QUALITY = "Qwen documentation, getting_started/quantization_benchmark, https://qwen.readthedocs.io"
AVERAGES = {"Qwen2-72B": (81.3, 81.2), "Qwen2-7B": (66.9, 64.1), "Qwen2-1.5B": (48.4, 45.0), "Qwen2-0.5B": (34.4, 29.7)}
"""Average of MMLU, C-Eval and IFEval in bfloat16 and in GPTQ-Int4, from QUALITY."""


def no_math() -> list[Case]:
    """Operations of a step, and the rate of multiplications, before and after."""
    h100 = find_machine("h100-80gb").compute
    weight_only = model(EIGHT, "q4_k_m").priced("f16").flops(decode(0)) / flops(EIGHT)
    return [
        at_least("weights in Q4_K_M ÷ in F16: operations of a token", weight_only, 0.99, "×"),
        at_most(
            "weights and activations in int8 ÷ in F16, H100 SXM: peak operations/s", h100["i8"] / h100["f16"], 1.1, "×"
        ),
    ]


def less_data() -> list[Case]:
    """Bytes of a token."""
    pairs = (("q8_0", "f16"), ("q4_k_m", "q8_0"), ("q2_k", "q4_k_m"))
    ratios = ((f"{EIGHT}, {a.upper()} ÷ {b.upper()}", read(EIGHT, a) / read(EIGHT, b)) for a, b in pairs)
    return [at_most(what, ratio, 0.9, "×", of="bytes of a token") for what, ratio in ratios]


def half() -> list[Case]:
    """Files, and bytes of a token."""
    return [
        near(f"{EIGHT}, F16 ÷ Q8_0: the file", stored(EIGHT) / stored(EIGHT, "q8_0"), 2, "×"),
        near(f"{EIGHT}, F16 ÷ Q8_0: bytes of a token", read(EIGHT) / read(EIGHT, "q8_0"), 2, "×"),
    ]


def quarter() -> list[Case]:
    """Files, and published speeds."""
    cases = [near(f"{EIGHT}, Q8_0 ÷ Q4_K_M: the file", stored(EIGHT, "q8_0") / stored(EIGHT, "q4_k_m"), 4, "×")]
    fast, slow = (published.one(TABLE, "", "Llama-3.1-8B", quant, "tg128") for quant in ("Q4_K_M", "Q8_0"))
    cases.append(
        near("Llama-3.1-8B on one machine, Q4_K_M ÷ Q8_0: tokens/s", fast.rate / slow.rate, 4, "×", fast.source)
    )
    int4, int8 = (published.one(QWEN, "A100 80GB", "Qwen2.5-7B-Instruct", q, "input 1 ", backend="vLLM")
                  for q in ("GPTQ-Int4", "GPTQ-Int8"))  # fmt: skip
    return [*cases, near(f"{int4.text} ÷ GPTQ-Int8: tokens/s", int4.rate / int8.rate, 4, "×", int4.source)]


def eighth() -> list[Case]:
    """Files, and published speeds."""
    fast, slow = (published.one(TABLE, "", "Llama-3.1-8B", quant, "tg128") for quant in ("Q2_K", "Q4_K_M"))
    return [
        *(near(f"{name}, Q4_K_M ÷ Q2_K: the file", stored(name, "q4_k_m") / stored(name, "q2_k"), 8, "×")
          for name in (EIGHT, "llama-3:70b")),
        near("Llama-3.1-8B on one machine, Q2_K ÷ Q4_K_M: tokens/s", fast.rate / slow.rate, 8, "×", fast.source),
    ]  # fmt: skip


def small_models() -> list[Case]:
    """Who loses least, published; and who fits 128 GB at two bits only."""
    loss = {name: before - after for name, (before, after) in AVERAGES.items()}
    what = "points lost to int4, Qwen2-0.5B ÷ Qwen2-72B (4.7 and 0.1)"
    room = find_machine("dgx-spark").memory or 0
    names = ("llama-3.2:1b", "llama-3:8b", "qwen2.5:32b", "llama-3:70b", "qwen3:235b-a22b")
    needing = [n for n in names if stored(n, "q4_k_m") > room >= stored(n, "q2_k")]
    least = min(parameters(n) for n in needing) / 1e9
    return [
        at_most(what, round(loss["Qwen2-0.5B"] / loss["Qwen2-72B"]), 1, "×", QUALITY),
        at_most(
            f"of {', '.join(names)}, the smallest that fits 128 GB in Q2_K and not in Q4_K_M",
            least,
            8,
            "billion weights",
        ),
    ]


def bandwidth_friendly() -> list[Case]:
    """What fewer bytes give where arithmetic is scarce: two threads of one processor."""

    def row(quant: str, threads: int) -> published.Speed:
        hardware = f"Ryzen 9 7950X ({threads} threads)"
        return published.one("ik_llama.cpp discussion 63", hardware, "Llama-3.2-3B", quant)

    lean, full, more = row("IQ3_K", 2), row("BF16", 2), row("IQ3_K", 4)
    fewer = 16 / 3.4375  # bits of a weight: BF16, and IQ3_K's block of 256 in 110 bytes
    return [
        at_least("Llama-3.2-3B, BF16 ÷ IQ3_K: bits of a weight", fewer, 1.1, "×"),
        at_most(f"{lean.text} ÷ BF16: tokens/s, for the ratio of bits",
                lean.rate / full.rate / fewer, 0.9, "×", lean.source),
        at_least(f"{more.text} ÷ 2 threads: tokens/s", more.rate / lean.rate, 1.5, "×", more.source),
    ]  # fmt: skip


LAPTOPS = ("laptop-ddr4", "laptop-ddr5", "laptop-lpddr5x", "apple-m4", "apple-m4-pro", "apple-m4-max",
           *(m.name for m in catalogue() if m.kind == "laptop-gpu"))  # fmt: skip


def laptop() -> list[Case]:
    """The usual share of each laptop's ceiling."""
    what = f"{percent(usual())} of the ceiling (computed):"
    return [
        at_least(find_machine(n).title, usual() * ceiling("qwen2.5:3b", "q4_k_m", n, 256), 150, "tok/s", of=what)
        for n in LAPTOPS
    ]  # fmt: skip


_LEAST = 150 * read("qwen2.5:3b", "q4_k_m", 256) / 1e9 / usual()
_F16, _Q4 = (published.one(XIONGJIE, "RTX 4090 24GB", "Llama-3-8B", q, "tg512").rate for q in ("F16", "Q4_K_M"))
_INT8 = (published.one(GPT_FAST, "A100-80GB", "Llama-3.1-8B", "INT8 wo").rate
         / published.one(GPT_FAST, "A100-80GB", "Llama-3.1-8B", "BF16").rate)  # fmt: skip

SECTION = Section("4. Quantization", (
    Statement(37, "doesn't optimize math",
              "Of weights alone it does not; of activations too it doubles the rate of multiplication.",
              no_math),
    Statement(38, "reduces the amount of data read each token", "That is what it does.", less_data,
              "memfirst plan llama-3:8b --on rtx-4090 --ctx 512 --sweep codec=f16,q8_0,q4_k_m,q2_k"),
    Statement(39, "FP16 → INT8: 2x smaller, 2x less bandwidth",
              f"Nearly: Q8_0 is 8.5 bits; the speed gains less (×{_INT8:.2f} published for llama-3.1:8b on an A100).",
              half,
              "memfirst plan llama-3:8b --on rtx-4090 --ctx 512 --sweep codec=f16,q8_0"),
    Statement(
        40, "INT8 → Q4: ~4x smaller, 4x faster",
        f"Half as many bits, {stored(EIGHT, 'q8_0') / stored(EIGHT, 'q4_k_m'):.2f} times smaller as files are; even"
        f" F16 → Q4_K_M is ×{stored(EIGHT) / stored(EIGHT, 'q4_k_m'):.2f}, and ×{_Q4 / _F16:.2f} in published speed"
        f" on a 4090.",
        quarter, "memfirst plan llama-3:8b --on rtx-4090 --ctx 512 --sweep codec=f16,q8_0,q4_k_m",
    ),
    Statement(41, "Q4 → Q2: ~8x smaller",
              f"8 is F16 → 2 bits on paper; Q2_K has {bits(EIGHT, 'q2_k'):.2f} bits a weight.",
              eighth, "memfirst plan llama-3:8b llama-3:70b --on a100-80gb --ctx 512 --sweep codec=q4_k_m,q2_k"),
    Statement(42, "Only used on small models",
              "The reverse: small models lose most, and two bits exist to fit the largest.",
              small_models, "memfirst plan llama-3:70b qwen3:235b-a22b --on dgx-spark --sweep codec=q4_k_m,q2_k"),
    Statement(43, "memory-bandwidth friendly, not compute-friendly",
              "Unpacking is arithmetic: with few cores fewer bytes stop being faster.", bandwidth_friendly),
    Statement(
        44, "Qwen2.5-3B-Q4 can run >150 tok/s on a laptop",
        f"It takes about {_LEAST:.0f} GB/s: no ordinary laptop, but the largest GPUs and an M-series Max.", laptop,
        "memfirst plan qwen2.5:3b --codec q4_k_m --ctx 256 --on laptop-ddr5 --on apple-m4 --on rtx-4060-laptop"
        " --on rtx-4090-laptop", scope=Scope.TYPICAL,
    ),
))  # fmt: skip
