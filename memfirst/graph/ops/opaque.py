"""A part of a model of which only the tensors are known: it can be priced, not run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from memfirst.codecs.base import F32
from memfirst.errors import UnsupportedError
from memfirst.graph import Cache, KVCache, Op, Sequence, Step, Weight
from memfirst.graph.ops.positions import attended_pairs
from memfirst.graph.runtime import Runtime, Values
from memfirst.graph.traffic import ActivationTraffic, ExpertTraffic, KVTraffic, StateTraffic, Traffic, WeightTraffic


@dataclass(frozen=True)
class Opaque(Op):
    """[n, width] -> [n, width], in a way that nobody has said.

    tensors  read once a step
    routed   [experts, …] each, of which a token reads `picked`
    caches   read and written by every token; `heads` queries attend the keys
    shared   those that an earlier layer keeps: read alone
    scores   keys are compared with the queries, and no values are read
    """

    tensors: tuple[Weight, ...]
    routed: tuple[Weight, ...] = ()
    picked: int = 0
    caches: tuple[Cache, ...] = ()
    heads: int = 0
    shared: tuple[KVCache, ...] = ()
    scores: bool = False

    @property
    def weights(self) -> tuple[Weight, ...]:
        return self.tensors + self.routed

    @property
    def width(self) -> int:
        """Floats of a token's widest value: rows of the largest matrix, of the picked experts'."""
        plain = (w.rows for w in self.tensors if len(w.shape) > 1)
        return max((*plain, *(self.picked * w.rows for w in self.routed)), default=0)

    def traffic(self) -> tuple[Traffic, ...]:
        plain = (WeightTraffic(w) for w in self.tensors)
        routed = (ExpertTraffic(w, self.picked, self.name) for w in self.routed)
        kept = (_traffic(cache, write) for cache in self.caches for write in (True, False))
        read = (KVTraffic(cache) for cache in self.shared)
        return (*kept, *read, *plain, *routed, ActivationTraffic(self.width))

    def flops(self, step: Step) -> int:
        """A multiply-add for each weight of a matrix and token, and for each value of the keys and values attended."""
        plain = sum(w.matrices * w.rows * w.columns for w in self.tensors if len(w.shape) > 1)
        routed = sum(self.picked * w.rows * w.columns for w in self.routed)
        return 2 * step.tokens * (plain + routed) + self.attention_flops(step)

    def attention_flops(self, step: Step) -> int:
        """Those for the keys and values attended."""
        kv = [*(c for c in self.caches if isinstance(c, KVCache)), *self.shared]
        return 2 * self.heads * sum(self._width(c) * _pairs(s, c) for c in kv for s in step.sequences)

    def _width(self, cache: KVCache) -> int:
        """Multiply-adds for a pair of a query and a key; a latent is key and value."""
        return cache.k_dim + (0 if self.scores else cache.v_dim or cache.k_dim)

    def reference(self, run: Runtime, inputs: Values) -> F32:
        raise UnsupportedError(f"{self.name} is known by its tensors alone", "a model to be priced, not run")

    def with_weights(self, change: Mapping[str, Weight]) -> Op:
        plain = tuple(change.get(w.name, w) for w in self.tensors)
        return replace(self, tensors=plain, routed=tuple(change.get(w.name, w) for w in self.routed))


def _pairs(sequence: Sequence, cache: KVCache) -> int:
    """(query, entry) pairs that a step of this sequence computes."""
    if cache.every == 1:
        nearest = min((n for n in (cache.window, cache.picked) if n is not None), default=None)
        return attended_pairs(sequence, replace(cache, window=nearest))
    ends = range(sequence.past + 1, sequence.past + sequence.new + 1)
    return sum(min(cache.entries(end), cache.picked or end) for end in ends)


def _traffic(cache: Cache, write: bool) -> Traffic:
    return KVTraffic(cache, write) if isinstance(cache, KVCache) else StateTraffic(cache, write)
