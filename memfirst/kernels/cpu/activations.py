"""Inputs of products: RMS norm, and quantization to int8 with the sums that offsets and minimums need."""

import numpy as np

from memfirst.kernels.cpu.lang import inline, kernel
from memfirst.kernels.cpu.simd import fma, maximum, mul, sub
from memfirst.kernels.cpu.simd16 import (
    as_float16,
    lane,
    load16,
    magnitude16,
    max16_i,
    rint,
    splat16,
    splat16_i,
    store16,
    store16_i8,
    sum16,
    sum16_i,
    to_int16,
)


@kernel
def rms_norm(
    x: "f32", w: "f32", out: "f32", rows: "i32", width: "int", eps: "float", offset: "float", private: "int",
    worker, lo, hi,
):  # fmt: skip
    """out[t] = x[rows[t]] / rms(x[rows[t]]) · (w + offset) for tokens lo..hi; returns the bytes of w, once a step.

    width    a multiple of 16
    rows     which row of x is token t's
    private  token rows between workers' own outputs (0: shared)
    """
    for t in range(lo, hi):
        source, target = rows[t] * width, (worker * private + t) * width
        total = splat16(0.0)
        for i in range(0, width, 16):
            v = load16(x, source + i)
            total = fma(v, v, total)
        mean = sum16(total) / np.float32(width)
        r = splat16(np.float32(1.0) / np.sqrt(mean + eps))
        o = splat16(offset)
        for i in range(0, width, 16):
            store16(out, target + i, mul(mul(load16(x, source + i), r), add_offset(load16(w, i), o)))
    return width * 4 if lo == 0 else 0


@inline
def add_offset(w, offset):
    """w + offset (Gemma stores norms minus one)."""
    return fma(splat16(1.0), w, offset)


@inline
def _quantize16(x, at, inverse, aq, to):
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


@inline
def _largest(x, at, size):
    """The largest |x| of `size` values."""
    bits = magnitude16(load16(x, at))
    for i in range(at + 16, at + size, 16):
        bits = maximum(bits, magnitude16(load16(x, i)))
    return lane(as_float16(splat16_i(max16_i(bits))), 0)


@inline
def _scale(x, at, size):
    """A block's scale, and how many steps of it are 1: its largest value becomes 127, 126 or 125 steps."""
    largest = _largest(x, at, size)
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


@kernel
def quantize(
    x: "f32", aq: "i8", ad: "f32", ao: "i32", af: "f32", am: "i32", ap: "i32",
    width: "int", private_in: "int", private: "int", worker, lo, hi, *, BLOCK,
):  # fmt: skip
    """int8 of tokens lo..hi, one scale for each BLOCK columns: x ≈ ad · aq, |aq| <= 127.

    The largest value becomes ±127, ±126 or ±125, whichever leaves the least squared error (the first of equals): on
    Gaussian blocks of 32, 0.88 of what ±127 alone leaves, of 256 0.97.

    x         [tokens, width]
    aq        [tokens, width]
    ad, af    scale, scale · sum [tokens, width/32]
    ao        −8 · sum, −16 · sum, −128 · sum [tokens, 3, width/32]: what codecs with offsets start from
    am, ap    where BLOCK is 256, two int16 in a word: sums of 32 columns [tokens, width/64], of 16 [tokens, width/32]
    private_in, private  token rows between workers' own inputs and outputs (0: shared)
    """
    for t in range(lo, hi):
        source, target = (worker * private_in + t) * width, (worker * private + t) * width
        for b in range(0, width, BLOCK):
            scale, inverse = _scale(x, source + b, BLOCK)
            to_steps = splat16(inverse)
            before = 0
            for i in range(b, b + BLOCK, 32):
                here = (target + i) // 32
                first = _quantize16(x, source + i, to_steps, aq, target + i)
                second = _quantize16(x, source + i + 16, to_steps, aq, target + i + 16)
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
    return 0
