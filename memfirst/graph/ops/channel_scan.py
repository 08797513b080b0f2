"""Selective state-space scan as in Mamba-1: each channel has a decay and states of its own."""

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
class ChannelScan(Op):
    """x and dt [n, channels], B and C [n, state] -> [n, channels].

    With dt = softplus(dt), for each channel: S = exp(a · dt) ⊙ S + dt · x · B; out = S · C + d · x
    (Gu and Dao 2023, arXiv:2312.00752, algorithm 2). All channels share a token's B and C.

    cache  [channels, state]
    a      [channels, state], negative; d [channels]
    """

    recurs: ClassVar[bool] = True

    cache: StateCache
    a: Weight
    d: Weight

    @property
    def weights(self) -> tuple[Weight, ...]:
        return self.a, self.d

    @property
    def width(self) -> int:
        """Channels."""
        return self.a.rows

    def traffic(self) -> tuple[Traffic, ...]:
        floats = 3 * self.width + 2 * self.a.columns
        weights = (WeightTraffic(w) for w in self.weights)
        return (*state_traffic(self.cache), *weights, ActivationTraffic(floats))

    def flops(self, step: Step) -> int:
        """By state value: a · dt, its exponential (1), decay, add (2), times C and sum (2): 7; by channel 3."""
        return step.tokens * self.width * (7 * self.a.columns + 3)

    def reference(self, run: Runtime, inputs: Values) -> F32:
        a, d = (run.weight(w) for w in self.weights)

        def advance(state: F32, x: F32, dt: F32, b: F32, c: F32) -> tuple[F32, F32]:
            delta = np.logaddexp(np.float32(0), dt)  # softplus, [new, channels]
            state = state.reshape(a.shape)
            out = np.empty_like(x)
            for t in range(len(x)):
                state = np.exp(a * delta[t][:, None]) * state + (delta[t] * x[t])[:, None] * b[t]
                out[t] = state @ c[t] + d * x[t]
            return out, state

        return advance_sequences(run, self.cache, self.width, inputs, advance)
