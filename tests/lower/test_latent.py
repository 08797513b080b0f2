"""Latent attention on the CPU: the reference's numbers, the same bits however it is run, its own price."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from memfirst import models
from memfirst.backends.cpu.backend import CpuBackend, CpuOptions
from memfirst.backends.reference.backend import ReferenceBackend
from memfirst.codecs.base import F32
from memfirst.errors import UnsupportedError
from memfirst.formats.open import open_checkpoint
from memfirst.graph import Graph, Sequence, Step
from memfirst.graph.ops.latent import LatentAttention
from memfirst.lower import cpu
from memfirst.lower.step_fields import SPLIT
from memfirst.transform.recode import with_kv
from tests.lower.test_architectures import EXACT, apart, expected, run
from tests.support.cpu_roundings import as_the_cpu
from tests.support.make_experts_fixture import FOLDER
from tests.support.tiny_configs import Coded
from tests.support.tiny_latent import CODECS, CONFIGS, DENSE, latent_graph

CASES = [
    *((name, "f32", "f32", False) for name in (*CONFIGS, *(f"{name}, routed" for name in CONFIGS))),
    *(("v2 lite", codecs, "f16", joined) for codecs in CODECS for joined in (False, True)),
    ("v2 lite", "f32", "f32", True), ("v2 lite", "f32", "q8_0", False), ("v3", "q8_0", "q8_0", False),
    ("v2, routed", "q4_k_m", "f16", False), ("v3, routed", "q4_k_m", "f16", False),
]  # fmt: skip


@pytest.mark.parametrize(("name", "codecs", "kv", "joined"), CASES)
def test_latent_attention(name: str, codecs: str, kv: str, joined: bool) -> None:
    """In the same bits for any cut of a prompt, any number of threads, with and without rules, alone and in a batch;
    with the recorded routing, predicted = recorded."""
    graph = latent_graph(name.removesuffix(", routed"), codecs, kv, joined, **({} if "routed" in name else DENSE))
    checkpoint = Coded(graph)
    found = run(graph, checkpoint, 2, (64,))
    for other in (run(graph, checkpoint, 1, (1, 33, 70)), run(graph, checkpoint, 2, (), "none")):
        assert all((a.view(np.uint32) == b.view(np.uint32)).all() for a, b in zip(found, other, strict=True))
    exact = expected(graph, checkpoint)
    if codecs == kv == "f32":
        assert apart(found, exact).max() < EXACT
        return
    rounded = expected(as_the_cpu(graph), checkpoint)
    errors, noise = apart(found, rounded), apart(exact, rounded)
    assert np.median(errors) < np.median(noise), (errors, noise)
    if "routed" not in name:  # a router may see a tie: one token with another expert
        assert errors.max() < noise.max(), (errors, noise)


@pytest.mark.parametrize("name", ["deepseek_wide"])
def test_parity_with_transformers(name: str) -> None:
    """Beyond the original context; with latents in f32 nothing is rounded but sums."""
    checkpoint, fixture = open_checkpoint(FOLDER / name), np.load(FOLDER / name / "expected.npz")
    graph = with_kv(models.build(checkpoint), "f32", "f32")
    backend, tokens = CpuBackend(graph, checkpoint, CpuOptions(2, 128)), fixture["tokens"]
    step = Step((Sequence(0, len(tokens), backend.own_tables(), logits=tuple(range(len(tokens)))),))
    assert np.abs(backend.step(step, tokens).logits - fixture["logits"]).max() <= 1e-4
    backend.close()


def steps_of(backend: CpuBackend) -> list[Step]:
    """A prompt across a split, then tokens by split, one and two at a time."""
    cuts = [(0, 250), (250, 250), (500, 20), (520, 1), (521, 2), (523, 1)]
    assert cuts[2][0] < SPLIT < cuts[3][0]
    return [Step((Sequence(past, new, backend.own_tables()),)) for past, new in cuts]


@pytest.mark.parametrize("kv", ["f32", "q8_0"])
def test_splits_are_folded(kv: str) -> None:
    """Past the first split, where one unit of a token does several, or several workers one each: the same bits, and the
    reference's numbers."""
    graph = latent_graph("v2 lite", "f32", kv, **DENSE)
    checkpoint = Coded(graph)
    found: list[list[F32]] = []
    for threads in (1, 2):
        backend = CpuBackend(graph, checkpoint, CpuOptions(threads, 640))
        found.append([np.array(backend.step(step, tokens(step)).logits) for step in steps_of(backend)])
        backend.close()
    assert all((a.view(np.uint32) == b.view(np.uint32)).all() for a, b in zip(*found, strict=True))
    reference = ReferenceBackend(as_the_cpu(graph), checkpoint, context=640)
    want = [reference.step(step, tokens(step)) for step in steps_of(backend)]
    assert apart(found[0], want).max() < (EXACT if kv == "f32" else 2e-2)


def tokens(step: Step) -> np.ndarray:
    past = step.sequences[0].past
    return np.arange(past, past + step.tokens, dtype=np.int32) * 7 % 260


def test_phases_of_a_layer() -> None:
    """Fused, for a token: projections, rows and k_b, attention, v_b, and what every layer has."""
    graph = latent_graph("v2 lite", "q8_0", **{**DENSE, "num_hidden_layers": 1, "first_k_dense_replace": 1})
    phases = cpu.lower(graph, 1, 1024, 2).phases
    assert [p.name for p in phases] == [
        "token_embd", "blk.0.attn_q", "blk.0.attn_rows", "blk.0.attn", "blk.0.attn_v_b", "blk.0.attn_output",
        "blk.0.ffn_gate", "blk.0.ffn_down", "output",
    ]  # fmt: skip
    kernels = [[c.kernel for c in p.prologue] for p in phases[1:6]]
    assert kernels == [
        ["activations.rms_norm", "activations.quantize"], ["activations.rms_norm", "activations.quantize_heads"], [],
        ["latent.merge", "activations.quantize_heads"], ["activations.quantize"],
    ]  # fmt: skip


def changed(graph: Graph, **changes: object) -> Graph:
    """With other attributes of all latent attention."""
    ops = tuple(replace(op, **changes) if isinstance(op, LatentAttention) else op for op in graph.ops)  # type: ignore[arg-type]
    return replace(graph, ops=ops)


def test_what_kernels_do_not_take_is_refused() -> None:
    graph = latent_graph("v2 lite", "f32", **DENSE)
    with pytest.raises(UnsupportedError, match="caches latents as q4_0"):
        cpu.lower(with_kv(graph, "q4_0", "q4_0"), 1, 64, 1)
    narrow = latent_graph("v2 lite", "f32", **DENSE, qk_rope_head_dim=8)
    with pytest.raises(UnsupportedError, match="has rows of 8"):
        cpu.lower(narrow, 1, 64, 1)
    odd = latent_graph("v2 lite", "f32", **DENSE, v_head_dim=40)
    with pytest.raises(UnsupportedError, match="has rows of 40"):
        cpu.lower(odd, 1, 64, 1)
