"""Published speeds: rows of benchmarks/data, each with its source; none that somebody only remembered."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmarks.process import BenchmarkError

DATA = Path(__file__).parent.parent / "data"
FILES = ("measured_decode.csv", "measured_added.csv")

_ENGINES = (("ik_llama.cpp", "ik_llama.cpp"), ("llama.cpp", "llama.cpp"), ("HF", "transformers"), ("vLLM", "vLLM"),
            ("PyTorch compile", "gpt-fast"), ("exllama", "exllama"), ("Ollama", "llama.cpp"))  # fmt: skip


@dataclass(frozen=True)
class Speed:
    """One published row: tokens/s of all its sequences together."""

    rate: float
    text: str
    source: str


@cache
def rows() -> tuple[Mapping[str, str], ...]:
    """All rows of decoding that were read where they were published."""
    found: list[Mapping[str, str]] = []
    for name in FILES:
        with (DATA / name).open(encoding="utf-8") as file:
            found += [row for row in csv.DictReader(file) if "MEMORY" not in row["provenance"]]
    return tuple(found)


def all_of(source: str = "", **wanted: str) -> list[Speed]:
    """Rows whose source begins so, and whose columns begin as `wanted` says; batch and n_devices must be equal."""
    return [_speed(row) for row in rows() if row["source"].startswith(source) and _matches(row, wanted)]


def one(source: str, hardware: str, model: str, quant: str, test: str = "", **wanted: str) -> Speed:
    """The only such row; BenchmarkError where there is none, or are several."""
    wanted = {"batch": "1", "n_devices": "1"} | wanted
    found = all_of(source, hardware=hardware, model=model, quant=quant, context_or_test=test, **wanted)
    if len(found) != 1:
        raise BenchmarkError(f"{len(found)} published rows of {model} {quant} on {hardware} by {source}", "one")
    return found[0]


def prompt(source: str, hardware: str, model: str, quant: str, tokens: int) -> Speed:
    """The published speed of reading a prompt of so many tokens."""
    with (DATA / "measured_prefill.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            named = (row["hardware"], row["model"], row["quant"], row["prompt_tokens"])
            if row["source"].startswith(source) and named == (hardware, model, quant, str(tokens)):
                text = f"{model} {quant} on {hardware}, a prompt of {tokens}"
                return Speed(float(row["tokens_per_s"]), text, _source(row))
    raise BenchmarkError(f"no published prompt of {tokens} tokens of {model} {quant} on {hardware}", "one")


def _matches(row: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    exact = ("batch", "n_devices", "model", "quant")
    return all(row[k] == v if k in exact else row[k].startswith(v) for k, v in wanted.items())


def _speed(row: Mapping[str, str]) -> Speed:
    engine = next((short for start, short in _ENGINES if row["backend"].startswith(start)), row["backend"])
    count = f"{row['n_devices']} × " if row["n_devices"] not in ("", "1") else ""
    streams = f", {row['batch']} streams" if row["batch"] != "1" else ""
    text = f"{row['model']} {row['quant']} on {count}{row['hardware']}, {engine}{streams}"
    return Speed(float(row["tokens_per_s"]), text, _source(row))


def _source(row: Mapping[str, str]) -> str:
    return f"{row['source']}, {row['url']}" if row["url"] else row["source"]
