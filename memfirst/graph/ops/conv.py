"""Causal convolution over time, channel by channel; the last inputs are kept as state."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from memfirst.codecs.base import F32
from memfirst.graph import Op, StateCache, Step, Weight
from memfirst.graph.ops.glu import silu
from memfirst.graph.ops.recurrence import advance_sequences, state_traffic
from memfirst.graph.runtime import Runtime, Values
from memfirst.graph.traffic import ActivationTraffic, Traffic, WeightTraffic


@dataclass(frozen=True)
class CausalConv1d(Op):
    """[n, channels] -> [n, channels]: out[t] = f(Σ_j weight[:, j] · x[t − kernel + 1 + j] + bias).

    cache       the last kernel − 1 inputs, [kernel − 1, channels], oldest first
    weight      [channels, kernel]; bias [channels]
    activation  f: "silu", or "" for none (LFM2)
    """

    cache: StateCache
    weight: Weight
    bias: Weight | None = None
    activation: str = "silu"

    @property
    def weights(self) -> tuple[Weight, ...]:
        return (self.weight,) if self.bias is None else (self.weight, self.bias)

    @property
    def width(self) -> int:
        """Channels."""
        return self.weight.rows

    def traffic(self) -> tuple[Traffic, ...]:
        weights = (WeightTraffic(w) for w in self.weights)
        return (*state_traffic(self.cache), *weights, ActivationTraffic(2 * self.width))

    def flops(self, step: Step) -> int:
        """A multiply-add for each tap, and silu taken as 4."""
        return step.tokens * self.width * (2 * self.weight.columns + (4 if self.activation else 0))

    def reference(self, run: Runtime, inputs: Values) -> F32:
        taps = run.weight(self.weight)
        kernel = taps.shape[1]
        bias = np.float32(0) if self.bias is None else run.weight(self.bias)

        def advance(tail: F32, x: F32) -> tuple[F32, F32]:
            line = np.concatenate([tail.reshape(kernel - 1, self.width), x])
            windows = np.lib.stride_tricks.sliding_window_view(line, kernel, axis=0)
            out: F32 = np.einsum("tcj,cj->tc", windows, taps) + bias  # time, channel, tap
            return silu(out) if self.activation else out, line[len(x) :]

        return advance_sequences(run, self.cache, self.width, inputs, advance)
