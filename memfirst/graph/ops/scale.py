"""A value times a constant, or times one for each of its parts."""

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


@dataclass(frozen=True)
class ScaleParts(Op):
    """[n, width] -> [n, width]: ranges of each row, one after another, each times its own factor (Falcon-H1).

    parts  (values, factor) of each range
    """

    parts: tuple[tuple[int, float], ...]

    @property
    def weights(self) -> tuple[Weight, ...]:
        return ()

    @property
    def width(self) -> int:
        """Floats a row of the output."""
        return sum(size for size, _ in self.parts)

    @property
    def factors(self) -> F32:
        """f32 [width]: each column's."""
        sizes, factors = zip(*self.parts, strict=True)
        out: F32 = np.repeat(np.array(factors, np.float32), sizes)
        return out

    def traffic(self) -> tuple[Traffic, ...]:
        return (ActivationTraffic(2 * self.width),)

    def flops(self, step: Step) -> int:
        return self.width * step.tokens

    def reference(self, run: Runtime, inputs: Values) -> F32:
        (x,) = inputs
        out: F32 = x * self.factors
        return out
