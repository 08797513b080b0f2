"""A model of any shape and codec mix, with random weights: to try a model before downloading it.

Matrices are Gaussian with standard deviation 1/sqrt(columns), so that activations keep their size and
logits stay finite; norms lie near 1. A matrix is not quantized as a whole: a small pool of valid blocks is,
and the matrix is drawn from the pool, at the speed of copying.
"""

from __future__ import annotations

import hashlib
import math
import mmap
import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from memfirst.codecs import get
from memfirst.codecs.base import U8, Codec
from memfirst.convert.gguf_write import write_checkpoint
from memfirst.convert.mixes import Mix, mix, tensor_codec
from memfirst.convert.synthetic_shapes import Blueprint, SyntheticShape, blueprint, config_of, gguf_metadata
from memfirst.errors import UnsupportedError
from memfirst.formats.checkpoint import Extent, TensorInfo

POOL_WEIGHTS = 1 << 18
"""Weights quantized for a pool; a matrix up to this size is quantized whole: no two rows are alike."""
CELL = 32
"""Weights drawn together, at least: one block, or 32 weights of a float format."""


class SyntheticCheckpoint:
    """A Checkpoint without a file; the same (shape, mix, seed) always has the same bytes.

    Its kind is "gguf", or "hf" for architectures whose GGUF metadata memfirst does not write.
    """

    path = ""

    def __init__(self, shape: SyntheticShape | Mapping[str, Any], chosen: Mix, seed: int, name: str) -> None:
        """`shape`: or a config.json."""
        config = shape.config if isinstance(shape, SyntheticShape) else shape
        self._plan, self.seed, self.name = blueprint(config), seed, name
        self.kind = self._plan.kind
        infos = (_info(tensor, size, self._plan, chosen) for tensor, size in self._plan.shapes.items())
        self.tensors: Mapping[str, TensorInfo] = MappingProxyType({info.name: info for info in infos})
        metadata = {**self._plan.metadata, "_name_or_path": name}
        if self.kind == "gguf":
            rows = self.tensors["token_embd.weight"].shape[0]
            metadata = gguf_metadata(self._plan, chosen.file_type, name, rows)
        self.metadata: Mapping[str, Any] = MappingProxyType(dict(metadata))
        self._pools: dict[tuple[str, int], U8] = {}

    @property
    def architecture(self) -> str:
        """As GGUF calls it."""
        return self._plan.architecture

    @property
    def has_bytes(self) -> bool:
        """Always: they are made when asked for."""
        return True

    def read(self, name: str) -> U8:
        """The tensor's bytes, flat, read-only: made anew at each call, the same each time."""
        info = self.tensors[name]
        if name in self._plan.vectors:
            return np.array(self._plan.vectors[name], "<f4").view(np.uint8)
        random = self._random(name)
        if name.endswith("ssm_a"):
            data = _rates(info, random)
        else:
            data = self._matrix(info, random) if len(info.shape) > 1 else _vector(info, random)
        data.flags.writeable = False
        return data

    def extents(self, name: str) -> tuple[Extent, ...]:
        """None: there is no file."""
        return ()

    def release(self, name: str) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        """Let the pools go."""
        self._pools.clear()

    def _random(self, *what: object) -> np.random.Generator:
        digest = hashlib.blake2b(repr((self.seed, *what)).encode(), digest_size=16).digest()
        return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))

    def _matrix(self, info: TensorInfo, random: np.random.Generator) -> U8:
        """Quantized whole where small, else cells of the pool in random order: u8 [nbytes]."""
        weights, columns = math.prod(info.shape), info.shape[-1]
        if weights <= POOL_WEIGHTS:
            return _gaussian_blocks(get(info.codec), weights, columns, random).reshape(-1)
        pool = self._pool(info.codec, columns)
        cells = -(-info.nbytes // pool.shape[1])
        order = random.integers(0, len(pool), cells, np.uint16)
        cell = np.dtype((np.void, pool.shape[1]))  # one opaque item a cell: take() then copies whole cells
        # A map of its own goes back to the system: an allocator keeps it, 17 MB for each thread that reads tensors.
        drawn = np.frombuffer(mmap.mmap(-1, cells * cell.itemsize), cell)
        pool.view(cell).reshape(-1).take(order, out=drawn, mode="clip")
        return drawn.view(np.uint8)[: info.nbytes]

    def _pool(self, codec: str, columns: int) -> U8:
        """u8 [cells, bytes per cell], made once per codec and row length."""
        key = codec, columns
        if key not in self._pools:
            blocks = _gaussian_blocks(get(codec), POOL_WEIGHTS, columns, self._random("pool", *key))
            self._pools[key] = blocks.reshape(POOL_WEIGHTS // max(CELL, get(codec).block), -1)
        return self._pools[key]


def _gaussian_blocks(codec: Codec, count: int, columns: int, random: np.random.Generator) -> U8:
    """u8 [count / block, block_bytes] of standard deviation 1/sqrt(columns)."""
    weights = random.standard_normal(count, np.float32) * np.float32(columns**-0.5)
    return codec.quantize(weights.reshape(-1, codec.block))


def _vector(info: TensorInfo, random: np.random.Generator) -> U8:
    """f32: norms 1 ± 0.1, biases 0 ± 0.1."""
    middle = 1.0 if info.name.endswith(("_norm.weight", "_norm")) else 0.0
    noise = random.standard_normal(info.shape, np.float32) * np.float32(0.1)
    return (noise + np.float32(middle)).view(np.uint8)


def _rates(info: TensorInfo, random: np.random.Generator) -> U8:
    """f32, −e^(0 ± 0.1): a state that does not decay would grow without bound."""
    noise = random.standard_normal(math.prod(info.shape), np.float32) * np.float32(0.1)
    out: U8 = (-np.exp(noise)).view(np.uint8)
    return out


def _info(name: str, size: tuple[int, ...], plan: Blueprint, chosen: Mix) -> TensorInfo:
    codec = get(tensor_codec(name, size, chosen, plan.model))
    return TensorInfo(name, size, codec.name, codec.nbytes(math.prod(size)))


def synthetic(
    shape: str | os.PathLike[str] | SyntheticShape, codec: str, seed: int = 0, layers: int = 0
) -> SyntheticCheckpoint:
    """A model with random weights in a mix such as "q4_k_m".

    shape   of a small shape's name, a name of the catalogue, or the path of a config.json
    layers  > 0: only the first layers of it

    Raises ModelNotFoundError for unknown names, UnsupportedError for unknown mixes.
    """
    chosen, (name, config) = mix(codec), config_of(shape, layers)
    return SyntheticCheckpoint(config, chosen, seed, f"{name} {codec.lower()}")


def write(checkpoint: SyntheticCheckpoint, path: str | os.PathLike[str]) -> None:
    """Write it as a GGUF file, vocabulary included, that other engines load too."""
    if checkpoint.kind != "gguf":
        found = f"GGUF files of {checkpoint.architecture} are not written here"
        raise UnsupportedError(found, "a decoder with grouped attention")
    # llama.cpp looks for Phi-3's own special tokens in a file of that name
    write_checkpoint(checkpoint, path, {"general.name": checkpoint.name.replace("phi-3", "phi 3")})
