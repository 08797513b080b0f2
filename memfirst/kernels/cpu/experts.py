"""What stands around the matmuls of routed experts: picking them, grouping tokens by them, biases, the gated unit.

A *pair* is one expert of one token: token · k + rank, where a token's experts are ranked by their number. *Active*
experts are those that some token of the step picked. What goes over active expert × rows has `rows` units for each.
"""

import numpy as np

from memfirst.kernels.cpu.elementwise import activate16, glu16
from memfirst.kernels.cpu.functions import exp16, sigmoid16
from memfirst.kernels.cpu.lang import inline, kernel
from memfirst.kernels.cpu.simd import add, fma, mul, sub
from memfirst.kernels.cpu.simd16 import load16, load16_first, splat16, splat16_at, store16, store16_first

SMALL = np.float32(1e-20)
"""Added to the sum of picked weights before they are divided by it: sigmoids may all be 0."""


@inline
def _sigmoids(x, at, n):
    """x[at:at + n] = their sigmoids."""
    for i in range(0, n, 16):
        m = min(n - i, 16)
        store16_first(x, at + i, m, sigmoid16(load16_first(x, at + i, m)))


@inline
def _softmax(x, at, n):
    """x[at:at + n] = their softmax."""
    largest = x[at]
    for i in range(at + 1, at + n):
        largest = max(largest, x[i])
    for i in range(0, n, 16):
        m = min(n - i, 16)
        store16_first(x, at + i, m, exp16(sub(load16_first(x, at + i, m), splat16(largest))))
    total = np.float32(0.0)
    for i in range(at, at + n):
        total += x[i]
    for i in range(at, at + n):
        x[i] = x[i] / total


@inline
def _before(a, b):
    """Whether `a` ranks before `b`, which stands before it: NaN is last."""
    return a > b or (np.isnan(b) and not np.isnan(a))


@inline
def _largest(x, at, n):
    """Which of x[at:at + n] is the largest that is not taken: of equals the first; takes it, in the n floats behind."""
    found = -1
    for i in range(n):
        free = x[at + n + i] == np.float32(0.0)
        if free and (found < 0 or _before(x[at + i], x[at + found])):
            found = i
    x[at + n + found] = np.float32(1.0)
    return found


@inline
def _score_of_group(x, at, size, best_two):
    """The largest of x[at:at + size], or the sum of the two largest; NaN where one is."""
    first, second = x[at], np.float32(-np.inf)
    for i in range(at + 1, at + size):
        value = x[i]
        if np.isnan(value) or np.isnan(first):
            first = np.float32(np.nan)
        elif value > first:
            first, second = value, first
        elif value > second:
            second = value
    return first + second if best_two else first


@inline
def _within_groups(x, at, experts, groups, used, best_two):
    """−inf for the experts outside of the best `used` groups; works in the two planes behind x[at:at + experts]."""
    size, scores = experts // groups, at + experts
    for g in range(groups):
        x[scores + g] = _score_of_group(x, at + g * size, size, best_two)
        x[scores + groups + g] = np.float32(0.0)
    for _ in range(used):
        _largest(x, scores, groups)
    for g in range(groups):
        if x[scores + groups + g] == np.float32(0.0):
            for e in range(at + g * size, at + g * size + size):
                x[e] = np.float32(-np.inf)


@kernel
def pick(
    logits: "f32", logit_bias: "f32", bias: "f32", scales: "f32", expert: "i32", weight: "f32", floats: "f32",
    experts: "int", stride: "int", k: "int", groups: "int", groups_used: "int", scale: "float", private: "int",
    worker, lo, hi, *, SIGMOID, LOGIT_BIAS, BIAS, SCALES, NORMALIZE,
):  # fmt: skip
    """The k experts of tokens lo..hi, by number, and their weights: `graph.ops.experts.Router` says what they are.

    logits   [tokens, stride]; logit_bias: [experts], added to them
    bias     [experts], added to the scores that experts are picked by; scales: [experts], of the weights at the end
    expert, weight  [tokens, k]
    floats   this worker's own [4, experts]: scores, what experts are picked by, two planes to work in
    private  token rows between workers' own outputs (0: shared)
    Returns the bytes of biases and scales, once a step.
    """
    scores = worker * 4 * experts
    order = scores + experts
    for t in range(lo, hi):
        for e in range(experts):
            x = logits[t * stride + e]
            if LOGIT_BIAS:
                x += logit_bias[e]
            floats[scores + e] = x
        if SIGMOID:
            _sigmoids(floats, scores, experts)
        else:
            _softmax(floats, scores, experts)
        for e in range(experts):
            x = floats[scores + e]
            if BIAS:
                x += bias[e]
            floats[order + e] = x
        if groups > 1:
            _within_groups(floats, order, experts, groups, groups_used, SIGMOID)
        for e in range(experts):
            floats[order + experts + e] = np.float32(0.0)
        out = (worker * private + t) * k
        for j in range(k):
            found, at = _largest(floats, order, experts), out + j
            while at > out and expert[at - 1] > found:
                expert[at] = expert[at - 1]
                at -= 1
            expert[at] = found
        total = SMALL
        for at in range(out, out + k):
            total += floats[scores + expert[at]]
        for at in range(out, out + k):
            x = floats[scores + expert[at]]
            if NORMALIZE:
                x = x / total
            x *= scale
            if SCALES:
                x *= scales[expert[at]]
            weight[at] = x
    return (LOGIT_BIAS + BIAS + SCALES) * experts * 4 if lo == 0 else 0


@kernel
def group(
    expert: "i32", weight: "f32", active: "i32", first: "i32", pairs: "i32", weights: "f32", counts: "i32",
    step: "i64", ints: "i32", count: "int", tokens: "int", experts: "int", k: "int", private: "int", worker, lo, hi,
):  # fmt: skip
    """Groups a step's pairs by expert, within one by token; tells later phases how many experts are active.

    expert, weight  as `pick` leaves them
    active   [experts], their numbers ascending; first: where the pairs of each begin, and one more at the end
    pairs, weights  [tokens · k], grouped
    counts   [experts], the tokens that each got
    step     step[count] becomes the number of active experts; step[tokens] is that of tokens
    ints     this worker's own [experts]
    """
    total, source, own = step[tokens] * k, worker * private * k, worker * experts
    for e in range(experts):
        counts[e] = 0
    for i in range(source, source + total):
        counts[expert[i]] += 1
    n, at = 0, 0
    for e in range(experts):
        ints[own + e] = at
        if counts[e]:
            active[n] = e
            first[n] = at
            n += 1
        at += counts[e]
    first[n] = at
    for i in range(total):
        slot = own + expert[source + i]
        pairs[ints[slot]] = i
        weights[ints[slot]] = weight[source + i]
        ints[slot] += 1
    step[count] = n
    return 0


@kernel
def add_bias(
    y: "f32", bias: "f32", active: "i32", first: "i32", pairs: "i32", rows: "int", width: "int", stride: "int",
    worker, lo, hi,
):  # fmt: skip
    """y[pair] [pairs, stride] += its expert's row of the bias [experts, width], for lo..hi of active × rows.

    Returns the bytes of what it read of the bias.
    """
    read = 0
    for n in range(lo // rows, (hi - 1) // rows + 1):
        low, high, row = max(lo - n * rows, 0), min(hi - n * rows, width), active[n] * width
        for i in range(first[n], first[n + 1]):
            for r in range(low, high, 16):
                at, m = pairs[i] * stride + r, min(high - r, 16)
                store16_first(y, at, m, add(load16_first(y, at, m), load16_first(bias, row + r, m)))
        read += max(high - low, 0) * 4
    return read


@kernel
def weigh(y: "f32", first: "i32", pairs: "i32", weights: "f32", rows: "int", stride: "int", worker, lo, hi):
    """y[pair] [pairs, stride] *= its weight, for lo..hi of active × rows."""
    for n in range(lo // rows, (hi - 1) // rows + 1):
        low, high = max(lo - n * rows, 0), min(hi - n * rows, rows)
        for i in range(first[n], first[n + 1]):
            share = splat16_at(weights, i)
            for r in range(low, high, 16):
                at = pairs[i] * stride + r
                store16(y, at, mul(load16(y, at), share))
    return 0


@kernel
def add_weighed_bias(
    y: "f32", bias: "f32", active: "i32", first: "i32", pairs: "i32", weights: "f32", step: "i64", count: "int",
    k: "int", width: "int", stride: "int", worker, lo, hi,
):  # fmt: skip
    """y[token] [tokens, stride] += weight · its expert's row of the bias [experts, width], in columns lo..hi, for all
    pairs; returns the bytes of what it read of the bias."""
    last = min(hi, width)
    for n in range(step[count]):
        row = active[n] * width
        for i in range(first[n], first[n + 1]):
            share = splat16_at(weights, i)
            for r in range(lo, last, 16):
                at, m = pairs[i] // k * stride + r, min(last - r, 16)
                store16_first(y, at, m, fma(load16_first(bias, row + r, m), share, load16_first(y, at, m)))
    return step[count] * max(last - lo, 0) * 4


@kernel
def activate(g: "f32", first: "i32", pairs: "i32", rows: "int", stride: "int", worker, lo, hi, *, ACT):
    """g[pair] = f(g[pair]) [pairs, stride], for lo..hi of active × rows; ACT as in `elementwise.activate`."""
    for n in range(lo // rows, (hi - 1) // rows + 1):
        low, high = max(lo - n * rows, 0), min(hi - n * rows, rows)
        for i in range(first[n], first[n + 1]):
            for r in range(low, high, 16):
                at = pairs[i] * stride + r
                activate16(g, at, g, at, 16, ACT)
    return 0


@kernel
def glu(
    g: "f32", u: "f32", first: "i32", pairs: "i32", rows: "int", stride: "int", worker, lo, hi, *, ACT
):  # fmt: skip
    """g[pair] = the gated unit ACT of g[pair] and u[pair] [pairs, stride], for lo..hi of active × rows."""
    for n in range(lo // rows, (hi - 1) // rows + 1):
        low, high = max(lo - n * rows, 0), min(hi - n * rows, rows)
        for i in range(first[n], first[n + 1]):
            for r in range(low, high, 16):
                at = pairs[i] * stride + r
                glu16(g, at, u, at, g, at, 16, ACT)
    return 0
