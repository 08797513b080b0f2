"""The meaning of a graph: each operation's NumPy float32 reference, in order. Slow; the ground truth for tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memfirst.backends.reference.cache import FloatCaches
from memfirst.backends.reference.weights import FloatWeights
from memfirst.codecs.base import F32
from memfirst.errors import BackendError, UnsupportedError
from memfirst.formats.checkpoint import Checkpoint
from memfirst.graph import Graph, KVCache, Sequence, StateCache, Step, Weight
from memfirst.graph.hidden import hidden

Collective = Callable[[F32], F32]


class ReferenceBackend:
    """Runs steps of `graph` with the weights of `checkpoint`, in float32, keys and values included.

    all_reduce, all_gather  what the other devices add, where the graph is one device's part
    context                 positions that sequences may grow to, which LongRoPE asks
    routing                 tokens by expert, for each expert operation of the last step
    """

    def __init__(
        self,
        graph: Graph,
        checkpoint: Checkpoint,
        all_reduce: Collective | None = None,
        all_gather: Collective | None = None,
        context: int = 0,
    ) -> None:
        if not checkpoint.has_bytes:
            raise UnsupportedError(f"{checkpoint.path} holds no weights", "a model with weights to run")
        self.graph, self.context = graph, context
        self.routing: dict[str, tuple[int, ...]] = {}
        self._weights, self._caches = FloatWeights(checkpoint), FloatCaches(graph)
        self._all_reduce, self._all_gather = all_reduce or _alone, all_gather or _alone

    def step(self, step: Step, tokens: NDArray[np.int32]) -> F32:
        """tokens i32 [step.tokens] -> logits f32 [step.logits, vocab]; BackendError for a senseless step."""
        check(step, tokens, self.graph.vocab_size)
        run, ops = self.runtime(step), (hidden(self.graph) if step.hidden else self.graph).ops
        values: dict[str, NDArray[Any]] = {"tokens": tokens}
        last_use = {name: i for i, op in enumerate(ops) for name in op.inputs}
        for i, op in enumerate(ops):
            values[op.output] = op.reference(run, [values[name] for name in op.inputs])
            for name in op.inputs:  # a long prompt's values are large: keep what is still to be read
                if last_use[name] == i:
                    values.pop(name, None)
        self.routing = run.routing
        return values[ops[-1].output]

    def copy_block(self, group: int, source: int, target: int) -> None:
        """Copy a block of a cache group."""
        self._caches.copy_block(group, source, target)

    def runtime(self, step: Step) -> Run:
        """What one operation's reference asks: for a single operation, outside of `step`."""
        return Run(step, self._weights, self._caches, self._all_reduce, self._all_gather, self.context)


@dataclass
class Run:
    """One step's view of the backend: what `memfirst.graph.runtime.Runtime` asks for."""

    step: Step
    weights: FloatWeights
    caches: FloatCaches
    all_reduce: Collective
    all_gather: Collective
    context: int
    routing: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def weight(self, weight: Weight) -> F32:
        return self.weights.whole(weight)

    def rows(self, weight: Weight, ids: NDArray[Any]) -> F32:
        return self.weights.rows(weight, ids)

    def write_kv(self, cache: KVCache, sequence: Sequence, k: F32, v: F32) -> None:
        self.caches.write_kv(cache, sequence, k, v)

    def read_kv(self, cache: KVCache, sequence: Sequence) -> tuple[F32, F32]:
        return self.caches.read_kv(cache, sequence)

    def read_state(self, cache: StateCache, sequence: Sequence) -> F32:
        return self.caches.read_state(cache, sequence)

    def write_state(self, cache: StateCache, sequence: Sequence, state: F32) -> None:
        self.caches.write_state(cache, sequence, state)

    def send(self, value: F32, to: int) -> None:
        _alone(value)

    def receive(self, source: int) -> F32:
        return _alone(np.zeros(0, np.float32))

    def record_routing(self, op: str, counts: tuple[int, ...]) -> None:
        self.routing[op] = counts


def _alone(value: F32) -> F32:
    raise UnsupportedError("this graph is one device's part of a model", "the others beside it: all_reduce, all_gather")


def check(step: Step, tokens: NDArray[np.int32], vocab_size: int) -> None:
    """BackendError where tokens do not fit the step or the vocabulary, or a sequence contradicts itself."""
    if tokens.shape != (step.tokens,):
        raise BackendError(f"tokens of shape {tokens.shape}", f"({step.tokens},), as the step says")
    if len(tokens) and not (tokens.min() >= 0 and tokens.max() < vocab_size):
        raise BackendError(f"token ids {tokens.min()}..{tokens.max()}", f"ids in 0..{vocab_size - 1}")
    for sequence in step.sequences:
        _check_sequence(sequence)


def _check_sequence(s: Sequence) -> None:
    if s.past < 0 or s.new < 0:
        raise BackendError(f"a sequence with past {s.past} and {s.new} new tokens", "counts from 0")
    if any(not 0 <= row < s.new for row in s.logit_rows):
        raise BackendError(f"logits of tokens {s.logit_rows[:8]}", f"indices in 0..{s.new - 1}")
    for name, given in (("positions", s.positions), ("parents", s.parents)):
        if given is not None and len(given) != s.new:
            raise BackendError(f"{len(given)} {name} for {s.new} tokens", "one for each")
    if s.parents is not None and any(not -1 <= p < i for i, p in enumerate(s.parents)):
        raise BackendError(f"parents {s.parents[:16]}", "each before its child, or -1")
