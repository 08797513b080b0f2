"""Multi-head latent attention, absorbed: all heads read one latent for each position."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memfirst.codecs.base import F32
from memfirst.graph import KVCache, Op, Step, Weight
from memfirst.graph.ops.attention import softmax
from memfirst.graph.ops.positions import attended_pairs, split, visible
from memfirst.graph.runtime import Runtime, Values
from memfirst.graph.traffic import ActivationTraffic, KVTraffic, Traffic, WeightTraffic


@dataclass(frozen=True)
class LatentAttention(Op):
    """q [n, heads · (nope + rope)], latent [n, rank], k_rope [n, rope] -> [n, heads · v_head_dim].

    The cache (heads 1, k_dim rank + rope, v_dim 0) holds latent and k_rope side by side. A head's key is
    k_bᵀ · latent beside k_rope, its value v_b · latent (DeepSeek-V2, arXiv:2405.04434, section 2.1); both are
    absorbed: q's nope part goes through k_b, scores and sums are taken on the latent, the sum through v_b.

    k_b         [heads, rank, nope]; without a v_b both in one, as they were trained and as older files have
                them: [heads · (nope + v_head_dim), rank], each head's rows for k before those for v
    v_b         [heads, v_head_dim, rank]
    scale       multiplies the scores
    v_head_dim  values of a head; needed without a v_b
    """

    cache: KVCache
    heads: int
    k_b: Weight
    v_b: Weight | None
    scale: float
    v_head_dim: int = 0

    @property
    def weights(self) -> tuple[Weight, ...]:
        return (self.k_b,) if self.v_b is None else (self.k_b, self.v_b)

    @property
    def rank(self) -> int:
        """Values of the latent (kv_lora_rank)."""
        return self.k_b.columns if self.v_b is None else self.k_b.rows

    @property
    def nope(self) -> int:
        """Values of a head's query that are not rotated (qk_nope_head_dim)."""
        return self.k_b.columns if self.v_b is not None else self.k_b.rows // self.heads - self.v_head_dim

    @property
    def width(self) -> int:
        """Floats a row of the output."""
        return self.heads * (self.v_head_dim if self.v_b is None else self.v_b.rows)

    @property
    def _query_width(self) -> int:
        return self.heads * (self.nope + self.cache.k_dim - self.rank)

    def traffic(self) -> tuple[Traffic, ...]:
        kv = KVTraffic(self.cache, write=True), KVTraffic(self.cache)
        floats = self._query_width + self.cache.k_dim + self.width
        return (*kv, *(WeightTraffic(w) for w in self.weights), ActivationTraffic(floats))

    def flops(self, step: Step) -> int:
        """Absorbing k_b and v_b by token; rank + rope for the score and rank for the sum, by pair."""
        absorbed = self.rank * (self.nope + self.width // self.heads) * step.tokens
        pairs = sum(attended_pairs(s, self.cache) for s in step.sequences)
        return 2 * self.heads * (absorbed + (self.cache.k_dim + self.rank) * pairs)

    def reference(self, run: Runtime, inputs: Values) -> F32:
        k_b, v_b = self._matrices(run)
        parts = [np.zeros((0, self.width), np.float32)]
        for sequence, (q, latent, k_rope) in split(run.step, *inputs):
            new = np.concatenate([latent, k_rope], axis=1)[:, None, :]  # [new, 1 head, rank + rope]
            run.write_kv(self.cache, sequence, new, np.zeros((len(new), 1, 0), np.float32))
            keys = run.read_kv(self.cache, sequence)[0][:, 0]
            mask, heads = visible(sequence, self.cache), np.split(q, self.heads, axis=1)
            outs = [self._head(q, k_b[h], keys, mask) @ v_b[h].T for h, q in enumerate(heads)]
            parts.append(np.concatenate(outs, axis=1))
        return np.concatenate(parts)

    def _matrices(self, run: Runtime) -> tuple[F32, F32]:
        """k_b [heads, rank, nope] and v_b [heads, v_head_dim, rank], however they are stored."""
        if self.v_b is not None:
            return run.weight(self.k_b), run.weight(self.v_b)
        both = run.weight(self.k_b).reshape(self.heads, -1, self.rank)
        return both[:, : self.nope].swapaxes(1, 2), both[:, self.nope :]

    def _head(self, q: F32, k_b: F32, keys: F32, mask: NDArray[np.bool_]) -> F32:
        """q [new, nope + rope], k_b [rank, nope], keys [positions, rank + rope] -> [new, rank]."""
        nope, rotated = np.split(q, [self.nope], axis=1)
        query = np.concatenate([nope @ k_b.T, rotated], axis=1)
        out: F32 = softmax((query @ keys.T) * np.float32(self.scale), mask) @ keys[:, : self.rank]
        return out
