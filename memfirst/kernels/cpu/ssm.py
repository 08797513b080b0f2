"""Selective state-space scans: a vector of state a channel (Mamba) or a matrix a head (Mamba-2), which each token
decays and adds to.

Channels lie in lanes, so that no sum goes across a register: sums over a channel's states go from the first to the
last, token after token, so that a prompt gives the bits of its tokens one by one. Sixteen channels of Mamba and their
states are one run of memory, [channels / 16, STATE, 16]; of a head of Mamba-2 it is MORE registers of channels that lie
together, [width / (16 · MORE), STATE, MORE, 16], so that memory is read as one stream. Both (1 kB at 16 states, 32 kB
at 64 · 128) stay in the first level of cache from token to token.

    x, out       [tokens, width], rows `stride_x` and `width` apart
    keys, queries  [tokens, STATE] or [tokens, groups · STATE], rows `stride_keys` and `stride_queries` apart: B and C;
                 `private_keys`, `private_queries`: token rows from one worker's own to the next (0: all share one)
    state        [slots, slot], the operation's from `state_at` on; a sequence's first token in the step reads the slot
                 `state_read` (of a sequence without a past: `state_write`, cleared), the others what the last one wrote
    sequence_at, sequence_new  a sequence's first token in the step, and how many it has
"""

from memfirst.kernels.cpu.functions import exp16, softplus16
from memfirst.kernels.cpu.lang import kernel, lanes, static
from memfirst.kernels.cpu.simd import LANES, add, fma, mul
from memfirst.kernels.cpu.simd16 import load16, load16_f32, load16_first, splat16, splat16_at, store16, store16_first

WIDE = 4 if LANES == 16 else 2
"""Registers of 16 channels at once, where a head has as many: twice as many values are kept beside them."""


@kernel
def channel_inputs(
    x: "f32", dt: "f32", d: "f32", delta: "f32", out: "f32", step: "i64", count: "int", stride_x: "int",
    stride_dt: "int", stride_delta: "int", width: "int", worker, lo, hi,
):  # fmt: skip
    """delta = softplus(dt), which may be `dt` itself, and out = d · x, to which the scan adds, of channels lo..hi.
    Returns the bytes of d[lo:hi]."""
    for t in range(step[count]):
        for c in range(lo, hi, 16):
            store16(delta, t * stride_delta + c, softplus16(load16(dt, t * stride_dt + c)))
            store16(out, t * width + c, mul(load16(d, c), load16(x, t * stride_x + c)))
    return (hi - lo) * 4


@kernel
def rates(a: "u8", copied: "f32", width: "int", worker, lo, hi, *, STATE):
    """The worker's own copy of a, f32 [channels / 16, STATE, 16], of channels lo..hi; returns its bytes."""
    mine = worker * width * STATE
    for i in range(lo * STATE, hi * STATE, 16):
        store16(copied, mine + i, load16_f32(a, 4 * i))
    return (hi - lo) * STATE * 4


@kernel
def channels(
    x: "f32", delta: "f32", a: "f32", keys: "f32", queries: "f32", out: "f32", state: "f32", sequence_at: "i32",
    sequence_new: "i32", sequence_past: "i32", state_read: "i32", state_write: "i32", step: "i64", sequences: "int",
    slot: "int", state_at: "int",
    stride_x: "int", stride_delta: "int", stride_keys: "int", stride_queries: "int",
    private_keys: "int", private_queries: "int", width: "int", worker, lo, hi, *, STATE,
):  # fmt: skip
    """For channels lo..hi: S = e^(a · delta) ⊙ S + delta · x · B, then out += S · C; `a` as `rates` copied it. Returns
    the bytes of S."""
    mine = worker * width * STATE
    for s in range(step[sequences]):
        for c in range(lo, hi, 16):
            base, at = state_write[s] * slot + state_at + c * STATE, mine + c * STATE
            source = (state_read[s] if sequence_past[s] else state_write[s]) * slot + state_at + c * STATE
            for t in range(sequence_at[s], sequence_at[s] + sequence_new[s]):
                key, query = (worker * private_keys + t) * stride_keys, (worker * private_queries + t) * stride_queries
                d = load16(delta, t * stride_delta + c)
                added = mul(d, load16(x, t * stride_x + c))
                total = load16(out, t * width + c)
                for n in range(STATE):
                    decay = exp16(mul(load16(a, at + 16 * n), d))
                    b, q = splat16_at(keys, key + n), splat16_at(queries, query + n)
                    v = fma(decay, load16(state, source + 16 * n), mul(added, b))
                    store16(state, base + 16 * n, v)
                    total = fma(v, q, total)
                store16(out, t * width + c, total)
                source = base
    return step[sequences] * (hi - lo) * STATE * 4


@kernel
def head_inputs(
    dt: "f32", a: "f32", dt_bias: "f32", delta: "f32", decay: "f32", step: "i64", count: "int", stride_dt: "int",
    stride_delta: "int", stride_decay: "int", worker, lo, hi,
):  # fmt: skip
    """delta = softplus(dt + dt_bias), which may be `dt` itself, and decay = e^(a · delta) of heads lo..hi. Returns the
    bytes of a[lo:hi] and dt_bias[lo:hi]."""
    for t in range(step[count]):
        for h in range(lo, hi, 16):
            n = min(hi - h, 16)
            v = softplus16(add(load16_first(dt, t * stride_dt + h, n), load16_first(dt_bias, h, n)))
            store16_first(delta, t * stride_delta + h, n, v)
            store16_first(decay, t * stride_decay + h, n, exp16(mul(load16_first(a, h, n), v)))
    return (hi - lo) * 8


@kernel
def heads(
    x: "f32", keys: "f32", queries: "f32", delta: "f32", decay: "f32", out: "f32", state: "f32", sequence_at: "i32",
    sequence_new: "i32", sequence_past: "i32", state_read: "i32", state_write: "i32", step: "i64", sequences: "int",
    slot: "int", state_at: "int",
    stride_x: "int", stride_keys: "int", stride_queries: "int", private_keys: "int", private_queries: "int",
    stride_delta: "int", stride_decay: "int", ratio: "int", width: "int", worker, lo, hi, *, HEAD, STATE,
):  # fmt: skip
    """For heads in columns lo..hi: S = decay · S + delta · x ⊗ B, then out = S · C, with B and C of group head //
    ratio. Returns the bytes of S."""
    MORE = WIDE if HEAD % (16 * WIDE) == 0 else 1
    for s in range(step[sequences]):
        for h in range(lo, hi, HEAD):
            head = h // HEAD
            group = head // ratio * STATE
            for c in range(h, h + HEAD, 16 * MORE):
                base = state_write[s] * slot + state_at + c * STATE
                source = (state_read[s] if sequence_past[s] else state_write[s]) * slot + state_at + c * STATE
                for t in range(sequence_at[s], sequence_at[s] + sequence_new[s]):
                    decay_t = splat16_at(decay, t * stride_decay + head)
                    delta_t = splat16_at(delta, t * stride_delta + head)
                    key = (worker * private_keys + t) * stride_keys + group
                    query = (worker * private_queries + t) * stride_queries + group
                    added = lanes(MORE)
                    total = lanes(MORE)
                    for i in static(MORE):
                        added[i] = mul(delta_t, load16(x, t * stride_x + c + 16 * i))
                        total[i] = splat16(0.0)
                    for n in range(STATE):
                        b, q = splat16_at(keys, key + n), splat16_at(queries, query + n)
                        for i in static(MORE):
                            at = (n * MORE + i) * 16
                            v = fma(added[i], b, mul(load16(state, source + at), decay_t))
                            store16(state, base + at, v)
                            total[i] = fma(v, q, total[i])
                    for i in static(MORE):
                        store16(out, t * width + c + 16 * i, total[i])
                    source = base
    return step[sequences] * (hi - lo) * STATE * 4


@kernel
def skip(
    x: "f32", d: "f32", out: "f32", step: "i64", count: "int", stride_x: "int", width: "int", worker, lo, hi, *, HEAD
):
    """out += d · x of heads in columns lo..hi, d a number a head. Returns its bytes."""
    for t in range(step[count]):
        for h in range(lo, hi, HEAD):
            factor = splat16_at(d, h // HEAD)
            for c in range(h, h + HEAD, 16):
                at = t * width + c
                store16(out, at, fma(factor, load16(x, t * stride_x + c), load16(out, at)))
    return (hi - lo) // HEAD * 4
