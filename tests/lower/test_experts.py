"""Mixtures of experts on the CPU: the reference's numbers, the same bits however they are run, their own price."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from memfirst import models
from memfirst.backends.cpu.backend import CpuBackend, CpuOptions
from memfirst.backends.reference.backend import ReferenceBackend
from memfirst.errors import UnsupportedError
from memfirst.formats.open import open_checkpoint
from memfirst.graph import Sequence, Step
from memfirst.graph.ops.add import Add
from memfirst.graph.ops.experts import Experts, Router
from memfirst.lower import cpu
from memfirst.lower.step_fields import active_experts
from memfirst.transform.recode import with_kv
from tests.lower.test_architectures import CONTEXT, EXACT, PROMPT, apart, expected, run
from tests.support.cpu_roundings import as_the_cpu
from tests.support.make_experts_fixture import FOLDER
from tests.support.tiny_configs import Coded
from tests.support.tiny_experts import CODECS, ROUTED, routed_graph


@pytest.mark.parametrize("codecs", CODECS)
@pytest.mark.parametrize("kind", ROUTED)
def test_mixtures_of_experts(kind: str, codecs: str) -> None:
    """In the same bits for any cut of a prompt, any number of threads, with and without rules, alone and in a batch;
    with the recorded routing, predicted = recorded."""
    graph = routed_graph(kind, codecs, 40 if codecs == "f32" else 64)
    checkpoint = Coded(graph)
    found = run(graph, checkpoint, 2, (64,))
    for other in (run(graph, checkpoint, 1, (1, 33, 70)), run(graph, checkpoint, 2, (), "none")):
        assert all((a.view(np.uint32) == b.view(np.uint32)).all() for a, b in zip(found, other, strict=True))
    exact = expected(graph, checkpoint)
    if codecs == "f32":
        assert apart(found, exact).max() < EXACT
        return
    rounded = expected(as_the_cpu(graph), checkpoint)
    errors, noise = apart(found, rounded), apart(exact, rounded)
    assert np.median(errors) < np.median(noise) and errors.max() < noise.max(), (errors, noise)


FIXTURES = ("mixtral", "gpt_oss", "qwen2_moe", "olmoe", "ernie4_5_moe", "granitemoeshared", "gemma4_moe", "llama4",
            "llama4_large")  # fmt: skip
"""Those whose heads are multiples of eight."""


@pytest.mark.parametrize("name", FIXTURES)
def test_parity_with_transformers(name: str) -> None:
    """Beyond windows and the original context; with keys and values in f32 nothing is rounded but sums."""
    checkpoint, fixture = open_checkpoint(FOLDER / name), np.load(FOLDER / name / "expected.npz")
    graph = with_kv(models.build(checkpoint), "f32", "f32")
    backend, tokens = CpuBackend(graph, checkpoint, CpuOptions(2, 128)), fixture["tokens"]
    step = Step((Sequence(0, len(tokens), backend.own_tables(), logits=tuple(range(len(tokens)))),))
    assert np.abs(backend.step(step, tokens).logits - fixture["logits"]).max() <= 1e-4
    backend.close()


def test_the_tokens_of_each_expert_are_recorded() -> None:
    """As the reference counts them; before it the expectation has them within its bounds."""
    graph = routed_graph("qwen3_moe", "f32")
    checkpoint = Coded(graph)
    backend, reference = CpuBackend(graph, checkpoint, CpuOptions(2, CONTEXT, 3)), ReferenceBackend(graph, checkpoint)
    step = Step(tuple(Sequence(0, n, backend.own_tables(i)) for i, n in enumerate((1, 5, 2))))
    tokens = np.arange(8, dtype=np.int32)
    first = backend.step(step, tokens)
    reference.step(step, tokens)
    assert backend.routing(first) == reference.routing
    assert all(sum(counts) == 8 * 4 for counts in backend.routing(first).values())
    alone = Step((Sequence(0, 1, backend.own_tables()),))
    backend.step(alone, [3])  # another step changes nothing of what was recorded
    assert backend.routing(first) == reference.routing
    known = replace(step, routing=reference.routing)
    before, after = (backend.predicted(s).by_purpose()["experts"] for s in (step, known))
    assert after.exact and before.low < after.low < before.high
    assert int(after) == backend.by_purpose(first)["experts"]
    backend.close()


def test_no_two_operations_share_a_count() -> None:
    """A worker that is late may look at one after the next was written."""
    program = cpu.lower(routed_graph("mixtral", "f32", layers=3), 8, CONTEXT, 2)
    ranges = {t.per for t in program.tasks if t.per.startswith("experts.")}
    assert ranges == {active_experts(i) for i in range(3)}
    writers = [dict(c.args) for c in program.calls if c.kernel == "experts.group"]
    assert len({(args["count"], args["counts"]) for args in writers}) == 3


def test_each_phase_of_a_layer() -> None:
    """Fused: logits, pairs, gate and up with their unit, down with the residual's sum."""
    program = cpu.lower(routed_graph("gpt_oss", "mxfp4", layers=1), 1, CONTEXT, 2)
    layer = [p for p in program.phases if "ffn" in p.name or "post" in p.name]
    assert [[c.kernel for t in p.tasks for c in t.calls] for p in layer] == [
        ["activations.rms_norm", "activations.quantize"],
        ["matmul.floats"],
        ["experts.group"],
        ["routed.int8", "experts.add_bias", "routed.int8", "experts.add_bias", "experts.glu"],
        ["routed.int8", "experts.add_weighed_bias", "elementwise.add"],
    ]
    prologues = [[c.kernel for c in p.prologue] for p in layer]
    assert prologues == [[], [], ["experts.pick"], [], ["activations.quantize"]]
    assert layer[-1].prologue_units == 4, "a row for each of a token's experts"


def test_a_router_for_others_than_experts_is_refused() -> None:
    """Its value is no matrix on the CPU."""
    graph = routed_graph("mixtral", "f32", layers=1)
    router = next(op for op in graph.ops if isinstance(op, Router))
    last = graph.ops[-1]
    more = Add("sum", (router.output, router.output), "sum", 8)
    with pytest.raises(UnsupportedError, match="ffn_gate_inp is read by more than routed experts"):
        cpu.lower(replace(graph, ops=(*graph.ops[:-1], more, last)), 1, CONTEXT, 1)


def test_a_log_has_room_for_every_expert() -> None:
    """How many are active is known only when the step is over."""
    graph = routed_graph("qwen3_moe", "q4_k_m")
    backend = CpuBackend(graph, Coded(graph), CpuOptions(2, CONTEXT))
    step, tokens = Step((Sequence(0, PROMPT, backend.own_tables()),)), np.arange(PROMPT, dtype=np.int32)
    plain = backend.step(step, tokens)
    logits, moved = np.array(plain.logits), backend.by_purpose(plain)
    log = backend.step_log(step, tokens)
    assert (backend.step(step, tokens, log).logits == logits).all()
    backend.quiesce()
    assert sum(int(log.calls(w)["bytes"].sum()) for w in range(2)) == sum(moved.values())
    backend.close()


def test_biases_of_experts_are_read_by_active_experts_alone() -> None:
    graph = routed_graph("gpt_oss", "mxfp4", layers=1)
    backend = CpuBackend(graph, Coded(graph), CpuOptions(1, CONTEXT))
    op = next(op for op in graph.ops if isinstance(op, Experts))
    result = backend.step(Step((Sequence(0, 1, backend.own_tables()),)), [7])
    matrices = sum(w.matrix_bytes for w in (op.gate, op.up, op.down))
    biases = sum(4 * b.columns for b in (op.gate_b, op.up_b, op.down_b) if b is not None)
    assert backend.by_purpose(result)["experts"] == op.k * (matrices + biases)
    backend.close()
