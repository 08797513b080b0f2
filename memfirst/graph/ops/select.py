"""Rows that need logits: what follows (final norm, head) runs on those only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from memfirst.codecs.base import F32
from memfirst.graph import Op, Step, Weight
from memfirst.graph.runtime import Runtime, Values
from memfirst.graph.traffic import ActivationTraffic, Traffic


@dataclass(frozen=True)
class Select(Op):
    """[tokens, width] -> [logits, width], in the order of the sequences and of their `logit_rows`."""

    width: int

    @property
    def weights(self) -> tuple[Weight, ...]:
        return ()

    def traffic(self) -> tuple[Traffic, ...]:
        return (ActivationTraffic(2 * self.width, head=True),)

    def flops(self, step: Step) -> int:
        return 0

    def reference(self, run: Runtime, inputs: Values) -> F32:
        (x,) = inputs
        out: F32 = x[selected_rows(run.step)]
        return out


def selected_rows(step: Step) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Indices, among all the step's tokens, of those that need logits."""
    rows, start = [], 0
    for sequence in step.sequences:
        rows += [start + row for row in sequence.logit_rows]
        start += sequence.new
    return np.asarray(rows, np.int64)
