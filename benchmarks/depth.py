"""What a long context costs: decoding after 4096 tokens beside decoding from an empty context.

    python -m benchmarks.depth SmolLM2-135M-Instruct.Q4_1.gguf llama-1b:q4_0 --threads 2

The bar: added time <= 1.3 x (added KV bytes / what the read probe in C gets in the same round). A model is a file,
a name that memfirst knows, or a synthetic SHAPE:CODEC.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import numpy as np

import memfirst
from benchmarks import rounds
from benchmarks.probe import probe
from benchmarks.process import BenchmarkError
from benchmarks.rounds import Goal, Note, Numbers
from memfirst.backends.cpu.backend import CpuBackend
from memfirst.convert.synthetic import synthetic
from memfirst.convert.synthetic_shapes import NAMED
from memfirst.graph import Sequence, Step

LIMIT = 1.3
DEPTH = 4096
ROUND_SECONDS = 1.2
PROBE_SECONDS = 0.3


def load(model: str, threads: int, context: int) -> memfirst.Model:
    """A file, a name, or SHAPE:CODEC."""
    shape, _, codec = model.partition(":")
    source = synthetic(shape, codec) if shape in NAMED and codec else model
    return memfirst.load(source, threads=threads, ctx=context)


class Depth:
    """A model whose cache holds `depth` positions: it decodes at position 0 and behind them."""

    def __init__(self, model: memfirst.Model, depth: int) -> None:
        if not isinstance(model.backend, CpuBackend):
            raise BenchmarkError("another backend", "cpu")
        self.backend, self.depth = model.backend, depth
        self.threads = self.backend.options.threads
        self.tables = self.backend.own_tables()
        self.tokens = np.random.default_rng(1).integers(0, model.graph.vocab_size, depth + 1).astype(np.int32)
        self._fill()
        self.pairs = max(5, round(ROUND_SECONDS / (self.seconds(0) + self.seconds(depth))))

    def _fill(self) -> None:
        size = self.backend.max_tokens
        for past in range(0, self.depth, size):
            part = self.tokens[past : min(past + size, self.depth)]
            self.backend.step(Step((Sequence(past, len(part), self.tables, logits=()),)), part)

    def step(self, past: int) -> Step:
        """One token after `past` positions."""
        return Step((Sequence(past, 1, self.tables),))

    def seconds(self, past: int) -> float:
        """Of that step."""
        step, start = self.step(past), time.perf_counter()
        self.backend.step(step, self.tokens[past : past + 1])
        return time.perf_counter() - start

    def added_bytes(self) -> int:
        """Cache bytes that the deep step reads and the first one does not, from the ledger."""
        deep, first = (self.backend.predicted(self.step(past)) for past in (self.depth, 0))
        return int(deep.by_purpose()["kv_read"]) - int(first.by_purpose()["kv_read"])

    def round(self) -> Numbers:
        """The probe, then both steps in turn; seconds, GB/s and the ratio that the bar is about."""
        gbps = probe(self.threads, PROBE_SECONDS)
        times = [(self.seconds(0), self.seconds(self.depth)) for _ in range(self.pairs)]
        empty, deep = (statistics.median(column) for column in zip(*times, strict=True))
        return figures(empty, deep, self.added_bytes(), gbps)


def figures(empty: float, deep: float, added_bytes: int, gbps: float) -> Numbers:
    """What a round says; `ratio` is added time over added bytes at the probe's speed (GB/s)."""
    least = added_bytes / (1e9 * gbps)
    ratio = (deep - empty) / least
    return {"empty_s": empty, "deep_s": deep, "added_bytes": added_bytes, "probe_gbps": gbps, "ratio": ratio}


def measure(model: str, threads: int, depth: int, goal: Goal, note: Note) -> dict[str, Any]:
    """The medians and whether they meet the bar."""
    with load(model, threads, depth + 64) as loaded:
        kept = rounds.clean_rounds(Depth(loaded, depth).round, goal, note)
        name = loaded.checkpoint.path.rsplit("/", 1)[-1] or model
    found, bound = kept.median("ratio"), kept.record()
    verdict = (
        f"{name}: {depth} tokens of context add {1e3 * (bound['deep_s'] - bound['empty_s']):.2f} ms to"
        f" {1e3 * bound['empty_s']:.2f}; {found:.2f} of their bytes at the probe's speed (at most {LIMIT})"
    )
    named = {"what": "depth", "model": name, "threads": threads, "depth": depth}
    return {**named, **bound, "limit": LIMIT, "ok": found <= LIMIT, "verdict": verdict}


def main(arguments: list[str] | None = None) -> int:
    """Print the figures as JSON; exit code 1 where the bar is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.depth", description=__doc__)
    parser.add_argument("models", nargs="+", help="files, names, or synthetic SHAPE:CODEC")
    rounds.add_options(parser)
    parser.add_argument("--depth", type=int, default=DEPTH)
    chosen = parser.parse_args(arguments)
    goal = rounds.goal_of(chosen)
    return rounds.report(
        lambda: [measure(m, chosen.threads, chosen.depth, goal, rounds.to_stderr) for m in chosen.models]
    )


if __name__ == "__main__":
    raise SystemExit(main())
