"""BF16 in 12 bits when a model is loaded: the same logits, fewer bytes, and their number known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from memfirst import Model, load
from memfirst.backends.base import observed
from memfirst.backends.cpu import twelve_bits
from memfirst.backends.cpu.backend import CpuBackend, CpuOptions
from memfirst.codecs import bf12
from memfirst.convert.mixes import mix
from memfirst.convert.synthetic import SyntheticCheckpoint, write
from memfirst.errors import CapacityError, ConfigError
from memfirst.graph import DISK, Sequence, Step
from memfirst.graph.ops.linear import Linear
from memfirst.ledger import price
from memfirst.models import build
from memfirst.transform.twelve_bits import expected, packable
from tests.support.tiny_configs import Coded, by_model_type, graph_of, shrunk
from tests.support.tiny_models import SMALL, Uniform

SHAPE = replace(SMALL, hidden_size=256, intermediate_size=512, vocab_size=500)


class Notes:
    """Progress that keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)

    def update(self, what: str, done: int, total: int, unit: str = "B") -> None:
        """Nothing."""


class Odd(Uniform):
    """BF16 whose `ffn_down` matrices are random bits."""

    def read(self, name: str) -> np.ndarray:
        data = super().read(name)
        return np.random.default_rng(0).integers(0, 256, data.size, np.uint8) if "ffn_down" in name else data


@pytest.fixture(autouse=True)
def shuffles(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor with a byte shuffle."""
    monkeypatch.setattr(twelve_bits, "supported", lambda: True)


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def both(request: pytest.FixtureRequest) -> Iterator[tuple[Model, Model]]:
    checkpoint = Uniform(replace(SHAPE, tie_word_embeddings=request.param), "bf16")
    with (
        load(checkpoint, ctx=128, pack="plain", progress=False) as plain,
        load(checkpoint, ctx=128, progress=False) as packed,
    ):
        yield plain, packed


@pytest.mark.parametrize("tokens", [1, 2, 3, 7, 40])
def test_logits_are_equal_bit_by_bit(both: tuple[Model, Model], tokens: int) -> None:
    ids = np.random.default_rng(tokens).integers(0, 500, tokens).tolist()
    plain, packed = (model.logits(ids).copy() for model in both)
    np.testing.assert_array_equal(plain.view(np.uint32), packed.view(np.uint32))


@pytest.mark.parametrize(("new", "logits"), [(1, None), (5, (1, 4)), (12, ())])
def test_recorded_bytes_are_the_price(both: tuple[Model, Model], new: int, logits: tuple[int, ...] | None) -> None:
    backend = both[1].backend
    assert isinstance(backend, CpuBackend)
    step = Step((Sequence(0, new, backend.own_tables(), logits=logits),))
    result = backend.step(step, np.arange(new, dtype=np.int32) * 41 % 500)
    known = observed(backend, step, result)
    counted = {p: int(a) for p, a in backend.recorded(step, result).by_purpose().items()}
    priced = backend.predicted(known).by_purpose()
    assert all(a.exact for a in priced.values())
    assert counted == {p: int(a) for p, a in priced.items() if p != "activations"}


def test_memory_is_what_was_said_before_and_a_quarter_less(both: tuple[Model, Model]) -> None:
    plain, packed = (model.backend.memory([1]).weights for model in both)
    matrices = [w for w in both[1].graph.weights().values() if w.twelve_bits]
    before = {w.name: w for w in expected(build(both[0].checkpoint)).weights().values()}
    told = sum(w.nbytes for w in before.values()) - sum(w.nbytes for w in both[1].graph.weights().values())
    linear = sum(isinstance(op, Linear) for op in both[1].graph.ops)
    assert len(matrices) == linear + ("output.weight" in both[1].graph.weights())  # the table that is looked up
    assert packed / plain == pytest.approx(0.758, abs=0.006)
    assert abs(told) < 0.01 * packed
    for w in matrices:
        low, high = before[w.name].aside_bounds
        assert low <= w.aside <= high and w.counted


def test_a_model_says_how_it_is_kept(both: tuple[Model, Model]) -> None:
    assert "codec BF16," in repr(both[0]) and "codec BF16 in 12." in repr(both[1])


def test_matrices_of_which_much_would_lie_aside_stay_plain_and_it_is_said() -> None:
    checkpoint, notes = Odd(SHAPE, "bf16"), Notes()
    with load(checkpoint, ctx=128, progress=notes) as model, load(checkpoint, ctx=128, pack="plain") as plain:
        assert not any(w.twelve_bits for n, w in model.graph.weights().items() if "ffn_down" in n)
        assert any(w.twelve_bits for w in model.graph.weights().values())
        np.testing.assert_array_equal(model.logits([1, 2]).view(np.uint32), plain.logits([1, 2]).view(np.uint32))
    assert [n for n in notes.said if n.startswith("2 of 15 BF16 matrices stay plain: in 12 bits more than 4 %")]


def test_a_limit_on_memory_that_leaves_weights_on_disk_keeps_them_as_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    shape = replace(SHAPE, hidden_size=512, intermediate_size=2048, num_hidden_layers=6)  # 46 MB: the error says 10s
    write(SyntheticCheckpoint(shape, mix("bf16"), 0, "small"), path)
    with pytest.raises(CapacityError) as refused:
        load(path, ctx=128, progress=False, memory=1_000_000)
    least = int(1e9 * (float(str(refused.value).split("expected ")[1].split(" GB")[0]) + 0.005))
    notes = Notes()
    with load(path, ctx=128, progress=notes, memory=least) as small, load(path, ctx=128) as whole:
        assert any(w.tier == DISK for w in small.graph.weights().values())
        assert not any(w.twelve_bits for w in small.graph.weights().values())
        np.testing.assert_array_equal(small.logits([1, 2]).view(np.uint32), whole.logits([1, 2]).view(np.uint32))
    assert any("not packed in 12 bits: what is read from disk" in note for note in notes.said)
    with load(path, ctx=128, progress=False, memory=2_000_000_000) as model:
        assert any(w.twelve_bits for w in model.graph.weights().values())


@pytest.mark.parametrize("rules", ["all", "none"])
def test_parts_of_a_fused_matrix(monkeypatch: pytest.MonkeyPatch, rules: str) -> None:
    """Phi-3 has q, k and v in one matrix, and gate and up: with the rule `split` a call computes some of its rows."""
    monkeypatch.setenv("MEMFIRST_FUSE", rules)
    graph = graph_of(shrunk(by_model_type()["phi3"], 64, 1), "bf16")
    checkpoint = Coded(graph)
    found = twelve_bits.measure(packable(graph), checkpoint, 2)
    packed = graph.in_twelve_bits(found.aside)
    logits = []
    for kept, measured in ((graph, twelve_bits.NOTHING), (packed, found)):
        backend = CpuBackend(kept, checkpoint, CpuOptions(2, 128), twelve_bits=measured)
        steps = [Step((Sequence(past, new, backend.own_tables()),)) for past, new in ((0, 5), (5, 1))]
        tokens = [np.arange(step.tokens, dtype=np.int32) * 47 for step in steps]
        results = [backend.step(step, ids) for step, ids in zip(steps, tokens, strict=True)]
        known = observed(backend, steps[1], results[1])
        counted = {p: int(a) for p, a in backend.recorded(known, results[1]).by_purpose().items()}
        assert counted == {p: int(a) for p, a in backend.predicted(known).by_purpose().items() if p != "activations"}
        logits.append(np.concatenate([r.logits for r in results]))
        firsts = {dict(call.args).get("first") for call in backend.calls()} - {None, 0}
        assert bool(firsts) == (kept is packed and rules == "all")
        backend.close()
    np.testing.assert_array_equal(logits[0].view(np.uint32), logits[1].view(np.uint32))


def test_experts_and_rows_of_odd_length_are_not_packed() -> None:
    graph = build(Uniform(SHAPE, "bf16"))
    names = packable(graph)
    assert names and all(w.columns % bf12.COLUMNS == 0 and len(w.shape) == 2 for w in names.values())
    assert not packable(build(Uniform(SHAPE, "f16")))


@pytest.mark.parametrize("pack", ["12", "", None, "Plain"])
def test_other_words_are_refused(pack: str) -> None:
    with pytest.raises(ConfigError, match="pack is"):
        load(Uniform(SHAPE, "bf16"), pack=pack)


def test_a_price_before_loading_has_bounds() -> None:
    weights = price(expected(build(Uniform(SHAPE, "bf16"))), Step((Sequence(5),))).by_purpose()["weights"]
    assert weights.low < weights.mean < weights.high
