"""Weights on disk: the same bits as in memory, predicted = recorded, errors that leave the backend usable."""

from __future__ import annotations

import importlib
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memfirst.backends.base import observed
from memfirst.backends.cpu import bind
from memfirst.backends.cpu.backend import CpuBackend, CpuOptions
from memfirst.backends.cpu.expert_cache import Residents
from memfirst.errors import BackendError, FormatError
from memfirst.formats.checkpoint import Extent
from memfirst.graph import DISK, Graph, Sequence, Step
from memfirst.graph.traffic import ACTIVATIONS, FROM_DISK
from memfirst.hardware.disk import Reader
from memfirst.kernels.cpu import walk
from memfirst.ledger import Ledger
from memfirst.lower.cpu import Lowering
from memfirst.lower.placement import Placement, place, unreadable
from tests.lower.test_rwkv_models import opened
from tests.support.tensor_file import TensorFile
from tests.support.tiny_configs import Coded
from tests.support.tiny_experts import CODECS as EXPERT_CODECS
from tests.support.tiny_experts import ROUTED, routed_graph
from tests.support.tiny_models import CODECS, tiny

F32 = np.ndarray[Any, np.dtype[np.float32]]
CONTEXT = 128
PROMPT = np.random.default_rng(3).integers(0, 250, 70).astype(np.int32)


@pytest.fixture(autouse=True)
def small_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of toy models are streamed too."""
    monkeypatch.setattr("memfirst.lower.placement.SMALLEST", 1)


@pytest.fixture
def made() -> Iterator[list[CpuBackend]]:
    backends: list[CpuBackend] = []
    yield backends
    for backend in backends:
        backend.close()


def in_memory(made: list[CpuBackend], graph: Graph, checkpoint: Any, threads: int = 2) -> CpuBackend:
    made.append(CpuBackend(graph, checkpoint, CpuOptions(threads, CONTEXT)))
    return made[-1]


def placed(graph: Graph, checkpoint: TensorFile, share: float) -> tuple[Lowering, Placement]:
    """With room for a share of what the weights take; 0: for the least."""
    lowering = Lowering(graph, CONTEXT)
    program = lowering.program(1, 1)
    room = int(share * sum(w.nbytes for w in program.weights.values()))
    found = place(lowering, room, unreadable(program, checkpoint))
    return found.of(lowering), found


def from_disk(
    made: list[CpuBackend], graph: Graph, checkpoint: TensorFile, share: float = 0.0, threads: int = 2
) -> CpuBackend:
    lowering, found = placed(graph, checkpoint, share)
    assert found.on_disk
    made.append(CpuBackend(lowering.graph, checkpoint, CpuOptions(threads, CONTEXT), lowering))
    return made[-1]


def steps(backend: CpuBackend) -> Iterator[tuple[Step, np.ndarray[Any, np.dtype[np.int32]]]]:
    """A prompt in two parts, the first without logits, then tokens one by one."""
    tables, prompt = backend.own_tables(), PROMPT % backend.graph.vocab_size
    yield Step((Sequence(0, 33, tables, logits=()),)), prompt[:33]
    yield Step((Sequence(33, 7, tables, logits=(0, 6)),)), prompt[33:40]
    for at in range(40, 46):
        yield Step((Sequence(at, 1, tables),)), prompt[at : at + 1]


def run(backend: CpuBackend) -> list[F32]:
    """Logits of all steps; each step's bytes are the predicted."""
    found = []
    for step, tokens in steps(backend):
        result = backend.step(step, tokens)
        found.append(result.logits.copy())
        known = observed(backend, step, result)
        assert bytes_of(backend.recorded(known, result)) == bytes_of(backend.predicted(known))
        expected, recorded = backend.predicted(step).from_disk, backend.recorded(known, result).from_disk
        assert expected.low <= int(recorded) <= expected.high
        assert backend.by_purpose(result).get(FROM_DISK, 0) == int(recorded)
    return found


def bytes_of(ledger: Ledger) -> Counter[tuple[str, str]]:
    out: Counter[tuple[str, str]] = Counter()
    for entry in ledger.entries:
        if entry.purpose != ACTIVATIONS and int(entry.amount):
            assert entry.amount.exact
            out[entry.op, entry.purpose] += int(entry.amount)
    return out


def same(a: list[F32], b: list[F32]) -> bool:
    return all((x.view(np.uint32) == y.view(np.uint32)).all() for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(("codec", "share"), [*((codec, 0.6) for codec in CODECS), ("q4_k_m", 0.0), ("q4_k_m", 0.9)])
def test_dense_models(made: list[CpuBackend], tmp_path: Path, codec: str, share: float) -> None:
    graph, synthetic = tiny("llama", codec, num_hidden_layers=4, vocab_size=512)
    checkpoint = TensorFile(synthetic, tmp_path / "weights")
    assert same(run(from_disk(made, graph, checkpoint, share)), run(in_memory(made, graph, checkpoint)))


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3"])
def test_other_architectures(made: list[CpuBackend], tmp_path: Path, architecture: str) -> None:
    graph, synthetic = tiny(architecture, "q8_0", tied=False)
    checkpoint = TensorFile(synthetic, tmp_path / "weights")
    assert same(run(from_disk(made, graph, checkpoint, threads=1)), run(in_memory(made, graph, checkpoint)))


MIXTURES = [(kind, codecs, 0.5) for kind in ROUTED for codecs in EXPERT_CODECS]


@pytest.mark.parametrize(
    ("kind", "codecs", "share"), [*MIXTURES, ("qwen3_moe", "q4_k_m", 0.0), ("mixtral", "mixed", 0.8)]
)
def test_mixtures(made: list[CpuBackend], tmp_path: Path, kind: str, codecs: str, share: float) -> None:
    graph = routed_graph(kind, codecs, layers=3)
    checkpoint = TensorFile(Coded(graph), tmp_path / "weights")
    backend = from_disk(made, graph, checkpoint, share)
    assert any("_exps" in name and w.tier == DISK for name, w in backend.graph.weights().items())
    assert same(run(backend), run(in_memory(made, graph, checkpoint)))


def test_experts_without_a_gate(made: list[CpuBackend], tmp_path: Path) -> None:
    """Nemotron 3: two matrices an expert, on a latent, between Mamba-2's layers."""
    graph, file = opened("nemotron_h_moe", tmp_path, "q8_0")
    checkpoint = TensorFile(file, tmp_path / "weights")
    lowering, found = placed(graph, checkpoint, 0.0)
    assert any("ffn_up_exps" in name for name in found.on_disk)
    assert {len(r.tensors) for r in lowering.program(1, 1).streaming.routed} == {2}
    assert same(run(from_disk(made, graph, checkpoint)), run(in_memory(made, graph, checkpoint)))


# --- what goes wrong -------------------------------------------------------------------------------------


def broken_once(backend: CpuBackend, break_it: pytest.MonkeyPatch, what: str, error: type[BaseException]) -> None:
    """The first call of it raises; the step does, and the next ones are what they would have been."""
    first = run(backend)
    place, name = what.rsplit(".", 1)
    module, kind = place.rsplit(".", 1)
    owner = getattr(importlib.import_module(module), kind)
    real, met = getattr(owner, name), []

    def once(*args: Any, **more: Any) -> Any:
        if not met:
            met.append(True)
            raise error("broken")
        return real(*args, **more)

    break_it.setattr(owner, name, once)
    step, tokens = next(steps(backend))
    with pytest.raises(error, match="broken"):
        while True:  # what was read ahead is there already
            backend.step(step, tokens)
    assert same(run(backend), first)


@pytest.mark.parametrize(
    ("what", "error"),
    [("hardware.disk.Reader.read", BackendError), ("backends.cpu.readers.Readers.wait", KeyboardInterrupt)],
)
def test_a_step_that_breaks_leaves_a_backend_that_works(
    made: list[CpuBackend], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, error: type[BaseException]
) -> None:
    graph = routed_graph("qwen3_moe", "q4_k_m", layers=3)
    backend = from_disk(made, graph, TensorFile(Coded(graph), tmp_path / "weights"))
    broken_once(backend, monkeypatch, f"memfirst.{what}", error)


def test_a_file_that_is_cut_is_an_error(made: list[CpuBackend], tmp_path: Path) -> None:
    graph, synthetic = tiny("llama", "q8_0", num_hidden_layers=24)
    file = tmp_path / "weights"
    backend = from_disk(made, graph, TensorFile(synthetic, file))
    run(backend)
    os.truncate(file, file.stat().st_size // 4)
    step, tokens = next(steps(backend))
    with pytest.raises(FormatError, match="was cut while it was open"):
        for _ in range(3):
            backend.step(step, tokens)


def test_another_file_in_its_place_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(bytes(10_000))
    info = file.stat()
    extent = Extent(str(file), 100, 5000, (info.st_dev, info.st_ino, info.st_size))
    (tmp_path / "other").write_bytes(bytes(10_000))
    (tmp_path / "other").replace(file)
    with pytest.raises(FormatError, match="was replaced"):
        Reader(5000).read([extent], 0, 5000)
    file.unlink()
    with pytest.raises(BackendError, match="cannot be read"):
        Reader(5000).read([extent], 0, 5000)


@pytest.mark.parametrize("direct", [True, False])
def test_bytes_are_those_of_the_file(tmp_path: Path, direct: bool) -> None:
    """Wherever a request begins and ends, across extents, past the page cache or through it."""
    file = tmp_path / "weights"
    data = np.random.default_rng(1).integers(0, 256, 20_000, np.uint8)
    file.write_bytes(data.tobytes())
    info = file.stat()
    identity = info.st_dev, info.st_ino, info.st_size
    extents = [Extent(str(file), 11_000, 9000, identity), Extent(str(file), 5, 4500, identity)]
    whole = np.concatenate([data[11_000:20_000], data[5:4505]])
    reader = Reader(13_500)
    reader.direct &= direct
    for start, nbytes in ((0, 13_500), (8999, 2), (4096, 4096), (13_499, 1), (1, 8191)):
        assert (reader.read(extents, start, nbytes) == whole[start : start + nbytes]).all()
    reader.close()


def test_what_must_be_in_memory_is_said(tmp_path: Path) -> None:
    graph, synthetic = tiny("llama", "q8_0", num_hidden_layers=24)
    checkpoint = TensorFile(synthetic, tmp_path / "weights")
    lowering = Lowering(graph, CONTEXT)
    least = place(lowering, 0, unreadable(lowering.program(1, 1), checkpoint))
    assert least.missing == least.memory > 0
    enough = place(lowering, least.memory, unreadable(lowering.program(1, 1), checkpoint))
    assert not enough.missing
    assert enough.memory <= least.memory
    assert enough.of(lowering).program(1, 1).streaming.nbytes < least.memory


def test_weights_that_are_made_of_the_file_stay(tmp_path: Path) -> None:
    graph, synthetic = tiny("llama", "q8_0", num_hidden_layers=24)
    checkpoint = TensorFile(synthetic, tmp_path / "weights")
    made_of = "blk.1.ffn_up.weight"
    checkpoint.extents = lambda name, real=checkpoint.extents: () if name == made_of else real(name)  # type: ignore
    lowering = Lowering(graph, CONTEXT)
    fixed = unreadable(lowering.program(1, 1), checkpoint)
    assert made_of in fixed
    assert "blk.0.ffn_up.weight" not in fixed
    assert made_of not in place(lowering, 0, fixed).on_disk


# --- which experts stay ----------------------------------------------------------------------------------


def test_experts_that_are_used_often_stay() -> None:
    """Two that every step uses, among others that pass once; what a step wants is never evicted for it."""
    residents, found = Residents(4, 12), 0
    for at in range(24):
        residents.tick()
        wanted = np.array([0, 1, 2 + at % 10])
        missing = residents.take(wanted)
        assert (residents.slot[wanted] >= 0).all()
        assert len(set(residents.slot[residents.slot >= 0].tolist())) == (residents.slot >= 0).sum() <= 4
        found += 2 if at and not {0, 1} & set(missing.tolist()) else 0
    assert found == 2 * 23


def test_what_was_popular_long_ago_goes() -> None:
    residents = Residents(2, 4)
    for wanted in [0, 1] * 40 + [2, 3] * 40:
        residents.tick()
        residents.take(np.array([wanted]))
    assert (residents.slot >= 0).tolist() == [False, False, True, True]


def test_weights_of_uses_stay_finite() -> None:
    residents = Residents(1, 2)
    for _ in range(6000):
        residents.tick()
        residents.take(np.array([0]))
    assert np.isfinite(residents._weight).all()
    assert residents._weight[0] > residents._weight[1]


def test_the_walks_words_are_the_bindings() -> None:
    assert (bind.PHASE, bind.COUNTERS) == (walk.PHASE, walk.COUNTERS)
