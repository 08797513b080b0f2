"""Queries that grow with the position, against a softmax that flattens over long contexts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memfirst.codecs.base import F32
from memfirst.graph import Op, Step, Weight
from memfirst.graph.ops.positions import rope_positions
from memfirst.graph.runtime import Runtime, Values
from memfirst.graph.traffic import ActivationTraffic, Traffic


@dataclass(frozen=True)
class Temperature(Op):
    """[n, width] -> the same, times 1 + slope · ln(1 + floor((position + 1) / floor)) (Llama 4's layers without
    rotation; Nakanishi 2025, arXiv:2501.19399).
    """

    width: int
    slope: float
    floor: int

    @property
    def weights(self) -> tuple[Weight, ...]:
        return ()

    def traffic(self) -> tuple[Traffic, ...]:
        return (ActivationTraffic(2 * self.width),)

    def flops(self, step: Step) -> int:
        return self.width * step.tokens

    def factors(self, positions: NDArray[np.int64]) -> F32:
        """f32, one a position."""
        out: F32 = (1 + self.slope * np.log1p((positions + 1) // self.floor)).astype(np.float32)
        return out

    def reference(self, run: Runtime, inputs: Values) -> F32:
        (x,) = inputs
        return x * self.factors(rope_positions(run.step))[:, None]
