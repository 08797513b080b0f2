"""Softmax of a split of positions, and the fold of a split's partial into what came before it."""

import numpy as np

from memfirst.kernels.cpu.functions import exp16
from memfirst.kernels.cpu.lang import inline
from memfirst.kernels.cpu.simd import add, fma, mul, sub
from memfirst.kernels.cpu.simd16 import lane, larger, largest16, load16, splat16, store16, sum16


@inline
def _weights(scores, base, skip, used):
    """Turns scores skip..used into e^(score − max) in place, what surrounds them into 0; returns max and sum.

    Four at once, as each waits for the one before. A NaN is no maximum, but its e^… makes the sum NaN.
    """
    end = (used + 63) // 64 * 64
    for i in range(skip):
        scores[base + i] = np.float32(-np.inf)
    for i in range(used, end):
        scores[base + i] = np.float32(-np.inf)
    m0, m1 = load16(scores, base), load16(scores, base + 16)
    m2, m3 = load16(scores, base + 32), load16(scores, base + 48)
    for i in range(base + 64, base + end, 64):
        m0, m1 = larger(m0, load16(scores, i)), larger(m1, load16(scores, i + 16))
        m2, m3 = larger(m2, load16(scores, i + 32)), larger(m3, load16(scores, i + 48))
    largest = largest16(larger(larger(m0, m1), larger(m2, m3)))
    s0, s1, s2, s3, m = splat16(0.0), splat16(0.0), splat16(0.0), splat16(0.0), splat16(largest)
    for i in range(base, base + end, 64):
        e0, e1 = exp16(sub(load16(scores, i), m)), exp16(sub(load16(scores, i + 16), m))
        e2, e3 = exp16(sub(load16(scores, i + 32), m)), exp16(sub(load16(scores, i + 48), m))
        store16(scores, i, e0)
        store16(scores, i + 16, e1)
        store16(scores, i + 32, e2)
        store16(scores, i + 48, e3)
        s0, s1, s2, s3 = add(s0, e0), add(s1, e1), add(s2, e2), add(s3, e3)
    return largest, sum16(add(add(s0, s1), add(s2, s3)))


@inline
def factor(x):
    """e^x of one float."""
    return lane(exp16(splat16(x)), 0)


@inline
def rescale(top, total, at, largest, weight):
    """Folds a split's maximum and sum into those at `at`; returns factors for the old and the new values."""
    m = max(top[at], largest)
    old, new = factor(top[at] - m), factor(largest - m)
    top[at], total[at] = m, total[at] * old + weight * new
    return old, new


@inline
def softmax(scores, row, skip, used, factors, top, total, at, fresh):
    """Turns a split's scores into weights; where `fresh` is not true, the two factors of a fold go to `factors`."""
    largest, weight = _weights(scores, row, skip, used)
    if fresh:
        top[at], total[at] = largest, weight
    else:
        scores[factors], scores[factors + 1] = rescale(top, total, at, largest, weight)


@inline
def fold(part, at, old, new, values):
    """part = part · old + values · new, 16 of them."""
    store16(part, at, fma(values, splat16(new), mul(load16(part, at), splat16(old))))
