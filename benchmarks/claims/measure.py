"""Measures what needs a machine: bytes and time by codec, by batch and by context, beside a read loop in C."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks import rounds
from benchmarks.claims.measured import FILE
from benchmarks.probe import probe
from benchmarks.rounds import Goal, Kept, Note, Numbers
from memfirst.convert.synthetic_shapes import SyntheticShape
from memfirst.graph import Step
from memfirst.graph.traffic import KV_READ
from memfirst.measure.calibrate import Small
from memfirst.plan import Priced

Watch = Callable[[Callable[[], Numbers]], Kept]
"""Does rounds of some work and keeps those that count."""

MIXES = ("f16", "q8_0", "q4_k_m", "q4_0")

SHAPE = SyntheticShape("llama", 2048, 6, 32, 8, 8192, 512)
"""365 million weights: 205 MB in Q4_0, more than caches hold."""

DEEP = SyntheticShape("llama", 1024, 24, 16, 16, 1024, 512, max_position_embeddings=8192)
"""176 million weights, 187 MB in Q8_0, and 98 kB of KV a position: KV overtakes them at 1,900."""

CONTEXTS = (1, 1024, 2048, 4096)
SECONDS = 0.5
"""Of each half of a round: the read loop, then steps."""


def amounts(model: Small, step: Step) -> tuple[float, float]:
    """Bytes that the step streams, and of these KV."""
    found = Priced(model.graph).amounts(step)
    kv = found[KV_READ].mean if KV_READ in found else 0.0
    return sum(a.mean for a in found.values()), kv


def seconds(model: Small, step: Step, lasting: float = SECONDS) -> float:
    """Of one step, over about so many seconds."""
    return model.run(step, max(3, round(lasting / model.run(step, 2))))


def by_codec(shape: SyntheticShape, threads: int, watch: Watch) -> dict[str, Any]:
    """A decoded token by mix, after the read loop of the same round."""
    found = {}
    for mix in MIXES:
        with Small(shape, mix, threads, 64) as model:
            step = model.step(8)

            def round_(model: Small = model, step: Step = step) -> Numbers:
                return {"probe": 1e9 * probe(threads, SECONDS), "seconds": seconds(model, step)}

            kept = watch(round_)
            row = {name: kept.median(name) for name in ("probe", "seconds")}
            found[mix] = {"bytes": amounts(model, step)[0], **row}
    return found


def by_batch(shape: SyntheticShape, threads: int, watch: Watch) -> dict[str, float]:
    """A step of one sequence and of eight, in turn."""
    with Small(shape, "q4_0", threads, 64, 8) as model:
        one, eight = model.step(8, 1, 1), model.step(8, 1, 8)
        kept = watch(lambda: {"t1": seconds(model, one), "t8": seconds(model, eight)})
    return {name: kept.median(name) for name in ("t1", "t8")}


def by_context(shape: SyntheticShape, threads: int, watch: Watch) -> dict[str, Any]:
    """A decoded token at each context, in turn."""
    with Small(shape, "q8_0", threads, max(CONTEXTS) + 64) as model:
        model.fill(max(CONTEXTS))
        steps = {context: model.step(context - 1) for context in CONTEXTS}
        kept = watch(lambda: {str(n): seconds(model, step, SECONDS / 2) for n, step in steps.items()})
        rows = []
        for context, step in steps.items():
            total, kv = amounts(model, step)
            rows.append({"context": context, "bytes": total, "kv": kv, "seconds": kept.median(str(context))})
    return {"weights": rows[0]["bytes"] - rows[0]["kv"], "rows": rows}


def _cut(shape: SyntheticShape) -> SyntheticShape:
    """A million weights."""
    narrow = replace(shape, hidden_size=256, intermediate_size=256, num_hidden_layers=1)
    return replace(narrow, num_attention_heads=4, num_key_value_heads=4)


def measure(threads: int, goal: Goal, note: Note, described: str, small: bool = False) -> dict[str, Any]:
    """Everything; BenchmarkError where the machine was not quiet. small: shapes for a test of this code."""
    all_kept: list[Kept] = []

    def watch(work: Callable[[], Numbers]) -> Kept:
        all_kept.append(rounds.clean_rounds(work, goal, note))
        return all_kept[-1]

    shape, deep = (_cut(SHAPE), _cut(DEEP)) if small else (SHAPE, DEEP)
    return {
        "machine": described, "date": date.today().isoformat(), "threads": threads,
        "codecs": by_codec(shape, threads, watch), "batch": by_batch(shape, threads, watch),
        "context": by_context(deep, threads, watch),
        "rounds": sum(len(kept.rounds) for kept in all_kept), "disturbed": sum(kept.disturbed for kept in all_kept),
    }  # fmt: skip


def keep(found: dict[str, Any], path: Path = FILE) -> None:
    """Write the figures where the page finds them."""
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
