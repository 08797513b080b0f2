"""Section 1 of the article, what a model fetches: statements 7 to 18."""

from __future__ import annotations

from benchmarks.claims import published
from benchmarks.claims.figures import (
    bandwidth,
    bits,
    ceiling,
    flops,
    knee,
    matrices,
    mfu,
    planned,
    read,
    roof,
    stored,
    weights,
)
from benchmarks.claims.introduction import ARITHMETIC, GPT_FAST, XIONGJIE
from benchmarks.claims.statement import Section, Statement
from benchmarks.claims.verdict import Case, at_least, at_most, near, number
from memfirst.graph import decode
from memfirst.hardware.machines import catalogue, find_machine
from memfirst.predict.fitted import OVERHEAD
from memfirst.predict.fitted.pieces import plain_rate

LITTLE = (("llama-3:8b", "f16", "a100-80gb"), ("llama-3:8b", "q4_k_m", "rtx-4090"),
              ("llama-3:8b", "q4_k_m", "raspberry-pi-5"))  # fmt: skip


def little_math() -> list[Case]:
    """Time of a token's operations, for its bytes' time."""
    return [
        at_most(f"{name} in {mix.upper()} on {machine}", 1 / roof(name, mix, machine, decode(0)).ratio, 0.1, "%",
                of="time of the operations ÷ time of the bytes")
        for name, mix, machine in LITTLE
    ]  # fmt: skip


def few_products() -> list[Case]:
    """What the count of products costs: the part of a step that is neither bytes nor operations, as fitted."""
    cases = []
    for name, mix, machine in (("llama-3:70b", "q4_k_m", "a100-80gb"), ("tinyllama", "q4_0", "rtx-4090")):
        speed = planned(name, mix, machine).decode
        share = dict(speed.shares).get(OVERHEAD, 0.0) if speed else 1.0
        what = f"{name} in {mix.upper()}, {matrices(name)} products, on {machine} (predicted): fixed costs"
        cases.append(at_most(what, round(share, 1), 0.25, "%"))  # a fit's share: one digit is known
    return cases


def over_and_over() -> list[Case]:
    """Weights that each step reads, whatever its number of tokens."""
    first, eight = weights("llama-3:8b"), weights("llama-3:8b", batch=8)
    return [
        at_least("llama-3:8b in F16: a step for one token reads", first / 1e9, 1, "GB"),
        at_least("a step for eight sequences reads, of that", eight / first, 0.99, "%"),
    ]


def tensor_cores() -> list[Case]:
    """Operations/s that a full-speed step needs, against the plain float32 units."""
    plain = plain_rate(find_machine("rtx-4090"))
    cases = []
    for batch in (1, 256):
        needed = flops("llama-3:8b", decode(0, batch)) / (read("llama-3:8b", batch=batch) / bandwidth("rtx-4090"))
        what = f"llama-3:8b in F16 at full bandwidth on rtx-4090, batch {batch}: needs {number(needed / 1e12)} Top/s"
        cases.append(at_least(f"{what} ÷ what units without matrices give", needed / plain, 1, "×"))
    return cases


def vram_or_ram() -> list[Case]:
    """What the GPU reaches of each memory, beside what a processor reaches of its own."""
    gpu, host = find_machine("rtx-4090"), find_machine("laptop-ddr5")
    own, bus, ddr = (x or 0.0 for x in (gpu.bandwidth, gpu.slow_bandwidth, host.bandwidth))
    return [
        at_least("an RTX 4090 from its VRAM ÷ a processor from its DDR5", own / ddr, 1, "×"),
        at_least("an RTX 4090 from system RAM, through its bus ÷ that processor", bus / ddr, 1, "×"),
    ]


def finite() -> list[Case]:
    """The fastest memory of the catalogue."""
    best = max(catalogue(), key=lambda m: m.bandwidth or 0.0)
    what = f"llama-3:70b in F16 on the fastest of {len(catalogue())} machines, {best.title}"
    return [at_most(what, ceiling("llama-3:70b", "f16", best.name), 100, "tok/s", of="ceiling")]


def a100() -> list[Case]:
    """Three are sold."""
    names = ("a100-80gb", "a100-pcie-80gb", "a100-40gb")
    return [near(find_machine(n).title, bandwidth(n) / 1e12, 2, "TB/s", find_machine(n).source) for n in names]


def rtx_4090() -> list[Case]:
    """Its data sheet."""
    machine = find_machine("rtx-4090")
    return [near(machine.title, bandwidth("rtx-4090") / 1e12, 1, "TB/s", machine.source)]


def seventy_f16() -> list[Case]:
    """All tensors in F16."""
    return [near("llama-3:70b, all tensors in F16", stored("llama-3:70b") / 1e9, 140, "GB")]


def seventy_q4() -> list[Case]:
    """All tensors in the mix that llama.cpp's quantizer makes."""
    return [near("llama-3:70b, all tensors in Q4_K_M", stored("llama-3:70b", "q4_k_m") / 1e9, 38, "GB")]


def cannot_feed() -> list[Case]:
    """Operations a byte that the machine needs and the model supplies."""
    cases = []
    for mix in ("f16", "q4_k_m"):
        ratio = roof("llama-3:70b", mix, "a100-80gb", decode(0)).ratio
        supplied = flops("llama-3:70b") / read("llama-3:70b", mix)
        what = (
            f"llama-3:70b in {mix.upper()}: {number(supplied)} operations a byte; what 1 × A100 80 GB SXM needs ÷ that"
        )
        cases.append(at_least(what, ratio, 10, "×"))
    return cases


def sits_idle() -> list[Case]:
    """Share of the arithmetic in published decoding of one sequence."""
    found = (
        (published.one(XIONGJIE, "RTX 4090 24GB", "Llama-3-8B", "F16", "tg512"), "llama-3:8b", "rtx-4090"),
        (published.one(XIONGJIE, "RTX 4090 24GB", "Llama-3-8B", "Q4_K_M", "tg512"), "llama-3:8b", "rtx-4090"),
        (published.one(GPT_FAST, "A100-80GB", "Llama-3.1-8B", "BF16", n_devices="1"), "llama-3.1:8b", "a100-80gb"),
        (published.one(GPT_FAST, "A100-80GB", "Llama-3.1-70B", "INT8 wo", n_devices="1"), "llama-3.1:70b", "a100-80gb"),
    )
    return [at_most(r.text, mfu(n, r.rate, m), 0.05, "%", r.source, of=ARITHMETIC) for r, n, m in found]


SECTION = Section("1. Models fetch", (
    Statement(
        7, "almost no heavy math",
        f"Two operations a weight and token, {flops('llama-3:8b') / 1e9:.1f} billion for an 8B model: nothing to a GPU,"
        " a third of the time of a small processor.",
        little_math, "memfirst plan llama-3:8b --codec q4_k_m --on a100-80gb --on raspberry-pi-5 --ctx 512",
    ),
    Statement(
        8, "a small number of matrix multiplies",
        f"{matrices('llama-3:8b')} products a token in an 8B model and {matrices('llama-3:70b')} in a 70B: their fixed"
        " costs vanish beside large matrices, and rule small models.",
        few_products, "memfirst plan tinyllama --codec q4_0 --on rtx-4090 --ctx 512",
    ),
    Statement(
        9, "billions of parameters, over and over",
        "Once a step; all sequences of the step share that one read, which the article leaves out.",
        over_and_over, "memfirst plan llama-3:8b --codec f16 --on a100-80gb --ctx 512 --sweep batch=1,8",
    ),
    Statement(
        10, "stream them into the tensor cores",
        "For one sequence plain multiply-add units suffice a hundred times over; batches need the matrix units.",
        tensor_cores,
    ),
    Statement(
        11, "in VRAM or system RAM, the GPU must stream them",
        "Out of system RAM a GPU reads through its bus, slower than the processor beside it, which engines therefore"
        " let compute those layers.",
        vram_or_ram, "memfirst plan llama-3:70b --codec q4_k_m --on rtx-4090",
    ),
    Statement(
        12, "memory bandwidth is finite", "Every machine of the catalogue has a ceiling that a large model meets.",
        finite, "memfirst plan llama-3:70b --codec f16 --on b200 --ctx 512",
    ),
    Statement(13, "A100: 2 TB/s", "The 80 GB versions have it; the 40 GB one has a quarter less.", a100,
              "memfirst plan llama-3:8b --codec f16 --on a100-80gb --on a100-pcie-80gb --on a100-40gb"),
    Statement(14, "RTX 4090: 1 TB/s", "384 bits × 21 Gbit/s ÷ 8.", rtx_4090,
              "memfirst plan llama-3:8b --codec f16 --on rtx-4090"),
    Statement(15, "Llama-3-70B FP16: 140 GB", f"{stored('llama-3:70b'):,} bytes of tensors.", seventy_f16,
              "memfirst plan llama-3:70b --codec f16 --on h200"),
    Statement(
        16, "Llama-3-70B Q4_K_M: ~38 GB",
        f"Q4_K_M is a mix: {bits('llama-3:70b', 'q4_k_m'):.2f} bits a weight; 38 GB is the size"
        f" of IQ4_XS ({stored('llama-3:70b', 'iq4_xs') / 1e9:.1f}).",
        seventy_q4, "memfirst plan llama-3:70b --codec q4_k_m --on a100-80gb",
    ),
    Statement(
        17, "cannot move tens of GB fast enough",
        f"At batch 1; from about {number(knee(find_machine('a100-80gb')))} tokens a step in F16 the A100's arithmetic"
        " binds instead.",
        cannot_feed, "memfirst plan llama-3:70b --codec q4_k_m --on a100-80gb --ctx 512",
    ),
    Statement(18, "compute sits idle", "At batch 1 it does: about one percent is used.", sits_idle,
              "memfirst plan llama-3:8b --codec q4_k_m --on rtx-4090 --ctx 256"),
))  # fmt: skip
