"""Texts as vectors: hidden rows as the reference has them, the same alone and beside others, and every byte counted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import memfirst
from memfirst.backends.cpu.backend import CpuBackend, CpuOptions
from memfirst.backends.reference.backend import ReferenceBackend
from memfirst.backends.reference.generating import SlowBackend
from memfirst.codecs.base import F32
from memfirst.errors import CapacityError, ConfigError, UnsupportedError
from memfirst.graph import Sequence as Row
from memfirst.graph import Step
from memfirst.graph.hidden import hidden
from memfirst.ledger import Ledger
from memfirst.runtime.accounts import Accounts
from memfirst.runtime.embedding import CLS, LAST, MEAN, POOLINGS, Embedding, check_causal, finished, pooling_of
from memfirst.runtime.engine import Engine
from tests.support.requests import Pieces, alone, drain, prompts, request
from tests.support.tiny_models import tiny
from tests.support.toy import random_checkpoint, toy_mamba2

CONTEXT = 256


@cache
def cpu() -> CpuBackend:
    """A toy llama: four sequences in the blocks of one context."""
    graph, checkpoint = tiny("llama", "q4_0")
    return CpuBackend(graph, checkpoint, CpuOptions(2, CONTEXT, 4, 1))


@cache
def recurrent() -> SlowBackend:
    """A toy with state."""
    graph = toy_mamba2("f32")
    return SlowBackend(graph, random_checkpoint(graph), CONTEXT)


@pytest.fixture(scope="module", autouse=True)
def ended() -> Iterator[None]:
    """No thread outlives these tests."""
    yield
    cpu().close()
    cpu.cache_clear()


def embeddings(engine: Engine, asked: list[list[int]], pooling: str) -> list[F32]:
    """All in one go."""
    made = [Embedding(ids, Pieces(), CONTEXT, pooling) for ids in asked]  # type: ignore[arg-type]
    for one in made:
        engine.submit(one)
    for one in made:
        assert engine.next(one) is None
    return [one.vector for one in made]


def streamed(ledger: Ledger) -> dict[str, int]:
    """Bytes by purpose, without values between operations."""
    found: dict[str, int] = {}
    for entry in ledger.entries:
        if entry.purpose != "activations":
            found[entry.purpose] = found.get(entry.purpose, 0) + int(entry.amount)
    return found


def test_hidden_rows_are_those_of_the_reference_and_read_no_head() -> None:
    graph, checkpoint = tiny("llama", "q4_0")
    tables, ids = cpu().own_tables(), list(range(20, 33))
    step = Step((Row(0, 13, tables, None, None, tuple(range(13))),), hidden=True)
    result = cpu().step(step, ids)
    wanted = ReferenceBackend(graph, checkpoint).step(step, np.array(ids, np.int32))
    assert result.logits.shape == wanted.shape == (13, graph.hidden_size)
    assert np.abs(result.logits - wanted).max() < 0.05 * np.abs(wanted).max()
    predicted, recorded = streamed(cpu().predicted(step)), streamed(cpu().recorded(step, result))
    assert predicted == recorded == cpu().by_purpose(result)
    whole = streamed(cpu().predicted(replace(step, hidden=False)))
    assert predicted["head"] < whole["head"] and {**predicted, "head": 0} == {**whole, "head": 0}


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("backend", [cpu, recurrent])
def test_a_vector_is_the_same_alone_and_beside_others(backend: object, pooling: str) -> None:
    """Ten texts and four answers for four sequences and one context: they wait, share pages, make room."""
    own = backend()  # type: ignore[operator]
    asked = prompts(10, vocab=120)
    each = [embeddings(Engine(own, CONTEXT), [ids], pooling)[0] for ids in asked]
    engine = Engine(own, CONTEXT)
    answers = [request(engine, ids, 20, seed) for seed, ids in enumerate(asked[:4])]
    for one in answers:
        engine.submit(one)
    together = embeddings(engine, asked, pooling)
    again = embeddings(engine, asked, pooling)
    exact = own is cpu()  # NumPy sums a matrix and a row in different orders
    for a, b, c in zip(each, together, again, strict=True):
        assert (a == b).all() and (a == c).all() if exact else np.allclose(a, b, atol=1e-4) and np.allclose(a, c, 1e-4)
    said = [drain(engine, one) for one in answers]
    assert not exact or said == alone(own, CONTEXT, asked[:4])
    assert not any(engine.held())


def test_what_pooling_makes_of_rows() -> None:
    ids = list(range(40, 47))
    step = Step((Row(0, 7, cpu().own_tables(), None, None, tuple(range(7))),), hidden=True)
    rows = cpu().step(step, ids).logits.astype(np.float64)
    wanted = {MEAN: rows.mean(0), CLS: rows[0], LAST: rows[-1]}
    for pooling in POOLINGS:
        made = embeddings(Engine(cpu(), CONTEXT), [ids], pooling)[0]
        assert np.allclose(made, wanted[pooling], rtol=1e-6)
    cut = finished(rows[0].astype(np.float32), dimensions=8)
    assert cut.shape == (8,) and np.isclose(np.linalg.norm(cut), 1) and np.allclose(cut * 3, finished(3 * cut, False))


def test_every_byte_is_somebodys() -> None:
    engine = Engine(cpu(), CONTEXT)
    accounts = engine.accounts = Accounts(cpu())
    asked = [request(engine, ids, 6, 1) for ids in prompts(2)]
    texts = [Embedding(ids, Pieces(), CONTEXT, pooling) for ids, pooling in zip(prompts(6), POOLINGS * 2, strict=True)]  # type: ignore[arg-type]
    for one in (*asked, *texts):
        engine.submit(one)
    while engine.advance():
        pass
    total = accounts.bytes
    assert total and total == sum((one.bytes for one in (*asked, *texts)), type(total)())


def test_a_reader_that_leaves_frees_its_pages() -> None:
    engine = Engine(cpu(), CONTEXT)
    one = Embedding(list(range(200)), Pieces(), CONTEXT, MEAN)  # type: ignore[arg-type]
    engine.submit(one)
    engine.cancel(one)
    assert not engine.advance() and not any(engine.held()) and not engine.scheduler.live


def test_where_a_pooling_is_said(tmp_path: Path) -> None:
    def gguf(**metadata: object) -> Any:
        return SimpleNamespace(
            kind="gguf", architecture="llama", metadata={f"llama.{k}": v for k, v in metadata.items()}
        )

    assert [pooling_of(gguf(pooling_type=n)) for n in (0, 1, 2, 3, 4)] == ["", MEAN, CLS, LAST, ""]
    assert pooling_of(gguf()) == ""
    check_causal(gguf())
    with pytest.raises(UnsupportedError, match="attend to those behind"):
        check_causal(gguf(**{"attention.causal": False}))
    folder: Any = SimpleNamespace(kind="hf", path=str(tmp_path))
    assert pooling_of(folder) == ""
    (tmp_path / "1_Pooling").mkdir()
    config = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": False, "pooling_mode_lasttoken": True}
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(config))
    assert pooling_of(folder) == LAST


def test_embed(smollm2: Path) -> None:
    with memfirst.load(smollm2, threads=2, ctx=256, progress=False) as model:
        near, far = "A cat sits on the mat.", "Interest rates rose by half a point."
        made = model.embed(["The cat is sitting on a mat.", near, far], pooling="mean")
        assert made.shape == (3, 576) and made.dtype == np.float32
        assert np.allclose(np.linalg.norm(made, axis=1), 1, atol=1e-6)
        assert made[0] @ made[1] > made[0] @ made[2]
        assert (model.embed(near, pooling="mean") == made[1]).all()
        assert (model.embed(model.encode(near), pooling="mean") == made[1]).all()
        assert model.embed(near, pooling="last", dimensions=32).shape == (32,)
        assert model.pooling == ""
        for wrong, error in (
            ({}, "says nothing of a pooling"), ({"pooling": "max"}, "'max'"),
            ({"pooling": "mean", "dimensions": 577}, "577 dimensions"),
        ):  # fmt: skip
            with pytest.raises(ConfigError, match=error):
                model.embed(near, **wrong)  # type: ignore[arg-type]
        with pytest.raises(CapacityError, match="too large"):
            model.embed("word " * 300, pooling="mean")
        with pytest.raises(ConfigError, match="without a token"):
            model.embed("", pooling="mean")


def test_a_model_without_a_norm_before_its_head_is_refused() -> None:
    graph = tiny("llama", "q4_0")[0]
    ops = tuple(op for op in graph.ops if op.name != "output_norm")
    with pytest.raises(UnsupportedError, match="a norm before its output head"):
        hidden(replace(graph, ops=ops))
