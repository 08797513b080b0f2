"""RWKV-7's recurrence: each token decays the state, takes out what it held for a key, and puts in a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from memfirst.codecs.base import F32
from memfirst.graph import Op, StateCache, Step, Weight
from memfirst.graph.ops.glu import sigmoid
from memfirst.graph.ops.recurrence import advance_sequences, state_traffic
from memfirst.graph.runtime import Runtime, Values
from memfirst.graph.traffic import ActivationTraffic, Traffic, WeightTraffic

DECAY = np.float32(-np.exp(-0.5))
"""A channel decays by e^(DECAY · sigmoid(w)): to 0.545 at most."""


@dataclass(frozen=True)
class ScaledKey(Op):
    """k and a [n, width] -> [n, width]: k · (1 + (a − 1) · weight). weight: k_a, [width]."""

    weight: Weight

    @property
    def weights(self) -> tuple[Weight, ...]:
        return (self.weight,)

    @property
    def width(self) -> int:
        """Floats a row of the output."""
        return self.weight.columns

    def traffic(self) -> tuple[Traffic, ...]:
        return WeightTraffic(self.weight), ActivationTraffic(3 * self.width)

    def flops(self, step: Step) -> int:
        """Difference, product, sum, product."""
        return 4 * self.width * step.tokens

    def reference(self, run: Runtime, inputs: Values) -> F32:
        k, a = inputs
        out: F32 = k * (1 + (a - 1) * run.weight(self.weight))
        return out


@dataclass(frozen=True)
class Wkv7(Op):
    """r, w, k, scaled k, v and a [n, heads · head_dim] -> the same (Peng et al. 2025, arXiv:2503.14456, section 4).

    For each head, with κ = k · removal scaled to length 1 and the decay e^(−e^−½ · sigmoid(w)):
    S = S ⊙ decay − (S · κ) ⊗ (κ ⊙ a) + v ⊗ scaled k; out = S · r. The decay goes by columns.

    cache    [heads, head_dim of v, head_dim of k]
    removal  k_k, [heads · head_dim]
    """

    recurs: ClassVar[bool] = True

    cache: StateCache
    removal: Weight
    head_dim: int

    @property
    def weights(self) -> tuple[Weight, ...]:
        return (self.removal,)

    @property
    def width(self) -> int:
        """Floats a row of the output."""
        return self.removal.columns

    def traffic(self) -> tuple[Traffic, ...]:
        return (*state_traffic(self.cache), WeightTraffic(self.removal), ActivationTraffic(7 * self.width))

    def flops(self, step: Step) -> int:
        """By state value S · κ 2, decay 1, two outer products added 4, times r 2: 9; by channel κ 4, decay 5, a 1."""
        return step.tokens * self.width * (9 * self.head_dim + 10)

    def reference(self, run: Runtime, inputs: Values) -> F32:
        removal, shape = run.weight(self.removal), (-1, self.width // self.head_dim, self.head_dim)

        def advance(state: F32, r: F32, w: F32, k: F32, scaled: F32, v: F32, a: F32) -> tuple[F32, F32]:
            state = state.reshape(*shape[1:], self.head_dim)
            decay, kappa = np.exp(DECAY * sigmoid(w)).reshape(shape), _unit((k * removal).reshape(shape))
            r, scaled, v, a = (x.reshape(shape) for x in (r, scaled, v, a))
            out = np.empty_like(v)
            for t in range(len(v)):
                held = np.einsum("hij,hj->hi", state, kappa[t])
                state = state * decay[t][:, None, :] - held[:, :, None] * (kappa[t] * a[t])[:, None, :]
                state += v[t][:, :, None] * scaled[t][:, None, :]
                out[t] = np.einsum("hij,hj->hi", state, r[t])
            return out.reshape(-1, self.width), state

        return advance_sequences(run, self.cache, self.width, inputs, advance)


def _unit(x: F32) -> F32:
    """Each head's vector scaled to length 1; none is divided by less than 1e-12."""
    length = np.sqrt(np.square(x).sum(axis=-1, keepdims=True, dtype=np.float32))
    out: F32 = x / np.maximum(length, np.float32(1e-12))
    return out


@dataclass(frozen=True)
class HeadBonus(Op):
    """x, r, k and v [n, heads · head_dim] -> the same: x + Σ(r · k · weight) · v, the sum over each head.

    weight  r_k, [heads · head_dim]
    """

    weight: Weight
    head_dim: int

    @property
    def weights(self) -> tuple[Weight, ...]:
        return (self.weight,)

    @property
    def width(self) -> int:
        """Floats a row of the output."""
        return self.weight.columns

    def traffic(self) -> tuple[Traffic, ...]:
        return WeightTraffic(self.weight), ActivationTraffic(5 * self.width)

    def flops(self, step: Step) -> int:
        """Two products and a sum, times v, added."""
        return 5 * self.width * step.tokens

    def reference(self, run: Runtime, inputs: Values) -> F32:
        x, r, k, v = inputs
        shape = (len(x), -1, self.head_dim)
        share = (r * k * run.weight(self.weight)).reshape(shape).sum(axis=-1, keepdims=True, dtype=np.float32)
        out: F32 = x + (share * v.reshape(shape)).reshape(x.shape)
        return out
