"""Grouped-query attention: the step's keys and values go into the cache, then each token attends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memfirst.codecs.base import F32
from memfirst.graph import KVCache, Op, Step, Weight
from memfirst.graph.ops.linear import soft_capped
from memfirst.graph.ops.positions import attended_pairs, split, visible
from memfirst.graph.runtime import Runtime, Values
from memfirst.graph.traffic import ActivationTraffic, KVTraffic, Traffic, WeightTraffic

BLOCK = 256
"""Queries scored at a time: 256 × 8192 keys × 4 B = 8 MB of scores."""


@dataclass(frozen=True)
class Attention(Op):
    """q [n, heads · k_dim], k [n, kv heads · k_dim], v [n, kv heads · v_dim] -> [n, heads · v_dim].

    Query head h reads KV head h // (heads / kv heads). A token attends the past and its ancestors among the
    step's tokens, itself included, those of `cache.first` on. With q as its only input, nothing is written:
    it reads what an earlier layer keeps in the same cache (Gemma 3n and 4).

    scale    multiplies the scores
    softcap  > 0: scores become softcap · tanh(score / softcap)
    sinks    [heads]: a score that takes its share of the softmax and gives nothing
    """

    cache: KVCache
    heads: int
    scale: float
    softcap: float = 0.0
    sinks: Weight | None = None

    @property
    def weights(self) -> tuple[Weight, ...]:
        return () if self.sinks is None else (self.sinks,)

    @property
    def width(self) -> int:
        """Floats a row of the output."""
        return self.heads * self.cache.v_dim

    @property
    def writes(self) -> bool:
        """Whether the step's keys and values are its own."""
        return len(self.inputs) == 3

    def traffic(self) -> tuple[Traffic, ...]:
        c = self.cache
        floats = (self.heads + c.heads * self.writes) * (c.k_dim + c.v_dim)
        written = (KVTraffic(c, write=True),) if self.writes else ()
        sinks = tuple(WeightTraffic(w) for w in self.weights)
        return (*written, KVTraffic(c), *sinks, ActivationTraffic(floats))

    def flops(self, step: Step) -> int:
        """A multiply-add for each value of a key and of its value, by head and pair."""
        pairs = sum(attended_pairs(s, self.cache) for s in step.sequences)
        return 2 * self.heads * (self.cache.k_dim + self.cache.v_dim) * pairs

    def reference(self, run: Runtime, inputs: Values) -> F32:
        sinks = None if self.sinks is None else run.weight(self.sinks)
        c, parts = self.cache, [np.zeros((0, self.width), np.float32)]
        for sequence, (q, *new) in split(run.step, *inputs):
            if self.writes:
                k, v = new
                run.write_kv(c, sequence, k.reshape(-1, c.heads, c.k_dim), v.reshape(-1, c.heads, c.v_dim))
            keys, values = run.read_kv(c, sequence)
            mask = visible(sequence, c)
            parts.append(self._attend(q.reshape(-1, self.heads, c.k_dim), keys, values, mask, sinks))
        return np.concatenate(parts)

    def _attend(self, q: F32, keys: F32, values: F32, mask: NDArray[np.bool_], sinks: F32 | None) -> NDArray[Any]:
        """q [new, heads, k_dim], keys and values [positions, kv heads, …], mask [new, positions]."""
        out = np.empty((len(q), self.heads, self.cache.v_dim), np.float32)
        group = self.heads // self.cache.heads
        for start in range(0, len(q), BLOCK):
            rows = slice(start, start + BLOCK)
            end = keys.shape[0] - len(q) + min(start + BLOCK, len(q))  # an ancestor precedes its children
            for h in range(self.heads):
                scores = self._scores(q[rows, h], keys[:end, h // group])
                sink = None if sinks is None else sinks[h]
                out[rows, h] = softmax(scores, mask[rows, :end], sink) @ values[:end, h // group]
        return out.reshape(len(q), self.width)

    def _scores(self, q: F32, keys: F32) -> F32:
        scores: F32 = (q @ keys.T) * np.float32(self.scale)
        return soft_capped(scores, self.softcap) if self.softcap else scores


def softmax(scores: F32, mask: NDArray[np.bool_], sink: float | None = None) -> F32:
    """[n, positions] -> weights that sum to 1 over what the mask shows (and the sink, where there is one)."""
    shown = np.where(mask, scores, np.float32(-np.inf))
    top = shown.max(axis=1, keepdims=True)
    if sink is not None:
        top = np.maximum(top, sink)
    weights = np.exp(shown - top)
    total = weights.sum(axis=1, keepdims=True)
    if sink is not None:
        total += np.exp(sink - top)
    out: F32 = weights / total
    return out
