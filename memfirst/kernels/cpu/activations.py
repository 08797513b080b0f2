"""Inputs of matmuls: norms, rows that are picked, and quantization to int8 with the sums that offsets need."""

import numpy as np

from memfirst.kernels.cpu.functions import sigmoid16
from memfirst.kernels.cpu.lang import inline, kernel, macro
from memfirst.kernels.cpu.simd import add, fma, maximum, mul, sub
from memfirst.kernels.cpu.simd16 import (
    as_float16,
    lane,
    load16,
    load16_first,
    magnitude16,
    max16_i,
    rint,
    splat16,
    splat16_i,
    store16,
    store16_first,
    store16_i8,
    sum16,
    sum16_i,
    to_int16,
)


@inline
def sum_squares(x, at, width):
    """The sum of squares of `width` floats."""
    total, last = splat16(0.0), width // 16 * 16
    for i in range(0, last, 16):
        v = load16(x, at + i)
        total = fma(v, v, total)
    if last < width:
        v = load16_first(x, at + last, width - last)
        total = fma(v, v, total)
    return sum16(total)


@kernel
def rms_norm(
    x: "f32", w: "f32", out: "f32", rows: "i32", width: "int", stride: "int", eps: "float", offset: "float",
    private: "int", worker, lo, hi,
):  # fmt: skip
    """out[t] = x[rows[t]] / rms(x[rows[t]]) · (w + offset) for tokens lo..hi; returns the bytes of w, once a step.

    rows     which row of x is token t's
    stride   floats between rows of x
    private  token rows between workers' own outputs (0: shared)
    """
    last, n = width // 16 * 16, width % 16
    for t in range(lo, hi):
        source, target = rows[t] * stride, (worker * private + t) * width
        mean = sum_squares(x, source, width) / np.float32(width)
        r = splat16(np.float32(1.0) / np.sqrt(mean + eps))
        o = splat16(offset)
        for i in range(0, last, 16):
            store16(out, target + i, mul(mul(load16(x, source + i), r), add(load16(w, i), o)))
        if n:
            v = mul(mul(load16_first(x, source + last, n), r), add(load16_first(w, last, n), o))
            store16_first(out, target + last, n, v)
    return width * 4 if lo == 0 else 0


@kernel
def norm_groups(
    x: "f32", w: "f32", out: "f32", width: "int", group: "int", stride: "int", eps: "float", private_x: "int",
    private: "int", worker, lo, hi, *, WEIGHT,
):  # fmt: skip
    """`rms_norm` of each `group` floats of a row by themselves, for tokens lo..hi.

    w  [width]; WEIGHT 0: without, whatever `w` is
    Returns the bytes of w, once a step.
    """
    last, n = group // 16 * 16, group % 16
    for t in range(lo, hi):
        source, target = (worker * private_x + t) * stride, (worker * private + t) * width
        for g in range(0, width, group):
            mean = sum_squares(x, source + g, group) / np.float32(group)
            r = splat16(np.float32(1.0) / np.sqrt(mean + eps))
            for i in range(g, g + last, 16):
                v = mul(load16(x, source + i), r)
                store16(out, target + i, mul(v, load16(w, i)) if WEIGHT else v)
            if n:
                v = mul(load16_first(x, source + g + last, n), r)
                v = mul(v, load16_first(w, g + last, n)) if WEIGHT else v
                store16_first(out, target + g + last, n, v)
    return width * 4 * WEIGHT if lo == 0 else 0


@inline
def sum_floats(x, at, width):
    """The sum of `width` floats."""
    total, last = splat16(0.0), width // 16 * 16
    for i in range(0, last, 16):
        total = add(total, load16(x, at + i))
    if last < width:
        total = add(total, load16_first(x, at + last, width - last))
    return sum16(total)


@inline
def distances(x, at, width, mean):
    """The sum of squared distances of `width` floats from their mean."""
    total, last, m = splat16(0.0), width // 16 * 16, splat16(mean)
    for i in range(0, last, 16):
        v = sub(load16(x, at + i), m)
        total = fma(v, v, total)
    out = sum16(total)
    for i in range(last, width):  # lanes that are no value would count the mean
        out += (x[at + i] - mean) * (x[at + i] - mean)
    return out


@macro
def normalize(x, source, w, at, bias, out, target, width, eps, BIAS):
    """out = (x − mean) / sqrt(variance + eps) · w + bias of `width` floats; w and bias from `at` on.

    BIAS  0: nothing is added, whatever `bias` is
    """
    mean = sum_floats(x, source, width) / np.float32(width)
    variance = distances(x, source, width, mean) / np.float32(width)
    r, m = splat16(np.float32(1.0) / np.sqrt(variance + eps)), splat16(mean)
    last, n = width // 16 * 16, width % 16
    for i in range(0, last, 16):
        v = mul(sub(load16(x, source + i), m), r)
        b = load16(bias, at + i) if BIAS else splat16(0.0)
        store16(out, target + i, fma(v, load16(w, at + i), b))
    if n:
        v = mul(sub(load16_first(x, source + last, n), m), r)
        b = load16_first(bias, at + last, n) if BIAS else splat16(0.0)
        store16_first(out, target + last, n, fma(v, load16_first(w, at + last, n), b))


@kernel
def layer_norm(
    x: "f32", w: "f32", bias: "f32", out: "f32", rows: "i32", width: "int", stride: "int", eps: "float",
    private: "int", worker, lo, hi, *, BIAS,
):  # fmt: skip
    """out[t] = (x − mean) / sqrt(variance + eps) · w + bias of row rows[t].

    Other operands as in `rms_norm`. Returns the bytes of w and bias, once a step.
    """
    for t in range(lo, hi):
        normalize(x, rows[t] * stride, w, 0, bias, out, (worker * private + t) * width, width, eps, BIAS)
    return width * 4 * (1 + BIAS) if lo == 0 else 0


@inline
def _dot(x, at, w, width):
    """The sum of products of `width` floats of x and of w."""
    total, last = splat16(0.0), width // 16 * 16
    for i in range(0, last, 16):
        total = fma(load16(x, at + i), load16(w, i), total)
    if last < width:
        total = fma(load16_first(x, at + last, width - last), load16_first(w, last, width - last), total)
    return sum16(total)


@kernel
def token_gate(
    x: "f32", h: "f32", w: "f32", stride: "int", width: "int", stride_h: "int", inner: "int", worker, lo, hi
):  # fmt: skip
    """x[t] *= sigmoid(h[t] · w) for tokens lo..hi, x of `width` and h of `inner` floats; returns the bytes of w, once a
    step."""
    last, n = width // 16 * 16, width % 16
    for t in range(lo, hi):
        gate, at = sigmoid16(splat16(_dot(h, t * stride_h, w, inner))), t * stride
        for i in range(at, at + last, 16):
            store16(x, i, mul(load16(x, i), gate))
        if n:
            store16_first(x, at + last, n, mul(load16_first(x, at + last, n), gate))
    return inner * 4 if lo == 0 else 0


@kernel
def copy(x: "f32", out: "f32", rows: "i32", stride: "int", width: "int", worker, lo, hi):
    """out[t] = `width` floats of row rows[t] of x, for tokens lo..hi; `stride` floats between rows of x."""
    last = width // 16 * 16
    for t in range(lo, hi):
        source, target = rows[t] * stride, t * width
        for i in range(0, last, 16):
            store16(out, target + i, load16(x, source + i))
        if last < width:
            store16_first(out, target + last, width - last, load16_first(x, source + last, width - last))
    return 0


@inline
def quantize16(x, at, inverse, aq, to):
    """16 values as int8 at `to`; returns their sum."""
    q = to_int16(rint(mul(load16(x, at), inverse)))
    store16_i8(aq, to, q)
    return sum16_i(q)


@inline
def _error(x, at, size, inverse):
    """Σ (v − rint v)², v = x · inverse, over `size` values: in steps, squared."""
    total, to_steps = splat16(0.0), splat16(inverse)
    for i in range(at, at + size, 16):
        v = mul(load16(x, i), to_steps)
        off = sub(v, rint(v))
        total = fma(off, off, total)
    return sum16(total)


@kernel
def add_rows(
    a: "f32", b: "f32", out: "f32", stride_a: "int", stride_b: "int", stride: "int", width: "int", worker, lo, hi
):
    """out[t] = a[t] + b[t] for tokens lo..hi, as `elementwise.add` does by columns; out may be a or b."""
    last = width // 16 * 16
    for t in range(lo, hi):
        i, j, k = t * stride_a, t * stride_b, t * stride
        for r in range(0, last, 16):
            store16(out, k + r, add(load16(a, i + r), load16(b, j + r)))
        if last < width:
            n = width - last
            store16_first(out, k + last, n, add(load16_first(a, i + last, n), load16_first(b, j + last, n)))
    return 0


@inline
def largest_of(x, at, size):
    """The largest |x| of `size` values."""
    bits = magnitude16(load16(x, at))
    for i in range(at + 16, at + size, 16):
        bits = maximum(bits, magnitude16(load16(x, i)))
    return lane(as_float16(splat16_i(max16_i(bits))), 0)


@inline
def block_scale(x, at, size):
    """A block's scale, and how many steps of it are 1: its largest value becomes 127, 126 or 125 steps."""
    largest = largest_of(x, at, size)
    inverse = np.float32(1.0) / largest if largest > np.float32(0.0) else np.float32(0.0)
    error = _error(x, at, size, inverse * np.float32(127)) * np.float32(1 / 127**2)
    error126 = _error(x, at, size, inverse * np.float32(126)) * np.float32(1 / 126**2)
    error125 = _error(x, at, size, inverse * np.float32(125)) * np.float32(1 / 125**2)
    steps = np.float32(126) if error126 < error else np.float32(127)
    steps = np.float32(125) if error125 < min(error, error126) else steps
    return largest / steps, inverse * steps


@inline
def _pair(low, high):
    """Two int16 in a word."""
    return (high << 16) | (low & 0xFFFF)


@macro
def quantize_row(x, source, aq, ad, ao, af, am, ap, target, width, BLOCK):
    """int8 of `width` floats of x from `source` on, as the row that begins at aq[target]: see `quantize`."""
    for b in range(0, width, BLOCK):
        scale, inverse = block_scale(x, source + b, BLOCK)
        to_steps = splat16(inverse)
        before = 0
        for i in range(b, b + BLOCK, 32):
            here = (target + i) // 32
            first = quantize16(x, source + i, to_steps, aq, target + i)
            second = quantize16(x, source + i + 16, to_steps, aq, target + i + 16)
            total = first + second
            ad[here], af[here] = scale, scale * np.float32(total)
            plane = 3 * (target // 32) + i // 32
            ao[plane] = total * -8
            ao[plane + width // 32] = total * -16
            ao[plane + 2 * (width // 32)] = total * -128
            if BLOCK == 256:
                ap[here] = _pair(first, second)
                if i % 64:
                    am[here // 2] = _pair(before, total)
                before = total


@kernel
def quantize(
    x: "f32", aq: "i8", ad: "f32", ao: "i32", af: "f32", am: "i32", ap: "i32",
    width: "int", stride: "int", private_in: "int", private: "int", worker, lo, hi, *, BLOCK,
):  # fmt: skip
    """int8 of tokens lo..hi, one scale for each BLOCK columns: x ≈ ad · aq, |aq| <= 127.

    The largest value becomes ±127, ±126 or ±125, whichever leaves the least squared error (the first of equals): on
    Gaussian blocks of 32, 0.88 of what ±127 alone leaves, of 256 0.97.

    x         [tokens, width], rows `stride` floats apart
    aq        [tokens, width]
    ad, af    scale, scale · sum [tokens, width/32]
    ao        −8 · sum, −16 · sum, −128 · sum [tokens, 3, width/32]: what codecs with offsets start from
    am, ap    where BLOCK is 256, two int16 in a word: sums of 32 columns [tokens, width/64], of 16 [tokens, width/32]
    private_in, private  token rows between workers' own inputs and outputs (0: shared)
    """
    for t in range(lo, hi):
        source, target = (worker * private_in + t) * stride, (worker * private + t) * width
        quantize_row(x, source, aq, ad, ao, af, am, ap, target, width, BLOCK)
    return 0


@kernel
def quantize_heads(
    x: "f32", aq: "i8", ad: "f32", ao: "i32", af: "f32", am: "i32", ap: "i32", heads: "int", width: "int",
    stride: "int", private_in: "int", private: "int", worker, lo, hi, *, BLOCK,
):  # fmt: skip
    """int8 of all heads' rows of tokens lo..hi, as `quantize` makes it.

    x  [tokens · heads, width], rows `stride` floats apart
    private_in, private  rows (of a token's head) between workers' own inputs and outputs (0: shared)
    """
    for row in range(lo * heads, hi * heads):
        source, target = (worker * private_in + row) * stride, (worker * private + row) * width
        quantize_row(x, source, aq, ad, ao, af, am, ap, target, width, BLOCK)
    return 0
