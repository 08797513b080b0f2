"""Routed experts: a router picks k of E for each token; only experts that some token picked are read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from memfirst.codecs.base import F32
from memfirst.graph import Op, Step, Weight
from memfirst.graph.ops.activation import FUNCTIONS
from memfirst.graph.ops.glu import gated, sigmoid
from memfirst.graph.runtime import Runtime, Values
from memfirst.graph.traffic import ActivationTraffic, ExpertTraffic, Traffic, WeightTraffic


@dataclass(frozen=True)
class Router(Op):
    """[n, hidden] -> [n, experts]: each token's weight of each expert, 0 for those it did not pick.

    weight       [experts, hidden]
    k            experts that a token picks
    scoring      "softmax" over all experts, or "sigmoid" of each
    bias         [experts], added to the scores when picking, not when weighing (DeepSeek-V3, arXiv:2412.19437)
    normalize    the picked weights sum to 1; of a softmax: as if it were taken over the picked alone
    scale        multiplies them
    logit_bias   [experts], added before scoring (gpt-oss)
    groups       > 1: neighbouring experts form that many groups, and only those of the best `groups_used` are
                 picked. A group is as good as its best expert (softmax: DeepSeek-V2, arXiv:2405.04434, section
                 2.2.2), or as the sum of its two best (sigmoid: DeepSeek-V3)
    expert_scale [experts], multiplies the weights at the end (Gemma 4)
    """

    weight: Weight
    k: int
    scoring: str = "softmax"
    bias: Weight | None = None
    normalize: bool = True
    scale: float = 1.0
    logit_bias: Weight | None = None
    groups: int = 1
    groups_used: int = 1
    expert_scale: Weight | None = None

    @property
    def weights(self) -> tuple[Weight, ...]:
        return tuple(w for w in (self.weight, self.logit_bias, self.bias, self.expert_scale) if w is not None)

    @property
    def width(self) -> int:
        """Floats a row of the output."""
        return self.weight.rows

    def traffic(self) -> tuple[Traffic, ...]:
        floats = self.weight.columns + self.weight.rows
        return (*(WeightTraffic(w) for w in self.weights), ActivationTraffic(floats))

    def flops(self, step: Step) -> int:
        return 2 * self.weight.rows * self.weight.columns * step.tokens

    def reference(self, run: Runtime, inputs: Values) -> F32:
        (x,) = inputs
        logits = x @ run.weight(self.weight).T
        scores = self._scores(logits if self.logit_bias is None else logits + run.weight(self.logit_bias))
        order = self._within_groups(scores if self.bias is None else scores + run.weight(self.bias))
        picked = np.argsort(-order, axis=1, kind="stable")[:, : self.k]
        out = np.zeros_like(scores)
        np.put_along_axis(out, picked, np.take_along_axis(scores, picked, 1), 1)
        if self.normalize:
            out /= out.sum(axis=1, keepdims=True) + np.float32(1e-20)  # sigmoids may all be 0
        out *= np.float32(self.scale)
        return out if self.expert_scale is None else out * run.weight(self.expert_scale)

    def _scores(self, logits: F32) -> F32:
        if self.scoring == "sigmoid":
            return sigmoid(logits)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        out: F32 = powers / powers.sum(axis=1, keepdims=True)
        return out

    def _within_groups(self, order: F32) -> F32:
        """[n, experts] with those outside of the best groups at −inf."""
        if self.groups == 1:
            return order
        grouped = order.reshape(len(order), self.groups, -1)
        best = np.sort(grouped, axis=2)[:, :, -(1 if self.scoring == "softmax" else 2) :].sum(axis=2)
        out = np.full_like(grouped, -np.inf)
        chosen = np.argsort(-best, axis=1, kind="stable")[:, : self.groups_used, None]
        np.put_along_axis(out, chosen, np.take_along_axis(grouped, chosen, 1), 1)
        return out.reshape(order.shape)


@dataclass(frozen=True)
class Experts(Op):
    """x [n, hidden], routing [n, experts] -> [n, hidden]: Σ weight · (down(unit(gate(x), up(x)))), biases included; of
    experts without a gate Σ weight · down(f(up(x))).

    gate, up      [experts, width of the feed-forward, hidden]; gate None: there is none (Nemotron-H)
    down          [experts, hidden, width of the feed-forward]
    k             experts that a token picks: prices the step before its routing is recorded
    activation    of the gated unit between them, a name of `memfirst.graph.ops.glu`; without a gate one of
                  `memfirst.graph.ops.activation`
    gate_b, up_b  [experts, width of the feed-forward], and down_b [experts, hidden]: biases, all or none
    weigh_input   the weight multiplies what an expert gets, not what it gives (Llama 4)
    """

    gate: Weight | None
    up: Weight
    down: Weight
    k: int
    activation: str = "silu"
    gate_b: Weight | None = None
    up_b: Weight | None = None
    down_b: Weight | None = None
    weigh_input: bool = False

    @property
    def weights(self) -> tuple[Weight, ...]:
        biases = (b for b in (self.gate_b, self.up_b, self.down_b) if b is not None)
        return *self.inner, self.down, *biases

    @property
    def inner(self) -> tuple[Weight, ...]:
        """What multiplies x."""
        return (self.up,) if self.gate is None else (self.gate, self.up)

    @property
    def width(self) -> int:
        """Floats a row of the output."""
        return self.down.rows

    def traffic(self) -> tuple[Traffic, ...]:
        between = self.k * (1 + len(self.inner)) * self.up.rows
        floats = self.up.columns + self.up.matrices + between + self.width
        return (*(ExpertTraffic(w, self.k, self.name) for w in self.weights), ActivationTraffic(floats))

    def flops(self, step: Step) -> int:
        """Two or three matrices with their biases, the unit (4, and the gate) and the weighted sum (2), by expert and
        token."""
        inner, parts = self.up.rows, len(self.inner)
        biases = 0 if self.up_b is None else parts * inner + self.width
        one = 2 * (1 + parts) * inner * self.up.columns + biases + (3 + parts) * inner + 2 * self.width
        return step.tokens * self.k * one

    def reference(self, run: Runtime, inputs: Values) -> F32:
        x, routing = inputs
        run.record_routing(self.name, tuple(int(n) for n in (routing != 0).sum(axis=0)))
        out = np.zeros((len(x), self.width), np.float32)
        for e in map(int, np.flatnonzero(routing.any(axis=0))):
            rows = np.flatnonzero(routing[:, e])
            share: F32 = routing[rows, e, None]
            given = x[rows]
            if self.weigh_input:
                given, share = given * share, np.ones_like(share)
            inner = self.affine(run, e, given, self.up, self.up_b)
            if self.gate is None:
                inner = FUNCTIONS[self.activation](inner)
            else:
                inner = gated(self.activation, self.affine(run, e, given, self.gate, self.gate_b), inner)
            out[rows] += share * self.affine(run, e, inner, self.down, self.down_b)
        return out

    def affine(self, run: Runtime, expert: int, x: F32, weight: Weight, bias: Weight | None) -> F32:
        """x [n, columns] -> [n, rows] by one expert's matrix and bias."""
        out: F32 = x @ run.weight(weight)[expert].T
        return out if bias is None else out + run.weight(bias)[expert]
