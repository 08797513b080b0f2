"""Gated unit: activation(gate) · up."""

from __future__ import annotations

from dataclasses import dataclass
from math import pi, sqrt

import numpy as np

from memfirst.codecs.base import F32
from memfirst.graph import Op, Step, Weight
from memfirst.ops.runtime import Runtime, Values
from memfirst.ops.traffic import ActivationTraffic, Read


def sigmoid(x: F32) -> F32:
    """1 / (1 + e^−x); where e^−x overflows (x < −88), 0."""
    with np.errstate(over="ignore"):
        out: F32 = np.float32(1) / (np.float32(1) + np.exp(-x))
    return out


def silu(x: F32) -> F32:
    """x · sigmoid(x)."""
    return x * sigmoid(x)


def gelu(x: F32) -> F32:
    """The tanh form: x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³))) (arXiv:1606.08415)."""
    inner = np.float32(sqrt(2 / pi)) * (x + np.float32(0.044715) * x**3)
    out: F32 = np.float32(0.5) * x * (1 + np.tanh(inner))
    return out


ACTIVATIONS = {"silu": silu, "gelu": gelu}


@dataclass(frozen=True)
class Glu(Op):
    """gate [n, width], up [n, width] -> [n, width]."""

    width: int
    activation: str = "silu"

    @property
    def weights(self) -> tuple[Weight, ...]:
        return ()

    def reads(self) -> tuple[Read, ...]:
        return (ActivationTraffic(3 * self.width),)

    def flops(self, step: Step) -> int:
        """The activation taken as 4, and the product."""
        return 5 * self.width * step.tokens

    def reference(self, run: Runtime, inputs: Values) -> F32:
        gate, up = inputs
        return ACTIVATIONS[self.activation](gate) * up
