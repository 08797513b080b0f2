"""Top-k tokens: one pass over the logits, right after the walk that made them."""

import numpy as np

from memfirst.kernels.cpu.lang import inline, kernel
from memfirst.kernels.cpu.simd import maximum
from memfirst.kernels.cpu.simd16 import load16, max16

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
    held, ties, least = 0, 0, -np.inf
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
