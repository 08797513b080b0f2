"""What a sampler needs of all logits, in one pass or two, right after the walk that made them."""

import numpy as np

from memfirst.kernels.cpu.functions import exp16
from memfirst.kernels.cpu.lang import inline, kernel
from memfirst.kernels.cpu.simd import add, maximum, mul, sub
from memfirst.kernels.cpu.simd16 import larger, largest16, load16, max16, splat16, store16, sum16
from memfirst.kernels.cpu.softmax import factor

BLOCK = 64
"""Values that are looked at together: four vectors, one comparison."""


@inline
def _penalise(logits, seen, kept, count, penalty):
    """Positive / penalty, others · penalty; `kept` is what they were: all are read before a write, ids may repeat."""
    for i in range(count):
        kept[i] = logits[seen[i]]
    for i in range(count):
        x = kept[i]
        logits[seen[i]] = x / penalty if x > 0 else x * penalty


@inline
def _insert(values, ids, held, value, id):
    """Puts a value among the `held` largest, which fall; behind its equals, whose ids are lower."""
    at = held
    while at > 0 and values[at - 1] < value:
        values[at] = values[at - 1]
        ids[at] = ids[at - 1]
        at -= 1
    values[at] = value
    ids[at] = id


@kernel
def topk(
    logits: "f32", seen: "i32", kept: "f32", ids: "i32", values: "f32", vocab: "int", count: "int", k: "int",
    penalty: "float", worker, lo, hi,
):  # fmt: skip
    """The k largest of logits[:vocab] once seen[:count] are penalised; logits are afterwards as they were.

    kept         [count], of no use to the caller
    ids, values  [k + 1], the largest first, of equals the lower id; -1 follows where fewer than k exceed -inf
    Returns how many more equal the least of the k, or -1 for NaN or +inf among the logits.
    """
    _penalise(logits, seen, kept, count, penalty)
    held, ties, least = 0, 0, np.float32(-np.inf)
    whole = vocab // BLOCK * BLOCK
    at = 0
    while at < vocab and ties >= 0:
        end = vocab
        if at < whole:
            end = at + BLOCK
            a = maximum(load16(logits, at), load16(logits, at + 16))
            b = maximum(load16(logits, at + 32), load16(logits, at + 48))
            if max16(maximum(a, b)) < least:  # never so for NaN
                at = end
                continue
        for i in range(at, end):
            x = logits[i]
            if not x < np.inf:
                ties = -1
                break
            if x > least:
                full = held == k
                _insert(values, ids, held, x, i)  # the one that falls out lies at k
                held = min(held + 1, k)
                if full:
                    ties = ties + 1 if values[k - 1] == least else 0
                if held == k:
                    least = values[k - 1]
            elif held == k and x == least:
                ties += 1
        at = end
    ids[held] = -1
    for i in range(count):
        logits[seen[i]] = kept[i]
    return ties


MASS = 1024
"""Values whose mass is summed up: what is drawn among all tokens is first one of some fifty such parts."""


@kernel
def masses(logits: "f32", sums: "f32", vocab: "int", inverse: "float", worker, lo, hi):
    """sums[i]: Σ e^((logit − max) · inverse) of the i-th MASS of logits[:vocab]; behind the last the max.

    A NaN is no maximum, but makes its sum NaN. The sums' order is fixed, so a seed gives the same token anywhere.
    """
    whole = vocab // 64 * 64
    m0, m1 = splat16(-np.inf), splat16(-np.inf)
    m2, m3 = m0, m1
    for i in range(0, whole, 64):
        m0, m1 = larger(m0, load16(logits, i)), larger(m1, load16(logits, i + 16))
        m2, m3 = larger(m2, load16(logits, i + 32)), larger(m3, load16(logits, i + 48))
    best = largest16(larger(larger(m0, m1), larger(m2, m3)))
    for i in range(whole, vocab):
        best = max(best, logits[i])
    m, scale = splat16(best), splat16(inverse)
    parts = (vocab + MASS - 1) // MASS
    for part in range(parts):
        end = min(part * MASS + MASS, vocab)
        packed = part * MASS + (end - part * MASS) // 64 * 64
        s0, s1, s2, s3 = splat16(0.0), splat16(0.0), splat16(0.0), splat16(0.0)
        for i in range(part * MASS, packed, 64):
            s0 = add(s0, exp16(mul(sub(load16(logits, i), m), scale)))
            s1 = add(s1, exp16(mul(sub(load16(logits, i + 16), m), scale)))
            s2 = add(s2, exp16(mul(sub(load16(logits, i + 32), m), scale)))
            s3 = add(s3, exp16(mul(sub(load16(logits, i + 48), m), scale)))
        total = sum16(add(add(s0, s1), add(s2, s3)))
        for i in range(packed, end):
            total += factor((logits[i] - best) * inverse)
        sums[part] = total
    sums[parts] = best
    return 0


@kernel
def masked(logits: "f32", bits: "i32", out: "f32", vocab: "int", worker, lo, hi):
    """out[i]: logits[i] where bit i % 32 of bits[i / 32] is set, else -inf, for i below vocab.

    Words of a mask are all ones or all zeros but for a few: those go by vectors.
    """
    lowest, none = np.float32(-np.inf), splat16(-np.inf)
    whole = vocab // 32
    for word in range(whole):
        at, allowed = word * 32, bits[word]
        if allowed == 0:
            store16(out, at, none)
            store16(out, at + 16, none)
        elif allowed == -1:
            store16(out, at, load16(logits, at))
            store16(out, at + 16, load16(logits, at + 16))
        else:
            for i in range(32):
                out[at + i] = logits[at + i] if allowed >> i & 1 else lowest
    for i in range(whole * 32, vocab):
        out[i] = logits[i] if bits[whole] >> (i - whole * 32) & 1 else lowest
    return 0
