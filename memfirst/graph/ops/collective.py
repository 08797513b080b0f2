"""What devices that share a model exchange: sums of partial outputs, outputs side by side, values handed on."""

from __future__ import annotations

from dataclasses import dataclass

from memfirst.codecs.base import F32
from memfirst.graph import Op, Step, Weight
from memfirst.graph.runtime import Runtime, Values
from memfirst.graph.traffic import ActivationTraffic, CollectiveTraffic, HandoverTraffic, Traffic


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
    """[n, width / degree] -> [n, width]: every device's part, in the order of devices.

    parts  the parts' widths, where they are not alike
    index  which of them is this device's
    """

    width: int
    degree: int
    head: bool = False
    parts: tuple[int, ...] = ()
    index: int = 0

    @property
    def weights(self) -> tuple[Weight, ...]:
        return ()

    def traffic(self) -> tuple[Traffic, ...]:
        moved = CollectiveTraffic(self.width, self.degree, gather=True, head=self.head)
        own = self.parts[self.index] if self.parts else self.width // self.degree
        return moved, ActivationTraffic(self.width + own, self.head)

    def flops(self, step: Step) -> int:
        return 0

    def reference(self, run: Runtime, inputs: Values) -> F32:
        (x,) = inputs
        return run.all_gather(x)


@dataclass(frozen=True)
class Send(Op):
    """[n, width], handed to device `to`; the value is still here.

    head  after the output head: only rows that need logits
    """

    width: int
    to: int
    head: bool = False

    @property
    def weights(self) -> tuple[Weight, ...]:
        return ()

    def traffic(self) -> tuple[Traffic, ...]:
        return HandoverTraffic(self.width, self.head), ActivationTraffic(self.width, self.head)

    def flops(self, step: Step) -> int:
        return 0

    def reference(self, run: Runtime, inputs: Values) -> F32:
        (x,) = inputs
        run.send(x, self.to)
        same: F32 = x
        return same


@dataclass(frozen=True)
class Receive(Op):
    """-> [n, width], as device `source` sends it."""

    width: int
    source: int
    head: bool = False

    @property
    def weights(self) -> tuple[Weight, ...]:
        return ()

    def traffic(self) -> tuple[Traffic, ...]:
        return (ActivationTraffic(self.width, self.head),)

    def flops(self, step: Step) -> int:
        return 0

    def reference(self, run: Runtime, inputs: Values) -> F32:
        return run.receive(self.source)
