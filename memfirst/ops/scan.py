"""Selective state-space scan as in Mamba-2: a state that each token decays and adds to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from memfirst.codecs.base import F32
from memfirst.graph import Op, StateCache, Step, Weight
from memfirst.ops.positions import split
from memfirst.ops.runtime import Runtime, Values
from memfirst.ops.traffic import ActivationTraffic, Read, StateTraffic, WeightRead


@dataclass(frozen=True)
class SelectiveScan(Op):
    """x [n, heads · head_dim], B and C [n, groups · state], dt [n, heads] -> [n, heads · head_dim].

    With dt = softplus(dt + dt_bias), for each head: S = exp(a · dt) · S + dt · x ⊗ B; out = S · C + d · x
    (Dao and Gu 2024, arXiv:2405.21060). Head h uses group h // (heads / groups). The state moves once for
    all of a sequence's tokens in a step. A rolled-back step kept the old slot: nothing is undone.

    cache          [heads, head_dim, state]
    a, d, dt_bias  [heads]; a is negative
    """

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

    def reads(self) -> tuple[Read, ...]:
        state = StateTraffic(self.cache), StateTraffic(self.cache, write=True)
        floats = 2 * self.width + 2 * self.groups * self.state + self.heads
        return (*state, *(WeightRead(w) for w in self.weights), ActivationTraffic(floats))

    def flops(self, step: Step) -> int:
        """By state value: decay (1), add x ⊗ B (2), times C and sum (2); by output: dt · x, d · x (3)."""
        return step.tokens * self.width * (5 * self.state + 3)

    def reference(self, run: Runtime, inputs: Values) -> F32:
        a, d, dt_bias = (run.weight(w) for w in self.weights)
        parts = [np.zeros((0, self.width), np.float32)]
        for sequence, (x, b, c, dt) in split(run.step, *inputs):
            delta = np.logaddexp(np.float32(0), dt + dt_bias)  # softplus, [new, heads]
            state = run.read_state(self.cache, sequence).reshape(self.heads, self.head_dim, self.state)
            xs = x.reshape(-1, self.heads, self.head_dim)
            out = np.empty_like(xs)
            for t, (b_t, c_t) in enumerate(zip(self._by_head(b), self._by_head(c), strict=True)):
                added = (delta[t][:, None] * xs[t])[:, :, None] * b_t[:, None, :]
                state = np.exp(a * delta[t])[:, None, None] * state + added
                out[t] = (state * c_t[:, None, :]).sum(axis=2) + d[:, None] * xs[t]
            run.write_state(self.cache, sequence, state)
            parts.append(out.reshape(len(out), self.width))
        return np.concatenate(parts)

    def _by_head(self, groups: F32) -> F32:
        """[new, groups · state] -> [new, heads, state]."""
        out: F32 = groups.reshape(-1, self.groups, self.state).repeat(self.heads // self.groups, axis=1)
        return out
