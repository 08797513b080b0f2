"""Flash-decoding over a paged cache: one read of each KV head for its whole group of query heads, and for a tile of
tokens of one sequence.

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

from memfirst.kernels.cpu.attention_scores import (
    MOST,
    MOST_INT8,
    SUMS,
    float_scores,
    int8_scores,
    queries,
)
from memfirst.kernels.cpu.attention_values import float_edge, float_values, int8_values
from memfirst.kernels.cpu.functions import softcap16
from memfirst.kernels.cpu.hadamard import rotate
from memfirst.kernels.cpu.lang import kernel, lanes, macro, static
from memfirst.kernels.cpu.simd import mul
from memfirst.kernels.cpu.simd16 import load16, splat16, store16, store16_first
from memfirst.kernels.cpu.softmax import factor, fold, softmax
from memfirst.lower.step_fields import BLOCK as PAGE
from memfirst.lower.step_fields import ITEM_TOKENS, SPLIT, TILE_ROWS
from memfirst.lower.step_fields import SCORES as ROW


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
def _tile(
    q, cache, scores, floats, ints, q8, top, total, part, first_part, starts, ends, tables, pages, t0, a, b, item_first,
    split, h, heads, stride, block_bytes, keys, values, after, scale, cap, mine, fq, fw, ia, iw, at8,
    K_DIM, V_DIM, GROUP, KCODEC, VCODEC, SOFTCAP, TOKENS,
):  # fmt: skip
    """Tokens a..b of a sequence, TOKENS at most, over the positions of one split that they attend: scores, softmax and
    weighted values of all their heads over one of keys, folded into each token's partials.

    Keys are read for positions that any of them attends; values for those that all do, and then for each row its own.
    """
    ROWS = TOKENS * GROUP
    K_BYTES = K_DIM * KCODEC.PER32 // 32
    V_BYTES = V_DIM * VCODEC.PER32 // 32
    WHOLE = (V_DIM + 15) // 16 * 16
    K_MOST = MOST_INT8 if KCODEC.INT8 else MOST
    V_MOST = MOST_INT8 if VCODEC.INT8 else MOST
    K_PIECES = (ROWS + K_MOST - 1) // K_MOST
    K_EACH = (ROWS + K_PIECES - 1) // K_PIECES
    V_PIECES = (ROWS + V_MOST - 1) // V_MOST
    V_EACH = (ROWS + V_PIECES - 1) // V_PIECES
    # Vectors of 16 that are read at once, positions of keys and then values of a head; several hide fma's latency.
    K_WIDE = 4 if 4 * K_EACH <= SUMS else 2 if 2 * K_EACH <= SUMS else 1
    V_WIDE = 4 if 4 * V_EACH <= SUMS and V_DIM % 64 == 0 else 2 if 2 * V_EACH <= SUMS and V_DIM % 32 == 0 else 1
    K_STEP = 1 if KCODEC.INT8 else K_WIDE
    lowest, highest = split * SPLIT, split * SPLIT + SPLIT
    first, last = max(lowest, starts[a]), min(highest, ends[b])
    base = first // 16 * 16
    row = mine - base
    at = lanes(ROWS)  # each row's query; where there are fewer tokens, the last one's again
    for r in static(ROWS):
        if KCODEC.INT8:
            at[r] = (min(a + r // GROUP, b) - t0) * GROUP + r % GROUP
        else:
            at[r] = min(a + r // GROUP, b) * stride + (h * GROUP + r % GROUP) * K_DIM
    for index in range(base // PAGE, (last + PAGE - 1) // PAGE):
        end = min(last, index * PAGE + PAGE)
        here = tables[pages + index] * block_bytes + keys - index * PAGE * K_BYTES
        for p in range(max(base, index * PAGE), end, 16 * K_STEP):
            if p + PAGE < last:  # a block on; at the end, where the values begin
                ahead = tables[pages + index + 1] * block_bytes + keys + p % PAGE * K_BYTES
            else:
                ahead = tables[pages + first // PAGE] * block_bytes + values + p % PAGE * V_BYTES
            if KCODEC.INT8:
                int8_scores(floats, fq, ints, ia, q8, at8, at, cache, here + p * K_BYTES, ahead, p, first, last, scores,
                            row + p, scale, ROWS, K_PIECES, K_EACH, K_DIM, KCODEC)  # fmt: skip
            else:
                float_scores(q, at, cache, here, ahead, p, end, first, last, scores, row + p, scale, ROWS, K_PIECES,
                             K_EACH, K_WIDE, K_DIM, KCODEC)  # fmt: skip
    used = (b - a + 1) * GROUP
    for r in range(used):
        t = a + r // GROUP
        start, end = max(lowest, starts[t]), min(highest, ends[t])
        begin = start // 16 * 16  # where a token alone would begin: its sums are of the same lanes
        if SOFTCAP:
            for i in range(row + r * ROW + begin, row + r * ROW + end, 16):
                store16(scores, i, softcap16(load16(scores, i), cap))
        own = starts[t] // SPLIT
        to = ((first_part[t] + max(item_first - own, 0)) * heads + h) * GROUP + r % GROUP
        fresh = split == max(item_first, own)
        softmax(
            scores, row + r * ROW + begin, start - begin, end - begin, mine + r * ROW + ROW - 2, top, total, to, fresh
        )
    if VCODEC.INT8:
        for c in range(V_DIM // 32):
            behind = after
            if c + 1 < V_DIM // 32:
                behind = tables[pages + first // PAGE] * block_bytes + values + (c + 1) * PAGE * VCODEC.PER32
            int8_values(cache, tables, pages, block_bytes, values + c * PAGE * VCODEC.PER32, behind, first, last,
                        starts, ends, a, b, scores, row, floats, fw, ints, iw, fw, ROWS, GROUP, V_PIECES, V_EACH,
                        VCODEC)  # fmt: skip
            _fold(part, floats, scores, first_part, starts, a, used, item_first, split, h, heads, mine, fw, 32 * c, 32,
                  GROUP, WHOLE)  # fmt: skip
    else:
        common, until = max(lowest, starts[b]), min(highest, ends[a])
        if TOKENS > 1:
            until = max(common, until)
            for r in range(used):
                t = a + r // GROUP
                for d in range(0, WHOLE, 16):
                    store16(floats, fw + r * ROW + d, splat16(0.0))
                float_edge(cache, tables, pages, block_bytes, values, max(lowest, starts[t]), min(common, ends[t]),
                           scores, row + r * ROW, floats, fw + r * ROW, V_DIM, VCODEC)  # fmt: skip
        for index in range(common // PAGE, (until + PAGE - 1) // PAGE):
            start, end = max(common, index * PAGE), min(until, index * PAGE + PAGE)
            here = tables[pages + index] * block_bytes + values - index * PAGE * V_BYTES
            ahead = after
            if end < until:
                ahead = tables[pages + index + 1] * block_bytes + values
            begins = index == common // PAGE if TOKENS == 1 else False
            for d in range(0, V_DIM // (16 * V_WIDE) * 16 * V_WIDE, 16 * V_WIDE):
                skip = d // (16 * V_WIDE) * PAGE
                float_values(cache, here, ahead, start, end, scores, row, floats, fw, begins, d, skip, ROWS, V_PIECES,
                             V_EACH, V_WIDE, V_DIM, VCODEC, 0)  # fmt: skip
            if V_DIM % 16:
                float_values(cache, here, ahead, start, end, scores, row, floats, fw, begins, WHOLE - 16,
                             V_DIM // 16 * PAGE, ROWS, V_PIECES, V_EACH, 1, V_DIM, VCODEC, 1)  # fmt: skip
        if TOKENS > 1:
            for r in range(used):
                t = a + r // GROUP
                float_edge(cache, tables, pages, block_bytes, values, max(until, starts[t]), min(highest, ends[t]),
                           scores, row + r * ROW, floats, fw + r * ROW, V_DIM, VCODEC)  # fmt: skip
        _fold(part, floats, scores, first_part, starts, a, used, item_first, split, h, heads, mine, fw, 0, WHOLE, GROUP,
              WHOLE)  # fmt: skip


@macro
def _fold(
    part, floats, scores, first_part, starts, a, used, item_first, split, h, heads, mine, sums, at, width, GROUP, WHOLE
):
    """Sums [used, ROW] of `width` values from value `at` of a head on, into their tokens' partials."""
    for r in range(used):
        own = starts[a + r // GROUP] // SPLIT
        unit = (first_part[a + r // GROUP] + max(item_first - own, 0)) * heads + h
        to = (unit * GROUP + r % GROUP) * WHOLE + at
        factors = mine + r * ROW + ROW - 2
        for d in range(0, width, 16):
            found = load16(floats, sums + r * ROW + d)
            if split == max(item_first, own):
                store16(part, to + d, found)
            else:
                fold(part, to + d, scores[factors], scores[factors + 1], found)


@kernel
def attend(
    q: "f32", cache: "u8", scores: "f32", floats: "f32", ints: "i32", q8: "i8", top: "f32", total: "f32", part: "f32",
    item_token: "i32", item_tokens: "i32", item_split: "i32", item_last: "i32", first_part: "i32", starts: "i32",
    ends: "i32", charged: "i32", tables: "i32", table_at: "i32", step: "i64", count: "int", heads: "int",
    stride: "int", block_bytes: "int", keys_at: "int", values_at: "int", scale: "float", cap: "float", worker, lo, hi,
    *, K_DIM, V_DIM, GROUP, KCODEC, VCODEC, ROTATE, SOFTCAP, TILE,
):  # fmt: skip
    """Units lo..hi: unit = item · heads + KV head. Returns the bytes of keys and values that it read.

    q            [tokens, heads · GROUP · K_DIM], rows `stride` floats apart
    scores, floats, ints, q8  working memory for each worker, `step_fields.attention_scratch`; the last two of each
                 ROW of scores hold the factors of a fold
    top, total   [parts, heads, GROUP], part [parts, heads, GROUP, V_DIM rounded up to 16]: each token's partials, its
                 first at first_part[token]
    item_*       each item's first token, how many of the same sequence it has, and its first and last split
    starts, ends the positions that each token attends; neither falls from a token to the next of its sequence
    charged      those from here on are counted by the sequence's next token, which reads them in the same step
    tables       block tables, the one of token t from table_at[t] on
    count        where `step` holds the number of items
    SOFTCAP      1: scores become cap · tanh(score / cap)
    TILE         tokens that share each read of keys and values from cache; an item with more has several tiles
    """
    K_BYTES = K_DIM * KCODEC.PER32 // 32
    V_BYTES = V_DIM * VCODEC.PER32 // 32
    HELD = GROUP * ITEM_TOKENS  # queries in int8 at once
    ROWS = TILE_ROWS if GROUP < TILE_ROWS else GROUP
    fq = worker * (HELD * (K_DIM // 32) + ROWS * ROW + 3 * K_DIM)
    fw, at8 = fq + HELD * (K_DIM // 32), worker * HELD * K_DIM
    turned = fw + ROWS * ROW
    ia = worker * (HELD * (K_DIM // 32) + ROWS * ROW // 2)
    iw, mine = ia + HELD * (K_DIM // 32), worker * ROWS * ROW
    read = 0
    for unit in range(lo, hi):
        item, h = unit // heads, unit % heads
        t0, behind = item_token[item], item_token[item] + item_tokens[item]
        pages, item_first = table_at[t0], item_split[item]
        keys, values = keys_at + h * PAGE * K_BYTES, values_at + h * PAGE * V_BYTES
        if KCODEC.INT8:
            for t in range(t0, behind):
                n = (t - t0) * GROUP
                queries(q, t * stride + h * GROUP * K_DIM, floats, fq + n * (K_DIM // 32), turned, ints,
                        ia + n * (K_DIM // 32), q8, at8 + n * K_DIM, GROUP, K_DIM, KCODEC.OFFSET, ROTATE)  # fmt: skip
        for split in range(item_first, item_last[item] + 1):
            after = tables[pages + max(split * SPLIT, starts[t0]) // PAGE] * block_bytes + values
            if split < item_last[item]:  # what is read behind these values
                after = tables[pages + (split * SPLIT + SPLIT) // PAGE] * block_bytes + keys
            elif unit + 1 < step[count] * heads:
                t1 = item_token[(unit + 1) // heads]
                page = tables[table_at[t1] + max(item_split[(unit + 1) // heads] * SPLIT, starts[t1]) // PAGE]
                after = page * block_bytes + keys_at + (unit + 1) % heads * PAGE * K_BYTES
            for tile in range(t0, behind, TILE):
                a, b = tile, min(tile + TILE, behind) - 1  # of these, who attends positions of the split
                while a < b and ends[a] <= split * SPLIT:
                    a += 1
                while a < b and starts[b] >= split * SPLIT + SPLIT:
                    b -= 1
                if ends[a] <= split * SPLIT or starts[a] >= split * SPLIT + SPLIT:
                    continue
                if TILE > 1 and a < b:
                    _tile(q, cache, scores, floats, ints, q8, top, total, part, first_part, starts, ends, tables, pages,
                          t0, a, b, item_first, split, h, heads, stride, block_bytes, keys, values, after, scale, cap,
                          mine, fq, fw, ia, iw, at8, K_DIM, V_DIM, GROUP, KCODEC, VCODEC, SOFTCAP,
                          TILE)  # fmt: skip
                else:
                    _tile(q, cache, scores, floats, ints, q8, top, total, part, first_part, starts, ends, tables, pages,
                          t0, a, a, item_first, split, h, heads, stride, block_bytes, keys, values, after, scale, cap,
                          mine, fq, fw, ia, iw, at8, K_DIM, V_DIM, GROUP, KCODEC, VCODEC, SOFTCAP,
                          1)  # fmt: skip
            for t in range(t0, behind):
                first, last = max(split * SPLIT, starts[t]), min(split * SPLIT + SPLIT, ends[t])
                read += max(min(last, charged[t]) - first, 0) * (K_BYTES + V_BYTES)
    return read


@kernel
def merge(
    top: "f32", total: "f32", part: "f32", out: "f32", sinks: "f32", floats: "f32", first_part: "i32", heads: "int",
    private: "int", worker, lo, hi, *, DIM, GROUP, SINKS, ROTATE,
):  # fmt: skip
    """out[t] = softmax-weighted values of tokens lo..hi: folds parts first_part[t]..first_part[t + 1], in order.

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
            head = first_part[t] * heads * GROUP + i
            target = ((worker * private + t) * heads * GROUP + i) * DIM
            m, weight = top[head], total[head]
            for d in range(0, DIM, 16):
                store16(floats, work + d, load16(part, head * WHOLE + d))
            for item in range(first_part[t] + 1, first_part[t + 1]):
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
