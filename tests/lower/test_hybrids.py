"""Hybrids of attention and recurrent layers on the CPU: from GGUF files as llama.cpp's converter writes them, and from
safetensors folders."""

from __future__ import annotations

from collections.abc import Sequence as Many
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from memfirst import models
from memfirst.backends.cpu.backend import CpuBackend, CpuOptions
from memfirst.backends.reference.backend import ReferenceBackend
from memfirst.codecs.base import F32
from memfirst.errors import UnsupportedError
from memfirst.formats.open import open_checkpoint
from memfirst.graph import Graph, Sequence, Step
from memfirst.graph.ops.conv import CausalConv1d
from memfirst.lower import cpu
from memfirst.models import ShapeOnly
from memfirst.models.builder import Builder
from memfirst.transform.recode import with_kv
from tests.lower.test_rwkv_models import Slots, opened, same
from tests.support.cpu_roundings import as_the_cpu
from tests.support.make_hybrid_fixture import CASES, FOLDER
from tests.support.make_recurrent_fixture import FILE

CONTEXT, PROMPT = 256, 70
FILES = (
    "mamba",
    "falcon_mamba",
    "mamba2",
    "jamba",
    "granite_tiny",
    "granite_1b",
    "qwen3next",
    "qwen35",
    "qwen35moe",
    "lfm2",
    "lfm2moe",
    "nemotron_h",
    "nemotron_h_moe",
    "falcon_h1",
    "falcon_h1_normed",
)
FOLDERS = tuple(CASES)
TOKENS = np.random.default_rng(2).integers(0, 48, 400).astype(np.int32)


def steps(graph: Graph, cuts: Many[int] = (), turns: bool = True) -> list[Step]:
    """A prompt cut so, with all its logits; three decoded tokens; two steps of a batch, whose other two are new."""
    slots, edges = Slots(turns), (0, *cuts, PROMPT)

    def row(i: int, past: int, new: int, logits: tuple[int, ...] | None = None) -> Sequence:
        plain = slots.row(i, past, new, logits)
        return Sequence(**{**vars(plain), "tables": graph.own_tables(i, CONTEXT, CONTEXT)})

    out = [Step((row(0, a, b - a, tuple(range(b - a))),)) for a, b in pairwise(edges)]
    out += [Step((row(0, PROMPT + i, 1),)) for i in range(3)]
    for lengths in (((PROMPT + 3, 1), (0, 7), (0, 2)), ((PROMPT + 4, 1), (7, 1), (2, 30))):
        out.append(Step(tuple(row(i, past, new) for i, (past, new) in enumerate(lengths))))
    return out


def run(backend: CpuBackend | ReferenceBackend, todo: Many[Step]) -> F32:
    """Logits of all steps; what the CPU records is what it predicts with the recorded routing."""
    past, out = 0, []
    for step in todo:
        tokens = TOKENS[past : past + step.tokens]
        past += step.tokens
        if isinstance(backend, ReferenceBackend):
            out.append(backend.step(step, tokens))
            continue
        result = backend.step(step, tokens)
        out.append(np.array(result.logits))
        known = Step(step.sequences, routing=backend.routing(result))
        recorded = {k: int(v) for k, v in backend.recorded(step, result).by_purpose().items()}
        predicted = {k: int(v) for k, v in backend.predicted(known).by_purpose().items() if k != "activations"}
        assert recorded == predicted
        assert recorded["state_read"] == recorded["state_write"]
    return np.concatenate(out)


def on_cpu(graph: Graph, checkpoint: Any, todo: Many[Step], threads: int = 2, fused: str = "all") -> F32:
    """The same on a backend of its own."""
    rules = mock.patch.dict("os.environ", {"MEMFIRST_FUSE": fused})
    with rules, closing(CpuBackend(graph, checkpoint, CpuOptions(threads, CONTEXT, 3))) as backend:
        return run(backend, todo)


def check(graph: Graph, checkpoint: Any, exact: bool) -> None:
    """The same bits for any cut of a prompt, any number of threads, with and without rules, in place or from slot to
    slot; the reference's numbers, up to sums in another order or to the rounding of activations."""
    found = on_cpu(graph, checkpoint, steps(graph))
    assert same(found, on_cpu(graph, checkpoint, steps(graph, (1, 2, 34, 35)), 1))
    assert same(found, on_cpu(graph, checkpoint, steps(graph, (64,)), 3, "none"))
    assert same(found, on_cpu(graph, checkpoint, steps(graph, turns=False)))
    plain = run(ReferenceBackend(graph, checkpoint), steps(graph))
    if exact:
        assert (np.abs(found - plain).max(1) / plain.std(1)).max() < 1e-4
        return
    rounded = run(ReferenceBackend(as_the_cpu(graph), checkpoint), steps(graph))
    errors, noise = (np.abs(x - rounded).max(1) / plain.std(1) for x in (found, plain))
    assert np.median(errors) < np.median(noise) and errors.max() < noise.max(), (errors, noise)


@pytest.mark.parametrize("kind", ["f32", "q8_0"])
@pytest.mark.parametrize("name", FILES)
def test_files(name: str, kind: str, tmp_path: Path) -> None:
    graph, checkpoint = opened(name, tmp_path, kind)
    check(with_kv(graph, "f32", "f32") if kind == "f32" else graph, checkpoint, kind == "f32")


@pytest.mark.parametrize("name", FILES)
def test_as_llama_cpp(name: str, tmp_path: Path) -> None:
    """24 positions of the same file in float32, keys and values too."""
    expected, (graph, checkpoint) = np.load(FILE), opened(name, tmp_path)
    logits = expected[f"logits/{name}"]
    with closing(CpuBackend(with_kv(graph, "f32", "f32"), checkpoint, CpuOptions(2, CONTEXT))) as backend:
        step = Step((Sequence(0, 24, backend.own_tables(), logits=tuple(range(24))),))
        found = np.array(backend.step(step, expected["tokens"]).logits)
    np.testing.assert_allclose(found, logits, atol=5e-5 * logits.std(), rtol=0)


@pytest.mark.parametrize("name", FOLDERS)
def test_parity_with_transformers(name: str) -> None:
    """As a prompt, and token by token in the same bits; with keys and values in f32 nothing is rounded but sums."""
    checkpoint, fixture = open_checkpoint(FOLDER / name), np.load(FOLDER / name / "expected.npz")
    graph, tokens = with_kv(models.build(checkpoint), "f32", "f32"), fixture["tokens"]
    with closing(CpuBackend(graph, checkpoint, CpuOptions(2, 128))) as backend:
        tables = backend.own_tables()
        whole = Step((Sequence(0, len(tokens), tables, logits=tuple(range(len(tokens)))),))
        found = np.array(backend.step(whole, tokens).logits)
        rows = [Step((Sequence(t, 1, tables, state_read=t % 2, state_write=1 - t % 2),)) for t in range(len(tokens))]
        single = [np.array(backend.step(row, tokens[t : t + 1]).logits) for t, row in enumerate(rows)]
    assert np.abs(found - fixture["logits"]).max() <= 1e-4
    assert same(found, np.concatenate(single))


@pytest.mark.parametrize("name", FILES)
def test_rollback_reads_the_old_slot(name: str, tmp_path: Path) -> None:
    """Drafts are rejected: the slot from before them is read again, and gives what it would without them."""
    graph, checkpoint = opened(name, tmp_path)
    with closing(CpuBackend(graph, checkpoint, CpuOptions(2, CONTEXT))) as backend:
        tables = backend.own_tables()
        again = Step((Sequence(8, 2, tables, state_read=0, state_write=1),))
        backend.step(Step((Sequence(0, 8, tables),)), TOKENS[:8])
        clean = np.array(backend.step(again, TOKENS[8:10]).logits)
        backend.step(Step((Sequence(8, 3, tables, state_read=0, state_write=1),)), TOKENS[20:23])
        assert same(np.array(backend.step(again, TOKENS[8:10]).logits), clean)


def test_phases_of_a_gated_delta_net(tmp_path: Path) -> None:
    """Fused: convolution and keys behind the matmul that they need; behind the gate's the delta rule, norm and gate."""
    graph, _ = opened("qwen35", tmp_path, "q8_0")
    program = cpu.lower(graph, 1, CONTEXT, 2)
    assert [[[c.kernel for c in t.calls] for t in p.tasks] for p in program.phases[2:5]] == [
        [["matmul.block32", "state.carry", "conv.convolve", "conv.keep", "delta.unit_keys"],
         ["matmul.block32"], ["matmul.block32"]],
        [["delta.decays"], ["elementwise.activate"]],
        [["matmul.block32", "state.clear", "delta.scan", "elementwise.norm_heads", "elementwise.glu"]],
    ]  # fmt: skip


def test_phases_of_a_state_space_layer(tmp_path: Path) -> None:
    """Fused: one projection in parts. Convolution and steps of time behind theirs; behind the gate's the scan, and the
    gate; norms of groups and of what depends on the token before the matmuls that read them."""
    graph, _ = opened("granite_1b", tmp_path, "q8_0")
    program = cpu.lower(graph, 1, CONTEXT, 2)
    assert [[[c.kernel for c in t.calls] for t in p.tasks] for p in program.phases[2:4]] == [
        [["matmul.block32", "state.carry", "conv.convolve", "conv.keep"], ["matmul.block32"]],
        [["ssm.head_inputs"]],
    ]
    assert [c.kernel for t in program.phases[4].tasks for c in t.calls] == [
        "matmul.block32", "state.clear", "ssm.heads", "ssm.skip", "elementwise.glu"
    ]  # fmt: skip
    assert [c.kernel for c in program.phases[5].prologue] == ["activations.norm_groups", "activations.quantize"]
    graph, _ = opened("falcon_mamba", tmp_path, "q8_0")
    phase = next(p for p in cpu.lower(graph, 1, CONTEXT, 2).phases if p.name == "blk.0.ssm_dt")
    assert [c.kernel for c in phase.prologue] == ["activations.norm_groups"] * 3
    assert [c.kernel for c in phase.tasks[0].calls] == [
        "matmul.floats", "elementwise.add_bias", "ssm.channel_inputs", "ssm.rates", "state.clear", "ssm.channels",
        "elementwise.glu",
    ]  # fmt: skip


def test_a_convolution_of_few_channels_is_refused() -> None:
    b = Builder(ShapeOnly("f32"), 40, 1e-5)
    x = b.embed(48)
    taps = b.w("taps.weight", (40, 4))
    x = b.add(CausalConv1d("conv", (x,), "conv", b.state("conv", 120), taps))
    b.head(b.rms_norm("output_norm", b.select(x), head=True), 48, tied=False)
    with pytest.raises(UnsupportedError, match="conv has rows of 40"):
        cpu.lower(b.graph("odd", 48, CONTEXT), 1, CONTEXT, 1)
