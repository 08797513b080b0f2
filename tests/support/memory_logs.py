"""What engines reported when they started (tests/data/memory_*.csv), beside what the planner says."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

from memfirst import models
from memfirst.catalog.configs import catalog_checkpoint
from memfirst.graph import Graph
from memfirst.hardware.machines import find_machine
from memfirst.plan import subject
from memfirst.plan.fit import LlamaCpp, Vllm, plan_memory
from memfirst.plan.fit.allocators import COPIES

DATA = Path(__file__).parent.parent / "data"
MIB, GIB = 1 << 20, 1 << 30
WITHIN = {"buffers": 0.1, "pool": 0.05}
"""Share that a figure may be off; 0.5 % of weights, keys and values."""


def logs(name: str) -> list[dict[str, str]]:
    with (DATA / name).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


LOGS, POOLS = logs("memory_logs.csv"), logs("memory_pools.csv")


@cache
def graph(name: str, codec: str = "") -> Graph:
    return subject(name, codec).priced("f16").graph if codec else models.build(catalog_checkpoint(name))


def of_llama_cpp(row: Mapping[str, str]) -> dict[str, tuple[float, float]]:
    """By figure: planned and reported bytes."""
    sequences = int(row["sequences"])
    copies = COPIES if row["devices"] == "2" else 1
    allocator = LlamaCpp(True, gpu=row["engine"] == "llama.cpp", flash=row["flash"] == "1", copies=copies)
    contexts = [int(row["context"]) // sequences] * sequences
    found = plan_memory(
        graph(row["model"], row["codec"]), contexts, allocator=allocator, kv=(row["kv"], row["kv"])
    ).needs
    planned = {"weights": found.weights, "host": found.host, "kv": found.kv_allocated, "state": found.state_allocated,
               "buffers": found.buffers.nbytes}  # fmt: skip
    return {n: (v, float(row[f"{n}_mib"]) * MIB) for n, v in planned.items() if row[f"{n}_mib"]}


def of_vllm(row: Mapping[str, str]) -> dict[str, tuple[float, float]]:
    """What is left for keys and values, from the card, the tokens of a step and the sequences. CUDA graphs were not yet
    in its share."""
    plain = Vllm(batched=int(row["tokens"]), sequences=int(row["sequences"]))
    allocator = replace(plain.on(find_machine(row["card"])), graphs=0)
    found = plan_memory(graph(row["model"]), [1024], allocator=allocator).needs
    taken = found.weights + found.buffers.nbytes + found.overhead.nbytes
    pool = float(row["card_gib"]) * float(row["share"]) * GIB - taken
    return {"pool": (pool, float(row["pool_gib"]) * GIB)}


def off() -> set[str]:
    """Figures that are further off than they may be in some log."""
    found = set()
    for row in LOGS + POOLS:
        figures = of_vllm(row) if "pool_gib" in row else of_llama_cpp(row)
        found |= {n for n, (ours, said) in figures.items() if abs(ours / said - 1) > WITHIN.get(n, 0.005)}
    return found
