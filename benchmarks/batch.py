"""One step with eight sequences beside one with one: a 1B Llama in Q4_0, small contexts.

    python -m benchmarks.batch --threads 2

The bar: t(8) <= 1.15 x max(t(1), 8 x a token's multiply-adds / the tile kernel's peak). Memory is read once for
all eight, so they cost what one costs, or what their arithmetic costs at the speed that the kernel has in cache.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import numpy as np

from benchmarks import rounds
from benchmarks.rounds import Goal, Note, Numbers
from benchmarks.tile_peak import peak
from memfirst.backends.cpu.backend import CpuBackend, CpuOptions
from memfirst.convert.synthetic import synthetic
from memfirst.graph import Graph, Sequence, Step
from memfirst.graph.ops.linear import Linear
from memfirst.models import build

LIMIT = 1.15
SEQUENCES = 8
PAST = 16
"""Positions that each sequence already has."""
STEPS = 20
"""Of each kind in a round: 1 to 2 s for 1B."""


def multiply_adds(graph: Graph) -> int:
    """Of one token: products of weights alone (attention and norms are left out, which makes the bar harder)."""
    one = Step((Sequence(PAST, 1),))
    return sum(op.flops(one) for op in graph.ops if isinstance(op, Linear)) // 2


def decode_step(graph: Graph, context: int, sequences: int) -> Step:
    """One token of each of `sequences` sequences, each with blocks of its own."""
    return Step(tuple(Sequence(PAST, 1, graph.own_tables(i, context, SEQUENCES)) for i in range(sequences)))


class Batch:
    """A model that steps with one sequence and with eight."""

    def __init__(self, shape: str, codec: str, threads: int, context: int = 128) -> None:
        checkpoint = synthetic(shape, codec)
        self.graph, self.threads, self.codec = build(checkpoint), threads, codec
        self.backend = CpuBackend(self.graph, checkpoint, CpuOptions(threads, context, SEQUENCES))
        self.work = multiply_adds(self.graph)
        self.steps = {n: decode_step(self.graph, context, n) for n in (1, SEQUENCES)}
        self.tokens = np.random.default_rng(1).integers(0, self.graph.vocab_size, SEQUENCES).astype(np.int32)
        self.seconds(SEQUENCES)  # compiles or loads kernels, touches buffers

    def seconds(self, sequences: int) -> float:
        """Of one step."""
        start = time.perf_counter()
        self.backend.step(self.steps[sequences], self.tokens[:sequences])
        return time.perf_counter() - start

    def round(self) -> Numbers:
        """Steps of one and of eight in turn, between two measurements of the peak; seconds and ratios."""
        peaks = [peak(self.backend.library, self.threads, 0.15, self.codec)]
        times = [(self.seconds(1), self.seconds(SEQUENCES)) for _ in range(STEPS)]
        peaks.append(peak(self.backend.library, self.threads, 0.15, self.codec))
        one, eight = (statistics.median(column) for column in zip(*times, strict=True))
        return figures(one, eight, self.work, max(peaks))


def figures(one: float, eight: float, work: int, rate: float) -> Numbers:
    """What a round says: t(1), t(8), the arithmetic alone at the peak, and t(8) over the larger of the other two."""
    arithmetic = SEQUENCES * work / rate
    ratio = eight / max(one, arithmetic)
    return {"t1_s": one, "t8_s": eight, "arithmetic_s": arithmetic, "multiply_adds_per_s": rate, "ratio": ratio}


def measure(threads: int, goal: Goal, note: Note, shape: str = "llama-1b", codec: str = "q4_0") -> dict[str, Any]:
    """The medians and whether they meet the bar."""
    batch = Batch(shape, codec, threads)
    try:
        kept = rounds.clean_rounds(batch.round, goal, note)
    finally:
        batch.backend.close()
    found, bound = kept.median("ratio"), kept.record()
    verdict = (
        f"eight sequences take {1e3 * bound['t8_s']:.1f} ms, one {1e3 * bound['t1_s']:.1f}, their arithmetic alone"
        f" {1e3 * bound['arithmetic_s']:.1f}: {found:.2f} of the larger (at most {LIMIT})"
    )
    named = {"what": "batch of eight", "model": f"{shape} {codec}", "threads": threads}
    return {**named, **bound, "limit": LIMIT, "ok": found <= LIMIT, "verdict": verdict}


def main(arguments: list[str] | None = None) -> int:
    """Print the figures as JSON; exit code 1 where the bar is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.batch", description=__doc__)
    rounds.add_options(parser)
    parser.add_argument("--shape", default="llama-1b", help="a synthetic shape")
    parser.add_argument("--codec", default="q4_0", help="whose products are `block32`: q4_0, q4_1, q5_0, q5_1, q8_0")
    chosen = parser.parse_args(arguments)
    goal = rounds.goal_of(chosen)
    return rounds.report(lambda: [measure(chosen.threads, goal, rounds.to_stderr, chosen.shape, chosen.codec)])


if __name__ == "__main__":
    raise SystemExit(main())
