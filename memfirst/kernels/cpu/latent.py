"""Multi-head latent attention, absorbed: flash-decoding where all heads read one latent of each position.

A query is a head's nope part through k_b (RANK values) and its rotated part (ROPE values); scores are taken on whole
rows of the cache, sums on the first RANK values of the same rows, which `heads` multiplies by v_b afterwards. One row
serves every head, so attention is bound by arithmetic: HEADS heads × positions (or × values) stay in registers, and
what is loaded of a row is converted once for all of them.

A block holds PAGE positions of all layers of its group (`block_bytes`); this layer's rows start at `rows_at`, a
position after the other: f16 or f32 as they are; of int8 first the scales of all rows, [PAGE, (RANK + ROPE) / 32], then
the rows. Splits, partials and their order are those of `attention`.
"""

import numpy as np

from memfirst.kernels.cpu.functions import exp16
from memfirst.kernels.cpu.lang import inline, kernel, lanes, macro, static
from memfirst.kernels.cpu.simd import LANES, add, fma, mul, sub
from memfirst.kernels.cpu.simd16 import (
    halves1,
    halves2,
    halves4,
    halves8,
    larger,
    load16,
    load16_f16_of,
    splat16,
    splat16_at,
    store16,
)
from memfirst.kernels.cpu.softmax import factor, fold, rescale
from memfirst.lower.step_fields import BLOCK as PAGE
from memfirst.lower.step_fields import SPLIT

SUMS = 16 if LANES == 16 else 4
"""Accumulators of 16 floats at once; more leave the registers."""


@kernel
def write(
    latent: "f32", rotated: "f32", cache: "u8", slots: "i32", step: "i64", count: "int", stride: "int",
    stride_rotated: "int", private: "int", block_bytes: "int", rows_at: "int", worker, lo, hi, *, RANK, ROPE, CODEC,
):  # fmt: skip
    """Stores values lo..hi of the step's rows, latents and then rotated parts; slots[t] = block · PAGE + offset.
    Returns bytes written.

    latent   [tokens, RANK], rows `stride` floats apart; private: token rows between workers' own (0: shared)
    rotated  [tokens, ROPE], rows `stride_rotated` floats apart
    """
    DIM = RANK + ROPE
    for t in range(step[count]):
        base = slots[t] // PAGE * block_bytes + rows_at
        offset, source, beside = slots[t] % PAGE, (worker * private + t) * stride, t * stride_rotated - RANK
        if CODEC.INT8:
            for d in range(lo, hi, 32):
                scale_at, at = base + 2 * (offset * (DIM // 32) + d // 32), base + PAGE * (DIM // 16) + offset * DIM + d
                if d < RANK:
                    CODEC.store_row(cache, scale_at, at, latent, source + d)
                else:
                    CODEC.store_row(cache, scale_at, at, rotated, beside + d)
        else:
            for d in range(lo, min(hi, RANK)):
                CODEC.store(cache, base + (offset * DIM + d) * CODEC.SIZE, latent[source + d])
            for d in range(max(lo, RANK), hi):
                CODEC.store(cache, base + (offset * DIM + d) * CODEC.SIZE, rotated[beside + d])
    return step[count] * ((hi - lo) * CODEC.PER32 // 32)


@macro
def _load(k, i, cache, rows, n, d, floats, scales, DIM, CODEC):
    """Register i of k: values d..d + 16 of a block's nth row."""
    if CODEC.INT8:
        k[i] = mul(CODEC.load_row(cache, rows + n * DIM + d), splat16_at(floats, scales + n * (DIM // 32) + d // 32))
    else:
        k[i] = CODEC.load(cache, rows + (n * DIM + d) * CODEC.SIZE)


@macro
def _products(acc, FIRST, q, at, apart, cache, rows, n, d, floats, scales, HEADS, DIM, CODEC):
    """Adds products of values d..d + 16 (of queries at `at`, `apart` floats from head to head) to SUMS of the sums of
    positions × heads, from sum FIRST on."""
    k = lanes(16 // HEADS)
    for i in static(16 // HEADS):
        if i * HEADS < FIRST + SUMS and (i + 1) * HEADS > FIRST:
            _load(k, i, cache, rows, n[i], d, floats, scales, DIM, CODEC)
    for g in static(HEADS):
        for i in static(16 // HEADS):
            if i * HEADS + g >= FIRST and i * HEADS + g < FIRST + SUMS:
                e = load16(q, at + g * apart)
                acc[i * HEADS + g - FIRST] = fma(e, k[i], acc[i * HEADS + g - FIRST])


@macro
def _scores(
    q, query, rotated, turned, apart, cache, rows, p, end, floats, scales, scores, to, scale, HEADS, RANK, ROPE, CODEC
):
    """Scores of positions p..p + 16 / HEADS of a block, all of them of one position beside each other. Those that a
    block lacks are its last again."""
    n = lanes(16 // HEADS)
    for i in static(16 // HEADS):
        n[i] = min(p + i, end - 1)
    acc = lanes(SUMS)
    part = lanes(4)
    for s in static(16 // SUMS):
        for i in static(SUMS):
            acc[i] = splat16(0.0)
        for d in range(0, RANK, 16):
            _products(acc, s * SUMS, q, query + d, RANK, cache, rows, n, d, floats, scales, HEADS, RANK + ROPE, CODEC)
        for d in range(0, ROPE, 16):
            _products(acc, s * SUMS, rotated, turned + d, apart, cache, rows, n, RANK + d, floats, scales, HEADS,
                      RANK + ROPE, CODEC)  # fmt: skip
        for i in static(SUMS // 4):
            low, high = halves8(acc[4 * i], acc[4 * i + 1]), halves8(acc[4 * i + 2], acc[4 * i + 3])
            part[s * SUMS // 4 + i] = halves4(low, high)
    found = halves1(halves2(part[0], part[1]), halves2(part[2], part[3]))
    store16(scores, to, mul(found, splat16(scale)))


@macro
def _softmax(scores, base, used, work, top, total, at, fresh, HEADS):
    """Scores of `used` positions × HEADS into e^(score − max) in place; max and sum folded into those at `at`. What a
    fold needs, factors of old and new values by head, lies at `work` (of 32 floats) where `fresh` is not true.

    A NaN is no maximum, but its e^… makes the sum NaN.
    """
    last = (used * HEADS + 63) // 64 * 64
    for i in range(base + used * HEADS, base + last):
        scores[i] = np.float32(-np.inf)
    m0, m1 = load16(scores, base), load16(scores, base + 16)
    m2, m3 = load16(scores, base + 32), load16(scores, base + 48)
    for i in range(base + 64, base + last, 64):
        m0, m1 = larger(m0, load16(scores, i)), larger(m1, load16(scores, i + 16))
        m2, m3 = larger(m2, load16(scores, i + 32)), larger(m3, load16(scores, i + 48))
    store16(scores, work, larger(larger(m0, m1), larger(m2, m3)))
    for i in range(HEADS, 16):
        scores[work + i % HEADS] = max(scores[work + i % HEADS], scores[work + i])
    for i in range(HEADS, 16):
        scores[work + i] = scores[work + i % HEADS]
    m = load16(scores, work)
    s0, s1, s2, s3 = splat16(0.0), splat16(0.0), splat16(0.0), splat16(0.0)
    for i in range(base, base + last, 64):
        e0, e1 = exp16(sub(load16(scores, i), m)), exp16(sub(load16(scores, i + 16), m))
        e2, e3 = exp16(sub(load16(scores, i + 32), m)), exp16(sub(load16(scores, i + 48), m))
        store16(scores, i, e0)
        store16(scores, i + 16, e1)
        store16(scores, i + 32, e2)
        store16(scores, i + 48, e3)
        s0, s1, s2, s3 = add(s0, e0), add(s1, e1), add(s2, e2), add(s3, e3)
    store16(scores, work + 16, add(add(s0, s1), add(s2, s3)))
    for g in range(HEADS):
        weight = scores[work + 16 + g]
        for i in range(HEADS + g, 16, HEADS):
            weight += scores[work + 16 + i]
        if fresh:
            top[at + g], total[at + g] = scores[work + g], weight
        else:
            scores[work + g], scores[work + 16 + g] = rescale(top, total, at + g, scores[work + g], weight)


@macro
def _sums(
    cache, rows, start, end, d, floats, scales, scores, weights, sums, fresh, HEADS, COUNT, WIDE, RANK, DIM, CODEC
):
    """Weighted values d..d + 16 · WIDE of a block's rows start..end, for each head, into `sums` [HEADS, RANK]; `fresh`:
    not added to what is there."""
    for piece in static(HEADS // COUNT):
        out = lanes(COUNT * WIDE)
        for g in static(COUNT):
            for i in static(WIDE):
                if fresh:
                    out[g * WIDE + i] = splat16(0.0)
                else:
                    out[g * WIDE + i] = load16(floats, sums + (piece * COUNT + g) * RANK + d + 16 * i)
        for p in range(start, end):
            v = lanes(WIDE)
            for i in static(WIDE):
                _load(v, i, cache, rows, p, d + 16 * i, floats, scales, DIM, CODEC)
            for g in static(COUNT):
                e = splat16_at(scores, weights + p * HEADS + piece * COUNT + g)
                for i in static(WIDE):
                    out[g * WIDE + i] = fma(e, v[i], out[g * WIDE + i])
        for g in static(COUNT):
            for i in static(WIDE):
                store16(floats, sums + (piece * COUNT + g) * RANK + d + 16 * i, out[g * WIDE + i])


@inline
def _scales(cache, at, count, floats, to):
    """f16 scales as floats."""
    for i in range(0, count, 16):
        store16(floats, to + i, load16_f16_of(cache, at + 2 * i, 0, min(16, count - i)))


@kernel
def attend(
    q: "f32", rotated: "f32", cache: "u8", scores: "f32", floats: "f32", top: "f32", total: "f32", part: "f32",
    item_token: "i32", item_split: "i32", item_last: "i32", starts: "i32", ends: "i32", charged: "i32", tables: "i32",
    table_at: "i32", groups: "int", apart: "int", block_bytes: "int", rows_at: "int", scale: "float", worker, lo, hi,
    *, HEADS, RANK, ROPE, CODEC,
):  # fmt: skip
    """Units lo..hi: unit = item · groups + group of HEADS heads. Returns the bytes of rows that it read, once for all
    groups.

    q            [tokens · heads, RANK]
    rotated      [tokens · heads, ROPE], rows `apart` floats apart
    scores, floats  working memory for each worker, `step_fields.latent_scratch`
    top, total   [units, HEADS], part [units, HEADS, RANK]: each unit's folded partial
    item_*, starts, ends, charged, tables, table_at  as in `attention.attend`
    """
    DIM = RANK + ROPE
    COUNT = HEADS if HEADS < 4 or SUMS == 16 else 4  # heads whose sums are in registers together
    WIDE = 4 if 4 * COUNT <= SUMS and RANK % 64 == 0 else 2 if 2 * COUNT <= SUMS and RANK % 32 == 0 else 1
    ROW = DIM * CODEC.PER32 // 32
    weights = worker * (SPLIT * HEADS + 96)
    work = weights + SPLIT * HEADS + 64
    scales = worker * (PAGE * (DIM // 32) + 16 + HEADS * RANK)
    sums = scales + PAGE * (DIM // 32) + 16
    read = 0
    for unit in range(lo, hi):
        item, group = unit // groups, unit % groups
        t = item_token[item]
        query = (t * groups + group) * HEADS
        for split in range(item_split[item], item_last[item] + 1):
            first, last = max(split * SPLIT, starts[t]), min(split * SPLIT + SPLIT, ends[t])
            for index in range(first // PAGE, (last + PAGE - 1) // PAGE):
                start, end = max(first - index * PAGE, 0), min(last - index * PAGE, PAGE)
                rows = tables[table_at[t] + index] * block_bytes + rows_at
                to = weights + (index * PAGE - first) * HEADS
                if CODEC.INT8:
                    n = start * (DIM // 32)
                    _scales(cache, rows + 2 * n, (end - start) * (DIM // 32), floats, scales + n)
                    rows += PAGE * (DIM // 16)
                for p in range(start, end, 16 // HEADS):
                    _scores(q, query * RANK, rotated, query * apart, apart, cache, rows, p, end, floats, scales, scores,
                            to + p * HEADS, scale, HEADS, RANK, ROPE, CODEC)  # fmt: skip
            fresh = split == item_split[item]
            _softmax(scores, weights, last - first, work, top, total, unit * HEADS, fresh, HEADS)
            for index in range(first // PAGE, (last + PAGE - 1) // PAGE):
                start, end = max(first - index * PAGE, 0), min(last - index * PAGE, PAGE)
                rows = tables[table_at[t] + index] * block_bytes + rows_at
                to = weights + (index * PAGE - first) * HEADS
                begins = index == first // PAGE
                if CODEC.INT8:
                    n = start * (DIM // 32)
                    _scales(cache, rows + 2 * n, (end - start) * (DIM // 32), floats, scales + n)
                    rows += PAGE * (DIM // 16)
                for d in range(0, RANK, 16 * WIDE):
                    _sums(cache, rows, start, end, d, floats, scales, scores, to, sums, begins, HEADS, COUNT, WIDE,
                          RANK, DIM, CODEC)  # fmt: skip
            for g in range(HEADS):
                for d in range(g * RANK, (g + 1) * RANK, 16):
                    if fresh:
                        store16(part, unit * HEADS * RANK + d, load16(floats, sums + d))
                    else:
                        fold(
                            part,
                            unit * HEADS * RANK + d,
                            scores[work + g],
                            scores[work + 16 + g],
                            load16(floats, sums + d),
                        )
            if group == 0:
                read += max(min(last, charged[t]) - first, 0) * ROW
    return read


@kernel
def merge(
    top: "f32", total: "f32", part: "f32", out: "f32", first_part: "i32", heads: "int", private: "int",
    worker, lo, hi, *, RANK,
):  # fmt: skip
    """out[t] = softmax-weighted latents of all heads of tokens lo..hi: folds parts first_part[t]..first_part[t + 1], in
    order. Reads nothing that is counted.

    out      [tokens · heads, RANK]
    private  rows (of a token's head) between workers' own outputs (0: shared)
    """
    for row in range(lo * heads, hi * heads):
        t, head = row // heads, row % heads
        at, to = first_part[t] * heads + head, (worker * private + row) * RANK
        m, weight = top[at], total[at]
        for d in range(0, RANK, 16):
            store16(out, to + d, load16(part, at * RANK + d))
        for item in range(first_part[t] + 1, first_part[t + 1]):
            at = item * heads + head
            largest = max(m, top[at])
            old, new = factor(m - largest), factor(top[at] - largest)
            m, weight = largest, weight * old + total[at] * new
            for d in range(0, RANK, 16):
                fold(out, to + d, old, new, load16(part, at * RANK + d))
        r = splat16(np.float32(1.0) / weight)
        for d in range(0, RANK, 16):
            store16(out, to + d, mul(load16(out, to + d), r))
    return 0
