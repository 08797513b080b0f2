"""Flash-decoding over a paged cache: one read of each KV head for its whole group of query heads.

A context is cut into splits of SPLIT positions, at multiples of SPLIT. Each split gives a partial (maximum, sum,
weighted values); partials are folded in order. One worker may do all splits of a token or each worker some: the
arithmetic is the same.

A block holds PAGE positions of all layers of its group (`block_bytes`); this layer's keys start at `keys_at`, its
values at `values_at`, those of a head PER32 bytes for each 32 values and position. How they lie is said by KCODEC and
VCODEC (`kv_f16` and the others): f16 or f32, read as floats, or int8 blocks, which are multiplied as integers.

Where ROTATE is 1, keys and queries, and values and outputs, are rotated by a Hadamard matrix: no score changes, and
outliers are spread before they are quantized.
"""

import numpy as np

from memfirst.kernels.cpu.activations import block_scale, quantize16
from memfirst.kernels.cpu.functions import softcap16
from memfirst.kernels.cpu.hadamard import rotate
from memfirst.kernels.cpu.lang import inline, kernel, lanes, macro, static
from memfirst.kernels.cpu.simd import (
    LANES,
    PACK,
    fma,
    maximum,
    mul,
    prefetch,
    splat,
    splat_at,
    splat_i_at,
    store_rows,
    to_float,
)
from memfirst.kernels.cpu.simd16 import (
    as_float16,
    lane,
    load16,
    load16_f16_of,
    magnitude16,
    max16_i,
    pair_sum,
    rint,
    splat16,
    splat16_at,
    splat16_i,
    splat16_i_at,
    store16,
    store16_first,
    store16_pairs,
    to_float16,
    to_int16,
    within16,
)
from memfirst.kernels.cpu.softmax import factor, fold, softmax
from memfirst.lower.step_fields import BLOCK as PAGE
from memfirst.lower.step_fields import SCORES as ROW
from memfirst.lower.step_fields import SPLIT

SUMS = 16 if LANES == 16 else 4
"""Accumulators of 16 floats at once; more leave the registers, and took twice the time on a Zen 3 (16 of 8 lanes)."""

MOST = LANES // 2
"""Query heads at once: of a larger group, pieces, which read their keys and values again from cache."""

PARTS = PACK // LANES
"""Registers of keys that 16 positions take."""


@kernel
def write_keys(
    k: "f32", cache: "u8", slots: "i32", floats: "f32", step: "i64", count: "int", heads: "int", stride: "int",
    block_bytes: "int", keys_at: "int", worker, lo, hi, *, DIM, CODEC, ROTATE,
):  # fmt: skip
    """Stores heads lo/DIM..hi/DIM of the step's keys; slots[t] = block · PAGE + offset. Returns bytes written.

    k       [tokens, heads · DIM], rows `stride` floats apart
    floats  working memory, [workers, 3 · DIM]
    """
    BYTES = DIM * CODEC.PER32 // 32
    for t in range(step[count]):
        page, offset = slots[t] // PAGE, slots[t] % PAGE
        for h in range(lo // DIM, hi // DIM):
            base = page * block_bytes + keys_at + (h * (PAGE // 16) + offset // 16) * 16 * BYTES
            if CODEC.INT8:
                if ROTATE:
                    rotate(k, t * stride + h * DIM, DIM, floats, worker * 3 * DIM)
                for b in range(DIM // 32):
                    at = base + b * 16 * CODEC.PER32
                    if ROTATE:
                        CODEC.store_key(cache, at, offset % 16, floats, worker * 3 * DIM + b * 32)
                    else:
                        CODEC.store_key(cache, at, offset % 16, k, t * stride + h * DIM + b * 32)
            else:
                for d in range(DIM):
                    CODEC.store(cache, base + (d * 16 + offset % 16) * CODEC.SIZE, k[t * stride + h * DIM + d])
    return step[count] * ((hi - lo) // DIM) * BYTES


@kernel
def write_values(
    v: "f32", cache: "u8", slots: "i32", floats: "f32", step: "i64", count: "int", heads: "int", stride: "int",
    block_bytes: "int", values_at: "int", worker, lo, hi, *, DIM, CODEC, ROTATE,
):  # fmt: skip
    """Stores heads lo/DIM..hi/DIM of the step's values, operands as in `write_keys`. Returns bytes written."""
    BYTES = DIM * CODEC.PER32 // 32
    for t in range(step[count]):
        page, offset = slots[t] // PAGE, slots[t] % PAGE
        for h in range(lo // DIM, hi // DIM):
            base = page * block_bytes + values_at + h * PAGE * BYTES
            if CODEC.INT8:
                if ROTATE:
                    rotate(v, t * stride + h * DIM, DIM, floats, worker * 3 * DIM)
                for b in range(DIM // 32):
                    scale_at = base + b * PAGE * CODEC.PER32
                    at = scale_at + 2 * PAGE + offset // 2 * 2 * (CODEC.PER32 - 2) + offset % 2
                    if ROTATE:
                        CODEC.store_value(cache, scale_at + 2 * offset, at, floats, worker * 3 * DIM + b * 32)
                    else:
                        CODEC.store_value(cache, scale_at + 2 * offset, at, v, t * stride + h * DIM + b * 32)
            else:
                for d in range(DIM):
                    CODEC.store(cache, base + (offset * DIM + d) * CODEC.SIZE, v[t * stride + h * DIM + d])
    return step[count] * ((hi - lo) // DIM) * BYTES


@macro
def _queries(q, query, floats, fq, ints, ia, q8, at8, GROUP, DIM, OFFSET, ROTATE):
    """int8 of GROUP queries: a scale for each 32 values at fq, OFFSET times their sum at ia."""
    for g in range(GROUP):
        if ROTATE:
            turned = fq + GROUP * (DIM // 32 + ROW)
            rotate(q, query + g * DIM, DIM, floats, turned)
        for b in range(DIM // 32):
            if ROTATE:
                d, inverse = block_scale(floats, turned + b * 32, 32)
                total = quantize16(floats, turned + b * 32, splat16(inverse), q8, at8 + g * DIM + b * 32)
                total += quantize16(floats, turned + b * 32 + 16, splat16(inverse), q8, at8 + g * DIM + b * 32 + 16)
            else:
                d, inverse = block_scale(q, query + g * DIM + b * 32, 32)
                total = quantize16(q, query + g * DIM + b * 32, splat16(inverse), q8, at8 + g * DIM + b * 32)
                total += quantize16(q, query + g * DIM + b * 32 + 16, splat16(inverse), q8, at8 + g * DIM + b * 32 + 16)
            floats[fq + g * (DIM // 32) + b] = d
            ints[ia + g * (DIM // 32) + b] = total * OFFSET


@macro
def _float_scores(
    q, query, cache, here, ahead, p, end, first, last, scores, row, scale, GROUP, PIECES, HEADS, WIDE, DIM, CODEC, AHEAD
):
    """Scores of positions p..p + 16 · WIDE by float keys."""
    LINES = (WIDE * CODEC.SIZE + 3) // 4 if AHEAD else 0  # of WIDE · 16 keys' one dimension
    STEP = 64 if WIDE * CODEC.SIZE > 2 else 32
    at = lanes(WIDE)
    for i in static(WIDE):
        at[i] = p + 16 * i if p + 16 * i < end else p
    for piece in static(PIECES):
        COUNT = HEADS if piece * HEADS + HEADS <= GROUP else GROUP - piece * HEADS
        acc = lanes(COUNT * WIDE)
        for i in static(COUNT * WIDE):
            acc[i] = splat16(0.0)
        for d in range(DIM):
            for i in static(LINES if piece == 0 else 0):
                prefetch(cache, ahead + (i * DIM + d) * STEP)
            k = lanes(WIDE)
            for i in static(WIDE):
                skip, used = max(first - at[i], 0), min(last - at[i], 16)
                k[i] = CODEC.load_of(cache, here + (at[i] * DIM + d * 16) * CODEC.SIZE, skip, used)
            for g in static(COUNT):
                e = splat16_at(q, query + (piece * HEADS + g) * DIM + d)
                for i in static(WIDE):
                    acc[g * WIDE + i] = fma(e, k[i], acc[g * WIDE + i])
        for g in static(COUNT):
            for i in static(WIDE):
                store16(scores, row + (piece * HEADS + g) * ROW + 16 * i, mul(acc[g * WIDE + i], splat16(scale)))


@macro
def _int8_scores(
    floats, fq, ints, ia, q8, at8, cache, here, ahead, p, first, last, scores, row, scale,
    GROUP, PIECES, HEADS, DIM, CODEC, AHEAD,
):  # fmt: skip
    """Scores of positions p..p + 16 by int8 keys and queries: a packed matrix of 16 rows."""
    BYTES = 16 * CODEC.PER32  # of 32 columns
    skip, used = max(first - p, 0), min(last - p, 16)
    for piece in static(PIECES):
        COUNT = HEADS if piece * HEADS + HEADS <= GROUP else GROUP - piece * HEADS
        for part in static(PARTS):
            acc = lanes(COUNT)
            for g in static(COUNT):
                acc[g] = splat(0.0)
            for b in range(DIM // 32):
                for i in static((BYTES + 63) // 64 if AHEAD and piece + part == 0 else 0):
                    prefetch(cache, ahead + b * BYTES + 64 * i)
                w = CODEC.columns(cache, here + b * BYTES, part, skip, used)
                d = CODEC.scale(cache, here + b * BYTES, part, skip, used)
                for g in static(COUNT):
                    n = (piece * HEADS + g) * (DIM // 32) + b
                    s = CODEC.product(w, q8, at8 + 32 * n, splat_i_at(ints, ia + n))
                    acc[g] = fma(to_float(s), mul(d, splat_at(floats, fq + n)), acc[g])
            for g in static(COUNT):
                store_rows(scores, row + (piece * HEADS + g) * ROW + LANES * part, mul(acc[g], splat(scale)))


@macro
def _float_values(
    cache, here, ahead, start, end, scores, row, floats, sums, fresh, d, skip,
    GROUP, PIECES, HEADS, WIDE, DIM, CODEC, AHEAD, HALF,
):  # fmt: skip
    """Weighted values d..d + 16 · WIDE of each head (HALF: the last 8) of a block's positions start..end, added to
    `sums` [GROUP, ROW] unless `fresh`. Meanwhile as many bytes of what is read next are prefetched."""
    BYTES = 16 * WIDE * CODEC.SIZE
    LINES = (BYTES + 63) // 64 if AHEAD else 0
    for piece in static(PIECES):
        COUNT = HEADS if piece * HEADS + HEADS <= GROUP else GROUP - piece * HEADS
        out = lanes(COUNT * WIDE)
        for g in static(COUNT):
            for i in static(WIDE):
                if fresh:
                    out[g * WIDE + i] = splat16(0.0)
                else:
                    out[g * WIDE + i] = load16(floats, sums + (piece * HEADS + g) * ROW + d + 16 * i)
        for p in range(start, end):
            for i in static(LINES if piece == 0 else 0):
                prefetch(cache, ahead + (skip + p % PAGE) * BYTES + 64 * i)
            v = lanes(WIDE)
            for i in static(WIDE):
                if HALF:
                    v[i] = CODEC.load_half(cache, here + (p * DIM + d) * CODEC.SIZE)
                else:
                    v[i] = CODEC.load(cache, here + (p * DIM + d + 16 * i) * CODEC.SIZE)
            for g in static(COUNT):
                e = splat16_at(scores, row + (piece * HEADS + g) * ROW + p)
                for i in static(WIDE):
                    out[g * WIDE + i] = fma(e, v[i], out[g * WIDE + i])
        for g in static(COUNT):
            for i in static(WIDE):
                store16(floats, sums + (piece * HEADS + g) * ROW + d + 16 * i, out[g * WIDE + i])


@inline
def _pairs_of_weights(floats, at, ints, to, count, bits):
    """`count` weights at `at` as pairs of int16, the largest of which in size becomes 32767; returns what 1 is.

    bits  the largest's, as an integer: NaN is above all numbers, and stays one
    """
    top = lane(as_float16(splat16_i(bits)), 0)
    inverse = np.float32(32767) / top if top > np.float32(0.0) else np.float32(0.0)
    steps = splat16(inverse)
    for i in range(0, count, 16):
        store16_pairs(ints, to + i // 2, to_int16(rint(mul(load16(floats, at + i), steps))))
    return top / np.float32(32767)


@macro
def _int8_values(
    cache, tables, pages, block_bytes, values, behind, first, last, scores, row, floats, fw, ints, iw, part, at, fresh,
    b, GROUP, PIECES, HEADS, DIM, CODEC, AHEAD,
):  # fmt: skip
    """Weighted values 32·b..32·b + 32 of each head, folded into `part`: weights times the values' scales as int16,
    two positions in one multiplication; 512 · 32767 · 127 fits 32 bits."""
    BYTES = 2 * (CODEC.PER32 - 2)  # of 32 values of two positions
    base = first // 16 * 16
    for piece in static(PIECES):
        COUNT = HEADS if piece * HEADS + HEADS <= GROUP else GROUP - piece * HEADS
        top = lanes(COUNT)
        for g in static(COUNT):
            top[g] = splat16_i(0)
        for index in range(first // PAGE, (last + PAGE - 1) // PAGE):
            here = tables[pages + index] * block_bytes + values - index * PAGE * 2
            for p in range(max(base, index * PAGE), min(last, index * PAGE + PAGE), 16):
                skip, used = max(first - p, 0), min(last - p, 16)
                scale = within16(load16_f16_of(cache, here + 2 * p, skip, used), skip, used)
                for g in static(COUNT):
                    w = mul(load16(scores, row + (piece * HEADS + g) * ROW + p), scale)
                    top[g] = maximum(top[g], magnitude16(w))
                    store16(floats, fw + g * ROW + p - base, w)
        unit = lanes(COUNT)
        acc = lanes(2 * COUNT)
        for g in static(COUNT):
            count = (last - base + 15) // 16 * 16
            unit[g] = _pairs_of_weights(floats, fw + g * ROW, ints, iw + g * (ROW // 2), count, max16_i(top[g]))
            acc[2 * g] = splat16_i(0)
            acc[2 * g + 1] = splat16_i(0)
        for index in range(first // PAGE, (last + PAGE - 1) // PAGE):
            start, end = max(first // 2 * 2, index * PAGE), min(last, index * PAGE + PAGE)
            here = tables[pages + index] * block_bytes + values + 2 * PAGE
            ahead = behind
            if end < last:
                ahead = tables[pages + index + 1] * block_bytes + values + 2 * PAGE
            for p in range(start, end, 2):
                offset = (p - index * PAGE) // 2 * BYTES
                if AHEAD and piece == 0:
                    prefetch(cache, ahead + offset)
                low, high = CODEC.pairs(cache, here + offset, max(first - p, 0), min(last - p, 2))
                for g in static(COUNT):
                    e = splat16_i_at(ints, iw + g * (ROW // 2) + (p - base) // 2)
                    acc[2 * g] = pair_sum(acc[2 * g], low, e)
                    acc[2 * g + 1] = pair_sum(acc[2 * g + 1], high, e)
        for g in static(COUNT):
            factors = row + base + (piece * HEADS + g) * ROW + ROW - 2
            for i in static(2):
                to = at + (piece * HEADS + g) * DIM + 32 * b + 16 * i
                found = mul(to_float16(acc[2 * g + i]), splat16(unit[g]))
                if fresh:
                    store16(part, to, found)
                else:
                    fold(part, to, scores[factors], scores[factors + 1], found)


@kernel
def attend(
    q: "f32", cache: "u8", scores: "f32", floats: "f32", ints: "i32", q8: "i8", top: "f32", total: "f32", part: "f32",
    item_token: "i32", item_split: "i32", item_last: "i32", starts: "i32", ends: "i32", charged: "i32",
    tables: "i32", table_at: "i32", step: "i64", count: "int", heads: "int", stride: "int", block_bytes: "int",
    keys_at: "int", values_at: "int", scale: "float", cap: "float", worker, lo, hi,
    *, K_DIM, V_DIM, GROUP, KCODEC, VCODEC, ROTATE, SOFTCAP, AHEAD,
):  # fmt: skip
    """Units lo..hi: unit = item · heads + KV head. Returns the bytes of keys and values that it read.

    q            [tokens, heads · GROUP · K_DIM], rows `stride` floats apart
    scores, floats, ints, q8  working memory for each worker, `step_fields.attention_scratch`; the last two of each
                 ROW of scores hold the factors of a fold
    top, total   [units, GROUP], part [units, GROUP · V_DIM, V_DIM rounded up to 16]: each unit's folded partial
    item_*       each item's token, and its first and last split
    starts, ends the positions that each token attends
    charged      those from here on are counted by the sequence's next token, which reads them in the same step
    tables       block tables, the one of token t from table_at[t] on
    count        where `step` holds the number of items
    SOFTCAP      1: scores become cap · tanh(score / cap)
    AHEAD        1 where the cache comes from memory: prefetch what is read next
    """
    PIECES = (GROUP + MOST - 1) // MOST
    HEADS = (GROUP + PIECES - 1) // PIECES
    # Vectors of 16 that are read at once, positions of keys and then values of a head; several hide fma's latency.
    K_WIDE = 4 if 4 * HEADS <= SUMS else 2 if 2 * HEADS <= SUMS else 1
    V_WIDE = 4 if 4 * HEADS <= SUMS and V_DIM % 64 == 0 else 2 if 2 * HEADS <= SUMS and V_DIM % 32 == 0 else 1
    K_STEP = 1 if KCODEC.INT8 else K_WIDE
    K_BYTES = K_DIM * KCODEC.PER32 // 32
    V_BYTES = V_DIM * VCODEC.PER32 // 32
    WHOLE = (V_DIM + 15) // 16 * 16
    fq = worker * (GROUP * (K_DIM // 32 + ROW) + 3 * K_DIM)
    fw, at8 = fq + GROUP * (K_DIM // 32), worker * GROUP * K_DIM
    ia = worker * (GROUP * (K_DIM // 32) + GROUP * ROW // 2)
    iw, mine = ia + GROUP * (K_DIM // 32), worker * GROUP * ROW
    read = 0
    for unit in range(lo, hi):
        item, h = unit // heads, unit % heads
        t = item_token[item]
        pages, query, at = table_at[t], t * stride + h * GROUP * K_DIM, unit * GROUP * WHOLE
        keys, values = keys_at + h * PAGE * K_BYTES, values_at + h * PAGE * V_BYTES
        if KCODEC.INT8:
            _queries(q, query, floats, fq, ints, ia, q8, at8, GROUP, K_DIM, KCODEC.OFFSET, ROTATE)
        for split in range(item_split[item], item_last[item] + 1):
            first, last = max(split * SPLIT, starts[t]), min(split * SPLIT + SPLIT, ends[t])
            base = first // 16 * 16
            row = mine - base
            for index in range(base // PAGE, (last + PAGE - 1) // PAGE):
                end = min(last, index * PAGE + PAGE)
                here = tables[pages + index] * block_bytes + keys - index * PAGE * K_BYTES
                for p in range(max(base, index * PAGE), end, 16 * K_STEP):
                    if p + PAGE < last:  # a block on; at the end, where the values begin
                        ahead = tables[pages + index + 1] * block_bytes + keys + p % PAGE * K_BYTES
                    else:
                        ahead = tables[pages + first // PAGE] * block_bytes + values + p % PAGE * V_BYTES
                    if KCODEC.INT8:
                        _int8_scores(floats, fq, ints, ia, q8, at8, cache, here + p * K_BYTES, ahead, p, first, last,
                                     scores, row + p, scale, GROUP, PIECES, HEADS, K_DIM, KCODEC, AHEAD)  # fmt: skip
                    else:
                        _float_scores(q, query, cache, here, ahead, p, end, first, last, scores, row + p, scale, GROUP,
                                      PIECES, HEADS, K_WIDE, K_DIM, KCODEC, AHEAD)  # fmt: skip
            fresh = split == item_split[item]
            after = tables[pages + first // PAGE] * block_bytes + values  # what is read behind these values
            if split < item_last[item]:
                after = tables[pages + last // PAGE] * block_bytes + keys
            elif unit + 1 < step[count] * heads:
                t1 = item_token[(unit + 1) // heads]
                page = tables[table_at[t1] + max(item_split[(unit + 1) // heads] * SPLIT, starts[t1]) // PAGE]
                after = page * block_bytes + keys_at + (unit + 1) % heads * PAGE * K_BYTES
            for g in range(GROUP):
                if SOFTCAP:
                    for i in range(mine + g * ROW, mine + g * ROW + last - base, 16):
                        store16(scores, i, softcap16(load16(scores, i), cap))
                softmax(scores, mine + g * ROW, first - base, last - base, top, total, unit * GROUP + g, fresh)
            if VCODEC.INT8:
                for b in range(V_DIM // 32):
                    behind = after
                    if b + 1 < V_DIM // 32:
                        behind = tables[pages + first // PAGE] * block_bytes + values + (b + 1) * PAGE * VCODEC.PER32
                    _int8_values(cache, tables, pages, block_bytes, values + b * PAGE * VCODEC.PER32, behind, first,
                                 last, scores, row, floats, fw, ints, iw, part, at, fresh, b, GROUP, PIECES, HEADS,
                                 V_DIM, VCODEC, AHEAD)  # fmt: skip
            else:
                for index in range(first // PAGE, (last + PAGE - 1) // PAGE):
                    start, end = max(first, index * PAGE), min(last, index * PAGE + PAGE)
                    here = tables[pages + index] * block_bytes + values - index * PAGE * V_BYTES
                    ahead = after
                    if end < last:
                        ahead = tables[pages + index + 1] * block_bytes + values
                    begins = index == first // PAGE
                    for d in range(0, V_DIM // (16 * V_WIDE) * 16 * V_WIDE, 16 * V_WIDE):
                        skip = d // (16 * V_WIDE) * PAGE
                        _float_values(cache, here, ahead, start, end, scores, row, floats, fw, begins, d, skip, GROUP,
                                      PIECES, HEADS, V_WIDE, V_DIM, VCODEC, AHEAD, 0)  # fmt: skip
                    if V_DIM % 16:
                        _float_values(cache, here, ahead, start, end, scores, row, floats, fw, begins, WHOLE - 16,
                                      V_DIM // 16 * PAGE, GROUP, PIECES, HEADS, 1, V_DIM, VCODEC, AHEAD, 1)  # fmt: skip
                for g in range(GROUP):
                    factors = mine + g * ROW + ROW - 2
                    for d in range(0, WHOLE, 16):
                        found = load16(floats, fw + g * ROW + d)
                        if fresh:
                            store16(part, at + g * WHOLE + d, found)
                        else:
                            fold(part, at + g * WHOLE + d, scores[factors], scores[factors + 1], found)
            read += max(min(last, charged[t]) - first, 0) * (K_BYTES + V_BYTES)
    return read


@kernel
def merge(
    top: "f32", total: "f32", part: "f32", out: "f32", sinks: "f32", floats: "f32", first_item: "i32", heads: "int",
    private: "int", worker, lo, hi, *, DIM, GROUP, SINKS, ROTATE,
):  # fmt: skip
    """out[t] = softmax-weighted values of tokens lo..hi: folds items first_item[t]..first_item[t + 1], in order.

    out      [tokens, heads · GROUP · DIM]
    sinks    [heads · GROUP] where SINKS is 1: scores that take their share of the softmax and give nothing
    floats   working memory, [workers, 4 · DIM rounded up to 16]
    private  token rows between workers' own outputs (0: shared)
    Returns the bytes of the sinks, once a step.
    """
    WHOLE = (DIM + 15) // 16 * 16
    work = worker * 4 * WHOLE
    for t in range(lo, hi):
        for i in range(heads * GROUP):
            head = first_item[t] * heads * GROUP + i
            target = ((worker * private + t) * heads * GROUP + i) * DIM
            m, weight = top[head], total[head]
            for d in range(0, DIM, 16):
                store16(floats, work + d, load16(part, head * WHOLE + d))
            for item in range(first_item[t] + 1, first_item[t + 1]):
                at = item * heads * GROUP + i
                largest = max(m, top[at])
                old, new = factor(m - largest), factor(top[at] - largest)
                m, weight = largest, weight * old + total[at] * new
                for d in range(0, DIM, 16):
                    fold(floats, work + d, old, new, load16(part, at * WHOLE + d))
            shrunk = np.float32(1.0)
            if SINKS:
                largest = max(m, sinks[i])
                shrunk = factor(m - largest)
                weight = weight * shrunk + factor(sinks[i] - largest)
            r = splat16(shrunk / weight)
            for d in range(0, DIM, 16):
                store16(floats, work + d, mul(load16(floats, work + d), r))
            if ROTATE:
                rotate(floats, work, DIM, floats, work + WHOLE)
            for d in range(0, DIM, 16):
                v = load16(floats, work + (WHOLE if ROTATE else 0) + d)
                if DIM % 16 and d + 16 > DIM:
                    store16_first(out, target + d, DIM - d, v)
                else:
                    store16(out, target + d, v)
    return heads * GROUP * 4 if SINKS and lo == 0 else 0
