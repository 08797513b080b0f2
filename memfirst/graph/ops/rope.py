"""Rotary position embedding: pairs of a head's values are rotated by an angle that grows with the position."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memfirst.codecs.base import F32
from memfirst.graph import Op, Step, Weight
from memfirst.graph.ops.positions import rope_positions
from memfirst.graph.runtime import Runtime, Values
from memfirst.graph.traffic import ActivationTraffic, Traffic

INTERLEAVED, HALF = "interleaved", "half"


@dataclass(frozen=True)
class Rope(Op):
    """[n, heads · head_dim] -> the same (Su et al. 2021, arXiv:2104.09864).

    frequencies  radians a position of each pair, after any scaling; 2·len of a head's values are rotated
    style        "interleaved": pairs (2i, 2i + 1); "half": pairs (i, i + apart)
    apart        of style "half", from a pair's first value to its second; 0: as many as pairs (Gemma 4: half of the
                 head, of which the first quarter of the pairs is rotated)
    factor       multiplies cosine and sine (YaRN's attention factor)
    start        first value of a head that is rotated; those before and after the rotated ones pass
    long_frequencies, original
                 LongRoPE (Ding et al. 2024, arXiv:2402.13753): where sequences may grow beyond `original` positions,
                 tokens are rotated by these from the first one on, as llama.cpp and vLLM do
    temperature  > 0: of queries, the rotated values are multiplied by 1 + temperature · ln(1 + floor(position /
                 original)) (Llama 4, Ministral 3)
    """

    heads: int
    head_dim: int
    frequencies: tuple[float, ...]
    style: str
    factor: float = 1.0
    start: int = 0
    long_frequencies: tuple[float, ...] = ()
    original: int = 0
    temperature: float = 0.0
    apart: int = 0

    @property
    def weights(self) -> tuple[Weight, ...]:
        return ()

    @property
    def width(self) -> int:
        """Floats a row of the output."""
        return self.heads * self.head_dim

    def traffic(self) -> tuple[Traffic, ...]:
        return (ActivationTraffic(2 * self.width),)

    def flops(self, step: Step) -> int:
        """4 products and 2 sums a pair."""
        return step.tokens * self.heads * 6 * len(self.frequencies)

    def reference(self, run: Runtime, inputs: Values) -> F32:
        (x,) = inputs
        out: F32 = x.reshape(len(x), self.heads, self.head_dim).astype(np.float32)
        first, second = self._pairs(out)
        positions = np.asarray(rope_positions(run.step), np.float64)
        angles = np.outer(positions, self.frequencies_for(run.context))[:, None, :]
        factor = self.factors(positions)[:, None, None]
        cos = (np.cos(angles) * factor).astype(np.float32)
        sin = (np.sin(angles) * factor).astype(np.float32)
        rotated = first * cos - second * sin, second * cos + first * sin
        first[:], second[:] = rotated
        return out.reshape(x.shape)

    def factors(self, positions: NDArray[np.float64]) -> NDArray[np.float64]:
        """What cosine and sine are multiplied by at each position."""
        if not self.temperature:
            return np.full_like(positions, self.factor)
        return self.factor * (1 + self.temperature * np.log1p(positions // self.original))

    def frequencies_for(self, context: int) -> tuple[float, ...]:
        """Radians a position of each pair, where sequences may have up to `context` positions. A choice by each
        sequence's own length would leave cached keys that were rotated otherwise, and depend on how a prompt is cut."""
        return self.long_frequencies if self.long_frequencies and context > self.original else self.frequencies

    def _pairs(self, x: F32) -> tuple[F32, F32]:
        """Views [n, heads, pairs] of both members of each pair."""
        n = len(self.frequencies)
        if self.style == INTERLEAVED:
            part = x[..., self.start : self.start + 2 * n]
            return part[..., 0::2], part[..., 1::2]
        second = self.start + (self.apart or n)
        return x[..., self.start : self.start + n], x[..., second : second + n]
