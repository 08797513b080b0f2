"""The gated delta rule: each token decays the state, takes out what it held for a key, and puts in a value."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import ClassVar

import numpy as np

from memfirst.codecs.base import F32
from memfirst.graph import Op, StateCache, Step, Weight
from memfirst.graph.ops.glu import sigmoid
from memfirst.graph.ops.recurrence import advance_sequences, state_traffic
from memfirst.graph.runtime import Runtime, Values
from memfirst.graph.traffic import ActivationTraffic, Traffic, WeightTraffic

EPS = 1e-6
"""Added to the squared length that queries and keys are divided by the root of."""


@dataclass(frozen=True)
class GatedDelta(Op):
    """qkv [n, 2 · key_heads · k_dim + heads · v_dim], alpha and beta [n, heads] -> [n, heads · v_dim].

    A row of qkv is all queries, all keys, all values. Queries and keys are scaled to length 1, queries then by
    1/sqrt(k_dim). For each head, with its decay g = e^(a · softplus(alpha + dt_bias)):
    S = g · S; S = S + k ⊗ (sigmoid(beta) · (v − Sᵀ · k)); out = Sᵀ · q (Yang et al. 2024, arXiv:2412.06464, section 3).

    cache       [heads, k_dim, v_dim]
    a, dt_bias  [heads]; a is negative
    tiled       head h has the query and key of key head h % key_heads, else of h // (heads / key_heads)
    """

    recurs: ClassVar[bool] = True

    cache: StateCache
    key_heads: int
    k_dim: int
    v_dim: int
    a: Weight
    dt_bias: Weight
    tiled: bool = False

    @property
    def weights(self) -> tuple[Weight, ...]:
        return self.a, self.dt_bias

    @property
    def heads(self) -> int:
        """Heads of values, each with a state of its own."""
        return self.a.columns

    @property
    def width(self) -> int:
        """Floats a row of the output."""
        return self.heads * self.v_dim

    @property
    def keys_width(self) -> int:
        """Floats of a row's queries, and of its keys."""
        return self.key_heads * self.k_dim

    def traffic(self) -> tuple[Traffic, ...]:
        floats = 2 * self.keys_width + 2 * self.width + 2 * self.heads
        weights = (WeightTraffic(w) for w in self.weights)
        return (*state_traffic(self.cache), *weights, ActivationTraffic(floats))

    def flops(self, step: Step) -> int:
        """By state value decay 1, times k 2, added 2, times q 2; by query and key value its norm 3; by value 2; by head
        10 for its two gates."""
        values = self.width * (7 * self.k_dim + 2) + 2 * self.keys_width * 3 + 10 * self.heads
        return step.tokens * values

    def reference(self, run: Runtime, inputs: Values) -> F32:
        a, dt_bias = (run.weight(w) for w in self.weights)
        cuts, heads = (self.keys_width, 2 * self.keys_width), self.heads

        def advance(state: F32, qkv: F32, alpha: F32, beta: F32) -> tuple[F32, F32]:
            q, k, v = np.split(qkv, cuts, axis=1)
            q, k = (
                self._by_head(_unit(q, self.k_dim) / np.float32(sqrt(self.k_dim))),
                self._by_head(_unit(k, self.k_dim)),
            )
            v, share = v.reshape(-1, heads, self.v_dim), sigmoid(beta)
            decay = np.exp(a * np.logaddexp(np.float32(0), alpha + dt_bias))  # of softplus, [new, heads]
            state, out = state.reshape(heads, self.k_dim, self.v_dim), np.empty_like(v)
            for t in range(len(v)):
                state = decay[t][:, None, None] * state
                change = share[t][:, None] * (v[t] - np.einsum("hij,hi->hj", state, k[t]))
                state = state + k[t][:, :, None] * change[:, None, :]
                out[t] = np.einsum("hij,hi->hj", state, q[t])
            return out.reshape(-1, self.width), state

        return advance_sequences(run, self.cache, self.width, inputs, advance)

    def _by_head(self, x: F32) -> F32:
        """[new, key_heads, k_dim] -> [new, heads, k_dim]."""
        of = np.arange(self.heads)
        out: F32 = x[:, of % self.key_heads if self.tiled else of // (self.heads // self.key_heads)]
        return out


def _unit(x: F32, dim: int) -> F32:
    """[new, heads · dim] -> [new, heads, dim], each head's vector divided by its length."""
    x = x.reshape(len(x), -1, dim)
    out: F32 = x / np.sqrt(np.square(x).sum(axis=-1, keepdims=True, dtype=np.float32) + np.float32(EPS))
    return out
