"""A value times a sigmoid of one number a token: how much of a shared expert a token takes (Qwen1.5-MoE)."""

from __future__ import annotations

from dataclasses import dataclass

from memfirst.codecs.base import F32
from memfirst.graph import Op, Step, Weight
from memfirst.graph.ops.glu import sigmoid
from memfirst.graph.runtime import Runtime, Values
from memfirst.graph.traffic import ActivationTraffic, Traffic, WeightTraffic


@dataclass(frozen=True)
class TokenGate(Op):
    """x [n, width], h [n, hidden] -> [n, width]: x · sigmoid(h · weight), with weight [hidden]."""

    width: int
    weight: Weight

    @property
    def weights(self) -> tuple[Weight, ...]:
        return (self.weight,)

    def traffic(self) -> tuple[Traffic, ...]:
        return WeightTraffic(self.weight), ActivationTraffic(2 * self.width + self.weight.columns)

    def flops(self, step: Step) -> int:
        """A product with the weight, the sigmoid taken as 4, and a product a value."""
        return (2 * self.weight.columns + 4 + self.width) * step.tokens

    def reference(self, run: Runtime, inputs: Values) -> F32:
        x, h = inputs
        out: F32 = x * sigmoid(h @ run.weight(self.weight))[:, None]
        return out
