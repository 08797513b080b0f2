"""Toy models for the CPU backend: any architecture, any codec for all matrices, sizes with odd tails."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from memfirst import codecs, models
from memfirst.backends.cpu.backend import CpuBackend, CpuOptions
from memfirst.codecs.base import ROWS
from memfirst.convert.mixes import MIXES, mix
from memfirst.convert.synthetic import SyntheticCheckpoint
from memfirst.convert.synthetic_shapes import SyntheticShape
from memfirst.formats.checkpoint import TensorInfo
from memfirst.graph import Graph, Sequence, Step

CODECS = (
    "f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k",
    "iq4_nl", "iq4_xs", "mxfp4",
)  # fmt: skip
K_QUANTS = ("q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_xs")
ARCHITECTURES = ("llama", "qwen2", "qwen3")

# 4 heads of 32 over 2 KV heads; 260 tokens are 32.5 groups of 8 rows: the last is padded, and without a twin.
SMALL = SyntheticShape("llama", 64, 2, 4, 2, 160, 260, max_position_embeddings=2048, head_dim=32)
# K-quants want rows of 256.
WIDE = SyntheticShape("llama", 256, 1, 8, 2, 256, 260, max_position_embeddings=2048)


class Uniform(SyntheticCheckpoint):
    """A synthetic model whose matrices all have one codec, head and embedding included."""

    def __init__(self, shape: SyntheticShape, codec: str, seed: int = 0) -> None:
        super().__init__(shape, MIXES["f32"], seed, codec)
        self.tensors = {name: _as(info, codec) for name, info in self.tensors.items()}


def _as(info: TensorInfo, codec: str) -> TensorInfo:
    if len(info.shape) == 1:
        return info
    return replace(info, codec=codec, nbytes=codecs.get(codec).nbytes(math.prod(info.shape)))


def shape_for(architecture: str, codec: str, tied: bool = True) -> SyntheticShape:
    """The smallest shape that the codec fits."""
    shape = WIDE if codec in K_QUANTS or codec not in CODECS else SMALL
    return replace(shape, architecture=architecture, tie_word_embeddings=tied)


def tiny(architecture: str, codec: str, tied: bool = True, **changes: Any) -> tuple[Graph, SyntheticCheckpoint]:
    """A toy model: `codec` for all matrices, or a mix ("q4_k_m")."""
    shape = replace(shape_for(architecture, codec, tied), **changes)
    if codec in CODECS:
        checkpoint: SyntheticCheckpoint = Uniform(shape, codec)
    else:
        checkpoint = SyntheticCheckpoint(shape, mix(codec), 0, codec)
    return models.build(checkpoint), checkpoint


def batch(*parts: tuple[int, int], row: int = 20, logits: tuple[int, ...] | None = None) -> Step:
    """Sequences of (past, new) with blocks of their own, in an order that is not ascending."""
    return Step(
        tuple(
            Sequence(past, new, tables=(tuple(i * row + (7 * p + 3) % row for p in range(row)),), logits=logits)
            for i, (past, new) in enumerate(parts)
        )
    )


def apart(step: Step) -> np.ndarray[Any, np.dtype[np.int32]]:
    """Tokens for `step`, no two of which are packed together."""
    order = np.arange(step.tokens, dtype=np.int32)
    return (order * ROWS + order % ROWS) % 256


STEPS = {
    "prefill": batch((0, 5)),  # no multiple of a tile
    "decode": batch((5, 1)),
    "splits": batch((700, 1)),  # with one token, splits of 512 positions are units of their own
    "batch": batch((3, 1), (600, 1), (70, 2)),
    "no logits": batch((2, 9), logits=()),
    "all logits": batch((1, 2), (530, 1), logits=(0,)),
}
"""Steps over up to 3 sequences of up to 1280 positions."""


def options(threads: int = 1) -> CpuOptions:
    """Room for `STEPS`."""
    return CpuOptions(threads, 1280, 3)


def fill_cache(backend: CpuBackend, seed: int = 0) -> None:
    """An f16 past for everyone: standard normal keys and values."""
    random = np.random.default_rng(seed)
    for blocks in backend.block_storage:
        cache = blocks.reshape(-1).view(np.float16)
        cache[:] = random.standard_normal(cache.size, np.float32)
