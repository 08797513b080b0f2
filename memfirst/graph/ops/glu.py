"""Gated unit: activation(gate) · up, or gpt-oss's clamped form of it."""

from __future__ import annotations

from dataclasses import dataclass
from math import pi, sqrt

import numpy as np

from memfirst.codecs.base import F32
from memfirst.graph import Op, Step, Weight
from memfirst.graph.runtime import Runtime, Values
from memfirst.graph.traffic import ActivationTraffic, Traffic


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


ACTIVATIONS = {"silu": silu, "gelu": gelu, "sigmoid": sigmoid}

CLAMPED, LIMIT, ALPHA = "swiglu_clamped", np.float32(7.0), np.float32(1.702)
"""gpt-oss's unit, with its `swiglu_limit` and the slope of its sigmoid."""


def clamped_swiglu(gate: F32, up: F32) -> F32:
    """gate · sigmoid(1.702 · gate) · (up + 1), gate at most 7 and up within ±7 (openai/gpt-oss, torch/model.py)."""
    gate, up = np.minimum(gate, LIMIT), np.clip(up, -LIMIT, LIMIT)
    return gate * sigmoid(ALPHA * gate) * (up + np.float32(1))


def gated(activation: str, gate: F32, up: F32) -> F32:
    """What a gated unit of that activation makes of its two inputs."""
    return clamped_swiglu(gate, up) if activation == CLAMPED else ACTIVATIONS[activation](gate) * up


@dataclass(frozen=True)
class Glu(Op):
    """gate [n, width], up [n, width] -> [n, width]."""

    width: int
    activation: str = "silu"

    @property
    def weights(self) -> tuple[Weight, ...]:
        return ()

    def traffic(self) -> tuple[Traffic, ...]:
        return (ActivationTraffic(3 * self.width),)

    def flops(self, step: Step) -> int:
        """The activation taken as 4, and the product."""
        return 5 * self.width * step.tokens

    def reference(self, run: Runtime, inputs: Values) -> F32:
        gate, up = inputs
        return gated(self.activation, gate, up)
