"""Figures that a machine of ours gave, kept in benchmarks/data/claims_measured.json, and how the page shows them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.claims.verdict import number
from benchmarks.process import BenchmarkError

FILE = Path(__file__).parent.parent / "data" / "claims_measured.json"
KEYS = ("machine", "date", "threads", "codecs", "batch", "context", "rounds", "disturbed")

HEAD = """## Measured

On {machine}, {threads} threads, {date}: `python -m benchmarks.claims --measure`. Synthetic models larger than its
caches, run by memfirst. Each time is told by the fastest of twelve read loops in C of the same rounds, as
what memory delivers changes from minute to minute. {disturbance} No verdict rests on these figures.
"""

NONE = """## Measured

Nothing is kept here yet: `python -m benchmarks.claims --measure`, on a machine that does nothing else, times synthetic
models by codec, batch and context beside a read loop in C, and keeps the figures.
"""


def load(path: Path = FILE) -> dict[str, Any]:
    """What was measured; {} where nothing was."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise BenchmarkError(f"{path.name} is no JSON: {error}", do="measure again") from error
    if not isinstance(found, dict) or any(key not in found for key in KEYS):
        raise BenchmarkError(f"{path.name} lacks some of {', '.join(KEYS)}", do="measure again")
    return found


def page(kept: Mapping[str, Any]) -> str:
    """The section of the page."""
    if not kept:
        return NONE
    rows = [*_codecs(kept["codecs"]), *_batch(kept["batch"]), *_context(kept["context"])]
    table = "\n".join(["| statements | what | figure |", "|---|---|---|", *rows])
    return f"{HEAD.format(**kept, disturbance=_disturbance(kept))}\n{table}\n"


def _disturbance(kept: Mapping[str, Any]) -> str:
    """What others did meanwhile, and what became of such rounds."""
    if kept["disturbed"]:
        return f"In {kept['disturbed']} of {kept['rounds']} rounds other programs ran, or a hypervisor took time."
    return f"All {kept['rounds']} rounds were free of other programs and of time that a hypervisor took."


def _codecs(found: Mapping[str, Mapping[str, float]]) -> list[str]:
    """4, 12: the read loop beside decoding; 38 to 43: bytes and time by codec."""
    loop = [1e-9 * row["probe"] for row in found.values()]
    rows = [f"| 12 | the fastest read loop in C gets | {number(min(loop))} to {number(max(loop))} GB/s |"]
    base = found["f16"]
    for mix, row in found.items():
        rate = row["bytes"] / row["seconds"]
        fewer = base["bytes"] / row["bytes"]
        faster = base["seconds"] * base["probe"] / (row["seconds"] * row["probe"])  # at one speed of the read loop
        figure = f"{number(rate / row['probe'] * 100)} % of the read loop"
        figure += "" if mix == "f16" else f"; bytes ÷ {number(fewer)}, time ÷ {number(faster)} of F16's at equal reads"
        rows.append(
            f"| 4, 38, 40, 43 | {mix.upper()}, {number(row['bytes'] / 1e6)} MB a token, {number(1 / row['seconds'])}"
            f" tok/s | {figure} |"
        )
    return rows


def _batch(found: Mapping[str, float]) -> list[str]:
    """9, 19, 78: eight sequences share one read."""
    one, eight = found["t1"], found["t8"]
    figure = f"{number(eight / one)} times as long, {number(8 * one / eight)} times the tokens/s"
    return [f"| 9, 19, 78 | a step of eight sequences beside one, Q4_0 | {figure} |"]


def _context(found: Mapping[str, Any]) -> list[str]:
    """50, 51: where KV overtakes the weights."""
    rows, first = [], found["rows"][0]
    for row in found["rows"][1:]:
        bytes_ratio, time_ratio = row["bytes"] / first["bytes"], row["seconds"] / first["seconds"]
        what = f"{row['context']:,} tokens of context, KV {number(row['kv'] / found['weights'])} times the weights"
        rows.append(f"| 50, 51 | {what} | bytes × {number(bytes_ratio)}, time × {number(time_ratio)} |")
    return rows
