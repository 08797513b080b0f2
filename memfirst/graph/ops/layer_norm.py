"""Layer norm: (x − mean) / sqrt(variance + eps) · weight + bias, over a row or over each head of it (group norm)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from memfirst.codecs.base import F32
from memfirst.graph import Op, Step, Weight
from memfirst.graph.runtime import Runtime, Values
from memfirst.graph.traffic import ActivationTraffic, Traffic, WeightTraffic


@dataclass(frozen=True)
class LayerNorm(Op):
    """[n, width] -> [n, width] (Ba et al. 2016, arXiv:1607.06450; by groups: Wu and He 2018, arXiv:1803.08494).

    weight, bias  [width]; bias None: nothing is added (Cohere 2)
    groups        parts of a row, each normalized by itself
    head          it precedes the output head: its bytes count with the head
    """

    weight: Weight
    bias: Weight | None
    eps: float
    groups: int = 1
    head: bool = False

    @property
    def weights(self) -> tuple[Weight, ...]:
        return (self.weight,) if self.bias is None else (self.weight, self.bias)

    @property
    def width(self) -> int:
        """Floats a row of the output."""
        return self.weight.columns

    def traffic(self) -> tuple[Traffic, ...]:
        weights = (WeightTraffic(w, self.head) for w in self.weights)
        return (*weights, ActivationTraffic(2 * self.width, self.head))

    def flops(self, step: Step) -> int:
        """Sum, difference, square and add, scale, weight, bias: 7 a value, 6 without a bias."""
        each = 6 + (self.bias is not None)
        return each * self.width * (step.logits if self.head else step.tokens)

    def reference(self, run: Runtime, inputs: Values) -> F32:
        (x,) = inputs
        parts = x.reshape(len(x), self.groups, self.width // self.groups)
        centred = parts - parts.mean(axis=-1, keepdims=True, dtype=np.float32)
        variance = np.mean(np.square(centred), axis=-1, keepdims=True, dtype=np.float32)
        normed: F32 = (centred / np.sqrt(variance + np.float32(self.eps))).reshape(x.shape)
        scaled = normed * run.weight(self.weight)
        return scaled if self.bias is None else scaled + run.weight(self.bias)
