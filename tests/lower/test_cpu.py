"""The CPU's lowering: any graph whose operations have kernels runs, and rules change neither bits nor bytes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest

from memfirst.backends.cpu.backend import CpuBackend
from memfirst.backends.reference.backend import ReferenceBackend
from memfirst.codecs.base import F32
from memfirst.errors import ConfigError, UnsupportedError
from memfirst.graph import Graph, Sequence, Step
from memfirst.graph.ops.select import Select
from memfirst.ledger import price
from memfirst.lower import cpu
from memfirst.lower.fuse import RULES
from memfirst.lower.program import Program, Ref
from memfirst.lower.step_fields import attention_scratch
from tests.lower.graphs import CHANGES, changed, window
from tests.support.tiny_models import ARCHITECTURES, batch, options, tiny

PARTS = (250, 1, 1, 30, 5, 1)
"""New tokens of each step of a sequence: across windows, splits and programs."""


SCRATCH = {"floats", *attention_scratch(1, 32)}
"""Operands that each worker has for itself while a kernel runs."""


@contextmanager
def rules(names: str) -> Iterator[None]:
    """Only these rules."""
    with mock.patch.dict("os.environ", {"MEMFIRST_FUSE": names}):
        yield


def run(graph: Graph, backend: CpuBackend | ReferenceBackend, steps: list[Step]) -> list[F32]:
    """Logits of each step; with the CPU's recorded bytes held against the predicted ones."""
    random, out = np.random.default_rng(0), []
    for step in steps:
        tokens = random.integers(0, graph.vocab_size, step.tokens).astype(np.int32)
        if isinstance(backend, ReferenceBackend):
            out.append(backend.step(step, tokens))
            continue
        result = backend.step(step, tokens)
        out.append(result.logits.copy())
        recorded = {k: int(v) for k, v in backend.recorded(step, result).by_purpose().items()}
        predicted = {k: int(v) for k, v in backend.predicted(step).by_purpose().items() if k != "activations"}
        assert recorded == predicted
    return out


def sequence_steps(graph: Graph, backend: CpuBackend) -> list[Step]:
    """One sequence in several steps, then a batch of three."""
    past = list(itertools.accumulate(PARTS, initial=0))
    steps = [Step((Sequence(p, n, backend.own_tables()),)) for p, n in zip(past, PARTS, strict=False)]
    return [*steps, Step(tuple(Sequence(0, n, backend.own_tables(i)) for i, n in enumerate((3, 1, 4))))]


@pytest.mark.parametrize("codec", ["f32", "q4_k"])
@pytest.mark.parametrize("name", CHANGES)
def test_any_graph_runs(name: str, codec: str) -> None:
    """As the reference says, in the same bits with and without rules, for one thread and two; recorded = predicted."""
    graph, checkpoint = changed(name, codec)
    found = {}
    for fused, threads in (("all", 2), ("none", 2), ("all", 1)):
        with rules(fused):
            backend = CpuBackend(graph, checkpoint, options(threads))
            steps = sequence_steps(graph, backend)
            found[fused, threads] = run(graph, backend, steps)
            backend.close()
    expected = run(graph, ReferenceBackend(graph, checkpoint), steps)
    for key, logits in found.items():
        for a, b in zip(logits, found["all", 2], strict=True):
            assert (a.view(np.uint32) == b.view(np.uint32)).all(), key
    tolerance = 5e-3 if codec == "f32" else 0.25  # keys and values are f16; activations int8
    for a, b in zip(found["all", 2], expected, strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance, rtol=0)


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_leaves_bits_and_bytes(rule: str) -> None:
    """Alone, and all others without it."""
    graph, checkpoint = tiny("qwen3", "q4_k_m")
    logits, prices = [], []
    for names in ("none", rule, ",".join(name for name in RULES if name != rule)):
        with rules(names):
            backend = CpuBackend(graph, checkpoint, options(2))
            steps = sequence_steps(graph, backend)
            logits.append(run(graph, backend, steps))
            prices.append([price(backend.program(step.tokens).program, step).by_purpose() for step in steps])
            backend.close()
    for other in logits[1:]:
        assert all((a.view(np.uint32) == b.view(np.uint32)).all() for a, b in zip(logits[0], other, strict=True))
    assert prices[0] == prices[1] == prices[2]


def test_phases_of_a_layer() -> None:
    """Fused, a layer of Llama is five phases for a token, each with its inputs in a prologue; three more for many."""
    graph, _ = tiny("llama", "q4_0")
    few, many = (cpu.lower(graph, capacity, 1024, 2).phases for capacity in (1, 256))
    assert [p.name for p in few] == [
        "token_embd", "blk.0.attn_q", "blk.0.attn", "blk.0.attn_output", "blk.0.ffn_gate", "blk.0.ffn_down",
        *(f"blk.1.{name}" for name in ("attn_q", "attn", "attn_output", "ffn_gate", "ffn_down")), "output",
    ]  # fmt: skip
    assert [[c.kernel.split(".")[1] for c in p.prologue] for p in few[1:6]] == [
        ["rms_norm", "quantize"], [], ["merge", "quantize"], ["rms_norm", "quantize"], ["quantize"],
    ]  # fmt: skip
    assert len(many) == len(few) + 2 * 4 + 1 and not any(p.prologue for p in many)
    with rules("none"):
        assert len(cpu.lower(graph, 256, 1024, 2).phases) > len(many)


def test_phases_follow_dependencies() -> None:
    """q, k and v wait for the norm and not for each other; each operation's traffic is in one task."""
    graph, _ = tiny("llama", "q4_0")
    with rules("none"):
        program = cpu.lower(graph, 8, 1024, 2)
    place = {task.name: i for i, phase in enumerate(program.phases) for task in phase.tasks}
    assert place["blk.0.attn_norm"] < place["blk.0.attn_q"] == place["blk.0.attn_k"] == place["blk.0.attn_v"]
    assert place["blk.0.attn_q_rope"] < place["blk.0.attn"] < place["blk.0.attn_output"]
    moved = [(op, read.purpose) for op, read in program.moves]
    assert len(moved) == sum(len(op.traffic()) for op in graph.ops if not isinstance(op, Select))


@pytest.mark.parametrize("capacity", [1, 4, 256])
@pytest.mark.parametrize("fused", ["all", "none"])
@pytest.mark.parametrize("name", CHANGES)
def test_no_buffer_is_written_while_another_reads_it(name: str, fused: str, capacity: int) -> None:
    """Within a phase, what one task writes no other task touches, but for the columns that each has to itself."""
    with rules(fused):
        program = cpu.lower(changed(name, "q4_0")[0], capacity, 1024, 2)
    for phase in program.phases:
        written: dict[tuple[str, int], str] = {}
        for task in phase.tasks:
            outs = {_place(call.args) for call in task.calls} - {None}
            for place in outs:
                assert written.setdefault(place, task.name) == task.name, (phase.name, place)  # type: ignore[arg-type]


def _place(args: tuple[tuple[str, object], ...]) -> tuple[str, int] | None:
    found = dict(args).get("out", dict(args).get("y"))
    return (found.name, found.offset) if isinstance(found, Ref) and found.space == "buffer" else None


@pytest.mark.parametrize("fused", ["all", "none"])
@pytest.mark.parametrize("name", CHANGES)
def test_private_copies_are_read_by_kernels_that_know_them(name: str, fused: str) -> None:
    """A kernel without a `private` operand would read the first worker's copy while that one still writes it."""
    with rules(fused):
        program = cpu.lower(changed(name, "q4_0")[0], 1, 1024, 2)
    private = {b.name for b in program.buffers if b.private}
    assert private
    for call in program.calls:
        args = dict(call.args)
        used = {v.name for v in args.values() if isinstance(v, Ref) and v.space == "buffer"} & private
        scratch = {v.name for k, v in args.items() if k in SCRATCH and isinstance(v, Ref)}
        if used - scratch:
            assert program.room in (args.get("private"), args.get("private_in")), call


@pytest.mark.parametrize("name", CHANGES)
def test_programs_of_one_lowering_do_not_depend_on_each_other(name: str) -> None:
    """Nodes are the same for all capacities: none is changed by the programs that are made of them."""
    graph = changed(name, "q4_0")[0]
    lowering = cpu.Lowering(graph, 1024)
    for capacity in (256, 1, 4, 2, 6, 3, 32, 8, 5):
        assert lowering.program(capacity, 2) == cpu.lower(graph, capacity, 1024, 2)


@pytest.mark.parametrize("name", CHANGES)
def test_programs_of_one_room_have_the_same_operands(name: str) -> None:
    """They differ in tiles and chunks: buffers, operands and the order of calls are what `bind.Operands` shares."""
    lowering = cpu.Lowering(changed(name, "q4_0")[0], 1024)
    for room, others in {2: (1,), 8: (3, 4, 5, 6, 7), 256: (32, 9)}.items():
        whole = lowering.program(room, 2)
        assert whole.room == room == whole.capacity
        for capacity in others:
            program = lowering.program(capacity, 2)
            assert program.buffers == whole.buffers
            assert [call._replace(statics=()) for call in program.calls] == [
                call._replace(statics=()) for call in whole.calls
            ]
            assert [(p.name, len(p.prologue), p.prologue_per) for p in program.phases] == [
                (p.name, len(p.prologue), p.prologue_per) for p in whole.phases
            ]
            tiles = {dict(call.statics)["TILE"] for call in program.calls if call.kernel == "matmul.block32"}
            assert tiles == {min(capacity, 8)}


def test_buffers_are_shared_over_layers() -> None:
    """Twice the layers need no more working memory."""
    small, large = (_buffers(cpu.lower(tiny("llama", "q4_0", num_hidden_layers=n)[0], 256, 1024, 2)) for n in (2, 4))
    assert small == large


def _buffers(program: Program) -> int:
    return sum(b.nbytes(program.capacity, 2) for b in program.buffers)


def test_unknown_rules_are_refused() -> None:
    with rules("chain,magic"), pytest.raises(ConfigError, match="magic"):
        cpu.lower(tiny("llama", "q4_0")[0], 1, 64, 1)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_step_without_logits_skips_the_head(architecture: str) -> None:
    graph, checkpoint = tiny(architecture, "q4_0")
    backend = CpuBackend(graph, checkpoint, options(1))
    step = batch((0, 3), logits=())
    assert "head" not in backend.recorded(step, backend.step(step, [1, 2, 3])).by_purpose()
    backend.close()


def test_a_codec_without_a_kernel_is_refused_by_name() -> None:
    graph, _ = tiny("llama", "q4_k")
    kept = ({w.name: replace(w, codec="iq2_xs") for w in op.weights if len(w.shape) > 1} for op in graph.ops)
    ops = tuple(op.with_weights(weights) for op, weights in zip(graph.ops, kept, strict=True))
    with pytest.raises(UnsupportedError, match=r"no kernel for iq2_xs, token_embd\.weight"):
        cpu.lower(replace(graph, ops=ops), 1, 64, 1)


def test_more_shapes_of_caches_than_a_step_has_counts_for_are_refused() -> None:
    graph, _ = tiny("llama", "q4_0", num_hidden_layers=57)
    for i in range(57):
        graph = window(10 + i, f"blk.{i}.")(graph)
    with pytest.raises(UnsupportedError, match="57 shapes of KV caches; expected at most 56"):
        cpu.lower(graph, 1, 64, 1)
