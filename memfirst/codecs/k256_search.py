"""The search for the scales of a 256-weight block: least squares over a few candidate grids, all in NumPy.

Sub-blocks are columns here, [weights of a sub-block, sub-blocks], so that a sum over one
adds whole rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from memfirst.codecs.base import F32, U8
from memfirst.codecs.blocks import SMALLEST_NORMAL_F16, f16_at, f16_bytes, f16_step, inverse
from memfirst.codecs.k256 import BLOCK


def power_of_two(weights: F32) -> F32:
    """f32 [n, 256] -> f32 [n, 1]: a power of two p with max|weight| / p in [0.5, 1), 1 for a block of zeros.

    Dividing by it is exact, and keeps squares of weights within float32 whatever their magnitude.
    """
    _, exponent = np.frexp(np.abs(weights).max(axis=1, keepdims=True))
    power: F32 = np.ldexp(np.float32(1), np.maximum(exponent, -125)).astype(np.float32)
    return power


class Columns:
    """Sub-blocks side by side and the sums of a weighted least squares that no code changes.

    x f32 [sub, m]; each weighs |x| + rms of its column, as large weights matter more to a dot product.
    weight, weighted = weight * x f32 [sub, m]; sw, sx, sxx f32 [m]: sums over a column of weight, weight * x
    and weight * x^2.
    """

    def __init__(self, x: F32) -> None:
        self.x = x
        self.weight: F32 = np.abs(x) + np.sqrt(np.mean(x * x, axis=0))
        self.weighted: F32 = self.weight * x
        self.sw: F32 = self.weight.sum(axis=0)
        self.sx: F32 = self.weighted.sum(axis=0)
        self.sxx: F32 = (self.weighted * x).sum(axis=0)

    def fit(self, codes: F32) -> tuple[F32, F32, F32]:
        """Least squares of x on codes [sub, m]: scale, minimum >= 0 and the squared error left, each [m]."""
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


def affine_search(columns: Columns, levels: int, offsets: Sequence[float]) -> tuple[F32, F32]:
    """Scale and minimum (both >= 0) of `x = scale * q - minimum`, q = 0..levels-1, for each column.

    Returns f32 [m], f32 [m]. Each offset o gives a grid with levels-1+o steps over the range of x; its codes
    are fitted by weighted least squares; the fit of least error wins.
    """
    x = columns.x
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


def symmetric_search(columns: F32, half: int, offsets: Sequence[float], weight: F32) -> F32:
    """Scale (of either sign) of `x = scale * q`, q = -half..half-1, for each column: f32 [16, m] -> f32 [m].

    Each offset o puts the weight of largest magnitude at -(half+o). For given codes, least squares weighted by `weight`
    f32 [16, m] gives scale = sum(w*x*q) / sum(w*q^2) and explains sum(w*x*q)^2 / sum(w*q^2): the most is kept.
    """
    largest = np.take_along_axis(columns, np.abs(columns).argmax(axis=0)[None], axis=0)[0]
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


def affine_quantize(
    weights: F32, levels: int, offsets: Sequence[float], sub: int, largest: int
) -> tuple[U8, U8, U8, U8]:
    """f32 [n, 256] -> d and dmin u8 [n, 4], scales and minimums u8 [n, 256/sub], and codes u8 [n, 256] of 0..levels-1.

    sub      weights that share a scale and a minimum
    largest  scale or minimum that a block holds: 2^bits - 1
    """
    unit = power_of_two(weights)
    subs = BLOCK // sub
    columns = Columns(np.ascontiguousarray((weights / unit).reshape(-1, sub).T))
    scale, minimum = (found.reshape(-1, subs) for found in affine_search(columns, levels, offsets))
    (d, scales), (dmin, mins) = _whole(scale, unit, largest), _whole(minimum, unit, largest)
    codes = _affine_codes(columns.x, d * scales, dmin * mins, levels)
    fitted = _refit(columns, codes * scales.reshape(-1), mins)
    # Where an f16 has fewer than 9 bits, rounding the fitted steps would cost more than fitting them gains.
    better = (np.minimum(*fitted) * unit) > SMALLEST_NORMAL_F16 / 4
    d, dmin = np.where(better, fitted[0], d), np.where(better, fitted[1], dmin)
    steps = np.concatenate([f16_bytes(d * unit), f16_bytes(dmin * unit)], axis=1)
    codes = _affine_codes(columns.x, f16_at(steps, 0) / unit * scales, f16_at(steps, 2) / unit * mins, levels)
    packed = np.ascontiguousarray(codes.astype(np.uint8).T).reshape(-1, BLOCK)
    return steps, scales.astype(np.uint8), mins.astype(np.uint8), packed


def _whole(values: F32, unit: F32, largest: int) -> tuple[F32, F32]:
    """f32 [n, subs] >= 0 -> step [n, 1], an f16 once times unit, and whole numbers 0..largest [n, subs]."""
    step = f16_step(values.max(axis=1, keepdims=True) / np.float32(largest) * unit) / unit
    return step, np.minimum(np.rint(values * inverse(step)), np.float32(largest))


def _affine_codes(x: F32, scale: F32, minimum: F32, levels: int) -> F32:
    """Nearest codes, as whole numbers [sub, m], of x [sub, m] under scales and minimums of m sub-blocks."""
    codes: F32 = np.rint((x + minimum.reshape(-1)) * inverse(scale.reshape(-1)))
    np.clip(codes, 0, levels - 1, out=codes)
    return codes


def _refit(columns: Columns, scaled: F32, mins: F32) -> tuple[F32, F32]:
    """d and dmin [n, 1] of least squared error over whole blocks, codes and 6-bit scales being chosen.

    Model: x = d * scaled - dmin * min, with scaled [sub, m] = scale * code. Rounding scales and minimums to
    six bits adds about 0.3 % of error, and this wins it back. Both are 0 where the system is singular.
    """
    subs = mins.shape[1]
    product = columns.weight * scaled
    aa, ax, a = (part.sum(axis=0).reshape(-1, subs) for part in (product * scaled, product * columns.x, product))
    weight, x = columns.sw.reshape(-1, subs), columns.sx.reshape(-1, subs)
    saa, sax, sab, sbb, sbx = (
        part.sum(axis=1, keepdims=True) for part in (aa, ax, a * mins, weight * mins * mins, x * mins)
    )
    det = saa * sbb - sab * sab
    usable = det > np.float32(1e-5) * saa * sbb
    safe = np.where(usable, det, np.float32(1))
    d, dmin = (sbb * sax - sab * sbx) / safe, (sab * sax - saa * sbx) / safe
    return np.where(usable, d, np.float32(0)), np.where(usable, dmin, np.float32(0))
