"""Between a token's value and the one before it, by weights of each channel: what RWKV's projections read."""

from __future__ import annotations

from dataclasses import dataclass

from memfirst.codecs.base import F32
from memfirst.graph import Op, Step, Weight
from memfirst.graph.runtime import Runtime, Values
from memfirst.graph.traffic import ActivationTraffic, Traffic, WeightTraffic


@dataclass(frozen=True)
class TokenLerp(Op):
    """x and previous [n, width], optionally more [n, parts · width] -> [n, parts · width].

    Part p is x + (previous − x) · (weight[p] + more[p]): `more` makes the mix depend on the token (RWKV-6,
    arXiv:2404.05892, section 4.2). All parts are one tensor and one operation, so that it counts once.

    weight  [width], or [parts, 1, 1, width] as GGUF stores several
    """

    weight: Weight

    @property
    def weights(self) -> tuple[Weight, ...]:
        return (self.weight,)

    @property
    def parts(self) -> int:
        """Mixes of the same two values."""
        return self.weight.matrices * self.weight.rows

    @property
    def width(self) -> int:
        """Floats a row of the output."""
        return self.parts * self.weight.columns

    def traffic(self) -> tuple[Traffic, ...]:
        more = self.width if len(self.inputs) > 2 else 0
        return WeightTraffic(self.weight), ActivationTraffic(2 * self.weight.columns + more + self.width)

    def flops(self, step: Step) -> int:
        """The difference once; a product and a sum for each part, and one sum more where `more` is given."""
        each = 3 if len(self.inputs) > 2 else 2
        return step.tokens * (self.weight.columns + each * self.width)

    def reference(self, run: Runtime, inputs: Values) -> F32:
        x, previous, *more = inputs
        share = run.weight(self.weight).reshape(1, self.parts, self.weight.columns)
        if more:
            share = share + more[0].reshape(len(x), self.parts, self.weight.columns)
        out: F32 = x[:, None] + (previous - x)[:, None] * share
        return out.reshape(len(x), self.width)
