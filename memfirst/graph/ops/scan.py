"""Selective state-space scan as in Mamba-2: a state that each token decays and adds to."""

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
class SelectiveScan(Op):
    """x [n, heads · head_dim], B and C [n, groups · state], dt [n, heads] -> [n, heads · head_dim].

    With dt = softplus(dt + dt_bias), for each head: S = exp(a · dt) · S + dt · x ⊗ B; out = S · C + d · x
    (Dao and Gu 2024, arXiv:2405.21060). Head h uses group h // (heads / groups).

    cache          [heads, head_dim, state]
    a, d, dt_bias  [heads], or [heads, 1] as GGUF stores a and d; a is negative
    """

    recurs: ClassVar[bool] = True

    cache: StateCache
    heads: int
    head_dim: int
    groups: int
    state: int
    a: Weight
    d: Weight
    dt_bias: Weight

    @property
    def weights(self) -> tuple[Weight, ...]:
        return self.a, self.d, self.dt_bias

    @property
    def width(self) -> int:
        """Floats a row of the output."""
        return self.heads * self.head_dim

    def traffic(self) -> tuple[Traffic, ...]:
        floats = 2 * self.width + 2 * self.groups * self.state + self.heads
        weights = (WeightTraffic(w) for w in self.weights)
        return (*state_traffic(self.cache), *weights, ActivationTraffic(floats))

    def flops(self, step: Step) -> int:
        """By state value: decay (1), add x ⊗ B (2), times C and sum (2); by output: dt · x, d · x (3)."""
        return step.tokens * self.width * (5 * self.state + 3)

    def reference(self, run: Runtime, inputs: Values) -> F32:
        a, d, dt_bias = (run.weight(w).reshape(self.heads) for w in self.weights)

        def advance(state: F32, x: F32, b: F32, c: F32, dt: F32) -> tuple[F32, F32]:
            delta = np.logaddexp(np.float32(0), dt + dt_bias)  # softplus, [new, heads]
            state = state.reshape(self.heads, self.head_dim, self.state)
            xs = x.reshape(-1, self.heads, self.head_dim)
            out = np.empty_like(xs)
            for t, (b_t, c_t) in enumerate(zip(self._by_head(b), self._by_head(c), strict=True)):
                added = (delta[t][:, None] * xs[t])[:, :, None] * b_t[:, None, :]
                state = np.exp(a * delta[t])[:, None, None] * state + added
                out[t] = (state * c_t[:, None, :]).sum(axis=2) + d[:, None] * xs[t]
            return out.reshape(len(out), self.width), state

        return advance_sequences(run, self.cache, self.width, inputs, advance)

    def _by_head(self, groups: F32) -> F32:
        """[new, groups · state] -> [new, heads, state]."""
        out: F32 = groups.reshape(-1, self.groups, self.state).repeat(self.heads // self.groups, axis=1)
        return out
