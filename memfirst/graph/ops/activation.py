"""A function of each value by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from memfirst.codecs.base import F32
from memfirst.graph import Op, Step, Weight
from memfirst.graph.ops.glu import gelu, sigmoid
from memfirst.graph.runtime import Runtime, Values
from memfirst.graph.traffic import ActivationTraffic, Traffic


def tanh(x: F32) -> F32:
    """Hyperbolic tangent."""
    out: F32 = np.tanh(x)
    return out


def squared_relu(x: F32) -> F32:
    """max(x, 0)² (So et al. 2021, arXiv:2109.08668)."""
    out: F32 = np.square(np.maximum(x, np.float32(0)))
    return out


FUNCTIONS: Mapping[str, Callable[[F32], F32]] = {"tanh": tanh, "sigmoid": sigmoid, "relu2": squared_relu, "gelu": gelu}


@dataclass(frozen=True)
class Activation(Op):
    """[n, width] -> [n, width]; `function` is a name of FUNCTIONS."""

    width: int
    function: str

    @property
    def weights(self) -> tuple[Weight, ...]:
        return ()

    def traffic(self) -> tuple[Traffic, ...]:
        return (ActivationTraffic(2 * self.width),)

    def flops(self, step: Step) -> int:
        """Taken as 4 a value, as in a gated unit."""
        return 4 * self.width * step.tokens

    def reference(self, run: Runtime, inputs: Values) -> F32:
        (x,) = inputs
        return FUNCTIONS[self.function](x)
