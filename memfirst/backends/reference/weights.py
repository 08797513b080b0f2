"""Weights as float32, by the codecs' own definitions: each dequantized once, when first used."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from memfirst import codecs
from memfirst.codecs.base import F32
from memfirst.errors import BackendError
from memfirst.formats.checkpoint import Checkpoint
from memfirst.graph import Shard, Weight

BLOCKS = 1 << 16
"""Blocks dequantized at a time: temporaries stay below 100 MB."""


class FloatWeights:
    """The tensors of a checkpoint in float32; a shard is cut from the whole tensor."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._kept: dict[tuple[str, Shard | None], F32] = {}

    def whole(self, weight: Weight) -> F32:
        """The weight in its logical shape, kept for the next step."""
        key = (weight.alias or weight.name, weight.shard)
        if key not in self._kept:
            self._kept[key] = self._cut(weight, dequantize(self._checkpoint, key[0]))
        return self._kept[key]

    def rows(self, weight: Weight, ids: NDArray[Any]) -> F32:
        """Rows of a matrix, dequantized anew: a table of which a step needs little."""
        name = weight.alias or weight.name
        if (name, weight.shard) in self._kept or weight.shard is not None:
            out: F32 = self.whole(weight)[ids]
            return out
        codec = codecs.get(weight.codec)
        stored = self._checkpoint.read(name).reshape(weight.rows, -1)[ids]
        return codec.dequantize(stored.reshape(-1, codec.block_bytes)).reshape(len(ids), weight.columns)

    def _cut(self, weight: Weight, whole: F32) -> F32:
        part, shard = whole, weight.shard
        if shard is not None:
            size = weight.shape[shard.axis]
            ranges = shard.ranges or ((shard.index * size, size),)
            part = whole.take([i for start, n in ranges for i in range(start, start + n)], axis=shard.axis)
        if part.shape != weight.shape:
            raise BackendError(f"{weight.name} has shape {part.shape} in the file", f"{weight.shape}")
        return part


def dequantize(checkpoint: Checkpoint, name: str) -> F32:
    """A whole tensor of the file, f32 in its shape."""
    info = checkpoint.tensors[name]
    codec = codecs.get(info.codec)
    blocks = checkpoint.read(name).reshape(-1, codec.block_bytes)
    out = np.empty((len(blocks), codec.block), np.float32)
    for start in range(0, len(blocks), BLOCKS):
        out[start : start + BLOCKS] = codec.dequantize(blocks[start : start + BLOCKS])
    return out.reshape(info.shape)
