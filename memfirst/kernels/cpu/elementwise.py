"""What follows a product, on the rows that were just made: bias, norm of heads, RoPE, gating, and exp."""

import numpy as np

from memfirst.kernels.cpu.lang import inline, kernel
from memfirst.kernels.cpu.simd import add as plus
from memfirst.kernels.cpu.simd import fma, mul, shl, sub
from memfirst.kernels.cpu.simd16 import (
    as_float16,
    div,
    evens16,
    larger,
    load16,
    odds16,
    rint,
    smaller,
    splat16,
    splat16_i,
    store16,
    sum16,
    to_int16,
    zip_high16,
    zip_low16,
)


@inline
def exp16(x):
    """e^x, relative error below 3e-7: 2^n by shifting n into the exponent, 2^f (|f| <= 1/2) by its Taylor series."""
    x = smaller(splat16(87.33654), larger(splat16(-87.33654), x))  # ± 126 · ln 2; NaN stays
    n = rint(mul(x, splat16(1.4426950408889634)))
    f = fma(x, splat16(1.4426950216293335), sub(splat16(0.0), n))  # log2 e in two parts: x · log2 e − n to 2^-24
    f = fma(x, splat16(1.92596299e-8), f)
    p = splat16(1.5403530393381609e-4)
    p = fma(p, f, splat16(1.3333558146428443e-3))
    p = fma(p, f, splat16(9.618129107628477e-3))
    p = fma(p, f, splat16(5.5504108664821576e-2))
    p = fma(p, f, splat16(2.4022650695910072e-1))
    p = fma(p, f, splat16(6.931471805599453e-1))
    p = fma(p, f, splat16(1.0))
    return mul(p, as_float16(shl(plus(to_int16(n), splat16_i(127)), 23)))


@kernel
def add_bias(y: "f32", bias: "f32", step: "i64", count: "int", stride: "int", worker, lo, hi):
    """y[t, lo:hi] += bias[lo:hi] for all tokens of the step; returns the bytes of the bias."""
    for t in range(step[count]):
        for r in range(lo, hi):
            y[t * stride + r] += bias[r]
    return (hi - lo) * 4


@kernel
def norm_heads(
    y: "f32", w: "f32", step: "i64", count: "int", stride: "int", head_dim: "int", eps: "float", offset: "float",
    worker, lo, hi,
):  # fmt: skip
    """RMS norm of each head of rows lo..hi by itself, in place; lo and hi are multiples of `head_dim`.

    Returns the bytes of w, once a step.
    """
    for t in range(step[count]):
        for h in range(t * stride + lo, t * stride + hi, head_dim):
            total = splat16(0.0)
            for i in range(0, head_dim, 16):
                v = load16(y, h + i)
                total = fma(v, v, total)
            r = splat16(np.float32(1.0) / np.sqrt(sum16(total) / np.float32(head_dim) + eps))
            for i in range(0, head_dim, 16):
                w16 = plus(load16(w, i), splat16(offset))
                store16(y, h + i, mul(mul(load16(y, h + i), r), w16))
    return head_dim * 4 if lo == 0 else 0


@kernel
def rope(
    y: "f32", cos: "f32", sin: "f32", positions: "i32", step: "i64", count: "int", stride: "int",
    head_dim: "int", half: "int", worker, lo, hi, *, SPLIT,
):  # fmt: skip
    """Rotates each head of rows lo..hi in place by its token's position.

    cos, sin  [positions, half]
    SPLIT     0: pairs are neighbours (2i, 2i + 1); 1: pairs are (i, i + half)
    """
    near, far = (1, half) if SPLIT else (2, 1)
    whole = half // 16 * 16
    for t in range(step[count]):
        angle = positions[t] * half
        for h in range(t * stride + lo, t * stride + hi, head_dim):
            for i in range(0, whole, 16):
                at, beyond = h + i * near, h + i * near + (half if SPLIT else 16)
                x, y16 = load16(y, at), load16(y, beyond)
                c, s = load16(cos, angle + i), load16(sin, angle + i)
                a, b = (x, y16) if SPLIT else (evens16(x, y16), odds16(x, y16))
                near16, far16 = sub(mul(a, c), mul(b, s)), plus(mul(a, s), mul(b, c))
                store16(y, at, near16 if SPLIT else zip_low16(near16, far16))
                store16(y, beyond, far16 if SPLIT else zip_high16(near16, far16))
            for i in range(whole, half):
                c, s = cos[angle + i], sin[angle + i]
                a, b = y[h + i * near], y[h + i * near + far]
                y[h + i * near] = a * c - b * s
                y[h + i * near + far] = a * s + b * c
    return 0


@kernel
def glu(g: "f32", u: "f32", out: "f32", step: "i64", count: "int", stride: "int", worker, lo, hi):
    """out[t, lo:hi] = silu(g) · u, silu(x) = x / (1 + e^-x)."""
    one = splat16(1.0)
    zero = splat16(0.0)
    for t in range(step[count]):
        for r in range(t * stride + lo, t * stride + hi, 16):
            x = load16(g, r)
            store16(out, r, mul(div(x, plus(one, exp16(sub(zero, x)))), load16(u, r)))
    return 0


@kernel
def add(
    a: "f32", b: "f32", out: "f32", step: "i64", count: "int", stride_a: "int", stride_b: "int", stride: "int",
    worker, lo, hi,
):  # fmt: skip
    """out[t, lo:hi] = a[t, lo:hi] + b[t, lo:hi] for all tokens of the step; out may be a or b."""
    for t in range(step[count]):
        for r in range(lo, hi):
            out[t * stride + r] = a[t * stride_a + r] + b[t * stride_b + r]
    return 0
