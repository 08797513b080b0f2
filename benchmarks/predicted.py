"""Predicted against measured on this machine, after `memfirst machine`: decode by context, threads and batch; prefill.

    python -m benchmarks.predicted MODEL... [--synthetic llama-1b:q4_0 ...] [--json FILE]

Each measured step stands beside the read bandwidth of the same second, which the prediction is given. The bars: decode
within 10 % in the median and 25 % in 90 of 100 cases, prefill within 15 % in the median.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median, quantiles

import numpy as np

from memfirst.backends.cpu.backend import CpuBackend, CpuOptions
from memfirst.convert.synthetic import synthetic
from memfirst.errors import MemfirstError
from memfirst.formats.checkpoint import Checkpoint
from memfirst.formats.open import open_checkpoint
from memfirst.graph import BLOCK, Graph, Sequence, Step
from memfirst.hub import resolve
from memfirst.models import build
from memfirst.predict.measured import Rates, load, prefill, step_time

CONTEXTS, BATCHES, PROMPT = (0, 1024, 4096), (1, 4, 8), 256
ROUNDS = 7
DECODE_MEDIAN, DECODE_90, PREFILL_MEDIAN = 0.10, 0.25, 0.15


@dataclass(frozen=True)
class Case:
    """One measurement beside its prediction, in seconds, and the terms of the prediction."""

    model: str
    kind: str
    threads: int
    context: int
    batch: int
    read: float
    measured: float
    predicted: float
    binding: str

    @property
    def error(self) -> float:
        """(predicted − measured) / measured."""
        return self.predicted / self.measured - 1

    def line(self) -> str:
        """For people."""
        what = f"{self.model[:34]:<35}{self.kind:<8}{self.threads:>2} threads {self.context:>5} past x{self.batch}"
        times = f"{1e3 * self.measured:8.2f} ms, predicted {1e3 * self.predicted:8.2f}"
        return f"{what}  {self.read / 1e9:5.1f} GB/s  {times}  {self.error:+6.1%}  {self.binding}"


class Runner:
    """A model on the CPU backend with caches that are filled once."""

    def __init__(self, graph: Graph, checkpoint: Checkpoint, threads: int) -> None:
        self.graph, self.context = graph, max(CONTEXTS) + 64
        self.backend = CpuBackend(graph, checkpoint, CpuOptions(threads, self.context, max(BATCHES)))
        self._fill()

    def _fill(self) -> None:
        """A prompt's keys and values, then copies of them: what they are costs no time, where they lie does."""
        self.run(Step((Sequence(0, PROMPT, self._tables(0), logits=()),)))
        for group in self.backend.block_storage:
            for at in range(PROMPT // BLOCK, len(group)):
                group[at] = group[at % (PROMPT // BLOCK)]

    def _tables(self, i: int) -> tuple[tuple[int, ...], ...]:
        return self.backend.own_tables(i)

    def decode(self, past: int, batch: int) -> Step:
        return Step(tuple(Sequence(past, 1, self._tables(i)) for i in range(batch)))

    def run(self, step: Step) -> float:
        tokens = np.arange(step.tokens, dtype=np.int32) + 300
        start = time.perf_counter()
        self.backend.step(step, tokens)
        return time.perf_counter() - start

    def measure(self, step: Step) -> tuple[float, float]:
        """Medians of the read bandwidth and of a step's seconds, in turns."""
        self.run(step)
        each = max(1, int(0.05 / self.run(step)))
        reads, seconds = [], []
        for _ in range(ROUNDS):
            reads.append(self.backend.read_bandwidth(0.06))
            seconds.append(median(self.run(step) for _ in range(each)))
        return median(reads), median(seconds)


def cases(name: str, checkpoint: Checkpoint, threads: int, rates: Rates) -> Iterator[Case]:
    """All steps of one model with so many threads."""
    graph = build(checkpoint)
    runner = Runner(graph, checkpoint, threads)
    try:
        for past in CONTEXTS:
            for batch in BATCHES if past < max(CONTEXTS) else (1,):
                step = runner.decode(past, batch)
                read, seconds = runner.measure(step)
                found = step_time(graph, step, rates, threads, read, runner.context)
                yield Case(name, "decode", threads, past, batch, read, seconds, found.seconds or 0.0, found.binding)
        prompt = Step((Sequence(0, PROMPT, runner._tables(0)),))
        read, seconds = runner.measure(prompt)
        found = prefill(graph, PROMPT, rates, threads, read)
        yield Case(name, "prefill", threads, 0, 1, read, seconds, found.seconds or 0.0, found.binding)
    finally:
        runner.backend.close()


def summary(found: list[Case]) -> str:
    """The bars, met or not."""
    decode = sorted(abs(c.error) for c in found if c.kind == "decode")
    prompts = [abs(c.error) for c in found if c.kind == "prefill"]
    ninth = quantiles(decode, n=10, method="inclusive")[-1]
    rows = (
        ("decode, median error", median(decode), DECODE_MEDIAN),
        ("decode, 90th percentile", ninth, DECODE_90),
        ("prefill, median error", median(prompts), PREFILL_MEDIAN),
    )
    return "\n".join(f"{w:<26}{e:7.1%}  bar {b:.0%}  {'met' if e <= b else 'MISSED'}" for w, e, b in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="files, or names that memfirst knows")
    parser.add_argument("--synthetic", nargs="*", default=[], metavar="SHAPE:MIX")
    parser.add_argument("--threads", nargs="*", type=int)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rates = load()
    if rates is None:
        raise MemfirstError("this machine is not measured", do="run: memfirst machine")
    files = [resolve(name) for name in args.models]
    made: list[tuple[str, Callable[[], Checkpoint]]] = [(p.name, partial(open_checkpoint, p)) for p in files]
    made += [(s, partial(synthetic, *s.split(":"))) for s in args.synthetic]
    found: list[Case] = []
    for name, make in made:
        for threads in args.threads or rates.threads:
            for case in cases(name, make(), threads, rates):
                found.append(case)
                print(case.line(), flush=True)
    print(summary(found))
    if args.json:
        args.json.write_text(json.dumps([asdict(c) for c in found], indent=1))


if __name__ == "__main__":
    main()
