"""Flash-decoding over a paged f16 cache: one read of each KV head for its whole group of query heads.

A context is cut into splits of SPLIT positions, at multiples of SPLIT. Each split gives a partial (maximum, sum,
weighted values); partials are folded in order. One worker may do all splits of a token or each worker some: the
arithmetic is the same.

A page holds PAGE positions of all layers (`page_items` f16); this layer's keys start at `keys_at`, its values at
`values_at`.
For each KV head, keys lie as [PAGE/16, head_dim, 16] (lanes are positions: scores need no sum across lanes), values as
[PAGE, head_dim].
"""

import numpy as np

from memfirst.kernels.cpu.functions import exp16
from memfirst.kernels.cpu.lang import inline, kernel, lanes, static
from memfirst.kernels.cpu.simd import LANES, add, fma, mul, prefetch, sub
from memfirst.kernels.cpu.simd16 import (
    lane,
    larger,
    largest16,
    load16,
    load16_f16,
    load16_f16_of,
    splat16,
    splat16_at,
    store16,
    store_f16,
    sum16,
)

PAGE = 64
SPLIT = 512
ROW = SPLIT + 64
"""Floats of working memory for each query head: a split that starts inside a group of 16, and two factors."""

SUMS = 16 if LANES == 16 else 4
"""Sums of 16 floats at once; more leave the registers, and took twice the time on a Zen 3 (16 of 8 lanes)."""

MOST = LANES // 2
"""Query heads at once: of a larger group, pieces, which read their keys and values again from cache."""


@kernel
def write_keys(
    k: "f32", cache: "u16", slots: "i32", step: "i64", count: "int", heads: "int", page_items: "int", keys_at: "int",
    worker, lo, hi, *, DIM,
):  # fmt: skip
    """Stores heads lo/DIM..hi/DIM of the step's keys; slots[t] = page · PAGE + offset. Returns bytes written."""
    for t in range(step[count]):
        page, offset = slots[t] // PAGE, slots[t] % PAGE
        for h in range(lo // DIM, hi // DIM):
            base = page * page_items + keys_at + (h * (PAGE // 16) + offset // 16) * DIM * 16 + offset % 16
            for d in range(DIM):
                store_f16(cache, base + d * 16, k[(t * heads + h) * DIM + d])
    return step[count] * (hi - lo) * 2


@kernel
def write_values(
    v: "f32", cache: "u16", slots: "i32", step: "i64", count: "int", heads: "int", page_items: "int", values_at: "int",
    worker, lo, hi, *, DIM,
):  # fmt: skip
    """Stores heads lo/DIM..hi/DIM of the step's values. Returns bytes written."""
    for t in range(step[count]):
        page, offset = slots[t] // PAGE, slots[t] % PAGE
        for h in range(lo // DIM, hi // DIM):
            base = page * page_items + values_at + (h * PAGE + offset) * DIM
            for d in range(DIM):
                store_f16(cache, base + d, v[(t * heads + h) * DIM + d])
    return step[count] * (hi - lo) * 2


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
def _factor(x):
    """e^x of one float."""
    return lane(exp16(splat16(x)), 0)


@inline
def _rescale(top, total, at, largest, weight):
    """Folds a split's maximum and sum into those at `at`; returns factors for the old and the new values."""
    m = max(top[at], largest)
    old, new = _factor(top[at] - m), _factor(largest - m)
    top[at], total[at] = m, total[at] * old + weight * new
    return old, new


@inline
def _softmax(scores, row, skip, used, top, total, at, fresh):
    """Turns a split's scores into weights; what a fold needs lies behind them where `fresh` is not true."""
    largest, weight = _weights(scores, row, skip, used)
    if fresh:
        top[at], total[at] = largest, weight
    else:
        scores[row + ROW - 2], scores[row + ROW - 1] = _rescale(top, total, at, largest, weight)


@inline
def _fold(part, at, old, new, values):
    """part = part · old + values · new, 16 of them."""
    store16(part, at, fma(values, splat16(new), mul(load16(part, at), splat16(old))))


@kernel
def attend(
    q: "f32", cache: "u16", scores: "f32", top: "f32", total: "f32", part: "f32",
    item_token: "i32", item_split: "i32", item_last: "i32", starts: "i32", ends: "i32", charged: "i32",
    tables: "i32", table_at: "i32", heads: "int", page_items: "int", keys_at: "int", values_at: "int",
    scale: "float", worker, lo, hi, *, DIM, GROUP, AHEAD,
):  # fmt: skip
    """Units lo..hi: unit = item · heads + KV head. Returns the bytes of keys and values that it read.

    q            [tokens, heads · GROUP · DIM]
    scores       working memory, [workers, GROUP · ROW]; the last two of each ROW hold the factors of a fold
    top, total   [units, GROUP], part [units, GROUP · DIM]: each unit's folded partial
    item_*       each item's token, and its first and last split
    starts, ends the positions that each token attends
    charged      those from here on are counted by the sequence's next token, which reads them in the same step
    tables       page tables, the one of token t from table_at[t] on
    AHEAD        1 where the cache comes from memory: ask for what is read next
    """
    PIECES = (GROUP + MOST - 1) // MOST
    HEADS = (GROUP + PIECES - 1) // PIECES
    # Vectors of 16 that are read at once, positions of keys and then values of a head; several hide fma's latency.
    WIDE = 4 if 4 * HEADS <= SUMS and DIM % 64 == 0 else 2 if 2 * HEADS <= SUMS else 1
    read = 0
    for unit in range(lo, hi):
        item, h = unit // heads, unit % heads
        t = item_token[item]
        pages = table_at[t]
        query = (t * heads + h) * GROUP * DIM
        keys, values = keys_at + h * PAGE * DIM, values_at + h * PAGE * DIM
        for split in range(item_split[item], item_last[item] + 1):
            first, last = max(split * SPLIT, starts[t]), min(split * SPLIT + SPLIT, ends[t])
            base = first // 16 * 16
            for index in range(base // PAGE, (last + PAGE - 1) // PAGE):
                start, end = max(base, index * PAGE), min(last, index * PAGE + PAGE)
                here = tables[pages + index] * page_items + keys - index * PAGE * DIM
                for p in range(start, end, 16 * WIDE):
                    if p + PAGE < last:  # a page on; at the end, where the values begin
                        ahead = tables[pages + index + 1] * page_items + keys + p % PAGE * DIM
                    else:
                        ahead = tables[pages + first // PAGE] * page_items + values + p % PAGE * DIM
                    at = lanes(WIDE)
                    for i in static(WIDE):
                        at[i] = p + 16 * i if p + 16 * i < end else p
                    for piece in static(PIECES):
                        COUNT = HEADS if piece * HEADS + HEADS <= GROUP else GROUP - piece * HEADS
                        acc = lanes(COUNT * WIDE)
                        for i in static(COUNT * WIDE):
                            acc[i] = splat16(0.0)
                        for d in range(DIM):
                            for i in static((WIDE + 1) // 2 if AHEAD and piece == 0 else 0):  # 32 f16 are a line
                                prefetch(cache, ahead + (i * DIM + d) * (32 if WIDE > 1 else 16))
                            k = lanes(WIDE)
                            for i in static(WIDE):
                                skip, used = max(first - at[i], 0), min(last - at[i], 16)
                                k[i] = load16_f16_of(cache, here + at[i] * DIM + d * 16, skip, used)
                            for g in static(COUNT):
                                e = splat16_at(q, query + (piece * HEADS + g) * DIM + d)
                                for i in static(WIDE):
                                    acc[g * WIDE + i] = fma(e, k[i], acc[g * WIDE + i])
                        for g in static(COUNT):
                            row = (worker * GROUP + piece * HEADS + g) * ROW + p - base
                            for i in static(WIDE):
                                store16(scores, row + 16 * i, mul(acc[g * WIDE + i], splat16(scale)))
            fresh = split == item_split[item]
            for g in range(GROUP):
                row = (worker * GROUP + g) * ROW
                _softmax(scores, row, first - base, last - base, top, total, unit * GROUP + g, fresh)
            for piece in static(PIECES):
                COUNT = HEADS if piece * HEADS + HEADS <= GROUP else GROUP - piece * HEADS
                for d in range(0, DIM, 16 * WIDE):
                    out = lanes(COUNT * WIDE)
                    for i in static(COUNT * WIDE):
                        out[i] = splat16(0.0)
                    for index in range(first // PAGE, (last + PAGE - 1) // PAGE):
                        start, end = max(first, index * PAGE), min(last, index * PAGE + PAGE)
                        here = tables[pages + index] * page_items + values - index * PAGE * DIM + d
                        later = min(index + 1, (last - 1) // PAGE)
                        ahead = tables[pages + later] * page_items + values - index * PAGE * DIM + d
                        for p in range(start, end):
                            for i in static((WIDE + 1) // 2 if AHEAD and piece == 0 else 0):
                                prefetch(cache, ahead + p * DIM + 32 * i)
                            v = lanes(WIDE)
                            for i in static(WIDE):
                                v[i] = load16_f16(cache, here + p * DIM + 16 * i)
                            for g in static(COUNT):
                                e = splat16_at(scores, (worker * GROUP + piece * HEADS + g) * ROW + p - base)
                                for i in static(WIDE):
                                    out[g * WIDE + i] = fma(e, v[i], out[g * WIDE + i])
                    for g in static(COUNT):
                        row = (worker * GROUP + piece * HEADS + g) * ROW
                        for i in static(WIDE):
                            at = (unit * GROUP + piece * HEADS + g) * DIM + d + 16 * i
                            if fresh:
                                store16(part, at, out[g * WIDE + i])
                            else:
                                _fold(part, at, scores[row + ROW - 2], scores[row + ROW - 1], out[g * WIDE + i])
            read += max(min(last, charged[t]) - first, 0) * DIM * 4
    return read


@kernel
def merge(
    top: "f32", total: "f32", part: "f32", out: "f32", first_item: "i32", heads: "int", private: "int",
    worker, lo, hi, *, DIM, GROUP,
):  # fmt: skip
    """out[t] = softmax-weighted values of tokens lo..hi: folds items first_item[t]..first_item[t + 1], in order.

    out      [tokens, heads · GROUP · DIM]
    private  token rows between workers' own outputs (0: shared)
    """
    for t in range(lo, hi):
        for i in range(heads * GROUP):
            head = first_item[t] * heads * GROUP + i
            target = ((worker * private + t) * heads * GROUP + i) * DIM
            m, weight = top[head], total[head]
            for d in range(0, DIM, 16):
                store16(out, target + d, load16(part, head * DIM + d))
            for item in range(first_item[t] + 1, first_item[t + 1]):
                at = item * heads * GROUP + i
                largest = max(m, top[at])
                old, new = _factor(m - largest), _factor(top[at] - largest)
                m, weight = largest, weight * old + total[at] * new
                for d in range(0, DIM, 16):
                    _fold(out, target + d, old, new, load16(part, at * DIM + d))
            r = splat16(np.float32(1.0) / weight)
            for d in range(0, DIM, 16):
                store16(out, target + d, mul(load16(out, target + d), r))
    return 0
