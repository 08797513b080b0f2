"""Token embedding: one row of a table for each token."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from memfirst.codecs.base import F32
from memfirst.graph import Op, Step, Weight
from memfirst.graph.runtime import Runtime, Values
from memfirst.graph.traffic import ActivationTraffic, RowTraffic, Traffic


@dataclass(frozen=True)
class Embed(Op):
    """tokens i32 [n] -> [n, hidden], times `scale` (Gemma: sqrt(hidden))."""

    weight: Weight
    scale: float = 1.0

    @property
    def weights(self) -> tuple[Weight, ...]:
        return (self.weight,)

    @property
    def width(self) -> int:
        """Floats a row of the output."""
        return self.weight.columns

    def traffic(self) -> tuple[Traffic, ...]:
        return RowTraffic(self.weight, self.name), ActivationTraffic(self.width)

    def flops(self, step: Step) -> int:
        return step.tokens * self.width if self.scale != 1 else 0

    def reference(self, run: Runtime, inputs: Values) -> F32:
        (tokens,) = inputs
        rows = run.rows(self.weight, tokens)
        return rows if self.scale == 1 else rows * np.float32(self.scale)
