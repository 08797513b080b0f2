"""RMS norm: x / sqrt(mean(x²) + eps) · (weight + offset), over a row or over each head of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from memfirst.codecs.base import F32
from memfirst.graph import Op, Step, Weight
from memfirst.graph.runtime import Runtime, Values
from memfirst.graph.traffic import ActivationTraffic, Traffic, WeightTraffic


@dataclass(frozen=True)
class RMSNorm(Op):
    """[n, width] -> [n, width] (Zhang and Sennrich 2019, arXiv:1910.07467).

    weight  [width], or [head_dim] where heads > 0
    offset  added to the weight (Gemma stores weight − 1)
    heads   > 0: that many heads, each normalized by itself (Qwen3's q and k)
    head    it precedes the output head: only rows that need logits arrive, and its bytes count with the head
    """

    weight: Weight
    eps: float
    offset: float = 0.0
    heads: int = 0
    head: bool = False

    @property
    def weights(self) -> tuple[Weight, ...]:
        return (self.weight,)

    @property
    def width(self) -> int:
        """Floats a row of the output."""
        return self.weight.columns * max(1, self.heads)

    def traffic(self) -> tuple[Traffic, ...]:
        return WeightTraffic(self.weight, self.head), ActivationTraffic(2 * self.width, self.head)

    def flops(self, step: Step) -> int:
        """Square and add, scale, weight: 4 a value."""
        return 4 * self.width * (step.logits if self.head else step.tokens)

    def reference(self, run: Runtime, inputs: Values) -> F32:
        (x,) = inputs
        groups = x.reshape(len(x), max(1, self.heads), self.weight.columns)
        mean = np.mean(np.square(groups), axis=-1, keepdims=True, dtype=np.float32)
        scale = run.weight(self.weight) + np.float32(self.offset)
        out: F32 = groups / np.sqrt(mean + np.float32(self.eps)) * scale
        return out.reshape(x.shape)
