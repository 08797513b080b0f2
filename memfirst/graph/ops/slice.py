"""A range of each row, or of each head of it: one projection that gives several values is cut with it."""

from __future__ import annotations

from dataclasses import dataclass

from memfirst.codecs.base import F32
from memfirst.graph import Op, Step, Weight
from memfirst.graph.runtime import Runtime, Values
from memfirst.graph.traffic import ActivationTraffic, Traffic


@dataclass(frozen=True)
class Slice(Op):
    """[n, any] -> [n, width], from `start`: a view, so nothing moves.

    heads  > 1: of each of that many heads its values from `start` on, one head after another, which are copied (a
           projection that gives each head's query and gate, Qwen3-Next)
    """

    start: int
    width: int
    heads: int = 1

    @property
    def weights(self) -> tuple[Weight, ...]:
        return ()

    def traffic(self) -> tuple[Traffic, ...]:
        return () if self.heads == 1 else (ActivationTraffic(2 * self.width),)

    def flops(self, step: Step) -> int:
        return 0

    def reference(self, run: Runtime, inputs: Values) -> F32:
        (x,) = inputs
        each = self.width // self.heads
        out: F32 = x.reshape(len(x), self.heads, -1)[:, :, self.start : self.start + each].reshape(len(x), self.width)
        return out
