"""A matrix of weights times each row: the operation whose bytes are most of a token's."""

from __future__ import annotations

from dataclasses import dataclass

from memfirst.codecs.base import F32
from memfirst.graph import Op, Step, Weight
from memfirst.ops.runtime import Runtime, Values
from memfirst.ops.traffic import ActivationTraffic, Read, WeightRead


@dataclass(frozen=True)
class Linear(Op):
    """[n, columns] -> [n, rows]: x @ weight.T + bias.

    head  the output head: only rows that need logits arrive
    """

    weight: Weight
    bias: Weight | None = None
    head: bool = False

    @property
    def weights(self) -> tuple[Weight, ...]:
        return (self.weight,) if self.bias is None else (self.weight, self.bias)

    @property
    def width(self) -> int:
        """Floats a row of the output."""
        return self.weight.rows

    def reads(self) -> tuple[Read, ...]:
        floats = self.weight.columns + self.weight.rows
        weights = (WeightRead(w, self.head) for w in self.weights)
        return (*weights, ActivationTraffic(floats, self.head))

    def flops(self, step: Step) -> int:
        rows = step.logits if self.head else step.tokens
        bias = 0 if self.bias is None else self.weight.rows
        return rows * (2 * self.weight.rows * self.weight.columns + bias)

    def reference(self, run: Runtime, inputs: Values) -> F32:
        (x,) = inputs
        out: F32 = x @ run.weight(self.weight).T
        return out if self.bias is None else out + run.weight(self.bias)
