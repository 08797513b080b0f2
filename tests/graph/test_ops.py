"""Each operation's reference against a slow twin in plain loops and float64."""

from __future__ import annotations

import math
from dataclasses import replace
from math import cos, exp, log, sin, sqrt, tanh
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from memfirst.backends.reference.backend import ReferenceBackend
from memfirst.graph import Cache, Graph, KVCache, Op, Sequence, StateCache, Step, Weight
from memfirst.graph.ops.attention import Attention
from memfirst.graph.ops.conv import CausalConv1d
from memfirst.graph.ops.experts import Experts, Router
from memfirst.graph.ops.glu import Glu
from memfirst.graph.ops.latent import LatentAttention
from memfirst.graph.ops.linear import Linear
from memfirst.graph.ops.norm import RMSNorm
from memfirst.graph.ops.positions import attended_pairs, rope_positions, visible
from memfirst.graph.ops.rope import Rope
from memfirst.graph.ops.scan import SelectiveScan
from memfirst.graph.ops.select import Select, selected_rows
from memfirst.graph.ops.temperature import Temperature
from tests.support.toy import ArrayCheckpoint, one, paged

F64 = NDArray[np.float64]
RNG = np.random.default_rng(11)


def draw(*shape: int) -> NDArray[np.float32]:
    return RNG.standard_normal(shape).astype(np.float32)


class Bench:
    """Runs one operation on values instead of tokens, with weights by name, step after step."""

    def __init__(self, op: Op, caches: tuple[Cache, ...] = (), **weights: NDArray[np.float32]) -> None:
        graph = Graph("one", (op,), caches, 4, 4, 64)
        self.op, self.backend = op, ReferenceBackend(graph, ArrayCheckpoint(weights))

    def __call__(self, step: Step, *values: NDArray[np.float32]) -> NDArray[np.float32]:
        return self.op.reference(self.backend.runtime(step), values)


def close(found: NDArray[Any], expected: Any, atol: float = 2e-6) -> None:
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.asarray(expected), atol=atol, rtol=2e-5)


def weight(name: str, *shape: int) -> Weight:
    return Weight(name, shape, "f32")


@pytest.mark.parametrize(("heads", "offset"), [(0, 0.0), (0, 1.0), (3, 0.0)])
def test_rms_norm(heads: int, offset: float) -> None:
    """Row by row, or head by head with one weight for all heads."""
    x, w = draw(2, 12), draw(12 // max(1, heads))
    op = RMSNorm("n", ("x",), "y", weight("w", len(w)), 1e-3, offset, heads)
    expected = np.empty((2, 12))
    for row in range(2):
        for start in range(0, 12, len(w)):
            part = [float(v) for v in x[row, start : start + len(w)]]
            root = sqrt(sum(v * v for v in part) / len(w) + 1e-3)
            expected[row, start : start + len(w)] = [
                v / root * (float(g) + offset) for v, g in zip(part, w, strict=True)
            ]
    close(Bench(op, w=w)(one(0, 2), x), expected)
    assert op.width == 12


def test_linear_with_bias() -> None:
    """x @ weight.T + bias; the bias is read and counted."""
    op = Linear("l", ("x",), "y", weight("w", 3, 5), weight("b", 3))
    x, w, b = draw(2, 5), draw(3, 5), draw(3)
    expected = [[sum(float(x[t, i]) * w[r, i] for i in range(5)) + b[r] for r in range(3)] for t in range(2)]
    close(Bench(op, w=w, b=b)(one(0, 2), x), expected)
    assert [r.amount(one(0, 2)).low for r in op.traffic()] == [60, 12, 2 * 8 * 4]
    assert op.flops(one(0, 2)) == 2 * (2 * 15 + 3)


@pytest.mark.parametrize("style", ["interleaved", "half"])
@pytest.mark.parametrize("start", [0, 3])
def test_rope(style: str, start: int) -> None:
    """Two heads of 9: 3 pairs turn, from `start`; the rest passes. Position 7 at angle 7·f, scaled by 1.5."""
    frequencies = (1.0, 0.3, 0.05)
    op = Rope("r", ("x",), "y", 2, 9, frequencies, style, 1.5, start)
    x = draw(1, 18)
    expected = x.astype(np.float64).copy()
    for head in (0, 9):
        for i, f in enumerate(frequencies):
            first, second = (2 * i, 2 * i + 1) if style == "interleaved" else (i, i + 3)
            a, b = (head + start + j for j in (first, second))
            u, v, c, s = x[0, a], x[0, b], 1.5 * cos(7 * f), 1.5 * sin(7 * f)
            expected[0, a], expected[0, b] = u * c - v * s, v * c + u * s
    close(Bench(op)(one(7), x), expected)


def test_rope_of_pairs_that_lie_apart() -> None:
    """Of a head's 4 pairs (i, i + 4) the first is rotated."""
    op = Rope("r", ("x",), "y", 1, 8, (0.3,), "half", apart=4)
    x = draw(1, 8)
    expected = x.astype(np.float64).copy()
    expected[0, 0], expected[0, 4] = (
        x[0, 0] * cos(2.1) - x[0, 4] * sin(2.1), x[0, 4] * cos(2.1) + x[0, 0] * sin(2.1),
    )  # fmt: skip
    close(Bench(op)(one(7), x), expected)


def test_rope_positions_are_the_sequences_own() -> None:
    """Given ones are taken; others follow the past."""
    step = Step((Sequence(5, 2), Sequence(9, 2, positions=(3, 3)), Sequence(1, 0)))
    assert rope_positions(step).tolist() == [5, 6, 3, 3]
    assert rope_positions(Step(())).tolist() == []


def slow_attention(q: F64, k: F64, v: F64, mask: NDArray[np.bool_], **how: Any) -> F64:
    """q [n, heads, d], k and v [positions, kv heads, …], by loops over pairs."""
    n, heads, _ = q.shape
    out = np.zeros((n, heads, v.shape[2]))
    for i in range(n):
        for h in range(heads):
            g = h * k.shape[1] // heads
            scores = {j: how["scale"] * float(q[i, h] @ k[j, g]) for j in np.flatnonzero(mask[i])}
            if how.get("softcap"):
                scores = {j: how["softcap"] * tanh(s / how["softcap"]) for j, s in scores.items()}
            total = sum(exp(s) for s in scores.values())
            total += exp(how["sinks"][h]) if "sinks" in how else 0.0
            out[i, h] = sum(exp(s) / total * v[j, g] for j, s in scores.items())
    return out.reshape(n, -1)


@pytest.mark.parametrize("window", [None, 3, 70])
@pytest.mark.parametrize("softcap", [0.0, 2.0])
@pytest.mark.parametrize("sinks", [False, True])
def test_attention(window: int | None, softcap: float, sinks: bool) -> None:
    """4 heads over 2, keys of 6 and values of 5: 67 positions, then 3 more, over a page's end."""
    cache = KVCache("kv", 2, 6, 5, window=window, block=16)
    sink = weight("s", 4) if sinks else None
    op, s = Attention("a", ("q", "k", "v"), "y", cache, 4, 0.4, softcap, sink), draw(4)
    bench = Bench(op, (cache,), s=s)
    q, k, v = draw(70, 24), draw(70, 12), draw(70, 10)
    first = bench(one(0, 67), q[:67], k[:67], v[:67])
    found = np.concatenate([first, bench(one(67, 3), q[67:], k[67:], v[67:])])
    position = np.arange(70)
    mask = position[None, :] <= position[:, None]
    if window:
        mask &= position[None, :] > position[:, None] - window
    how = {"scale": 0.4, "softcap": softcap} | ({"sinks": s} if sinks else {})
    heads = q.reshape(70, 4, 6), k.reshape(70, 2, 6), v.reshape(70, 2, 5)
    close(found, slow_attention(*(x.astype(np.float64) for x in heads), mask, **how))


def test_attention_to_what_another_layer_keeps() -> None:
    """q alone: keys and values are those of the cache; nothing is written, and as much is read."""
    cache = KVCache("kv", 2, 6, 5, block=16)
    own, q, k, v = Attention("a", ("q", "k", "v"), "y", cache, 4, 0.4), draw(20, 24), draw(20, 12), draw(20, 10)
    shared = replace(own, name="b", inputs=("q",))
    bench = Bench(own, (cache,))
    expected = bench(one(0, 20), q, k, v)
    bench.op = shared
    close(bench(one(0, 20), q), expected)
    assert [[t.purpose for t in op.traffic()] for op in (own, shared)] == [
        ["kv_write", "kv_read", "activations"], ["kv_read", "activations"],
    ]  # fmt: skip
    assert shared.flops(one(7, 2)) == own.flops(one(7, 2))


def test_attention_over_many_blocks_of_queries() -> None:
    """600 queries are scored in blocks of 256: the same as one by one."""
    cache = KVCache("kv", 1, 4, 4, block=128)
    q, k, v = draw(600, 8), draw(600, 4), draw(600, 4)
    op = Attention("a", ("q", "k", "v"), "y", cache, 2, 0.5)
    whole, single = Bench(op, (cache,)), Bench(op, (cache,))
    found = whole(one(0, 600), q, k, v)
    for i in range(600):
        row = slice(i, i + 1)
        close(found[row], single(one(i), q[row], k[row], v[row]))


def kept(window: int | None, chunked: bool = False) -> KVCache:
    return KVCache("kv", 1, 4, 4, window=window, chunked=chunked)


@pytest.mark.parametrize("window", [None, 2, 4])
def test_what_a_tree_sees(window: int | None) -> None:
    """Past 3; drafts 0 and 1 after it, 2 and 3 after 0, 4 after 3. A window counts along the line."""
    sequence = Sequence(3, 5, parents=(-1, -1, 0, 0, 3))
    lines = [[0, 1, 2, 3], [0, 1, 2, 4], [0, 1, 2, 3, 5], [0, 1, 2, 3, 6], [0, 1, 2, 3, 6, 7]]
    mask = visible(sequence, kept(window))
    assert [np.flatnonzero(row).tolist() for row in mask] == [line[-(window or 9) :] for line in lines]
    assert attended_pairs(sequence, kept(window)) == mask.sum()
    chunks = [line[(len(line) - 1) // 4 * 4 :] for line in lines]  # places 0..3, and from 4 on
    mask = visible(sequence, kept(4, chunked=True))
    assert [np.flatnonzero(row).tolist() for row in mask] == chunks
    assert attended_pairs(sequence, kept(4, chunked=True)) == mask.sum()


@pytest.mark.parametrize("cache", [kept(None), kept(4), kept(4, chunked=True)], ids=["all", "window", "chunks"])
@pytest.mark.parametrize("past", [0, 2, 4, 9])
def test_attended_pairs_counts_what_a_chain_sees(cache: KVCache, past: int) -> None:
    """For a chain as for a tree; what a step reads is what its tokens see together."""
    sequence = Sequence(past, 6)
    mask = visible(sequence, cache)
    assert attended_pairs(sequence, cache) == mask.sum()
    assert cache.attended(sequence) == mask.any(axis=0).sum()


def test_what_a_chunk_holds() -> None:
    """Chunks of 128 in blocks of 64: what lies before the next token's chunk is given back."""
    cache = kept(128, chunked=True)
    assert [cache.first(at) for at in (0, 127, 128, 300)] == [0, 0, 128, 256]
    assert [cache.first_block(n) for n in (0, 127, 128, 300)] == [0, 0, 2, 4]
    assert [cache.held_bytes(n) // cache.position_bytes for n in (0, 1, 127, 128, 129, 300)] == [0, 1, 127, 128, 1, 44]
    assert [cache.blocks(n) for n in (0, 1, 64, 127, 128, 129, 300)] == [0, 1, 1, 2, 0, 1, 1]
    for new in (1, 9, 64, 200):
        spans = [-(-(past + new) // 64) - cache.first_block(past) for past in range(400)]
        assert max(spans) <= cache.most_blocks(10_000, new)


def test_a_temperature_grows_by_steps() -> None:
    """Nothing before position `floor` − 1; from there on 1 + slope · ln(1 + floor((position + 1) / floor))."""
    op, x = Temperature("t", ("x",), "y", 4, 0.5, 3), draw(6, 4)
    factors = [1 + 0.5 * math.log(1 + (position + 1) // 3) for position in range(1, 7)]
    close(Bench(op)(one(1, 6), x), x * np.array(factors)[:, None])
    assert op.flops(one(1, 6)) == 24


def test_latent_attention_equals_expanded_heads() -> None:
    """Absorbed: the same as expanding each head's keys and values from the latent and attending those."""
    rank, nope, rope, values, heads = 7, 4, 2, 3, 2
    cache = KVCache("kv", 1, rank + rope, 0, block=4)
    k_b, v_b = draw(heads, rank, nope), draw(heads, values, rank)
    op = LatentAttention(
        "a", ("q", "c", "r"), "y", cache, heads, weight("k_b", *k_b.shape), weight("v_b", *v_b.shape), 0.3
    )
    q, latent, turned = draw(6, heads * (nope + rope)), draw(6, rank), draw(6, rope)
    bench = Bench(op, (cache,), k_b=k_b, v_b=v_b)
    found = np.concatenate([bench(one(a, b - a), q[a:b], latent[a:b], turned[a:b]) for a, b in ((0, 5), (5, 6))])
    keys, vals = np.empty((6, heads, nope + rope)), np.empty((6, heads, values))
    for p in range(6):
        for h in range(heads):
            keys[p, h] = [*(k_b[h].T.astype(float) @ latent[p]), *turned[p]]
            vals[p, h] = v_b[h].astype(float) @ latent[p]
    heads_of_q = q.reshape(6, heads, -1).astype(np.float64)
    close(found, slow_attention(heads_of_q, keys, vals, np.tri(6, dtype=bool), scale=0.3))
    assert op.flops(one(5)) == 2 * heads * (rank * (nope + values) + (rank + rope + rank) * 6)


@pytest.mark.parametrize("scoring", ["softmax", "sigmoid"])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
def test_router(scoring: str, biased: bool, normalize: bool) -> None:
    """2 of 5: the bias moves the choice and not the weights."""
    w, x = draw(5, 4), draw(3, 4)
    b = np.array([0, 9, 0, 0, 0], np.float32)
    bias = weight("b", 5) if biased else None
    op = Router("r", ("x",), "y", weight("w", 5, 4), 2, scoring, bias, normalize, 2.5)
    expected = np.zeros((3, 5))
    for t in range(3):
        logits = [float(x[t].astype(float) @ w[e]) for e in range(5)]
        powers = [exp(s) for s in logits]
        scores = [p / sum(powers) if scoring == "softmax" else p / (1 + p) for p in powers]
        order = sorted(range(5), key=lambda e: -(scores[e] + (b[e] if biased else 0)))
        for e in order[:2]:
            share = sum(scores[i] for i in order[:2]) if normalize else 1
            expected[t, e] = 2.5 * scores[e] / share
    close(Bench(op, w=w, b=b)(one(0, 3), x), expected)


def test_experts() -> None:
    """Each token's own experts, weighted; counts of all, also of those that nobody picked."""
    shapes = {"g": (4, 3, 5), "u": (4, 3, 5), "d": (4, 5, 3)}
    arrays = {n: draw(*s) for n, s in shapes.items()}
    op = Experts("e", ("x", "r"), "y", *(weight(n, *s) for n, s in shapes.items()), k=2)
    x, routing = draw(3, 5), np.array([[0, 0.5, 0, 0.2], [0, 1, 2, 0], [0, 0.1, 0, 0.3]], np.float32)
    bench = Bench(op, **arrays)
    run = bench.backend.runtime(one(0, 3))
    expected = np.zeros((3, 5))
    for t, e in zip(*np.nonzero(routing), strict=True):
        gate, up = (arrays[n][e].astype(float) @ x[t] for n in "gu")
        expected[t] += routing[t, e] * (arrays["d"][e] @ (gate / (1 + np.exp(-gate)) * up))
    close(op.reference(run, (x, routing)), expected)
    assert run.routing == {"e": (0, 3, 1, 2)}


def test_convolution_by_steps() -> None:
    """9 tokens in steps of 1, 5 and 3, each after the last: the same as looking back 3 inputs."""
    cache = StateCache("tail", 3 * 2)
    w, b, x = draw(2, 4), draw(2), draw(9, 2)
    op = CausalConv1d("c", ("x",), "y", cache, weight("w", 2, 4), weight("b", 2))
    bench = Bench(op, (cache,), w=w, b=b)
    found = np.concatenate([bench(one(p, e - p), x[p:e]) for p, e in ((0, 1), (1, 6), (6, 9))])
    expected = np.empty((9, 2))
    for t in range(9):
        for c in range(2):
            total = b[c] + sum(float(w[c, 3 - j]) * x[t - j, c] for j in range(4) if t >= j)
            expected[t, c] = total / (1 + exp(-total))
    close(found, expected)


def test_scan_by_steps() -> None:
    """4 heads of 3 in 2 groups with 5 state values each, over 8 tokens in two steps, by loops."""
    heads, dim, groups, state, n = 4, 3, 2, 5, 8
    cache = StateCache("s", heads * dim * state)
    arrays = {"a": -np.abs(draw(heads)), "d": draw(heads), "t": draw(heads)}
    a, d, t = (weight(n, heads) for n in "adt")
    op = SelectiveScan("scan", ("x", "b", "c", "dt"), "y", cache, heads, dim, groups, state, a, d, t)
    values = draw(n, heads * dim), draw(n, groups * state), draw(n, groups * state), draw(n, heads)
    bench = Bench(op, (cache,), **arrays)
    found = np.concatenate([bench(one(p, e - p), *(v[p:e] for v in values)) for p, e in ((0, 3), (3, 8))])
    x, b, c, dt = (v.astype(np.float64) for v in values)
    s, expected = np.zeros((heads, dim, state)), np.empty((n, heads * dim))
    for t in range(n):
        for h in range(heads):
            delta, g = log(1 + exp(dt[t, h] + arrays["t"][h])), h // 2
            for p in range(dim):
                for k in range(state):
                    kept = exp(arrays["a"][h] * delta) * s[h, p, k]
                    s[h, p, k] = kept + delta * x[t, h * dim + p] * b[t, g * state + k]
                total = sum(s[h, p, k] * c[t, g * state + k] for k in range(state))
                expected[t, h * dim + p] = total + arrays["d"][h] * x[t, h * dim + p]
    close(found, expected, atol=1e-5)


@pytest.mark.parametrize("activation", ["silu", "gelu"])
def test_gated_unit(activation: str) -> None:
    """Also far out, where e^x overflows float32."""
    gate = np.array([[-200, -90, -3, -0.1, 0, 0.1, 3, 200]], np.float32)
    up = draw(1, 8)
    slow = {
        "silu": lambda x: x / (1 + exp(-x)),
        "gelu": lambda x: 0.5 * x * (1 + tanh(sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    }[activation]
    expected = [[slow(float(g)) * float(u) for g, u in zip(gate[0], up[0], strict=True)]]
    close(Bench(Glu("g", ("a", "b"), "y", 8, activation))(one(0), gate, up), expected)


def test_select_takes_the_rows_that_need_logits() -> None:
    """The last of each sequence, or those that are named, in their order."""
    step = Step((paged(0, 3), Sequence(4, 0), Sequence(0, 4, logits=(2, 0)), Sequence(0, 2, logits=())))
    assert selected_rows(step).tolist() == [2, 5, 3]
    assert step.logits == 3
    x = draw(9, 2)
    close(Bench(Select("s", ("x",), "y", 2))(step, x), x[[2, 5, 3]])
