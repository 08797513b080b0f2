"""Every dense architecture on the CPU: the reference's numbers, the same bits however it is run, its own price."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from unittest import mock

import numpy as np
import pytest

from memfirst import models
from memfirst.backends.cpu.backend import CpuBackend, CpuOptions
from memfirst.backends.reference.backend import ReferenceBackend
from memfirst.codecs.base import F32
from memfirst.graph import Graph, Sequence, Step
from memfirst.graph.ops.rope import Rope
from memfirst.lower.default import lowered
from memfirst.transform.recode import with_kv
from tests.support.cpu_roundings import as_the_cpu
from tests.support.tiny_configs import Coded, by_model_type, cases, graph_of, shrunk

CONTEXT = 256
PROMPT = 90
"""Beyond the windows, and beyond LongRoPE's original context."""
EXACT = 1e-4
"""Of float32 weights and cache: sums in another order. Where activations are int8, another step is taken somewhere in a
prompt, and the tokens that attend it differ too, by less than rounding itself."""


def run(graph: Graph, checkpoint: Coded, threads: int, cuts: tuple[int, ...], fused: str = "all") -> list[F32]:
    """Logits of a prompt cut so, of three decoded tokens, and of a batch of three; recorded = predicted throughout."""
    with mock.patch.dict("os.environ", {"MEMFIRST_FUSE": fused}):
        backend = CpuBackend(graph, checkpoint, CpuOptions(threads, CONTEXT, 3))
        out, past, tables = [], 0, [backend.own_tables(i) for i in range(3)]
        steps = [Step((Sequence(p, n, tables[0], logits=tuple(range(n))),)) for p, n in _parts(cuts)]
        steps += [Step((Sequence(PROMPT + i, 1, tables[0]),)) for i in range(3)]
        steps.append(Step((Sequence(PROMPT + 3, 1, tables[0]), Sequence(0, 7, tables[1]), Sequence(0, 2, tables[2]))))
        tokens = np.random.default_rng(1).integers(0, graph.vocab_size, sum(s.tokens for s in steps)).astype(np.int32)
        for step in steps:
            result = backend.step(step, tokens[past : past + step.tokens])
            out.append(np.array(result.logits))
            past += step.tokens
            recorded = {k: int(v) for k, v in backend.recorded(step, result).by_purpose().items()}
            known = replace(step, routing=backend.routing(result))
            predicted = {k: int(v) for k, v in backend.predicted(known).by_purpose().items() if k != "activations"}
            assert recorded == predicted
        backend.close()
    return [np.concatenate(out[: len(cuts) + 1]), *out[len(cuts) + 1 :]]


def _parts(cuts: tuple[int, ...]) -> list[tuple[int, int]]:
    edges = (0, *cuts, PROMPT)
    return [(a, b - a) for a, b in pairwise(edges)]


def expected(graph: Graph, checkpoint: Coded) -> list[F32]:
    """The same by the reference."""
    backend = ReferenceBackend(graph, checkpoint, context=CONTEXT)
    tables = [tuple(tuple(range(10 * i, 10 * i + 4)) for _ in graph.cache_groups) for i in range(3)]
    steps = [Step((Sequence(0, PROMPT, tables[0], logits=tuple(range(PROMPT))),))]
    steps += [Step((Sequence(PROMPT + i, 1, tables[0]),)) for i in range(3)]
    steps.append(Step((Sequence(PROMPT + 3, 1, tables[0]), Sequence(0, 7, tables[1]), Sequence(0, 2, tables[2]))))
    tokens = np.random.default_rng(1).integers(0, graph.vocab_size, sum(s.tokens for s in steps)).astype(np.int32)
    out, past = [], 0
    for step in steps:
        out.append(backend.step(step, tokens[past : past + step.tokens]))
        past += step.tokens
    return out


def apart(found: list[F32], want: list[F32]) -> F32:
    """The largest error of each row, over the standard deviation of its logits."""
    return np.concatenate([np.abs(a - b).max(1) / b.std(1) for a, b in zip(found, want, strict=True)])


@pytest.mark.parametrize(("codec", "head_dim", "layers"), [("f32", 40, 4), ("q4_k", 64, 2)])
@pytest.mark.parametrize("case", cases())
def test_every_dense_architecture(case: str, codec: str, head_dim: int, layers: int) -> None:
    """In the same bits for any cut of a prompt, any number of threads, with and without rules, alone and in a batch."""
    graph = graph_of(shrunk(cases()[case], head_dim, layers), codec)
    graph = with_kv(graph, "f32", "f32") if codec == "f32" else graph
    checkpoint = Coded(graph)
    found = run(graph, checkpoint, 2, (64,))
    for other in (
        run(graph, checkpoint, 1, (1, 33, 70)), run(graph, checkpoint, 2, (), "none"),
    ):  # fmt: skip
        assert all((a.view(np.uint32) == b.view(np.uint32)).all() for a, b in zip(found, other, strict=True))
    exact = expected(graph, checkpoint)
    if codec == "f32":
        assert apart(found, exact).max() < EXACT
        return
    rounded = expected(as_the_cpu(graph), checkpoint)
    errors, noise = apart(found, rounded), apart(exact, rounded)
    assert np.median(errors) < np.median(noise) and errors.max() < noise.max(), (errors, noise)


def test_every_dense_architecture_is_there() -> None:
    """Of those in the registry whose operations all have kernels, each has a published config to be shrunk."""
    tested = {graph_of(shrunk(c, 64), "f32").architecture for c in by_model_type().values()}
    known = {*models.ARCHITECTURES, *models.BY_MODEL_TYPE}
    routed_or_recurrent = {
        "qwen2moe", "olmoe", "glm4moe", "minimax-m2", "ernie4_5-moe", "granitemoe", "hunyuan-moe", "llama4",
        "dots1", "deepseek",
        "deepseek2", "qwen3moe", "gpt-oss", "mixtral", "mamba", "mamba2", "rwkv6", "rwkv7", "jamba", "granitehybrid",
        "qwen3next", "qwen35", "qwen35moe", "lfm2", "lfm2moe", "nemotron_h", "nemotron_h_moe", "falcon-h1",
    }  # fmt: skip
    assert known - routed_or_recurrent - {"mistral", "mistral3", "ministral"} == tested


def test_the_longrope_case_uses_the_long_frequencies() -> None:
    graph = graph_of(shrunk(cases()["phi3 with LongRoPE"], 64), "f32")
    ropes = [op for op in graph.ops if isinstance(op, Rope)]
    assert ropes and all(op.frequencies_for(CONTEXT) == op.long_frequencies != op.frequencies for op in ropes)


def test_batches_change_no_bit() -> None:
    """A token of a sequence in a batch of three is the same as alone."""
    graph = graph_of(shrunk(by_model_type()["gemma2"], 64), "q4_k")
    checkpoint, tokens = Coded(graph), [5, 9, 77]
    alone = []
    backend = CpuBackend(graph, checkpoint, CpuOptions(2, CONTEXT, 3))
    for i, token in enumerate(tokens):
        one = Step((Sequence(0, 1, backend.own_tables(i)),))
        alone.append(np.array(backend.step(one, [token]).logits)[0])
    together = backend.step(Step(tuple(Sequence(0, 1, backend.own_tables(i)) for i in range(3))), tokens).logits
    assert (np.array(together).view(np.uint32) == np.stack(alone).view(np.uint32)).all()
    backend.close()


def test_operations_without_kernels_are_known() -> None:
    from memfirst.graph.ops.linear import Linear
    from memfirst.graph.ops.opaque import Opaque

    assert lowered(Linear) and not lowered(Opaque)
