"""Published speeds of 2025 and 2026 as questions to the planner: data/measured_2026.csv, decoding and prompts.

The models are those of `plan`'s catalogue, priced by their graphs in the row's codec, as a user's plan is. What rows
leave out is assumed:

* Context: the depth and half of what is generated after it; a batch's sequences are alike.
* KV in f16, but for "q8_0 K cache" and "q8_0 cache". Tensor parallel for vLLM, pipeline for llama.cpp.
* AutoRound's 4-bit groups of 128 are AWQ's layout.
* The build's date is the source's.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

from benchmarks.measured_rows import DATA, Row, machine_of
from memfirst.errors import MemfirstError
from memfirst.graph import decode as decode_step
from memfirst.graph import prefill as prefill_step
from memfirst.hardware.machines import Link, Machine
from memfirst.hardware.throttled import Throttle
from memfirst.plan import Priced, subject
from memfirst.predict.fitted import PIPELINE, TENSOR, Deployment

MODELS: Mapping[str, str] = {
    "Devstral-2-123B": "devstral-2:123b", "Ministral-3-14B-Instruct-2512": "ministral-3:14b",
    "Ministral-3-8B-Instruct-2512": "ministral-3:8b", "Nemotron-3-Nano-30B-A3B": "nemotron-3-nano:30b-a3b",
    "Qwen3-Coder-30B-A3B": "qwen3-coder:30b-a3b", "Qwen3-Next-80B-A3B": "qwen3-next:80b-a3b",
    "Gemma-3-12B": "gemma-3:12b", "Gemma-3-27B": "gemma-3:27b", "Gemma-3-4B": "gemma-3:4b",
    "gpt-oss-120b": "gpt-oss:120b", "gpt-oss-20b": "gpt-oss:20b", "Llama-2-7B": "llama-2:7b",
    "Qwen3.6-27B": "qwen3.5:27b", "Qwen3.6-35B-A3B": "qwen3.5:35b-a3b", "Gemma-4-12B-it": "gemma-4:12b",
    "Qwen3-30B-A3B": "qwen3:30b-a3b", "Qwen3-32B": "qwen3:32b", "Mistral-Small-3.1-24B": "mistral-small-3.1:24b",
    "GLM-4.5-Air": "glm-4.5-air", "Qwen2.5-7B": "qwen2.5:7b", "Llama-2-13B": "llama-2:13b",
    "Mistral-7B": "mistral:7b-v0.3", "Qwen3-4B": "qwen3:4b", "Llama-3.2-3B-Instruct": "llama-3.2:3b",
    "Qwen2.5-1.5B-Instruct": "qwen2.5:1.5b", "Llama-3.1-8B": "llama-3.1:8b", "SmolLM3-3B": "smollm3:3b",
}  # fmt: skip
"""What a row calls its model -> the catalogue's name (Qwen3.6 has Qwen3.5's shapes)."""

CODECS: Mapping[str, str] = {"AWQ INT4": "awq", "INT4 AutoRound g128": "awq", "INT8 W8A8": "w8a8"}
"""Where a row's format is not written as `plan --codec` takes it."""

DATES: Mapping[str, float] = {
    "kyuz0": 2025.95, "KrisDcosta": 2026.0, "alesha-pro": 2026.0, "ik_llama.cpp pull 518": 2025.45,
    "ik_llama.cpp pull 934": 2025.85, "lhl": 2025.6, "llama.cpp pull 26284": 2026.0,
    "llama.cpp issue 20934": 2026.0, "lmstudio issue 574": 2025.8, "ipex-llm issue 12991": 2025.2,
    "llama.cpp pull 5835": 2024.2, "llama.cpp pull 2059": 2024.05, "llama.cpp issue 26702": 2026.0,
    "llama.cpp pull 16095": 2025.9,
}  # fmt: skip


def read(path: Path = DATA / "measured_2026.csv") -> tuple[list[Row], list[Row]]:
    """Rows of decoding, and rows of prompts."""
    with path.open(encoding="utf-8") as file:
        raws = list(csv.DictReader(file))
    return [_row(raw) for raw in raws if raw["phase"] == "decode"], [_row(r) for r in raws if r["phase"] == "prefill"]


def _row(raw: Mapping[str, str]) -> Row:
    batch, how = int(raw["batch"]), _deployment(raw)
    prompt = int(raw["prompt_tokens"]) if raw["phase"] == "prefill" else 0
    step = prefill_step(prompt) if prompt else decode_step(_past(raw["context_or_test"]), batch)
    cost = priced(raw["model"], raw["quant"], _cache(raw["backend"])).cost(step)
    return Row(
        raw["source"], raw["hardware"], _machine(raw["hardware"]), cost, how, step.tokens / float(raw["tokens_per_s"])
    )


def _cache(backend: str) -> str:
    return "q8_0/f16" if "q8_0 K cache" in backend else "q8_0" if "q8_0 cache" in backend else "f16"


def _machine(hardware: str) -> Machine:
    machine = machine_of(hardware)
    if machine is None:
        raise MemfirstError(hardware, "a known machine")
    if "PCIe 3.0" in hardware:  # GeForce cards copy through the host: half of the bus
        machine = replace(machine, link=Link("PCIe 3.0 x16", 15.75e9 / 2, 25e-6))
    capped = re.search(r"(\d+) W cap", hardware)
    return Throttle(power=float(capped[1])).of(machine) if capped else machine


def _past(test: str) -> int:
    """Tokens in the cache while half of them are generated."""
    if found := re.fullmatch(r"tg(\d+)(?: @ depth (\d+))?", test):
        return int(found[2] or 0) + int(found[1]) // 2
    if found := re.fullmatch(r"gen(\d+) after (\d+)", test):
        return int(found[2]) + int(found[1]) // 2
    raise MemfirstError(f"the test {test!r}", "one such as tg128 @ depth 4096")


def _deployment(raw: Mapping[str, str]) -> Deployment:
    text = raw["backend"]
    engine = next(e for e in ("ik_llama.cpp", "vLLM", "llama.cpp") if text.startswith(e)).lower()
    date = next(d for start, d in DATES.items() if raw["source"].startswith(start))
    threads = re.search(r"\((\d+) threads\)", raw["hardware"])
    share = TENSOR if engine == "vllm" else PIPELINE
    backend = next((b for b in ("rocm", "vulkan", "sycl") if b in text), "")
    cores = int(threads[1]) if threads else 0
    flash = "fa=1" in text or date >= 2025.7  # llama.cpp's default since August 2025
    return Deployment(engine, int(raw["n_devices"]), share, flash, cores, 2026.0 - date, backend)


@cache
def priced(model: str, quant: str, kv: str) -> Priced:
    """A row's model in its codec, to be priced."""
    return subject(MODELS[model], CODECS.get(quant, quant)).priced(kv)
