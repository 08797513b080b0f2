"""What a quantized KV cache costs and saves: divergence from f16, and a token's time after a long context.

    python -m benchmarks.kv SmolLM2-135M-Instruct.Q4_1.gguf --kv q8_0,q8_0/q4_0,q4_0 --depth 7168

KL(f16 || codec) over contexts of 512 tokens of text.txt, each from an empty cache, with the weights dequantized: int8
activations round otherwise after any small change, which alone is a divergence of 0.003. Times are of one token after
`--depth` positions, codecs in turn within one process; the ratio is the median over rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality import TEXT, agreement, kl, negative_log_likelihood, perplexity
from memfirst import codecs
from memfirst.backends.cpu.backend import CpuBackend, CpuOptions
from memfirst.convert.synthetic import synthetic
from memfirst.convert.synthetic_shapes import NAMED
from memfirst.formats.checkpoint import Checkpoint
from memfirst.formats.open import open_checkpoint
from memfirst.graph import BLOCK, Graph, Step
from memfirst.graph import Sequence as SequenceStep
from memfirst.models import build
from memfirst.text import Tokenizer
from memfirst.transform.recode import parse_kv, with_kv

CONTEXT = 512
FILLED = 256
"""Positions that are computed before a time is taken; the rest of a deep context are copies of them."""


class Floats:
    """A checkpoint with its weights in float32."""

    has_bytes = True

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self.kind, self.path, self.metadata = checkpoint.kind, checkpoint.path, checkpoint.metadata
        self.architecture = checkpoint.architecture
        self.tensors = {
            name: replace(info, codec="f32", nbytes=4 * prod(info.shape)) for name, info in checkpoint.tensors.items()
        }

    def read(self, name: str) -> NDArray[np.uint8]:
        """The tensor's bytes as float32."""
        codec = codecs.get(self._checkpoint.tensors[name].codec)
        blocks = self._checkpoint.read(name).reshape(-1, codec.block_bytes)
        return np.ascontiguousarray(codec.dequantize(blocks), np.float32).reshape(-1).view(np.uint8)

    def release(self, name: str) -> None:
        """The file's pages may go."""
        self._checkpoint.release(name)

    def close(self) -> None:
        """Nothing of its own."""


class Kept:
    """A model with its cache in one codec."""

    def __init__(self, graph: Graph, checkpoint: Checkpoint, codec: str, threads: int, context: int) -> None:
        self.codec = codec
        self.backend = CpuBackend(with_kv(graph, *parse_kv(codec)), checkpoint, CpuOptions(threads, context))
        self.vocab_size = graph.vocab_size

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """f32 [n, vocabulary] from an empty cache."""
        parts = []
        for past in range(0, len(tokens), self.backend.max_tokens):
            part = tokens[past : past + self.backend.max_tokens]
            step = Step((SequenceStep(past, len(part), self.backend.own_tables(), logits=tuple(range(len(part)))),))
            parts.append(np.array(self.backend.step(step, part).logits))
        return np.concatenate(parts)

    def fill(self) -> None:
        """A prompt's keys and values, then copies of them: what they are costs no time, where they lie does."""
        tokens = np.random.default_rng(1).integers(0, self.vocab_size, FILLED).astype(np.int32)
        self.backend.step(Step((SequenceStep(0, FILLED, self.backend.own_tables(), logits=()),)), tokens)
        for group in self.backend.block_storage:
            for at in range(FILLED // BLOCK, len(group)):
                group[at] = group[at % (FILLED // BLOCK)]

    def seconds(self, past: int) -> float:
        """Of one token after `past` positions."""
        step, start = Step((SequenceStep(past, 1, self.backend.own_tables()),)), time.perf_counter()
        self.backend.step(step, [1])
        return time.perf_counter() - start


def quality(models: Sequence[Kept], tokens: Sequence[int], most: int) -> dict[str, Any]:
    """Divergence of each from the first, by context."""
    rows: dict[str, list[NDArray[np.float64]]] = {m.codec: [] for m in models}
    nll: dict[str, list[NDArray[np.float64]]] = {m.codec: [] for m in models}
    same: dict[str, list[float]] = {m.codec: [] for m in models}
    for start in range(0, min(len(tokens) - CONTEXT, most) + 1, CONTEXT):
        part = tokens[start : start + CONTEXT]
        first = models[0].logits(part)
        for model in models:
            found = first if model is models[0] else model.logits(part)
            rows[model.codec].append(kl(first, found))
            nll[model.codec].append(negative_log_likelihood(found, part))
            same[model.codec].append(agreement(first, found))
    joined = {codec: np.concatenate(parts) for codec, parts in rows.items()}
    ppl = {codec: perplexity(np.concatenate(parts)) for codec, parts in nll.items()}
    return {
        codec: {
            "kl_mean": float(values.mean()), "kl_99": float(np.quantile(values, 0.99)),
            "same_first_choice": float(np.mean(same[codec])), "perplexity_ratio": ppl[codec] / ppl[models[0].codec],
            "positions": len(values),
        }
        for codec, values in joined.items()
    }  # fmt: skip


def times(models: Sequence[Kept], depth: int, rounds: int, tokens: int) -> dict[str, Any]:
    """Median milliseconds of each, and of each round's ratio to the first."""
    found: dict[str, list[float]] = {m.codec: [] for m in models}
    for _ in range(rounds):
        turns = [[m.seconds(depth) for m in models] for _ in range(tokens)]
        for model, column in zip(models, zip(*turns, strict=True), strict=True):
            found[model.codec].append(statistics.median(column))
    first = found[models[0].codec]
    return {
        codec: {
            "ms": 1e3 * statistics.median(values),
            "ratio": statistics.median(a / b for a, b in zip(values, first, strict=True)),
        }
        for codec, values in found.items()
    }


def main(arguments: list[str] | None = None) -> int:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kv", description=__doc__)
    parser.add_argument("model", help="a GGUF file, or a synthetic SHAPE:CODEC (times only)")
    parser.add_argument("--kv", default="q8_0,q8_0/q4_0,q4_0")
    parser.add_argument("--depth", type=int, default=7168)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=2048, help="of text, for the divergence")
    chosen = parser.parse_args(arguments)
    shape, _, codec = chosen.model.partition(":")
    made = shape in NAMED and bool(codec)
    checkpoint: Checkpoint = synthetic(shape, codec) if made else open_checkpoint(Path(chosen.model))
    kinds = ["f16", *chosen.kv.split(",")]
    out: dict[str, Any] = {"model": chosen.model, "threads": chosen.threads, "depth": chosen.depth}
    if not made:
        text = Tokenizer.from_gguf(checkpoint.metadata).encode(TEXT.read_text(encoding="utf-8"))
        floats = Floats(checkpoint)
        graph = build(floats)
        exact = [Kept(graph, floats, kv, chosen.threads, CONTEXT) for kv in kinds]
        out["quality"] = quality(exact, text, chosen.tokens)
        del exact
    graph = build(checkpoint)
    models = [Kept(graph, checkpoint, kv, chosen.threads, chosen.depth + 64) for kv in kinds]
    for model in models:
        model.fill()
    out["times"] = times(models, chosen.depth, chosen.rounds, 16)
    json.dump(out, sys.stdout, indent=1)
    print()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
