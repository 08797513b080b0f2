"""A model in parts for several processes: together they give the bits of one, and each reads what it is priced at."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from memfirst.backends.cpu.backend import CpuBackend, CpuOptions
from memfirst.codecs.base import F32
from memfirst.convert.synthetic import SyntheticCheckpoint
from memfirst.errors import BackendError, UnsupportedError
from memfirst.graph import Graph, KVCache, Sequence, Step
from memfirst.graph.ops.embed import Embed
from memfirst.graph.ops.norm import RMSNorm
from memfirst.graph.traffic import ACTIVATIONS, COLLECTIVE, HEAD, KV_READ, WEIGHTS
from memfirst.ledger import memory, price
from memfirst.lower.cpu import lower
from memfirst.transform.split import PIPELINE, TENSOR, split
from tests.support.peers import Exchange, ThreadPeers
from tests.support.tiny_experts import routed_graph
from tests.support.tiny_models import tiny

CONTEXT = 128
CASES: dict[str, dict[str, Any]] = {
    "llama": {"layers": 4},
    "llama of 3 kv heads": {"layers": 3, "heads": 9, "kv_heads": 3, "tied": True},
    "qwen2, untied": {"architecture": "qwen2", "layers": 3, "tied": False},
    "qwen3": {"architecture": "qwen3", "layers": 3},
    "k-quants": {"codec": "q4_k", "layers": 3},
}


NAMES = {"layers": "num_hidden_layers", "heads": "num_attention_heads", "kv_heads": "num_key_value_heads"}


def model(name: str) -> tuple[Graph, SyntheticCheckpoint]:
    """A toy model."""
    given = CASES[name]
    changes = {NAMES[k]: v for k, v in given.items() if k in NAMES}
    return tiny(given.get("architecture", "llama"), given.get("codec", "q4_0"), given.get("tied", True), **changes)


def steps(backend: CpuBackend) -> list[Step]:
    """A prompt in two parts, of which the first asks for no logits; a token; three sequences, one of them drafting."""
    t = [backend.own_tables(i) for i in range(3)]
    return [
        Step((Sequence(0, 13, t[0], logits=()),)),
        Step((Sequence(13, 9, t[0]),)),
        Step((Sequence(22, 1, t[0]),)),
        Step((Sequence(23, 1, t[0]), Sequence(0, 7, t[1], logits=(4, 5, 6)), Sequence(0, 2, t[2]))),
        Step((Sequence(24, 1, t[0]), Sequence(7, 1, t[1]))),
    ]


def run(graph: Graph, checkpoint: SyntheticCheckpoint, peers: ThreadPeers | None = None) -> list[F32]:
    """Logits of all steps; recorded = predicted in each."""
    backend = CpuBackend(graph, checkpoint, CpuOptions(1, CONTEXT, 3), peers=peers)
    out = []
    try:
        for i, step in enumerate(steps(backend)):
            tokens = np.random.default_rng(i).integers(0, graph.vocab_size, step.tokens).astype(np.int32)
            result = backend.step(step, tokens)
            out.append(result.logits.copy())
            predicted = {p: int(n) for p, n in backend.predicted(step).by_purpose().items()}
            beside = (ACTIVATIONS, COLLECTIVE)
            assert {p: n for p, n in predicted.items() if p not in beside} == {
                p: int(n) for p, n in backend.recorded(step, result).by_purpose().items()
            }
    finally:
        backend.close()
    return out


@pytest.mark.parametrize("of", [2, 3])
@pytest.mark.parametrize("kind", [TENSOR, PIPELINE])
@pytest.mark.parametrize("name", CASES)
def test_parts_together_have_the_bits_of_one_process(name: str, kind: str, of: int) -> None:
    graph, checkpoint = model(name)
    if kind == TENSOR and of > min(c.heads for c in graph.caches if isinstance(c, KVCache)):
        with pytest.raises(UnsupportedError, match="at least one for each"):
            split(graph, kind, 0, of)
        return
    alone = run(graph, checkpoint)
    together = Exchange(of).all(lambda peers: run(split(graph, kind, peers.index, of), checkpoint, peers))[0]
    for one, other in zip(alone, together, strict=True):
        assert one.tobytes() == other.tobytes()
    assert len(alone[0]) == 0 and all(np.any(logits) for logits in alone[1:])


def test_bits_do_not_depend_on_fusion(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, checkpoint = model("llama")
    alone = run(graph, checkpoint)
    monkeypatch.setenv("MEMFIRST_FUSE", "none")
    for kind in (TENSOR, PIPELINE):
        found = Exchange(2).all(lambda peers, kind=kind: run(split(graph, kind, peers.index, 2), checkpoint, peers))[0]
        assert [a.tobytes() for a in alone] == [b.tobytes() for b in found]


@pytest.mark.parametrize("kind", [TENSOR, PIPELINE])
@pytest.mark.parametrize("name", CASES)
def test_every_byte_is_read_by_one_of_them(name: str, kind: str) -> None:
    """But for norms, which all need in a tensor split; beside them only the embedding is held twice, by who looks up
    tokens and by who has its bytes as the head."""
    graph, _ = model(name)
    parts = [split(graph, kind, i, 2) for i in range(2)]
    step = Step((Sequence(40), Sequence(17, 5)))
    norms = sum(op.weight.nbytes for op in graph.ops if isinstance(op, RMSNorm)) if kind == TENSOR else 0

    def read(part: Graph, *purposes: str) -> int:
        found = price(part, step).by_purpose()
        return sum(int(found[purpose]) for purpose in purposes if purpose in found)

    assert sum(read(part, HEAD, WEIGHTS) for part in parts) == read(graph, HEAD, WEIGHTS) + norms
    assert sum(read(part, KV_READ) for part in parts) == read(graph, KV_READ) > 0
    tied = any(w.alias for op in graph.ops for w in op.weights)
    table = sum(op.weight.nbytes for op in graph.ops if isinstance(op, Embed)) if kind == TENSOR or tied else 0
    assert sum(memory(part, []).weights for part in parts) == memory(graph, []).weights + norms + table
    if kind == PIPELINE:
        names = [{c.name for c in part.caches} for part in parts]
        assert not names[0] & names[1] and names[0] | names[1] == {c.name for c in graph.caches}


def test_layers_go_where_bytes_are_even_and_each_has_some() -> None:
    graph, _ = model("llama")
    for of in (2, 3, 4):
        counts = [len(split(graph, PIPELINE, i, of).caches) for i in range(of)]
        assert sum(counts) == 4 and min(counts) >= 1
    with pytest.raises(UnsupportedError, match="4 layers for 5 processes"):
        split(graph, PIPELINE, 0, 5)


def test_exchanges_are_in_the_same_order_everywhere() -> None:
    graph, _ = model("llama of 3 kv heads")
    for capacity in (1, 4, 32):
        programs = [lower(split(graph, TENSOR, i, 3), capacity, CONTEXT, 1) for i in range(3)]
        assert len({tuple((e.op, e.kind, e.parts) for e in p.exchanges) for p in programs}) == 1
        assert all(a.phase <= b.phase for p in programs for a, b in pairwise(p.exchanges))
        assert len(programs[0].exchanges) == 4 * 3 + 1  # before o and down, behind them, and the logits


def test_a_part_without_the_others_says_so() -> None:
    graph, checkpoint = model("llama")
    backend = CpuBackend(split(graph, TENSOR, 0, 2), checkpoint, CpuOptions(1, CONTEXT, 1))
    with pytest.raises(BackendError, match="without the others"):
        backend.step(Step((Sequence(0, 1, backend.own_tables()),)), [1])
    backend.close()


def test_what_cannot_be_cut_by_rows_is_named() -> None:
    graph = routed_graph("qwen3_moe", "bf16")
    with pytest.raises(UnsupportedError, match=r"blk\.0\.\w+ cannot be cut by rows yet.*pipeline"):
        split(graph, TENSOR, 0, 2)
