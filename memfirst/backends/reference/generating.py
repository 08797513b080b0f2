"""The reference backend as something that generates: no record, since nothing is counted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from memfirst.backends.base import STATES_PER_SEQUENCE, StepResult, routing_of
from memfirst.backends.reference.backend import ReferenceBackend
from memfirst.formats.checkpoint import Checkpoint
from memfirst.graph import Graph, Step
from memfirst.graph.hidden import hidden
from memfirst.ledger import Ledger, Memory, memory, price, process_bytes

NOTHING: NDArray[np.int64] = np.zeros(0, np.int64)


class SlowBackend:
    """Steps by NumPy float32; priced as one operation a task."""

    rows_are_exact = False  # NumPy sums a matrix and a row in different orders
    max_tokens, max_sequences = 256, 8
    storage = None
    slots = STATES_PER_SEQUENCE * max_sequences

    def __init__(self, graph: Graph, checkpoint: Checkpoint, context: int) -> None:
        self.graph = graph
        self._reference = ReferenceBackend(graph, checkpoint, context=context)
        self.blocks = tuple(group.cache.most_blocks(context, self.max_tokens) for group in graph.cache_groups)
        """One context of each cache group, shared by all sequences."""

    def step(self, step: Step, tokens: Sequence[int] | NDArray[np.int32]) -> StepResult:
        """Do a step; no kernel counts."""
        logits = self._reference.step(step, np.asarray(tokens, np.int32))
        counts = [n for each in self._reference.routing.values() for n in each]
        return StepResult(logits, (NOTHING, NOTHING), np.array(counts, np.int32))

    def copy_block(self, group: int, source: int, target: int) -> None:
        """Copy a block of a cache group."""
        self._reference.copy_block(group, source, target)

    def predicted(self, step: Step) -> Ledger:
        """Bytes of the weights as stored, and of an f16 cache."""
        return price(hidden(self.graph) if step.hidden else self.graph, step)

    def memory(self, contexts: Iterable[int]) -> Memory:
        """As `predicted` counts: weights as stored, an f16 cache."""
        return memory(self.graph, contexts)

    def recorded(self, step: Step, result: StepResult) -> Ledger:
        """Nothing was counted."""
        return Ledger((), step.tokens)

    def by_purpose(self, result: StepResult) -> dict[str, int]:
        """Nothing: it counts nothing."""
        return {}

    def warm_up(self) -> None:
        """Nothing is prepared."""

    def warm_up_hidden(self) -> None:
        """Nothing is prepared."""

    def routing(self, result: StepResult) -> Mapping[str, tuple[int, ...]]:
        """By operation of routed experts, the tokens that each expert got."""
        return routing_of(self.graph, result)

    def top(self) -> None:
        """NumPy does it."""

    def disk_bandwidth(self, seconds: float = 0.33) -> None:
        """All is in memory."""

    def read_bandwidth(self, seconds: float = 0.33) -> None:
        """Not measured: time goes into arithmetic here."""

    def close(self) -> None:
        """Nothing to end."""


def slow_memory(graph: Graph, context: int) -> Memory:
    """What the reference holds: everything in float32, and the largest activations of a step."""
    weights = sum(4 * math.prod(w.shape) for w in graph.weights().values())
    cached = 2 * sum(c.allocated_bytes(context) for c in graph.caches)  # priced as f16
    buffers = 4 * SlowBackend.max_tokens * graph.vocab_size
    return Memory(weights, cached, cached, buffers, process_bytes(graph.vocab_size))
