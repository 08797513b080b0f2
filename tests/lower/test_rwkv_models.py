"""RWKV-6 and RWKV-7 on the CPU, from the files that llama.cpp's converter writes."""

from __future__ import annotations

from collections.abc import Sequence as Many
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
from memfirst.convert.synthetic import synthetic
from memfirst.errors import BackendError
from memfirst.formats.open import open_checkpoint
from memfirst.graph import Graph, Sequence, Step
from memfirst.lower import cpu
from memfirst.lower.fuse import RULES
from memfirst.runtime.engine import Engine
from tests.support.cpu_roundings import as_the_cpu
from tests.support.make_recurrent_fixture import FILE
from tests.support.recurrent_files import SPECS, random_arrays, write
from tests.support.requests import alone, drain, prompts, request

CONTEXT, PROMPT = 256, 70
NAMES = ("rwkv6", "rwkv7")
TOKENS = np.random.default_rng(2).integers(0, 48, 400).astype(np.int32)


def opened(name: str, folder: Path, kind: str = "f32") -> tuple[Graph, Any]:
    path = folder / f"{name}.gguf"
    write(path, SPECS[name], random_arrays(SPECS[name]), kind)
    checkpoint = open_checkpoint(path)
    return models.build(checkpoint), checkpoint


class Slots:
    """Each sequence's slot by turns one of two, or always the same."""

    def __init__(self, turns: bool = True) -> None:
        self.now, self.turns = [0, 2, 4], int(turns)

    def row(self, i: int, past: int, new: int, logits: tuple[int, ...] | None = None) -> Sequence:
        """`new` tokens of sequence `i`, by default with the logits of the last."""
        read = self.now[i]
        self.now[i] ^= self.turns
        return Sequence(past, new, logits=logits, state_read=read, state_write=self.now[i])


def steps(cuts: Many[int] = (), turns: bool = True) -> list[Step]:
    """A prompt cut so, with all its logits; three decoded tokens; two steps of a batch, whose other two are new."""
    slots, edges = Slots(turns), (0, *cuts, PROMPT)
    out = [Step((slots.row(0, a, b - a, tuple(range(b - a))),)) for a, b in pairwise(edges)]
    out += [Step((slots.row(0, PROMPT + i, 1),)) for i in range(3)]
    for lengths in (((PROMPT + 3, 1), (0, 7), (0, 2)), ((PROMPT + 4, 1), (7, 1), (2, 30))):
        out.append(Step(tuple(slots.row(i, past, new) for i, (past, new) in enumerate(lengths))))
    return out


def run(backend: CpuBackend | ReferenceBackend, todo: Many[Step]) -> F32:
    """Logits of all steps; the CPU's recorded bytes are the predicted ones."""
    past, out = 0, []
    for step in todo:
        tokens = TOKENS[past : past + step.tokens]
        past += step.tokens
        if isinstance(backend, ReferenceBackend):
            out.append(backend.step(step, tokens))
            continue
        result = backend.step(step, tokens)
        out.append(np.array(result.logits))
        recorded = {k: int(v) for k, v in backend.recorded(step, result).by_purpose().items()}
        predicted = {k: int(v) for k, v in backend.predicted(step).by_purpose().items() if k != "activations"}
        assert recorded == predicted
        assert recorded["state_read"] == recorded["state_write"]
    return np.concatenate(out)


def on_cpu(graph: Graph, checkpoint: Any, todo: Many[Step], threads: int = 2, fused: str = "all") -> F32:
    """The same on a backend of its own."""
    with mock.patch.dict("os.environ", {"MEMFIRST_FUSE": fused}):
        backend = CpuBackend(graph, checkpoint, CpuOptions(threads, CONTEXT, 3))
        try:
            return run(backend, todo)
        finally:
            backend.close()


def same(a: F32, b: F32) -> bool:
    return bool((a.view(np.uint32) == b.view(np.uint32)).all())


@pytest.mark.parametrize("kind", ["f32", "f16", "q8_0"])
@pytest.mark.parametrize("name", NAMES)
def test_the_same_bits_however_it_is_run(name: str, kind: str, tmp_path: Path) -> None:
    """For any cut of a prompt, any number of threads, with and without rules, in place or from slot to slot."""
    graph, checkpoint = opened(name, tmp_path, kind)
    found = on_cpu(graph, checkpoint, steps())
    assert same(found, on_cpu(graph, checkpoint, steps((1, 2, 34, 35)), 1))
    assert same(found, on_cpu(graph, checkpoint, steps((64,)), 3, "none"))
    assert same(found, on_cpu(graph, checkpoint, steps(turns=False)))
    exact = run(ReferenceBackend(graph, checkpoint), steps())
    if kind != "q8_0":
        assert (np.abs(found - exact).max(1) / exact.std(1)).max() < 1e-4
        return
    rounded = run(ReferenceBackend(as_the_cpu(graph), checkpoint), steps())  # activations are int8
    errors, noise = (np.abs(x - rounded).max(1) / exact.std(1) for x in (found, exact))
    assert np.median(errors) < np.median(noise) and errors.max() < noise.max(), (errors, noise)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", NAMES)
def test_each_rule_leaves_bits_and_bytes(name: str, rule: str, tmp_path: Path) -> None:
    """Alone, and all others without it."""
    graph, checkpoint = opened(name, tmp_path)
    expected = on_cpu(graph, checkpoint, steps((33,)))
    for names in (rule, ",".join(other for other in RULES if other != rule)):
        assert same(on_cpu(graph, checkpoint, steps((33,)), 2, names), expected), names


@pytest.mark.parametrize("name", NAMES)
def test_as_llama_cpp(name: str, tmp_path: Path) -> None:
    """24 positions of the same file in float32."""
    expected, (graph, checkpoint) = np.load(FILE), opened(name, tmp_path)
    backend = CpuBackend(graph, checkpoint, CpuOptions(2, CONTEXT))
    found = backend.step(Step((Sequence(0, 24, logits=tuple(range(24))),)), expected["tokens"]).logits
    logits = expected[f"logits/{name}"]
    np.testing.assert_allclose(found, logits, atol=5e-5 * logits.std(), rtol=0)
    backend.close()


@pytest.mark.parametrize("name", NAMES)
def test_rollback_reads_the_old_slot(name: str, tmp_path: Path) -> None:
    """Drafts are rejected: the slot from before them is read again, and gives what it would without them."""
    graph, checkpoint = opened(name, tmp_path)
    backend = CpuBackend(graph, checkpoint, CpuOptions(2, CONTEXT))
    first = Step((Sequence(0, 8),))
    again = Step((Sequence(8, 2, state_read=0, state_write=1),))
    backend.step(first, TOKENS[:8])
    clean = np.array(backend.step(again, TOKENS[8:10]).logits)
    backend.step(Step((Sequence(8, 3, state_read=0, state_write=1),)), TOKENS[20:23])
    assert same(np.array(backend.step(again, TOKENS[8:10]).logits), clean)
    backend.close()


def phases(name: str, capacity: int, fused: str = "all") -> list[str]:
    """Those of the third layer of a published model."""
    graph = models.build(synthetic(name, "q4_k_m", layers=3))
    with mock.patch.dict("os.environ", {"MEMFIRST_FUSE": fused}):
        program = cpu.lower(graph, capacity, CONTEXT, 2)
    return [p.name.split(".")[2] for p in program.phases if any(t.name.startswith("blk.2.") for t in p.tasks)]


def test_phases_of_a_layer() -> None:
    """For a token a layer of RWKV-7 is five phases: seven matmuls of mixes, the recurrence with the thin matmuls that
    it takes and what follows it, and three matmuls more. RWKV-6 makes its mixes in three steps."""
    five = ["time_mix_receptance", "time_mix_v2", "time_mix_output", "channel_mix_key", "channel_mix_value"]
    assert phases("rwkv-7:1.5b", 1) == five
    assert len(phases("rwkv-7:1.5b", 256)) == 11
    assert len(phases("rwkv-7:1.5b", 1, "none")) == 14
    first = ["attn_norm", "time_mix_shift", "time_mix_w1", "time_mix_w2", "time_mix_receptance", "time_mix_decay_w2"]
    assert phases("rwkv-6:1.6b", 1) == [*first, *five[2:]]


def test_slots_that_sequences_share_are_refused(tmp_path: Path) -> None:
    """All sequences of a step go on at once; two that begin with the same state may read one slot."""
    graph, checkpoint = opened("rwkv7", tmp_path)
    backend = CpuBackend(graph, checkpoint, CpuOptions(1, CONTEXT, 3))
    backend.step(Step((Sequence(0, 3, state_write=0),)), TOKENS[:3])
    for a, b in (((0, 1), (0, 1)), ((0, 1), (1, 2)), ((0, 0), (0, 1))):
        rows = tuple(Sequence(3, 1, state_read=r, state_write=w) for r, w in (a, b))
        with pytest.raises(BackendError, match="share a slot of state that is written"):
            backend.step(Step(rows), TOKENS[3:5])
    fork = Step((Sequence(3, 1, state_read=0, state_write=1), Sequence(3, 1, state_read=0, state_write=2)))
    both = np.array(backend.step(fork, [5, 5]).logits)
    assert same(both[0], both[1])
    backend.close()


@pytest.mark.parametrize("name", NAMES)
def test_requests_share_steps_and_turns_go_on(name: str, tmp_path: Path) -> None:
    """Five requests for three places in a step give what each gives alone; a turn goes on from the state of the one
    before it, and begins anew where its prompt differs."""
    graph, checkpoint = opened(name, tmp_path)
    backend = CpuBackend(graph, checkpoint, CpuOptions(2, CONTEXT, 3))
    asked = prompts(5, (1, 90), vocab=48)
    expected = alone(backend, CONTEXT, asked)
    engine = Engine(backend, CONTEXT)
    running = [request(engine, prompt, seed=seed) for seed, prompt in enumerate(asked)]
    for one in running:
        engine.submit(one)
    assert [drain(engine, one) for one in running] == expected
    longer = [*asked[4], *expected[4][:-1], 7]
    for prompt, reused in ((longer, len(longer) - 1), ([*longer[:5], 9], 0)):
        again = request(engine, prompt)
        engine.submit(again)
        assert drain(engine, again) == alone(backend, CONTEXT, [prompt])[0]
        assert again.timing.reused_tokens == reused
    backend.close()
