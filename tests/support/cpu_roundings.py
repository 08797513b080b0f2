"""A graph with the CPU's roundings as part of its meaning: int8 activations, keys and values in f16."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from memfirst.graph import Graph, Op
from memfirst.graph.ops.attention import Attention
from memfirst.graph.ops.linear import Linear
from memfirst.graph.runtime import Runtime, Values
from memfirst.lower.packing import family
from tests.support.slow_int8 import int8

F32 = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Int8Linear(Linear):
    """A product of what the CPU multiplies: its input as int8, one scale for each `block` columns."""

    block: int = 32

    def reference(self, run: Runtime, inputs: Values) -> F32:
        q, scales = int8(inputs[0], self.block)
        return super().reference(run, [q * np.repeat(scales, self.block, axis=-1)])


class F16Attention(Attention):
    """Attention over keys and values as the CPU keeps them."""

    def reference(self, run: Runtime, inputs: Values) -> F32:
        q, *new = inputs
        return super().reference(run, [q, *(x.astype(np.float16).astype(np.float32) for x in new)])


def as_the_cpu(graph: Graph) -> Graph:
    """The graph with the CPU's roundings as part of its meaning."""
    kinds: dict[str, set[str]] = {}
    for op in graph.ops:
        if isinstance(op, Linear):
            kinds.setdefault(op.inputs[0], set()).add(family(op.weight))

    def change(op: Op) -> Op:
        if isinstance(op, Attention):
            return F16Attention(**vars(op))
        if isinstance(op, Linear) and family(op.weight) != "float":
            return Int8Linear(**vars(op), block=256 if "k256" in kinds[op.inputs[0]] else 32)
        return op

    return replace(graph, ops=tuple(change(op) for op in graph.ops))
