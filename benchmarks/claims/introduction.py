"""The headline and the introduction: statements 1 to 6."""

from __future__ import annotations

from functools import cache
from statistics import median

from benchmarks import measured_rows
from benchmarks.claims import published
from benchmarks.claims.figures import kv, mbu, mfu, parameters, read, roof
from benchmarks.claims.statement import Opinion, Section, Statement
from benchmarks.claims.verdict import Case, Scope, at_least, at_most, percent
from memfirst.graph import decode, prefill
from memfirst.predict.fitted.predict import CEILING

XIONGJIE, SPARK, QWEN, GPT_FAST = "XiongjieDai", "ggml-org", "Qwen2.5 official", "pytorch-labs"
"""How the sources of published rows begin."""

FAMILIES = ("llama-3:8b", "qwen2.5:7b", "mistral:7b-v0.3", "gemma-2:9b", "deepseek-v3")

RATIO = "time of the bytes ÷ time of the operations"
ARITHMETIC = "of the peak arithmetic"


def flops_no_longer() -> list[Case]:
    """Time of the bytes over time of the operations, where the article draws no line."""
    steps = (("one sequence of 512 tokens", decode(511)), ("256 sequences of 512", decode(511, 256)),
             ("256 sequences of 32", decode(31, 256)), ("a prompt of 4,096", prefill(4096)))  # fmt: skip
    ratios = ((how, roof("llama-3:8b", "f16", "a100-80gb", step).ratio) for how, step in steps)
    return [at_least(f"llama-3:8b in F16, {how}", ratio, 1, "×", of=RATIO) for how, ratio in ratios]


def any_modern_model() -> list[Case]:
    """The same for five families, decoding and reading a prompt."""
    cases = []
    for how, step in (("decode", decode(511)), ("a prompt of 2,048", prefill(2048))):
        for name in FAMILIES:
            ratio = roof(name, "f16", "h100-80gb", step).ratio
            cases.append(at_least(f"{name}, {how}", ratio, 1, "×", of=RATIO))
    return cases


def idle_but_choking() -> list[Case]:
    """Busy arithmetic and busy memory in published decoding."""
    cases = []
    for hardware, machine, quant in (("RTX 4090 24GB", "rtx-4090", "F16"), ("RTX A6000", "rtx-a6000", "F16"),
                                     ("H100 PCIe", "h100-pcie-80gb", "Q4_K_M")):  # fmt: skip
        row = published.one(XIONGJIE, hardware, "Llama-3-8B", quant, "tg512")
        cases.append(at_most(row.text, mfu("llama-3:8b", row.rate, machine), 0.05, "%", row.source, of=ARITHMETIC))
        busy = mbu("llama-3:8b", quant.lower(), row.rate, machine)
        cases.append(at_least(row.text, busy, 0.5, "%", row.source, of="of the peak bandwidth"))
    return cases


def not_software() -> list[Case]:
    """One model, one machine, two engines."""
    cases = []
    for quant in ("BF16", "GPTQ-Int4"):
        slow = published.one(QWEN, "A100 80GB", "Qwen2.5-7B-Instruct", quant, "input 1 ", backend="HF")
        fast = published.one(QWEN, "A100 80GB", "Qwen2.5-7B-Instruct", quant, "input 1 ", backend="vLLM")
        what = f"{fast.text} ÷ {slow.text.split(', ')[-1]} ({fast.rate} and {slow.rate} tok/s)"
        cases.append(at_most(what, fast.rate / slow.rate, 1.1, "×", fast.source))
    return cases


def hardware_constraint() -> list[Case]:
    """Every published row of one sequence against the peak of its machine."""
    shares = reached()
    impossible = sum(row.why.startswith("impossible") for row in measured_rows.read()[1])
    what = f"{len(shares)} published rows of one sequence, median {percent(median(shares))}, the highest"
    above = f"rows above {percent(CEILING)} of it"
    return [
        at_most(what, max(shares), CEILING, "%", of="of the peak bandwidth"),
        at_most(above, impossible / len(shares), 0.01, "%"),
    ]


@cache
def usual() -> float:
    """Share of the peak bandwidth that published rows of one sequence reach, the median, to one digit."""
    return round(median(reached()), 1)


@cache
def reached() -> tuple[float, ...]:
    """That share, of every such row."""
    rows = (row for row in measured_rows.read()[0] if row.cost.tokens == 1)
    return tuple(row.cost.total / row.seconds / _peak(row) for row in rows)


def _peak(row: measured_rows.Row) -> float:
    return (row.machine.bandwidth or 0.0) * (row.how.devices if row.how.parallel == "tensor" else 1)


SMALL = read("deepseek-v3", "f16") / 2e9
"""Billion weights of DeepSeek-V3 that a token reads."""

SECTION = Section("Headline and introduction", (
    Opinion(1, "a single metric: FLOPs", "history in one phrase; the roofline model has named bandwidth since 2009"),
    Statement(
        2, "FLOPs are no longer the real bottleneck",
        "True of decoding for few sequences; prompts, and large batches of short sequences, are bound by arithmetic"
        " (computed for 1 × A100 80 GB SXM).",
        flops_no_longer, "memfirst plan llama-3:8b --codec f16 --on a100-80gb --ctx 512 --sweep batch=1,256",
    ),
    Statement(
        3, "any modern model (Llama 3, Qwen2.5, Mistral, Gemma, DeepSeek)",
        f"All five are bound by memory when they decode, the dense ones not on a prompt; DeepSeek-V3 reads"
        f" {SMALL:.1f} of its"
        f" {parameters('deepseek-v3') / 1e9:.0f} billion weights a token, and {kv('deepseek-v3', 1) / 1e3:.1f} kB of"
        f" KV a token of context where llama-3:70b has {kv('llama-3:70b', 1) / 1e3:.1f} (computed for 1 × H100 SXM).",
        any_modern_model,
        "memfirst plan llama-3:8b qwen2.5:7b mistral:7b-v0.3 gemma-2:9b --codec f16 --on h100-80gb",
    ),
    Statement(
        4, "GPU is idle, but your VRAM is choking",
        "The arithmetic is idle at batch 1; how busy the memory is depends on engine and format, and `nvidia-smi`"
        " shows neither: it counts the time in which any kernel runs.",
        idle_but_choking, "memfirst plan llama-3:8b --codec f16 --on rtx-4090 --ctx 256",
    ),
    Statement(
        5, "This is not a software issue",
        "The ceiling is hardware; how far below it one stays is software, by a factor of two and more.",
        not_software,
    ),
    Statement(
        6, "a fundamental hardware constraint", "As a ceiling: nothing published passes it.", hardware_constraint,
        scope=Scope.UNIVERSAL,
    ),
))  # fmt: skip
