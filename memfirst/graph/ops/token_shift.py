"""Token shift: each token gets the value of the one before it; the last one is kept as state."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from memfirst.codecs.base import F32
from memfirst.graph import Op, StateCache, Step, Weight
from memfirst.graph.ops.recurrence import advance_sequences, state_traffic
from memfirst.graph.runtime import Runtime, Values
from memfirst.graph.traffic import ActivationTraffic, Traffic


@dataclass(frozen=True)
class TokenShift(Op):
    """[n, width] -> [n, width]: out[t] = x[t − 1], zeros before a sequence's first token.

    cache  the last token's value, [width]
    """

    cache: StateCache

    @property
    def weights(self) -> tuple[Weight, ...]:
        return ()

    @property
    def width(self) -> int:
        """Floats a row of the output."""
        return self.cache.elements

    def traffic(self) -> tuple[Traffic, ...]:
        return (*state_traffic(self.cache), ActivationTraffic(2 * self.width))

    def flops(self, step: Step) -> int:
        return 0

    def reference(self, run: Runtime, inputs: Values) -> F32:
        def advance(last: F32, x: F32) -> tuple[F32, F32]:
            return np.concatenate([last.reshape(1, self.width), x[:-1]]), x[-1]

        return advance_sequences(run, self.cache, self.width, inputs, advance)
