"""Model files with something wrong in them: each must open or raise a MemfirstError, soon and within bounds.

    python -m tests.fuzz.fuzz_formats --gguf 20000 --safetensors 5000 --seed 0

A case is a small valid model (every architecture in every codec mix), changed in one region: header,
metadata, tensor table, data or length. Case i of a seed is always the same, so `--first i --gguf 1`
repeats it.
"""

from __future__ import annotations

import argparse
import random
import sys
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from memfirst import models
from memfirst.backends.base import StepResult
from memfirst.backends.cpu.backend import CpuBackend, CpuOptions
from memfirst.backends.reference.backend import ReferenceBackend
from memfirst.convert.mixes import MIXES
from memfirst.convert.synthetic_shapes import ARCHITECTURES
from memfirst.formats.checkpoint import Checkpoint
from memfirst.graph import Graph, Sequence, Step
from memfirst.kernels.cpu.library import Library
from memfirst.kernels.cpu.thread_pool import WALK
from memfirst.lower.cpu import lower
from memfirst.text import Tokenizer
from tests.fuzz import runner
from tests.fuzz.fuzz_changes import Whole, config_of, gguf_file, mutate, safetensors_file, small_model
from tests.fuzz.runner import Survivor, Tally

CONTEXT = 64
ALWAYS = (WALK, *((name, ()) for name in ("walk.serve", "walk.read_cycles", "probe.read", "topk.topk", "pack.pack")))
"""Kernels that every model needs."""


def survivor(checkpoint: Checkpoint) -> None:
    """What is done with a model that opens: look at all of it, prefill and decode one step, use its tokenizer."""
    look(checkpoint)
    graph = models.build(checkpoint)
    run_two_steps(ReferenceBackend(graph, checkpoint), graph)
    run_compiled(checkpoint, graph)
    if checkpoint.kind == "gguf":
        tokenizer = Tokenizer.from_gguf(checkpoint.metadata)
        tokenizer.decode(tokenizer.encode("Größe 12\n<|im_end|>\U0001f600"))


def look(checkpoint: Checkpoint) -> None:
    """Every metadata value and every byte."""
    for value in checkpoint.metadata.values():
        str(value if isinstance(value, (str, int, float)) else list(value))
    for name, info in checkpoint.tensors.items():
        data = checkpoint.read(name)
        if data.nbytes != info.nbytes:
            raise AssertionError(f"{name} has {data.nbytes} bytes, {info.nbytes} in the table")
        data.sum()
        checkpoint.release(name)


def run_two_steps(backend: ReferenceBackend | CpuBackend, graph: Graph) -> None:
    """Three tokens, then one; weights may be any bits, so logits may be NaN."""
    vocabulary = graph.vocab_size
    with np.errstate(all="ignore"):
        for past, tokens in ((0, [0, 1 % vocabulary, vocabulary - 1]), (3, [2 % vocabulary])):
            step = Step((Sequence(past, len(tokens), tables=((0,),) * len(graph.cache_groups)),))
            result = backend.step(step, np.array(tokens, np.int32))
            logits = result.logits if isinstance(result, StepResult) else result
            if logits.shape != (1, vocabulary):
                raise AssertionError(f"logits {logits.shape}, vocabulary {vocabulary}")


@cache
def library() -> Library:
    """The kernels of this process; those of the unbroken models are compiled here, before any case is timed."""
    made = Library()
    for architecture in ARCHITECTURES:
        for mix in MIXES:
            graph = models.build(small_model(architecture, mix))
            made.load(kernels(graph).union(ALWAYS))
    return made


def kernels(graph: Graph) -> frozenset[Any]:
    """What `run_two_steps` needs."""
    return lower(graph, 1, CONTEXT, 1).kernels | lower(graph, 4, CONTEXT, 1).kernels


class Loaded(CpuBackend):
    """The CPU backend with the kernels of this process."""

    make_library = staticmethod(library)


def run_compiled(checkpoint: Checkpoint, graph: Graph) -> None:
    """By the CPU's kernels. A change of head counts may need others: those would take seconds to compile."""
    if not library().has(kernels(graph)):
        return
    backend = Loaded(graph, checkpoint, CpuOptions(1, CONTEXT))
    try:
        run_two_steps(backend, graph)
    finally:
        backend.close()


def write_case(kind: str, index: int, seed: int, folder: Path) -> Path:
    """Make case `index` on disk; every architecture and mix comes in turn."""
    chance = random.Random(f"{seed} {kind} {index}")
    architecture = tuple(ARCHITECTURES)[index % len(ARCHITECTURES)]
    if kind == "gguf":
        mix = tuple(MIXES)[index // len(ARCHITECTURES) % len(MIXES)]
        path = folder / "model.gguf"
        path.write_bytes(mutate(gguf_file(architecture, mix), chance))
        return path
    dtype = ("f32", "f16", "bf16")[index // len(ARCHITECTURES) % 3]
    text, weights = config_of(architecture), safetensors_file(architecture, dtype)
    config = Whole(text, ((0, len(text)),))
    broken = chance.random() < 0.15
    (folder / "config.json").write_bytes(mutate(config, chance) if broken else config.data)
    (folder / "model.safetensors").write_bytes(weights.data if broken else mutate(weights, chance))
    return folder


def run_cases(kind: str, cases: range, seed: int, after: Survivor = survivor) -> Tally:
    """Cases of "gguf" or "safetensors"."""
    library()  # loaded once, here: children inherit it
    return runner.run_cases(kind, cases, seed, partial(write_case, kind), after)


def main() -> int:
    """Run what the arguments ask for; 1 if anything failed."""
    parser = argparse.ArgumentParser(description="Fuzz the file readers.")
    parser.add_argument("--gguf", type=int, default=0, help="cases")
    parser.add_argument("--safetensors", type=int, default=0, help="cases")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="the first case's number")
    options = parser.parse_args()
    failed = 0
    for kind, count in (("gguf", options.gguf), ("safetensors", options.safetensors)):
        tally = run_cases(kind, range(options.first, options.first + count), options.seed)
        failed += runner.report(kind, tally)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
