"""Product of two values, each with each: a gate."""

from __future__ import annotations

from dataclasses import dataclass

from memfirst.codecs.base import F32
from memfirst.graph import Op, Step, Weight
from memfirst.graph.runtime import Runtime, Values
from memfirst.graph.traffic import ActivationTraffic, Traffic


@dataclass(frozen=True)
class Multiply(Op):
    """[n, width] · [n, width]."""

    width: int

    @property
    def weights(self) -> tuple[Weight, ...]:
        return ()

    def traffic(self) -> tuple[Traffic, ...]:
        return (ActivationTraffic(3 * self.width),)

    def flops(self, step: Step) -> int:
        return self.width * step.tokens

    def reference(self, run: Runtime, inputs: Values) -> F32:
        first, second = inputs
        out: F32 = first * second
        return out
