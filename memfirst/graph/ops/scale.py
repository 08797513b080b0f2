"""A value times a constant."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from memfirst.codecs.base import F32
from memfirst.graph import Op, Step, Weight
from memfirst.graph.runtime import Runtime, Values
from memfirst.graph.traffic import ActivationTraffic, Traffic


@dataclass(frozen=True)
class Scale(Op):
    """[n, width] -> [n, width], times `factor`; `head`: only rows that need logits arrive."""

    width: int
    factor: float
    head: bool = False

    @property
    def weights(self) -> tuple[Weight, ...]:
        return ()

    def traffic(self) -> tuple[Traffic, ...]:
        return (ActivationTraffic(2 * self.width, self.head),)

    def flops(self, step: Step) -> int:
        return self.width * (step.logits if self.head else step.tokens)

    def reference(self, run: Runtime, inputs: Values) -> F32:
        (x,) = inputs
        out: F32 = x * np.float32(self.factor)
        return out
