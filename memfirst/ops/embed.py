"""Token embedding: one row of a table for each token."""

from __future__ import annotations

from dataclasses import dataclass

from memfirst.codecs.base import F32
from memfirst.graph import Op, Step, Weight
from memfirst.ops.runtime import Runtime, Values
from memfirst.ops.traffic import ActivationTraffic, Read, RowRead


@dataclass(frozen=True)
class Embed(Op):
    """tokens i32 [n] -> [n, hidden]."""

    weight: Weight

    @property
    def weights(self) -> tuple[Weight, ...]:
        return (self.weight,)

    @property
    def width(self) -> int:
        """Floats a row of the output."""
        return self.weight.columns

    def reads(self) -> tuple[Read, ...]:
        return RowRead(self.weight), ActivationTraffic(self.width)

    def flops(self, step: Step) -> int:
        return 0

    def reference(self, run: Runtime, inputs: Values) -> F32:
        (tokens,) = inputs
        return run.rows(self.weight, tokens)
