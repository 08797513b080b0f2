"""Between two values, as a third says."""

from __future__ import annotations

from dataclasses import dataclass

from memfirst.codecs.base import F32
from memfirst.graph import Op, Step, Weight
from memfirst.graph.runtime import Runtime, Values
from memfirst.graph.traffic import ActivationTraffic, Traffic


@dataclass(frozen=True)
class Blend(Op):
    """x, other and share [n, width] -> [n, width]: x + (other − x) · share."""

    width: int

    @property
    def weights(self) -> tuple[Weight, ...]:
        return ()

    def traffic(self) -> tuple[Traffic, ...]:
        return (ActivationTraffic(4 * self.width),)

    def flops(self, step: Step) -> int:
        """A difference, a product and a sum a value."""
        return 3 * self.width * step.tokens

    def reference(self, run: Runtime, inputs: Values) -> F32:
        x, other, share = inputs
        out: F32 = x + (other - x) * share
        return out
