"""RMS norm without a weight: x / sqrt(mean(x²) + eps)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from memfirst.codecs.base import F32
from memfirst.graph import Op, Step, Weight
from memfirst.graph.runtime import Runtime, Values
from memfirst.graph.traffic import ActivationTraffic, Traffic


@dataclass(frozen=True)
class UnitNorm(Op):
    """[n, width] -> [n, width], each row with a mean square of 1 (Falcon-Mamba's B, C and dt)."""

    width: int
    eps: float

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
        mean: F32 = np.mean(np.square(x), axis=-1, keepdims=True, dtype=np.float32)
        out: F32 = x / np.sqrt(mean + np.float32(self.eps))
        return out
