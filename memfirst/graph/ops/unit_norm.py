"""RMS norm without a weight: x / sqrt(mean(x²) + eps), over a row or over each head of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from memfirst.codecs.base import F32
from memfirst.graph import Op, Step, Weight
from memfirst.graph.runtime import Runtime, Values
from memfirst.graph.traffic import ActivationTraffic, Traffic


@dataclass(frozen=True)
class UnitNorm(Op):
    """[n, width] -> [n, width], each row with a mean square of 1 (Falcon-Mamba's B, C and dt).

    heads  > 0: that many heads, each normalized by itself (Gemma 4's values)
    """

    width: int
    eps: float
    heads: int = 0

    @property
    def weights(self) -> tuple[Weight, ...]:
        return ()

    def traffic(self) -> tuple[Traffic, ...]:
        return (ActivationTraffic(2 * self.width),)

    def flops(self, step: Step) -> int:
        """Square and add, scale: 3 a value."""
        return 3 * self.width * step.tokens

    def reference(self, run: Runtime, inputs: Values) -> F32:
        (x,) = inputs
        groups = x.reshape(len(x), max(1, self.heads), -1)
        mean: F32 = np.mean(np.square(groups), axis=-1, keepdims=True, dtype=np.float32)
        out: F32 = groups / np.sqrt(mean + np.float32(self.eps))
        return out.reshape(x.shape)
