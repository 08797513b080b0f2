"""A matrix of weights times each row: the operation whose bytes are most of a token's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from memfirst.codecs.base import F32
from memfirst.graph import Op, Step, Weight
from memfirst.graph.runtime import Runtime, Values
from memfirst.graph.traffic import ActivationTraffic, HeadTraffic, Traffic, WeightTraffic


@dataclass(frozen=True)
class Linear(Op):
    """[n, columns] -> [n, rows]: scale · (x @ weight.T + bias).

    head     the output head: only rows that need logits arrive
    softcap  > 0: a value y becomes softcap · tanh(y / softcap) at the end (Gemma 2, arXiv:2408.00118)
    """

    weight: Weight
    bias: Weight | None = None
    head: bool = False
    scale: float = 1.0
    softcap: float = 0.0

    @property
    def weights(self) -> tuple[Weight, ...]:
        return (self.weight,) if self.bias is None else (self.weight, self.bias)

    @property
    def width(self) -> int:
        """Floats a row of the output."""
        return self.weight.rows

    def traffic(self) -> tuple[Traffic, ...]:
        floats = self.weight.columns + self.weight.rows
        weights = (HeadTraffic(w) if self.head else WeightTraffic(w) for w in self.weights)
        return (*weights, ActivationTraffic(floats, self.head))

    def flops(self, step: Step) -> int:
        rows = step.logits if self.head else step.tokens
        extra = (self.bias is not None) + (self.scale != 1) + 3 * (self.softcap > 0)
        return rows * self.weight.rows * (2 * self.weight.columns + extra)

    def reference(self, run: Runtime, inputs: Values) -> F32:
        (x,) = inputs
        out: F32 = x @ run.weight(self.weight).T
        if self.bias is not None:
            out = out + run.weight(self.bias)
        if self.scale != 1:
            out = out * np.float32(self.scale)
        return soft_capped(out, self.softcap) if self.softcap else out


def soft_capped(x: F32, cap: float) -> F32:
    """cap · tanh(x / cap): near 0 as it was, never beyond ±cap."""
    out: F32 = np.float32(cap) * np.tanh(x / np.float32(cap))
    return out
