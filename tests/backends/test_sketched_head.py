"""Steps that want the likeliest token, by a head with a sketch: its logit's bits, fewer bytes, their number known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from memfirst.backends.base import observed
from memfirst.backends.cpu.backend import CpuBackend
from memfirst.codecs import sketch
from memfirst.codecs.base import ROWS
from memfirst.errors import BackendError
from memfirst.graph import Graph
from memfirst.graph.ops.linear import Linear
from memfirst.graph.ops.sketched import SketchedHead, sketched
from memfirst.graph.traffic import ACTIVATIONS, HEAD
from memfirst.ledger import Ledger, memory
from memfirst.transform.sketched import NAME, sketchable, with_sketch
from tests.support.tiny_models import STEPS, apart, batch, fill_cache, options, tiny

VOCAB = 1003


def made(threads: int = 1, tied: bool = True, seed: int = 0) -> tuple[CpuBackend, CpuBackend]:
    """The same model without and with a sketch."""
    graph, checkpoint = tiny("llama", "q8_0", tied, vocab_size=VOCAB)
    both = CpuBackend(graph, checkpoint, options(threads)), CpuBackend(with_sketch(graph), checkpoint, options(threads))
    for backend in both:
        fill_cache(backend, seed)
    return both


def counted(ledger: Ledger) -> dict[str, int]:
    return {p: int(a) for p, a in ledger.by_purpose().items() if p != ACTIVATIONS and int(a)}


@pytest.mark.parametrize("fuse", ["all", "none"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_likeliest_token_has_its_bits(
    threads: int, tied: bool, fuse: str, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setenv("MEMFIRST_FUSE", fuse)
    plain, backend = made(threads, tied)
    read = []
    for name in ("decode", "prefill", "splits"):
        for first in range(0, 200, 10):
            step = STEPS[name]
            tokens = (apart(step) + first) % VOCAB
            full = plain.step(step, tokens).logits[0].copy()
            np.testing.assert_array_equal(backend.step(step, tokens).logits[0], full)
            wanted = replace(step, likeliest=True)
            result = backend.step(wanted, tokens)
            found, known = result.logits[0].copy(), observed(backend, wanted, result)
            there = ~np.isneginf(found)
            np.testing.assert_array_equal(found[there].view(np.uint32), full[there].view(np.uint32))
            assert found.argmax() == full.argmax() and result.listed == -(-int(there.sum()) // ROWS)
            before, recorded = backend.predicted(wanted).by_purpose()[HEAD], backend.recorded(wanted, result)
            assert counted(recorded) == counted(backend.predicted(known)) == backend.by_purpose(result)
            assert before.low <= recorded.by_purpose()[HEAD].low <= before.high and not before.exact
            read.append(result.listed)
    assert min(read) < max(read)
    plain.close()
    backend.close()


@pytest.mark.parametrize("name", ["batch", "all logits", "no logits", "prefill"])
def test_other_steps_read_the_whole_head(name: str) -> None:
    plain, backend = made(2)
    step = STEPS[name]
    results = [b.step(step, apart(step)) for b in (plain, backend)]
    np.testing.assert_array_equal(results[0].logits, results[1].logits)
    assert results[1].listed is None
    ledgers = [counted(b.recorded(step, r)) for b, r in zip((plain, backend), results, strict=True)]
    assert ledgers[0] == ledgers[1] == counted(backend.predicted(step))
    plain.close()
    backend.close()


@pytest.mark.parametrize("how", [{"likeliest": True}, {"head": tuple(range(60))}])
def test_a_log_has_room_for_all_tiles(how: dict[str, Any]) -> None:
    plain, backend = made(2)
    for past in range(5, 25):
        step = replace(batch((past, 1)), **how)
        log = backend.step_log(step, apart(step))
        backend.step(step, apart(step), log)
        backend.quiesce()
        assert sum(len(log.calls(worker)) for worker in range(2)) > 0
    plain.close()
    backend.close()


def test_it_takes_memory_and_no_file_has_it() -> None:
    plain, backend = made()
    more = memory(backend.program(1).program, [5]).weights - memory(plain.program(1).program, [5]).weights
    assert more == backend.graph.weights()[NAME].nbytes == sketch.matrix_bytes(VOCAB, 64)
    plain.close()
    backend.close()


def test_a_likeliest_token_of_several_rows_is_refused() -> None:
    _, backend = made()
    for step in (STEPS["batch"], replace(STEPS["decode"], head=(1,))):
        with pytest.raises(BackendError, match="the likeliest token of"):
            backend.step(replace(step, likeliest=True), apart(step))
    backend.close()


def test_a_model_without_a_sketch_gives_all_logits() -> None:
    backend = CpuBackend(*tiny("llama", "q4_0"), options(1))
    step = replace(STEPS["decode"], likeliest=True)
    result = backend.step(step, apart(step))
    assert np.isfinite(result.logits).all() and result.listed is None
    assert counted(backend.recorded(step, result)) == counted(backend.predicted(step))
    backend.close()


def changed(**changes: object) -> Graph:
    graph, _ = tiny("llama", "q8_0", vocab_size=VOCAB)
    *ops, head = graph.ops
    assert isinstance(head, Linear)
    return replace(graph, ops=(*ops, replace(head, **changes)))


def few_rows() -> Graph:
    """A vocabulary of 240."""
    graph = changed()
    *ops, head = graph.ops
    assert isinstance(head, Linear)
    weight = replace(head.weight, shape=(240, head.weight.columns))
    return replace(graph, ops=(*ops, replace(head, weight=weight)), vocab_size=240)


def test_which_heads_have_one() -> None:
    graph, _ = tiny("llama", "q8_0", vocab_size=VOCAB)
    assert sketchable(graph) is graph.ops[-1]
    once = with_sketch(graph)
    assert isinstance(once.ops[-1], SketchedHead) and sketched(once) is once.ops[-1] and with_sketch(once) is once
    for other in (
        changed(softcap=30.0), changed(scale=0.5), tiny("llama", "q4_0")[0], tiny("llama", "f16")[0],
        few_rows(),
    ):  # fmt: skip
        assert with_sketch(other) is other
