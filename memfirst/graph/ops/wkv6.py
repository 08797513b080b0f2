"""RWKV-6's recurrence: a matrix of state a head, whose rows each token decays by its own amounts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from memfirst.codecs.base import F32
from memfirst.graph import Op, StateCache, Step, Weight
from memfirst.graph.ops.recurrence import advance_sequences, state_traffic
from memfirst.graph.runtime import Runtime, Values
from memfirst.graph.traffic import ActivationTraffic, Traffic, WeightTraffic


@dataclass(frozen=True)
class Wkv6(Op):
    """r, k, v and w [n, heads · head_dim] -> the same (Peng et al. 2024, arXiv:2404.05892, section 4).

    For each head: out = r · (S + (u ⊙ k) ⊗ v), then S = e^(−e^w) ⊙ S + k ⊗ v, where the decay goes by rows.

    cache  [heads, head_dim of k, head_dim of v]
    first  u, [heads, head_dim]: what a token's own key and value get in place of a decay
    """

    recurs: ClassVar[bool] = True

    cache: StateCache
    first: Weight

    @property
    def weights(self) -> tuple[Weight, ...]:
        return (self.first,)

    @property
    def width(self) -> int:
        """Floats a row of the output."""
        return self.first.rows * self.first.columns

    def traffic(self) -> tuple[Traffic, ...]:
        return (*state_traffic(self.cache), WeightTraffic(self.first), ActivationTraffic(5 * self.width))

    def flops(self, step: Step) -> int:
        """By state value: k ⊗ v, decay and add, times r and sum: 5; by channel e^(−e^w) 2, u 2 + 2 with r and v."""
        return step.tokens * self.width * (5 * self.first.columns + 6)

    def reference(self, run: Runtime, inputs: Values) -> F32:
        u = run.weight(self.first)
        heads, size = u.shape

        def advance(state: F32, *rows: F32) -> tuple[F32, F32]:
            r, k, v, w = (x.reshape(-1, heads, size) for x in rows)
            decay = np.exp(-np.exp(w))
            state, out = state.reshape(heads, size, size), np.empty_like(v)
            for t in range(len(v)):
                added = k[t][:, :, None] * v[t][:, None, :]
                out[t] = np.einsum("hi,hij->hj", r[t], state + u[:, :, None] * added)
                state = decay[t][:, :, None] * state + added
            return out.reshape(len(v), self.width), state

        return advance_sequences(run, self.cache, self.width, inputs, advance)
