"""What devices that share a layer exchange: sums of partial outputs, and outputs side by side."""

from __future__ import annotations

from dataclasses import dataclass

from memfirst.codecs.base import F32
from memfirst.graph import Op, Step, Weight
from memfirst.graph.runtime import Runtime, Values
from memfirst.graph.traffic import ActivationTraffic, CollectiveTraffic, Traffic


@dataclass(frozen=True)
class AllReduce(Op):
    """[n, width] -> [n, width], summed over `degree` devices.

    head  after the output head: only rows that need logits are exchanged
    """

    width: int
    degree: int
    head: bool = False

    @property
    def weights(self) -> tuple[Weight, ...]:
        return ()

    def traffic(self) -> tuple[Traffic, ...]:
        moved = CollectiveTraffic(self.width, self.degree, head=self.head)
        return moved, ActivationTraffic(2 * self.width, self.head)

    def flops(self, step: Step) -> int:
        """A ring adds degree − 1 times over the whole value, a share of it on each device."""
        rows = step.logits if self.head else step.tokens
        return rows * self.width * (self.degree - 1) // self.degree

    def reference(self, run: Runtime, inputs: Values) -> F32:
        (x,) = inputs
        return run.all_reduce(x)


@dataclass(frozen=True)
class AllGather(Op):
    """[n, width / degree] -> [n, width]: every device's part, in the order of devices."""

    width: int
    degree: int
    head: bool = False

    @property
    def weights(self) -> tuple[Weight, ...]:
        return ()

    def traffic(self) -> tuple[Traffic, ...]:
        moved = CollectiveTraffic(self.width, self.degree, gather=True, head=self.head)
        return moved, ActivationTraffic(self.width + self.width // self.degree, self.head)

    def flops(self, step: Step) -> int:
        return 0

    def reference(self, run: Runtime, inputs: Values) -> F32:
        (x,) = inputs
        return run.all_gather(x)
