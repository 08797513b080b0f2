"""Several small matrices, each on its own part of a row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from memfirst.codecs.base import F32
from memfirst.graph import Op, Step, Weight
from memfirst.graph.runtime import Runtime, Values
from memfirst.graph.traffic import ActivationTraffic, Traffic, WeightTraffic


@dataclass(frozen=True)
class StackedLinear(Op):
    """[n, parts · columns] -> [n, parts · rows]: part p is x[p] @ weight[p].T.

    weight  [parts, rows, columns]; all parts are read for every token, unlike experts
    """

    weight: Weight

    @property
    def weights(self) -> tuple[Weight, ...]:
        return (self.weight,)

    @property
    def width(self) -> int:
        """Floats a row of the output."""
        return self.weight.matrices * self.weight.rows

    def traffic(self) -> tuple[Traffic, ...]:
        floats = self.weight.matrices * (self.weight.columns + self.weight.rows)
        return WeightTraffic(self.weight), ActivationTraffic(floats)

    def flops(self, step: Step) -> int:
        return 2 * self.width * self.weight.columns * step.tokens

    def reference(self, run: Runtime, inputs: Values) -> F32:
        (x,) = inputs
        parts = x.reshape(len(x), self.weight.matrices, self.weight.columns)
        out: F32 = np.einsum("npc,prc->npr", parts, run.weight(self.weight))
        return out.reshape(len(x), self.width)
