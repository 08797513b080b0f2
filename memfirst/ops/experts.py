"""Routed experts: a router picks k of E for each token; only experts that some token picked are read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from memfirst.codecs.base import F32
from memfirst.graph import Op, Step, Weight
from memfirst.ops.glu import ACTIVATIONS, sigmoid
from memfirst.ops.runtime import Runtime, Values
from memfirst.ops.traffic import ActivationTraffic, ExpertRead, Read, WeightRead


@dataclass(frozen=True)
class Router(Op):
    """[n, hidden] -> [n, experts]: each token's weight of each expert, 0 for those it did not pick.

    weight     [experts, hidden]
    scoring    "softmax" over all experts, or "sigmoid" of each
    bias       [experts], added to the scores when picking, not when weighing (DeepSeek-V3, arXiv:2412.19437)
    normalize  the picked weights sum to 1
    scale      multiplies them
    """

    weight: Weight
    k: int
    scoring: str = "softmax"
    bias: Weight | None = None
    normalize: bool = True
    scale: float = 1.0

    @property
    def weights(self) -> tuple[Weight, ...]:
        return (self.weight,) if self.bias is None else (self.weight, self.bias)

    @property
    def width(self) -> int:
        """Floats a row of the output."""
        return self.weight.rows

    def reads(self) -> tuple[Read, ...]:
        floats = self.weight.columns + self.weight.rows
        return (*(WeightRead(w) for w in self.weights), ActivationTraffic(floats))

    def flops(self, step: Step) -> int:
        return 2 * self.weight.rows * self.weight.columns * step.tokens

    def reference(self, run: Runtime, inputs: Values) -> F32:
        (x,) = inputs
        scores = self._scores(x @ run.weight(self.weight).T)
        order = scores if self.bias is None else scores + run.weight(self.bias)
        picked = np.argsort(-order, axis=1, kind="stable")[:, : self.k]
        out = np.zeros_like(scores)
        np.put_along_axis(out, picked, np.take_along_axis(scores, picked, 1), 1)
        if self.normalize:
            out /= out.sum(axis=1, keepdims=True)
        return out * np.float32(self.scale)

    def _scores(self, logits: F32) -> F32:
        if self.scoring == "sigmoid":
            return sigmoid(logits)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        out: F32 = powers / powers.sum(axis=1, keepdims=True)
        return out


@dataclass(frozen=True)
class Experts(Op):
    """x [n, hidden], routing [n, experts] -> [n, hidden]: Σ weight · down(activation(gate(x)) · up(x)).

    gate, up  [experts, width of the feed-forward, hidden]
    down      [experts, hidden, width of the feed-forward]
    k         experts that a token picks: prices the step before its routing is recorded
    """

    gate: Weight
    up: Weight
    down: Weight
    k: int
    activation: str = "silu"

    @property
    def weights(self) -> tuple[Weight, ...]:
        return self.gate, self.up, self.down

    @property
    def width(self) -> int:
        """Floats a row of the output."""
        return self.down.rows

    def reads(self) -> tuple[Read, ...]:
        floats = self.gate.columns + self.gate.matrices + self.k * 3 * self.gate.rows + self.width
        return (*(ExpertRead(w, self.k, self.name) for w in self.weights), ActivationTraffic(floats))

    def flops(self, step: Step) -> int:
        """Three matrices, the gated unit (5) and the weighted sum (2), for each expert of each token."""
        inner = self.gate.rows
        one = 6 * inner * self.gate.columns + 5 * inner + 2 * self.width
        return step.tokens * self.k * one

    def reference(self, run: Runtime, inputs: Values) -> F32:
        x, routing = inputs
        run.record_routing(self.name, tuple(int(n) for n in (routing != 0).sum(axis=0)))
        gate, up, down = (run.weight(w) for w in self.weights)
        out = np.zeros((len(x), self.width), np.float32)
        for e in np.flatnonzero(routing.any(axis=0)):
            rows = np.flatnonzero(routing[:, e])
            inner = ACTIVATIONS[self.activation](x[rows] @ gate[e].T) * (x[rows] @ up[e].T)
            out[rows] += routing[rows, e, None] * (inner @ down[e].T)
        return out
