"""The reference backend as something that generates: no record, since nothing is counted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from memfirst.backends.reference.backend import ReferenceBackend
from memfirst.codecs.base import F32
from memfirst.formats.checkpoint import Checkpoint
from memfirst.graph import Graph, Step
from memfirst.ledger import Ledger, Memory, memory, price


class SlowBackend:
    """Steps by NumPy float32; priced as one operation a task."""

    max_tokens = 256

    def __init__(self, graph: Graph, checkpoint: Checkpoint, context: int) -> None:
        self._reference = ReferenceBackend(graph, checkpoint, context=context)
        self._graph = graph

    def step(self, step: Step, tokens: Sequence[int] | NDArray[np.int32]) -> F32:
        """Logits [step.logits, vocab]."""
        return self._reference.step(step, np.asarray(tokens, np.int32))

    def predicted(self, step: Step) -> Ledger:
        """Bytes of the weights as stored, and of an f16 cache."""
        return price(self._graph, step)

    def memory(self, contexts: Iterable[int]) -> Memory:
        """As `predicted` counts: weights as stored, an f16 cache."""
        return memory(self._graph, contexts)

    def counted(self) -> NDArray[np.int64]:
        """Nothing is counted."""
        return np.zeros(0, np.int64)

    def recorded(self, step: Step, before: NDArray[np.int64], after: NDArray[np.int64]) -> Ledger:
        """Nothing was recorded."""
        return Ledger((), step.tokens)

    def close(self) -> None:
        """Nothing to end."""


def slow_memory(graph: Graph, context: int) -> Memory:
    """What the reference holds: everything in float32, and the largest activations of a step."""
    weights = sum(4 * math.prod(w.shape) for w in graph.weights().values())
    cached = 2 * sum(c.allocated_bytes(context) for c in graph.caches)  # priced as f16
    return Memory(weights, cached, cached, 4 * SlowBackend.max_tokens * graph.vocab_size)
