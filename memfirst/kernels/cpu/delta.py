"""The gated delta rule: a matrix of state a head, which each token decays, and corrects for its key.

A head's values lie in lanes, so that no sum goes across a register. Sixteen of them and all keys are one run of memory,
[heads, V / 16, K, 16]: four such runs, 32 kB at 128 keys, stay in the first level of cache from token to token, where
rows of 128 values would fall into eight of its sets. Sums over keys go from the first to the last, token after token,
so that a prompt gives the bits of its tokens one by one.

    qkv          [tokens, stride]: all queries, all keys, all values
    decay, share [tokens, heads] of rows `stride_decay` and `stride_share` apart: e^(a · softplus), sigmoid(beta)
    state        [slots, slot], the operation's from `state_at` on; a sequence's first token in the step reads the slot
                 `state_read` (of a sequence without a past: `state_write`, cleared), the others what the last one wrote
    key_heads, ratio  heads of keys, and of values for each: head h has key head h % key_heads (TILED) or h // ratio
"""

import numpy as np

from memfirst.kernels.cpu.activations import sum_squares
from memfirst.kernels.cpu.functions import exp16, softplus16
from memfirst.kernels.cpu.lang import kernel, lanes, static
from memfirst.kernels.cpu.simd import LANES, add, fma, mul, sub
from memfirst.kernels.cpu.simd16 import load16, load16_first, splat16, splat16_at, store16, store16_first

WIDE = 4 if LANES == 16 else 1
"""Registers of 16 values at once, where a head has as many: three times as many sums are kept beside them."""


@kernel
def decays(
    alpha: "f32", a: "f32", dt_bias: "f32", out: "f32", step: "i64", count: "int", stride_x: "int", stride: "int",
    worker, lo, hi,
):  # fmt: skip
    """out = e^(a · softplus(alpha + dt_bias)) of heads lo..hi; returns the bytes of a[lo:hi] and dt_bias[lo:hi]."""
    for t in range(step[count]):
        for h in range(lo, hi, 16):
            n = min(hi - h, 16)
            x, rate, bias = (
                load16_first(alpha, t * stride_x + h, n), load16_first(a, h, n), load16_first(dt_bias, h, n),
            )  # fmt: skip
            store16_first(out, t * stride + h, n, exp16(mul(rate, softplus16(add(x, bias)))))
    return (hi - lo) * 8


@kernel
def unit_keys(
    y: "f32", step: "i64", count: "int", stride: "int", keys_width: "int", eps: "float", worker, lo, hi, *, K
):
    """Scales each query and key in columns lo..hi to length 1, queries then by 1/sqrt(K), in place; values stay."""
    scale = np.float32(1.0) / np.sqrt(np.float32(K))
    for t in range(step[count]):
        for h in range(lo, min(hi, 2 * keys_width), K):
            at = t * stride + h
            inverse = np.float32(1.0) / np.sqrt(sum_squares(y, at, K) + eps)
            factor = splat16(inverse * scale if h < keys_width else inverse)
            for i in range(0, K, 16):
                store16(y, at + i, mul(load16(y, at + i), factor))
    return 0


@kernel
def scan(
    qkv: "f32", decay: "f32", share: "f32", out: "f32", state: "f32", sequence_at: "i32", sequence_new: "i32",
    sequence_past: "i32", state_read: "i32", state_write: "i32", step: "i64", sequences: "int", slot: "int",
    state_at: "int", key_heads: "int", ratio: "int", keys_width: "int", stride: "int", stride_decay: "int",
    stride_share: "int", width: "int", worker, lo, hi, *, K, V, TILED,
):  # fmt: skip
    """For heads in columns lo..hi: S = decay · S + k ⊗ (share · (v − decay · Sᵀ · k)), then out = Sᵀ · q. What S holds
    for the next token's key is summed while S is written. Returns the bytes of S."""
    MORE = WIDE if V % (16 * WIDE) == 0 else 1
    for s in range(step[sequences]):
        first, last = sequence_at[s], sequence_at[s] + sequence_new[s] - 1
        for h in range(lo, hi, V):
            head = h // V
            key_at = (head % key_heads if TILED else head // ratio) * K
            for b in range(h, h + V, 16 * MORE):
                base = state_write[s] * slot + state_at + b * K
                source = (state_read[s] if sequence_past[s] else state_write[s]) * slot + state_at + b * K
                held = lanes(MORE)
                for i in static(MORE):
                    held[i] = splat16(0.0)
                for j in range(K):
                    first_kj = splat16_at(qkv, first * stride + keys_width + key_at + j)
                    for i in static(MORE):
                        held[i] = fma(load16(state, source + (i * K + j) * 16), first_kj, held[i])
                for t in range(first, last + 1):
                    query = t * stride + key_at
                    key, after = query + keys_width, min(t + 1, last) * stride + keys_width + key_at
                    value = t * stride + 2 * keys_width + b
                    dt = splat16_at(decay, t * stride_decay + head)
                    share_t = splat16_at(share, t * stride_share + head)
                    change = lanes(MORE)
                    given = lanes(MORE)
                    next_held = lanes(MORE)
                    for i in static(MORE):
                        change[i] = mul(share_t, sub(load16(qkv, value + 16 * i), mul(dt, held[i])))
                        given[i] = splat16(0.0)
                        next_held[i] = splat16(0.0)
                    for j in range(K):
                        qj, kj = splat16_at(qkv, query + j), splat16_at(qkv, key + j)
                        next_kj = splat16_at(qkv, after + j)
                        for i in static(MORE):
                            at = (i * K + j) * 16
                            v = fma(change[i], kj, mul(load16(state, source + at), dt))
                            store16(state, base + at, v)
                            given[i] = fma(v, qj, given[i])
                            next_held[i] = fma(v, next_kj, next_held[i])
                    for i in static(MORE):
                        store16(out, t * width + b + 16 * i, given[i])
                        held[i] = next_held[i]
                    source = base
    return step[sequences] * (hi - lo) * K * 4
