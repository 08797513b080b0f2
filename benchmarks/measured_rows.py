"""Published speeds as questions to the planner: each row of data/measured_decode.csv with its cost and machine.

Rules, row by row, in `read`; a row that cannot be asked keeps the reason. What a row leaves out is assumed:

* Bytes of weights: the file's size without the input embedding (column stream_GB_per_step_est, per device where
  layers are cut). Experts' part: active experts of `measured_models.csv` at the codec's bits; for a batch, the
  distinct experts under uniform routing.
* Context: half of what is generated from an empty cache, depth + half, or 256 for "short".
* KV is f16. Tensor parallel for vLLM and gpt-fast, pipeline for llama.cpp and transformers.
* "Ollama or llama.cpp" is llama.cpp: Ollama runs its kernels. The build's date is the source's.

A row above `CEILING` of its machine's bandwidth, with the fewest experts that it may need, is impossible: an error of
its source.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from memfirst.errors import MemfirstError
from memfirst.graph.traffic import EXPERTS, KV_READ, WEIGHTS
from memfirst.hardware.machines import Machine, catalogue
from memfirst.predict.fitted.cost import Cost, Deployment
from memfirst.predict.fitted.pieces import bits_per_weight
from memfirst.predict.fitted.predict import CEILING

DATA = Path(__file__).parent / "data"
SHORT = 256  # tokens of context where a source says "short"
CACHED = 64e6  # bytes: what fits in the last-level cache of today's processors

MACHINES: tuple[tuple[str, str], ...] = (
    (r"RX (\d{4}) (XTX|XT|GRE)", "rx-{0}-{1}"), (r"Arc (\w\d{3})", "arc-{0}"),
    (r"RTX (\d{4}) Ti", "rtx-{0}-ti"), (r"RTX PRO 6000", "rtx-pro-6000"), (r"RTX (A?\d{4})", "rtx-{0}"),
    (r"R9700", "r9700"), (r"A100 PCIe 80GB", "a100-pcie-80gb"), (r"A100", "a100-80gb"), (r"A10$", "a10"),
    (r"P40", "p40"), (r"H100 PCIe 80GB", "h100-pcie-80gb"), (r"GB10", "dgx-spark"), (r"AI Max", "ryzen-ai-max-395"),
    (r"Pixel 6a", "pixel-6a"),
    (r"i5-1235U", "core-i5-1235u"), (r"M4 Mac mini|Mac Mini M4", "apple-m4"), (r"M3 Max 30", "apple-m3-max-30"),
    (r"M3 Pro 14", "apple-m3-pro-14"),
    (r"M2 Ultra 60", "apple-m2-ultra-60"), (r"M1 Ultra 48", "apple-m1-ultra-48"), (r"M2 Max 30", "apple-m2-max-30"),
    (r"(M\d) (Max|Pro|Ultra)", "apple-{0}-{1}"), (r"Apple (M\d)\b", "apple-{0}"), (r"7950X", "ryzen-7950x"),
    (r"5900X", "ryzen-5900x"), (r"i5 4278U", "core-i5-4278u"), (r"Raspberry Pi 5", "raspberry-pi-5"),
    (r"AmpereOne", "ampereone-a192"), (r"N150", "intel-n150"), (r"Xeon Gold 6138", "xeon-6138-dual"),
)  # fmt: skip
"""What a row calls its hardware -> the catalogue's name; the first that matches."""

DATES: Mapping[str, float] = {
    "XiongjieDai": 2024.4, "ggml-org llama.cpp benches": 2025.85, "pytorch-labs/gpt-fast": 2023.95,
    "turboderp": 2023.8, "Qwen2.5": 2024.8, "geerlingguy": 2025.9, "ik_llama.cpp discussion 63": 2024.7,
    "ik_llama.cpp discussion 385": 2025.4, "llama.cpp discussion 4167": 2023.9, "stored llama-bench": 2025.7,
    "InternLM": 2023.6, "llama.cpp issue 3479": 2023.75, "llama.cpp PR 4766": 2024.0, "mlc-ai": 2023.6,
    "vllm issue 7567": 2024.9, "llama.cpp issue 4716": 2024.0, "ik_llama.cpp PR 121": 2024.9,
}  # fmt: skip
"""When a source's engine was built; 2026 where it says nothing older."""

ENGINES: tuple[tuple[str, str], ...] = (
    ("ik_llama.cpp", "ik_llama.cpp"), ("llama.cpp", "llama.cpp"), ("Ollama", "llama.cpp"), ("vLLM", "vllm"),
    ("HF transformers", "transformers"), ("exllama v1", "exllama-v1"), ("exllama", "exllama"),
    ("PyTorch compile (gpt-fast)", "gpt-fast"), ("MLC", "mlc"),
)  # fmt: skip

CODECS: tuple[tuple[str, str], ...] = (
    ("Q4_K", "q4_k"), ("Q4 ", "q4_k"), ("Q6_K", "q6_k"), ("Q8_0", "q8_0"), ("Q4_0", "q4_0"), ("Q5_0", "q5_0"),
    ("F16", "f16"), ("BF16", "bf16"), ("MXFP4", "mxfp4"), ("NVFP4", "nvfp4"), ("GPTQ-Int8", "gptq8"),
    ("GPTQ", "gptq4"), ("EXL2", "exl2"), ("INT8", "int8"), ("INT4", "int4"), ("IQ4_K", "iq4_xs"), ("IQ3_K", "iq3_s"),
    ("2.70 bpw", "iq2_s"),
)  # fmt: skip
"""How a row's quantization begins -> the codec of the bulk of its weights."""


AUTHORS = {
    "pytorch-labs": "gpt-fast", "ik_llama.cpp discussion 63": "ikawrakow", "ik_llama.cpp PR": "ikawrakow",
    "ik_llama.cpp pull": "ikawrakow",
}  # fmt: skip
"""How sources begin that one author measured on one machine."""


@dataclass(frozen=True)
class Row:
    """One published speed. seconds: of a step. prompt: the cost of the prompt that the speed includes, a share."""

    source: str
    hardware: str
    machine: Machine
    cost: Cost
    how: Deployment
    seconds: float
    prompt: Cost | None = None
    prompt_share: float = 0.0

    @property
    def author(self) -> str:
        """Who measured: sources by one author are left out together."""
        return next((a for start, a in AUTHORS.items() if self.source.startswith(start)), self.source)

    @property
    def cell(self) -> tuple[str, str]:
        """Source and machine: what counts once in an average."""
        return self.source, self.machine.name


@dataclass(frozen=True)
class Left:
    """A row that is not used, and why."""

    source: str
    hardware: str
    why: str


@cache
def models() -> dict[str, dict[str, str]]:
    """Shapes of the models that rows name."""
    with (DATA / "measured_models.csv").open(encoding="utf-8") as file:
        return {row["model"]: row for row in csv.DictReader(file)}


def prompts(path: Path = DATA / "measured_prefill.csv") -> list[Row]:
    """Published speeds of reading a prompt: tokens/s over all of its tokens."""
    with path.open(encoding="utf-8") as file:
        return [_prompt(raw) for raw in csv.DictReader(file)]


def _prompt(raw: Mapping[str, str]) -> Row:
    machine, model, tokens = machine_of(raw["hardware"]), models()[raw["model"]], int(raw["prompt_tokens"])
    if machine is None:
        raise MemfirstError(raw["hardware"], "a known machine")
    codec = next(c for start, c in CODECS if raw["quant"].startswith(start))
    filled = {**raw, "n_devices": "1", "stream_GB_per_step_est": raw["stream_GB_est"]}
    how = deployment(filled)
    dense, experts, least = _weights(filled, model, codec, how, tokens)
    streamed = {WEIGHTS: dense, EXPERTS: experts, KV_READ: _kv(model, tokens)}
    flops, layers = _flops(model, tokens, tokens / 2), int(model["layers"])
    group = 2 * int(model["width"]) / int(model["kv_numbers_a_layer"])
    attention = _attention(model, tokens, tokens / 2)
    cost = Cost(
        streamed, flops, tokens, layers, codec, 1, int(model["width"]), least, group=group, attention=attention
    )  # fmt: skip
    return Row(
        raw["source"], raw["hardware"], _memory_stated(raw, machine), cost, how, tokens / float(raw["tokens_per_s"])
    )


def _memory_stated(raw: Mapping[str, str], machine: Machine) -> Machine:
    """With the bandwidth that a row states: other memory modules than the catalogue's."""
    stated = re.search(r"memory ([\d.]+) GB/s", raw["hardware"])
    return replace(machine, bandwidth=float(stated[1]) * 1e9) if stated else machine


def machine_of(hardware: str) -> Machine | None:
    """The catalogue's machine that a row was measured on."""
    by_name = {m.name: m for m in catalogue()}
    for pattern, name in MACHINES:
        if found := re.search(pattern, hardware):
            return by_name.get(name.format(*found.groups()).lower())
    return None


def read(path: Path = DATA / "measured_decode.csv") -> tuple[list[Row], list[Left]]:
    """Every row of the file, as a question or as left out."""
    rows: list[Row] = []
    left: list[Left] = []
    with path.open(encoding="utf-8") as file:
        for raw in csv.DictReader(file):
            found = question(raw)
            if isinstance(found, Row):
                rows.append(found)
            else:
                left.append(Left(raw["source"], raw["hardware"], found))
    return rows, left


def question(raw: Mapping[str, str]) -> Row | str:
    """A row of the file as a question, or why it is none."""
    machine, model = machine_of(raw["hardware"]), models().get(raw["model"])
    if "UNSPECIFIED" in raw["hardware"]:
        return "the hardware is not named"
    if not raw["batch"].isdigit():
        return "a throughput without a batch size"
    if machine is None or model is None:
        raise MemfirstError(f"{raw['hardware']} running {raw['model']}", "a known machine and model")
    if _stream(raw) < CACHED:
        return "the weights fit in the last-level cache: no question of memory"
    row = _row(raw, machine, model)
    parts = row.how.devices if row.how.parallel == "tensor" else 1
    surely = row.cost.total - row.cost.experts + row.cost.least  # whatever the routing
    if surely > CEILING * row.seconds * (row.machine.bandwidth or 0.0) * parts:
        return f"impossible: above {CEILING:.0%} of the peak bandwidth"
    return row


def _row(raw: Mapping[str, str], machine: Machine, model: Mapping[str, str]) -> Row:
    batch, how = int(raw["batch"]), deployment(raw)
    context, prompt = _context(raw["context_or_test"])
    codec = next(c for start, c in CODECS if raw["quant"].startswith(start))
    dense, experts, least = _weights(raw, model, codec, how, batch)
    cost = Cost(
        {WEIGHTS: dense, EXPERTS: experts, KV_READ: batch * _kv(model, context)}, _flops(model, batch, context),
        batch, int(model["layers"]), codec, batch, int(model["width"]), least,
        group=2 * int(model["width"]) / int(model["kv_numbers_a_layer"]), attention=_attention(model, batch, context),
    )  # fmt: skip
    row = Row(
        raw["source"], raw["hardware"], _memory_stated(raw, machine), cost, how, batch / float(raw["tokens_per_s"])
    )
    if not prompt:
        return row
    attention = _attention(model, prompt, prompt / 2)
    flops = _flops(model, prompt, prompt / 2)
    whole = replace(cost, streamed={WEIGHTS: dense}, tokens=prompt, sequences=1, flops=flops, attention=attention)
    return replace(row, prompt=whole, prompt_share=1 / 2048)  # 2048 tokens share the prompt's time


def deployment(raw: Mapping[str, str]) -> Deployment:
    """Engine, devices, threads and age of a row."""
    backend, devices = raw["backend"], int(raw["n_devices"] or 1)
    engine = next(e for start, e in ENGINES if backend.startswith(start))
    date = next((d for start, d in DATES.items() if raw["source"].startswith(start)), 2026.0)
    threads = re.search(r"\((\d+) thr(?:eads)?\)", raw["hardware"])
    flash = not (engine == "llama.cpp" and date < 2025) and engine != "ik_llama.cpp"
    share = "tensor" if engine in ("vllm", "gpt-fast") else "pipeline"
    return Deployment(engine, devices, share, flash, int(threads[1]) if threads else 0, max(0.0, 2026 - date))


def _context(test: str) -> tuple[float, int]:
    """Mean context while tokens are generated, and the prompt whose time the speed includes."""
    if found := re.match(r"input (\d+) \+ generate (\d+)", test):
        return int(found[1]) + int(found[2]) / 2, int(found[1])
    if found := re.match(r"(\d+) new tokens after PP (\d+)", test):
        return int(found[2]) + int(found[1]) / 2, 0
    if found := re.match(r"tg(\d+)(?: @ depth (\d+))?", test):
        return int(found[2] or 0) + int(found[1]) / 2, 0
    return SHORT, 0


def _weights(
    raw: Mapping[str, str], model: Mapping[str, str], codec: str, how: Deployment, batch: int
) -> tuple[float, float, float]:
    """Bytes of dense weights, of the experts of a step, and of the fewest experts that it may need."""
    divided = how.devices if how.parallel == "tensor" or how.engine == "transformers" else 1
    one = _stream(raw) * divided
    a, n = int(model["active_experts"]), int(model["experts"])
    bits = bits_per_weight(codec)
    each = int(model["expert_layers"]) * int(model["expert_params"]) * bits / 8
    distinct = n * (1 - (1 - a / n) ** batch) if n else 0.0
    each = min(each, one / a) if a else 0.0
    return one - a * each, distinct * each, a * each


STREAMED = {"gpt-oss-20b": 2.561, "gpt-oss-120b": 3.534, "Qwen3-Coder-30B-A3B": 3.232,
            "Qwen2.5-Coder-7B": 7.513, "Gemma-3-4B-it-qat": 2.523}  # fmt: skip
"""GB of one token where the table leaves it out, in rows with batches: as in the rows of one sequence."""


def _stream(raw: Mapping[str, str]) -> float:
    return float(raw["stream_GB_per_step_est"] or STREAMED[raw["model"]]) * 1e9


def _kv(model: Mapping[str, str], context: float) -> float:
    """Bytes of f16 keys and values that one sequence reads."""
    return _positions(model, context) * int(model["kv_numbers_a_layer"]) * 2


def _positions(model: Mapping[str, str], context: float) -> float:
    """Tokens that attention looks back on, of all layers."""
    windowed, layers = int(model["window_layers"]), int(model["layers"])
    return (layers - windowed) * context + windowed * min(context, int(model["window"]) or context)


def _flops(model: Mapping[str, str], tokens: int, context: float) -> float:
    """Two a weight and token; attention's two products over the context."""
    return tokens * 2.0 * int(model["stream_params"]) + _attention(model, tokens, context)


def _attention(model: Mapping[str, str], tokens: int, context: float) -> float:
    return tokens * 4.0 * int(model["width"]) * _positions(model, context)
