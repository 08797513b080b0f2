"""A graph with the CPU's roundings as part of its meaning: int8 activations, keys and values in f16."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from memfirst.graph import Graph, Op, Weight
from memfirst.graph.ops.attention import Attention
from memfirst.graph.ops.experts import Experts, Router
from memfirst.graph.ops.latent import LatentAttention
from memfirst.graph.ops.linear import Linear
from memfirst.graph.runtime import Runtime, Values
from memfirst.lower.default import multiplied
from memfirst.lower.packing import family
from tests.support.slow_int8 import int8

F32 = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Int8Linear(Linear):
    """A product of what the CPU multiplies: its input as int8, one scale for each `block` columns."""

    block: int = 32

    def reference(self, run: Runtime, inputs: Values) -> F32:
        return super().reference(run, [rounded(inputs[0], self.block)])


@dataclass(frozen=True)
class Int8Router(Router):
    """The same of a router."""

    block: int = 32

    def reference(self, run: Runtime, inputs: Values) -> F32:
        return super().reference(run, [rounded(inputs[0], self.block)])


@dataclass(frozen=True)
class Int8Experts(Experts):
    """The same of experts: their input, and what is between their matrices; 0: it stays float."""

    outer: int = 32
    inner: int = 32

    def affine(self, run: Runtime, expert: int, x: F32, weight: Weight, bias: Weight | None) -> F32:
        block = self.inner if weight is self.down else self.outer
        return super().affine(run, expert, rounded(x, block) if block else x, weight, bias)


def rounded(x: F32, block: int) -> F32:
    """As int8 has it."""
    q, scales = int8(x, block)
    return q * np.repeat(scales, block, axis=-1)


class F16Attention(Attention):
    """Attention over keys and values as the CPU keeps them."""

    def reference(self, run: Runtime, inputs: Values) -> F32:
        q, *new = inputs
        return super().reference(run, [q, *(x.astype(np.float16).astype(np.float32) for x in new)])


class CpuLatentAttention(LatentAttention):
    """Latents as the CPU caches them; queries and sums as int8 where a matrix is; but what goes down rows of a joined
    one stays float."""

    def reference(self, run: Runtime, inputs: Values) -> F32:
        return super().reference(run, [inputs[0], *(cached(x, self.cache.k_codec) for x in inputs[1:])])

    def _head(self, q: F32, k_b: F32, keys: F32, mask: Any) -> F32:
        if self.v_b is not None:
            nope, rotated = np.split(q, [self.nope], axis=1)
            q = np.concatenate([_rounded_for(self.k_b, nope), rotated], axis=1)
        return _rounded_for(self.v_b or self.k_b, super()._head(q, k_b, keys, mask))


def _rounded_for(weight: Weight, x: F32) -> F32:
    kind = family(weight)
    return x if kind == "float" else rounded(x, 256 if kind.startswith("k256") else 32)


def cached(x: F32, codec: str) -> F32:
    """As f16 rows have it, or as blocks of 32 with a scale in f16."""
    if codec != "q8_0":
        return x.astype(np.float16 if codec == "f16" else np.float32).astype(np.float32)
    blocks = x.reshape(-1, 32)
    d = np.abs(blocks).max(1, keepdims=True) / np.float32(127)
    with np.errstate(divide="ignore"):
        steps = np.where(d > 0, np.float32(1) / d, np.float32(0))
    return (np.rint(blocks * steps) * d.astype(np.float16).astype(np.float32)).reshape(x.shape)


def as_the_cpu(graph: Graph) -> Graph:
    """The graph with the CPU's roundings as part of its meaning."""
    kinds: dict[str, set[str]] = {}
    for op in graph.ops:
        for value in op.inputs:
            kinds.setdefault(value, set()).update(family(w) for w in multiplied(op, value))

    def change(op: Op) -> Op:
        block = 256 if op.inputs and not kinds[op.inputs[0]].isdisjoint(("k256", "k256_16")) else 32
        if isinstance(op, Router) and family(op.weight) != "float":
            return Int8Router(**vars(op), block=block)
        if isinstance(op, Experts):
            inner = {"float": 0, "k256": 256, "k256_16": 256}.get(family(op.down), 32)
            return Int8Experts(**vars(op), outer=0 if family(op.up) == "float" else block, inner=inner)
        if isinstance(op, Attention):
            return F16Attention(**vars(op))
        if isinstance(op, LatentAttention):
            return CpuLatentAttention(**vars(op))
        if isinstance(op, Linear) and family(op.weight) != "float":
            return Int8Linear(**vars(op), block=block)
        return op

    return replace(graph, ops=tuple(change(op) for op in graph.ops))
