"""RWKV's operations on the CPU: the reference's numbers, the same bits however a step is run, recorded = predicted."""

from __future__ import annotations

from collections.abc import Callable
from unittest import mock

import numpy as np
import pytest

from memfirst.backends.cpu.backend import CpuBackend, CpuOptions
from memfirst.backends.reference.backend import ReferenceBackend
from memfirst.codecs.base import F32
from memfirst.errors import UnsupportedError
from memfirst.graph import Graph, Sequence, Step
from memfirst.graph.ops.blend import Blend
from memfirst.graph.ops.multiply import Multiply
from memfirst.graph.ops.stacked_linear import StackedLinear
from memfirst.graph.ops.unit_norm import UnitNorm
from memfirst.graph.ops.wkv7 import HeadBonus, ScaledKey
from memfirst.lower import cpu
from memfirst.models import ShapeOnly
from memfirst.models.builder import Builder
from tests.support.tiny_configs import Coded

HIDDEN, VOCAB, CONTEXT = 64, 48, 64
RANKS = (10, 12, 16)
"""Columns that are no multiple of a register, of four, of a block; rows that are padded."""


def stateless(codec: str | Callable[[str, tuple[int, ...]], str], head_dim: int = 32) -> Graph:
    """Every operation of RWKV that keeps no state, and thin matrices between."""
    b = Builder(ShapeOnly(codec), HIDDEN, 1e-5)
    x = b.layer_norm("token_embd_norm", b.embed(VOCAB))
    normed, before = b.layer_norm("norm", x), b.layer_norm("norm_b", x)
    low = b.activate("low", b.linear("w1", b.lerp("lerp_x", normed, before), 3 * 32), "tanh")
    more = b.add(StackedLinear("w2", (low,), "w2", b.w("w2.weight", (3, HIDDEN, 32))))
    mixed = b.lerp("lerp_fused", normed, before, (more,), parts=3)
    r, k, v = b.cut({"for_r": HIDDEN, "for_k": HIDDEN, "for_v": HIDDEN}, mixed)
    r, k, v = (b.linear(name, part, HIDDEN) for name, part in (("r", r), ("k", k), ("v", v)))
    shares = []
    for name, rank in zip("abc", RANKS, strict=True):
        thin = b.activate(f"{name}_low", b.linear(f"{name}1", before, rank), "sigmoid")
        shares.append(b.activate(f"{name}_share", b.linear(f"{name}2", thin, HIDDEN, bias=True), "sigmoid"))
    blended = b.add(Blend("blend", (v, r, shares[0]), "blend", HIDDEN))
    scaled = b.add(ScaledKey("scaled", (k, shares[1]), "scaled", b.w("k_a.weight", (HIDDEN,))))
    heads = b.layer_norm("ln", blended, 1e-3, groups=HIDDEN // head_dim)
    r_k = b.w("r_k.weight", (HIDDEN,))
    bonus = b.add(HeadBonus("bonus", (heads, r, scaled, v), "bonus", r_k, head_dim))
    gated = b.add(Multiply("gated", (bonus, shares[2]), "gated", HIDDEN))
    unit = b.add(UnitNorm("unit", (b.slice("part", gated, 8, 56),), "unit", 56, 1e-5))
    x = b.residual("residual", x, b.linear("out", unit, HIDDEN))
    b.head(b.layer_norm("output_norm", b.select(x), head=True), VOCAB, tied=False)
    return b.graph("rwkv7", VOCAB, CONTEXT)


STEPS = (Step((Sequence(0, 5, logits=(0, 1, 2, 3, 4)),)), Step((Sequence(5, 40, logits=(39,)),)), Step((Sequence(45),)),
         Step((Sequence(9), Sequence(0, 3, logits=(0, 2)), Sequence(2, 2))))  # fmt: skip
TOKENS = np.random.default_rng(1).integers(0, VOCAB, 60).astype(np.int32)


def run(graph: Graph, checkpoint: Coded, threads: int, fused: str) -> list[F32]:
    """Logits of all steps."""
    with mock.patch.dict("os.environ", {"MEMFIRST_FUSE": fused}):
        backend, out, past = CpuBackend(graph, checkpoint, CpuOptions(threads, CONTEXT, 3)), [], 0
        for step in STEPS:
            result = backend.step(step, TOKENS[past : past + step.tokens])
            out.append(np.array(result.logits))
            past += step.tokens
            recorded = {k: int(v) for k, v in backend.recorded(step, result).by_purpose().items()}
            predicted = {k: int(v) for k, v in backend.predicted(step).by_purpose().items() if k != "activations"}
            assert recorded == predicted
        backend.close()
    return out


@pytest.mark.parametrize("head_dim", [32, 8])
@pytest.mark.parametrize("codec", ["f32", "f16"])
def test_operations_without_state(codec: str, head_dim: int) -> None:
    graph = stateless(codec, head_dim)
    checkpoint = Coded(graph)
    found = run(graph, checkpoint, 2, "all")
    for other in (run(graph, checkpoint, 1, "all"), run(graph, checkpoint, 2, "none")):
        assert all((a.view(np.uint32) == b.view(np.uint32)).all() for a, b in zip(found, other, strict=True))
    reference, past = ReferenceBackend(graph, checkpoint), 0
    for step, logits in zip(STEPS, found, strict=True):
        expected = reference.step(step, TOKENS[past : past + step.tokens])
        np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-5 * expected.std())
        past += step.tokens


def test_stacked_matrices_in_blocks_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="w2 has weights of q8_0; expected f32, f16 or bf16"):
        cpu.lower(stateless(lambda name, shape: "q8_0" if name == "w2.weight" else "f32"), 1, CONTEXT, 1)
