"""A range of each row: one projection that gives several values is cut with it."""

from __future__ import annotations

from dataclasses import dataclass

from memfirst.codecs.base import F32
from memfirst.graph import Op, Step, Weight
from memfirst.graph.runtime import Runtime, Values
from memfirst.graph.traffic import Traffic


@dataclass(frozen=True)
class Slice(Op):
    """[n, any] -> [n, width], from `start`: a view, so nothing moves."""

    start: int
    width: int

    @property
    def weights(self) -> tuple[Weight, ...]:
        return ()

    def traffic(self) -> tuple[Traffic, ...]:
        return ()

    def flops(self, step: Step) -> int:
        return 0

    def reference(self, run: Runtime, inputs: Values) -> F32:
        (x,) = inputs
        out: F32 = x[:, self.start : self.start + self.width]
        return out
