"""What works on columns lo..hi of all tokens, or of all rows that need logits: bias, sums, gates, norm of heads, RoPE.

A matrix [rows, width] has its rows `stride` floats apart, so a range of columns of a wider one is an operand too; an
operand of another name has its own, as `stride_a`. `step[count]` is how many rows there are. An output may be one of
the inputs, on the same columns. Ranges are of any width: what is left of one behind its last 16 columns is a masked
vector, as its neighbours may be another worker's.
"""

import numpy as np

from memfirst.kernels.cpu.activations import normalize, sum_squares
from memfirst.kernels.cpu.functions import (
    gelu16,
    gelu_erf16,
    relu2_16,
    relu16,
    sigmoid16,
    silu16,
    softcap16,
    swiglu_clamped16,
    tanh16,
)
from memfirst.kernels.cpu.lang import kernel, macro
from memfirst.kernels.cpu.simd import add as plus
from memfirst.kernels.cpu.simd import mul, sub
from memfirst.kernels.cpu.simd16 import (
    evens16,
    load16,
    load16_first,
    odds16,
    splat16,
    store16,
    store16_first,
    zip_high16,
    zip_low16,
)


@kernel
def add_bias(y: "f32", bias: "f32", step: "i64", count: "int", stride: "int", worker, lo, hi):
    """y[t, lo:hi] += bias[lo:hi]; returns the bytes of the bias."""
    last = lo + (hi - lo) // 16 * 16
    for t in range(step[count]):
        for r in range(lo, last, 16):
            store16(y, t * stride + r, plus(load16(y, t * stride + r), load16(bias, r)))
        if last < hi:
            at, n = t * stride + last, hi - last
            store16_first(y, at, n, plus(load16_first(y, at, n), load16_first(bias, last, n)))
    return (hi - lo) * 4


@kernel
def add(
    a: "f32", b: "f32", out: "f32", step: "i64", count: "int", stride_a: "int", stride_b: "int", stride: "int",
    worker, lo, hi,
):  # fmt: skip
    """out[t, lo:hi] = a + b."""
    last = lo + (hi - lo) // 16 * 16
    for t in range(step[count]):
        i, j, k = t * stride_a, t * stride_b, t * stride
        for r in range(lo, last, 16):
            store16(out, k + r, plus(load16(a, i + r), load16(b, j + r)))
        if last < hi:
            n = hi - last
            store16_first(out, k + last, n, plus(load16_first(a, i + last, n), load16_first(b, j + last, n)))
    return 0


@kernel
def multiply(
    a: "f32", b: "f32", out: "f32", step: "i64", count: "int", stride_a: "int", stride_b: "int", stride: "int",
    worker, lo, hi,
):  # fmt: skip
    """out[t, lo:hi] = a · b."""
    last = lo + (hi - lo) // 16 * 16
    for t in range(step[count]):
        i, j, k = t * stride_a, t * stride_b, t * stride
        for r in range(lo, last, 16):
            store16(out, k + r, mul(load16(a, i + r), load16(b, j + r)))
        if last < hi:
            n = hi - last
            store16_first(out, k + last, n, mul(load16_first(a, i + last, n), load16_first(b, j + last, n)))
    return 0


@kernel
def scale(
    x: "f32", out: "f32", step: "i64", count: "int", stride_x: "int", stride: "int", factor: "float", worker, lo, hi
):
    """out[t, lo:hi] = x · factor."""
    last = lo + (hi - lo) // 16 * 16
    for t in range(step[count]):
        i, k = t * stride_x, t * stride
        for r in range(lo, last, 16):
            store16(out, k + r, mul(load16(x, i + r), splat16(factor)))
        if last < hi:
            store16_first(out, k + last, hi - last, mul(load16_first(x, i + last, hi - last), splat16(factor)))
    return 0


@kernel
def scale_columns(
    x: "f32", factors: "f32", out: "f32", step: "i64", count: "int", stride_x: "int", stride: "int", worker, lo, hi
):
    """out[t, lo:hi] = x · factors[lo:hi]; the factors are the graph's own, and no weights."""
    last = lo + (hi - lo) // 16 * 16
    for t in range(step[count]):
        i, k = t * stride_x, t * stride
        for r in range(lo, last, 16):
            store16(out, k + r, mul(load16(x, i + r), load16(factors, r)))
        if last < hi:
            n = hi - last
            store16_first(out, k + last, n, mul(load16_first(x, i + last, n), load16_first(factors, last, n)))
    return 0


@kernel
def scale_rows(y: "f32", factors: "f32", rows: "i32", step: "i64", count: "int", stride: "int", worker, lo, hi):
    """y[t, lo:hi] *= factors[rows[t]]: a factor for each position, of the graph's own."""
    last = lo + (hi - lo) // 16 * 16
    for t in range(step[count]):
        factor = splat16(factors[rows[t]])
        for r in range(t * stride + lo, t * stride + last, 16):
            store16(y, r, mul(load16(y, r), factor))
        if last < hi:
            at, n = t * stride + last, hi - last
            store16_first(y, at, n, mul(load16_first(y, at, n), factor))
    return 0


@kernel
def softcap(
    x: "f32", out: "f32", step: "i64", count: "int", stride_x: "int", stride: "int", cap: "float", worker, lo, hi
):
    """out[t, lo:hi] = cap · tanh(x / cap)."""
    last = lo + (hi - lo) // 16 * 16
    for t in range(step[count]):
        i, k = t * stride_x, t * stride
        for r in range(lo, last, 16):
            store16(out, k + r, softcap16(load16(x, i + r), cap))
        if last < hi:
            store16_first(out, k + last, hi - last, softcap16(load16_first(x, i + last, hi - last), cap))
    return 0


@macro
def activate16(x, at, out, to, n, ACT):
    """out[to:to + n] = f(x[at:at + n]), n <= 16, ACT: its name in `functions`, without the 16."""
    v = load16(x, at) if n == 16 else load16_first(x, at, n)
    if ACT == "tanh":
        y = tanh16(v)
    elif ACT == "sigmoid":
        y = sigmoid16(v)
    elif ACT == "silu":
        y = silu16(v)
    elif ACT == "gelu":
        y = gelu16(v)
    elif ACT == "gelu_erf":
        y = gelu_erf16(v)
    elif ACT == "relu":
        y = relu16(v)
    elif ACT == "relu2":
        y = relu2_16(v)
    if n == 16:
        store16(out, to, y)
    else:
        store16_first(out, to, n, y)


@kernel
def activate(
    x: "f32", out: "f32", step: "i64", count: "int", stride_x: "int", stride: "int", worker, lo, hi, *, ACT
):  # fmt: skip
    """out[t, lo:hi] = f(x), ACT: its name in `functions`, without the 16."""
    for t in range(step[count]):
        for r in range(lo, hi, 16):
            activate16(x, t * stride_x + r, out, t * stride + r, min(hi - r, 16), ACT)
    return 0


@macro
def glu16(g, i, u, j, out, k, n, ACT):
    """out[k:k + n] = f(g[i:i + n]) · u[j:j + n], n <= 16, ACT: silu, gelu, gelu_erf or relu; swiglu_clamped: gpt-oss's
    unit of both."""
    v = load16(g, i) if n == 16 else load16_first(g, i, n)
    w = load16(u, j) if n == 16 else load16_first(u, j, n)
    if ACT == "silu":
        y = mul(silu16(v), w)
    elif ACT == "gelu":
        y = mul(gelu16(v), w)
    elif ACT == "gelu_erf":
        y = mul(gelu_erf16(v), w)
    elif ACT == "relu":
        y = mul(relu16(v), w)
    elif ACT == "sigmoid":
        y = mul(sigmoid16(v), w)
    elif ACT == "swiglu_clamped":
        y = swiglu_clamped16(v, w)
    if n == 16:
        store16(out, k, y)
    else:
        store16_first(out, k, n, y)


@kernel
def glu(
    g: "f32", u: "f32", out: "f32", step: "i64", count: "int", stride_g: "int", stride_u: "int", stride: "int",
    worker, lo, hi, *, ACT,
):  # fmt: skip
    """out[t, lo:hi] = the gated unit ACT of g and u."""
    for t in range(step[count]):
        for r in range(lo, hi, 16):
            glu16(g, t * stride_g + r, u, t * stride_u + r, out, t * stride + r, min(hi - r, 16), ACT)
    return 0


@kernel
def part_of_heads(
    x: "f32", out: "f32", step: "i64", count: "int", stride_x: "int", stride: "int", start: "int", head_x: "int",
    head: "int", worker, lo, hi,
):  # fmt: skip
    """out[t, lo:hi]: `head` values of each head of `head_x` values of x, from value `start` on; lo is a multiple of
    `head`."""
    for t in range(step[count]):
        for h in range(lo, hi, head):
            source, target = t * stride_x + h // head * head_x + start, t * stride + h
            for i in range(0, head, 16):
                n = min(head - i, 16)
                if n == 16:
                    store16(out, target + i, load16(x, source + i))
                else:
                    store16_first(out, target + i, n, load16_first(x, source + i, n))
    return 0


@kernel
def norm_heads(
    y: "f32", w: "f32", step: "i64", count: "int", stride: "int", head_dim: "int", eps: "float", offset: "float",
    worker, lo, hi,
):  # fmt: skip
    """RMS norm of each head of columns lo..hi by itself, in place; lo and hi are multiples of `head_dim`.

    Returns the bytes of w, once a step.
    """
    last, n = head_dim // 16 * 16, head_dim % 16
    for t in range(step[count]):
        for h in range(t * stride + lo, t * stride + hi, head_dim):
            mean = sum_squares(y, h, head_dim) / np.float32(head_dim)
            r, o = splat16(np.float32(1.0) / np.sqrt(mean + eps)), splat16(offset)
            for i in range(0, last, 16):
                store16(y, h + i, mul(mul(load16(y, h + i), r), plus(load16(w, i), o)))
            if n:
                v = mul(mul(load16_first(y, h + last, n), r), plus(load16_first(w, last, n), o))
                store16_first(y, h + last, n, v)
    return head_dim * 4 if lo == 0 else 0


@kernel
def unit_norm(
    y: "f32", step: "i64", count: "int", stride: "int", head_dim: "int", eps: "float", worker, lo, hi
):  # fmt: skip
    """The same without a weight."""
    last, n = head_dim // 16 * 16, head_dim % 16
    for t in range(step[count]):
        for h in range(t * stride + lo, t * stride + hi, head_dim):
            mean = sum_squares(y, h, head_dim) / np.float32(head_dim)
            r = splat16(np.float32(1.0) / np.sqrt(mean + eps))
            for i in range(0, last, 16):
                store16(y, h + i, mul(load16(y, h + i), r))
            if n:
                store16_first(y, h + last, n, mul(load16_first(y, h + last, n), r))
    return 0


@kernel
def layer_norm_heads(
    x: "f32", w: "f32", bias: "f32", out: "f32", step: "i64", count: "int", stride_x: "int", stride: "int",
    head_dim: "int", eps: "float", worker, lo, hi, *, BIAS,
):  # fmt: skip
    """`activations.layer_norm` of each head of columns lo..hi by itself; lo and hi are multiples of `head_dim`.

    w, bias  [width], a part for each head; BIAS 0: nothing is added, whatever `bias` is
    Returns the bytes of w[lo:hi] and bias[lo:hi].
    """
    for t in range(step[count]):
        for h in range(lo, hi, head_dim):
            normalize(x, t * stride_x + h, w, h, bias, out, t * stride + h, head_dim, eps, BIAS)
    return (hi - lo) * 4 * (1 + BIAS)


@kernel
def rope(
    y: "f32", cos: "f32", sin: "f32", rope_at: "i32", step: "i64", count: "int", stride: "int",
    head_dim: "int", start: "int", half: "int", apart: "int", worker, lo, hi, *, SPLIT,
):  # fmt: skip
    """Rotates `half` pairs of each head of columns lo..hi in place, by its token's position, from value `start` on.

    cos, sin  [rows, half]
    rope_at   each token's row of them: its position; of a table whose second half holds LongRoPE's long frequencies
              the position, or the position + the first half's rows
    SPLIT     0: pairs are neighbours (2i, 2i + 1); 1: pairs are (i, i + apart)
    """
    near, far = (1, apart) if SPLIT else (2, 1)
    whole = half // 16 * 16
    for t in range(step[count]):
        angle = rope_at[t] * half
        for h in range(t * stride + lo + start, t * stride + hi, head_dim):
            for i in range(0, whole, 16):
                at, beyond = h + i * near, h + i * near + (apart if SPLIT else 16)
                x16, y16 = load16(y, at), load16(y, beyond)
                c16, s16 = load16(cos, angle + i), load16(sin, angle + i)
                a16, b16 = (x16, y16) if SPLIT else (evens16(x16, y16), odds16(x16, y16))
                near16, far16 = sub(mul(a16, c16), mul(b16, s16)), plus(mul(a16, s16), mul(b16, c16))
                store16(y, at, near16 if SPLIT else zip_low16(near16, far16))
                store16(y, beyond, far16 if SPLIT else zip_high16(near16, far16))
            for i in range(whole, half):
                c, s = cos[angle + i], sin[angle + i]
                a, b = y[h + i * near], y[h + i * near + far]
                y[h + i * near] = a * c - b * s
                y[h + i * near + far] = a * s + b * c
    return 0
