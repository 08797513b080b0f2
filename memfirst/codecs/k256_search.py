"""The search for the scales of a 256-weight block: least squares over a few candidate grids, all in NumPy.

Sub-blocks are columns here, [weights of a sub-block, sub-blocks], so that a sum over one
adds whole rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from memfirst.codecs.base import F32, U8
from memfirst.codecs.blocks import f16_at, f16_bytes, inverse
from memfirst.codecs.k256 import BLOCK, SUBS, scale_bytes, scales_and_mins


def power_of_two(weights: F32) -> F32:
    """f32 [n, 256] -> f32 [n, 1]: a power of two p with max|weight| / p in [0.5, 1), 1 for a block of zeros.

    Dividing by it is exact, and keeps squares of weights within float32 whatever their magnitude.
    """
    _, exponent = np.frexp(np.abs(weights).max(axis=1, keepdims=True))
    power: F32 = np.ldexp(np.float32(1), np.clip(exponent, -125, 127)).astype(np.float32)
    return power


@dataclass(frozen=True)
class _Columns:
    """Sub-blocks side by side and the sums of a weighted least squares that no code changes.

    x f32 [32, m], weight f32 [32, m], weighted = weight * x; sw, sx, sxx f32 [m]: the sums over a column of
    weight, weight*x and weight*x^2.
    """

    x: F32
    weight: F32
    weighted: F32
    sw: F32
    sx: F32
    sxx: F32

    @classmethod
    def of(cls, x: F32) -> _Columns:
        """Weighs each x by |x| + rms of its column: large weights matter more to a dot product."""
        weight = np.abs(x) + np.sqrt(np.mean(x * x, axis=0))
        weighted = weight * x
        return cls(x, weight, weighted, weight.sum(axis=0), weighted.sum(axis=0), (weighted * x).sum(axis=0))

    def fit(self, codes: F32) -> tuple[F32, F32, F32]:
        """Least squares of x on codes [32, m]: scale, minimum >= 0 and the squared error left, each [m]."""
        product = self.weight * codes
        sq, sqq = product.sum(axis=0), (product * codes).sum(axis=0)
        sxq = (self.weighted * codes).sum(axis=0)
        det = self.sw * sqq - sq * sq
        # Codes all alike make the system singular, and float32 sums leave some 1e-6 of it: no fit then.
        usable = det > np.float32(1e-5) * self.sw * sqq
        safe = np.where(usable, det, np.float32(1))
        scale, base = (self.sw * sxq - self.sx * sq) / safe, (sqq * self.sx - sq * sxq) / safe
        # A minimum below 0 cannot be stored: fit through the origin instead.
        through = base > 0
        scale = np.where(through, sxq / np.where(sqq > 0, sqq, np.float32(1)), scale)
        base = np.where(through, np.float32(0), base)
        error = self.sxx + scale * scale * sqq + base * base * self.sw
        error -= 2 * (scale * sxq + base * self.sx - scale * base * sq)
        return scale, -base, np.where(usable, error, np.float32(np.inf))


def affine_search(x: F32, levels: int, offsets: Sequence[float]) -> tuple[F32, F32]:
    """Scale and minimum (both >= 0) of `x = scale * q - minimum`, q = 0..levels-1, for each column.

    x f32 [32, m], one sub-block a column -> f32 [m], f32 [m]. Each offset o gives a grid with levels-1+o
    steps over the range of x; its codes are fitted by weighted least squares; the fit of least error wins.
    """
    columns = _Columns.of(x)
    lowest = np.minimum(x.min(axis=0), np.float32(0))
    span = np.maximum(x.max(axis=0), np.float32(0)) - lowest
    shifted, per_span = x - lowest, inverse(span)
    scale, minimum, error = span / np.float32(levels - 1), -lowest, np.full_like(span, np.inf)
    for offset in offsets:
        codes = shifted * (np.float32(levels - 1 + offset) * per_span)
        np.minimum(np.rint(codes, out=codes), np.float32(levels - 1), out=codes)
        fit = columns.fit(codes)
        better = fit[2] < error
        scale, minimum = np.where(better, fit[0], scale), np.where(better, fit[1], minimum)
        error = np.where(better, fit[2], error)
    return scale, minimum


def symmetric_search(columns: F32, half: int, offsets: Sequence[float]) -> F32:
    """Scale (of either sign) of `x = scale * q`, q = -half..half-1, for each column: f32 [16, m] -> f32 [m].

    Each offset o puts the weight of largest magnitude at -(half+o). For given codes, least squares weighted
    by x^2 gives scale = sum(w*x*q) / sum(w*q^2) and explains sum(w*x*q)^2 / sum(w*q^2): the most is kept.
    """
    largest = np.take_along_axis(columns, np.abs(columns).argmax(axis=0)[None], axis=0)[0]
    weight = columns * columns
    weighted = weight * columns
    scale: F32 = np.zeros_like(largest)
    explained = scale
    for offset in offsets:
        codes = np.rint(columns * (np.float32(-(half + offset)) * inverse(largest)))
        np.clip(codes, -half, half - 1, out=codes)
        fit, norm = (weighted * codes).sum(axis=0), (weight * codes * codes).sum(axis=0)
        better = fit * fit > explained * norm
        safe = np.where(norm > 0, norm, np.float32(1))
        scale = np.where(better, fit / safe, scale)
        explained = np.where(better, fit * fit / safe, explained)
    return scale


def affine_quantize(weights: F32, levels: int, offsets: Sequence[float]) -> tuple[U8, U8]:
    """f32 [n, 256] -> header u8 [n, 16] (d, dmin, scale bytes) and codes u8 [n, 256] of 0..levels-1."""
    unit = power_of_two(weights)
    columns = np.ascontiguousarray((weights / unit).reshape(-1, BLOCK // SUBS).T)
    scale, minimum = (found.reshape(-1, SUBS) for found in affine_search(columns, levels, offsets))
    d, scale_codes = _six_bits(scale, unit)
    dmin, min_codes = _six_bits(minimum, unit)
    header = np.concatenate([d, dmin, scale_bytes(scale_codes, min_codes)], axis=1)
    return header, _affine_codes(columns, unit, header, levels).reshape(-1, BLOCK)


def _six_bits(values: F32, unit: F32) -> tuple[U8, U8]:
    """f32 [n, 8] >= 0 in units of f32 [n, 1] -> f16 step u8 [n, 2] and codes u8 [n, 8] of 0..63."""
    largest = values.max(axis=1, keepdims=True)
    codes = np.rint(values * (np.float32(63) * inverse(largest)))
    return f16_bytes(largest / np.float32(63) * unit), codes.astype(np.uint8)


def _affine_codes(columns: F32, unit: F32, header: U8, levels: int) -> U8:
    """The nearest code of each weight under the scales as stored: f32 [32, 8n] -> u8 [8n, 32]."""
    scales, mins = scales_and_mins(header[:, 4:])
    scale = (f16_at(header, 0) / unit * scales).reshape(-1)
    minimum = (f16_at(header, 2) / unit * mins).reshape(-1)
    codes = np.rint((columns + minimum) * inverse(scale))
    return np.ascontiguousarray(np.clip(codes, 0, levels - 1).astype(np.uint8).T)
