"""RWKV's small operations: the token before and mixes with it, by rows; blends, keys and bonuses, by columns.

By columns, operands are as in `elementwise`: rows of `x` lie `stride_x` floats apart, ranges are of any width.
"""

import numpy as np

from memfirst.kernels.cpu.lang import inline, kernel
from memfirst.kernels.cpu.simd import add, fma, mul, sub
from memfirst.kernels.cpu.simd16 import load16, load16_first, splat16, store16, store16_first, sum16


@inline
def _copy(x, source, out, target, width):
    """`width` floats."""
    last, n = width // 16 * 16, width % 16
    for i in range(0, last, 16):
        store16(out, target + i, load16(x, source + i))
    if n:
        store16_first(out, target + last, n, load16_first(x, source + last, n))


@kernel
def shift(
    x: "f32", out: "f32", state: "f32", sequence_at: "i32", sequence_new: "i32", sequence_past: "i32",
    state_read: "i32", step: "i64", sequences: "int", slot: "int", state_at: "int", width: "int", stride_x: "int",
    private_x: "int", private: "int", worker, lo, hi,
):  # fmt: skip
    """out[t] = x[t − 1] for tokens lo..hi: a sequence's first gets the last of the step before, which its state holds,
    or zeros where it has no past.

    x        [tokens, width], rows `stride_x` floats apart; out [tokens, width]
    private…  token rows between workers' own copies of x and out (0: shared)
    Operands of state as in `state`. Returns the bytes of the states of those sequences whose first token is in lo..hi.
    """
    read = 0
    for s in range(step[sequences]):
        first = sequence_at[s]
        for t in range(max(lo, first), min(hi, first + sequence_new[s])):
            to = (worker * private + t) * width
            if t > first:
                _copy(x, (worker * private_x + t - 1) * stride_x, out, to, width)
            elif sequence_past[s]:
                _copy(state, state_read[s] * slot + state_at, out, to, width)
            else:
                for i in range(to, to + width):
                    out[i] = np.float32(0.0)
        if lo <= first < hi:
            read += width * 4
    return read


@kernel
def last_rows(
    x: "f32", out: "f32", sequence_at: "i32", sequence_new: "i32", width: "int", stride_x: "int", private_x: "int",
    worker, lo, hi,
):  # fmt: skip
    """out[s] = x of the last token of sequence s, of sequences lo..hi; private_x: token rows between workers' own x."""
    for s in range(lo, hi):
        row = worker * private_x + sequence_at[s] + sequence_new[s] - 1
        _copy(x, row * stride_x, out, s * width, width)
    return 0


@kernel
def keep(
    x: "f32", state: "f32", state_write: "i32", slot: "int", state_at: "int", width: "int", worker, lo, hi
):  # fmt: skip
    """Rows lo..hi of x [sequences, width] into each sequence's state; returns their bytes."""
    for s in range(lo, hi):
        _copy(x, s * width, state, state_write[s] * slot + state_at, width)
    return (hi - lo) * width * 4


@kernel
def lerp(
    x: "f32", previous: "f32", w: "f32", more: "f32", out: "f32", width: "int", parts: "int", stride_x: "int",
    stride_previous: "int", stride_more: "int", private_x: "int", private_previous: "int", private: "int",
    worker, lo, hi, *, MORE,
):  # fmt: skip
    """out[t, p] = x[t] + (previous[t] − x[t]) · (w[p] + more[t, p]) for tokens lo..hi and `parts` parts.

    x, previous  [tokens, width], rows `stride_…` floats apart
    w            [parts, width]
    more         [tokens, parts · width]; MORE 0: nothing is added to w, whatever it is
    out          [tokens, parts · width]
    private…     token rows between workers' own copies of x, previous and out (0: shared)
    Returns the bytes of w, once a step.
    """
    last, n = width // 16 * 16, width % 16
    for t in range(lo, hi):
        own, old = (worker * private_x + t) * stride_x, (worker * private_previous + t) * stride_previous
        for p in range(parts):
            at, extra, to = p * width, t * stride_more + p * width, ((worker * private + t) * parts + p) * width
            for i in range(0, last, 16):
                v, share = load16(x, own + i), load16(w, at + i)
                if MORE:
                    share = add(share, load16(more, extra + i))
                store16(out, to + i, fma(sub(load16(previous, old + i), v), share, v))
            if n:
                v, share = load16_first(x, own + last, n), load16_first(w, at + last, n)
                if MORE:
                    share = add(share, load16_first(more, extra + last, n))
                change = sub(load16_first(previous, old + last, n), v)
                store16_first(out, to + last, n, fma(change, share, v))
    return parts * width * 4 if lo == 0 else 0


@kernel
def blend(
    x: "f32", other: "f32", share: "f32", out: "f32", step: "i64", count: "int", stride_x: "int", stride_other: "int",
    stride_share: "int", stride: "int", worker, lo, hi,
):  # fmt: skip
    """out[t, lo:hi] = x + (other − x) · share."""
    last, n = lo + (hi - lo) // 16 * 16, (hi - lo) % 16
    for t in range(step[count]):
        i, j, s, k = t * stride_x, t * stride_other, t * stride_share, t * stride
        for c in range(lo, last, 16):
            v = load16(x, i + c)
            store16(out, k + c, fma(sub(load16(other, j + c), v), load16(share, s + c), v))
        if n:
            v = load16_first(x, i + last, n)
            change = sub(load16_first(other, j + last, n), v)
            store16_first(out, k + last, n, fma(change, load16_first(share, s + last, n), v))
    return 0


@inline
def _scaled(k, a, w):
    """k · (1 + (a − 1) · w)."""
    return mul(k, fma(sub(a, splat16(1.0)), w, splat16(1.0)))


@kernel
def scaled_key(
    k: "f32", a: "f32", w: "f32", out: "f32", step: "i64", count: "int", stride_k: "int", stride_a: "int",
    stride: "int", worker, lo, hi,
):  # fmt: skip
    """out[t, lo:hi] = k · (1 + (a − 1) · w); returns the bytes of w[lo:hi]."""
    last, n = lo + (hi - lo) // 16 * 16, (hi - lo) % 16
    for t in range(step[count]):
        i, j, to = t * stride_k, t * stride_a, t * stride
        for c in range(lo, last, 16):
            store16(out, to + c, _scaled(load16(k, i + c), load16(a, j + c), load16(w, c)))
        if n:
            v = _scaled(load16_first(k, i + last, n), load16_first(a, j + last, n), load16_first(w, last, n))
            store16_first(out, to + last, n, v)
    return (hi - lo) * 4


@inline
def _triple_sum(r, at_r, k, at_k, w, at_w, width):
    """Σ r · k · w of `width` floats."""
    total, last = splat16(0.0), width // 16 * 16
    for i in range(0, last, 16):
        total = fma(mul(load16(r, at_r + i), load16(k, at_k + i)), load16(w, at_w + i), total)
    if last < width:
        n = width - last
        product = mul(load16_first(r, at_r + last, n), load16_first(k, at_k + last, n))
        total = fma(product, load16_first(w, at_w + last, n), total)
    return sum16(total)


@kernel
def head_bonus(
    x: "f32", r: "f32", k: "f32", v: "f32", w: "f32", out: "f32", step: "i64", count: "int", stride_x: "int",
    stride_r: "int", stride_k: "int", stride_v: "int", stride: "int", head_dim: "int", worker, lo, hi,
):  # fmt: skip
    """out[t] = x + Σ(r · k · w) · v, the sum over each head of columns lo..hi, which are multiples of `head_dim`.

    Returns the bytes of w[lo:hi].
    """
    last, n = head_dim // 16 * 16, head_dim % 16
    for t in range(step[count]):
        for h in range(lo, hi, head_dim):
            share = splat16(_triple_sum(r, t * stride_r + h, k, t * stride_k + h, w, h, head_dim))
            i, j, to = t * stride_x + h, t * stride_v + h, t * stride + h
            for c in range(0, last, 16):
                store16(out, to + c, fma(share, load16(v, j + c), load16(x, i + c)))
            if n:
                y = fma(share, load16_first(v, j + last, n), load16_first(x, i + last, n))
                store16_first(out, to + last, n, y)
    return (hi - lo) * 4
