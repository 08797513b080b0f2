"""Planner and engine give one answer: where `plan` says that a model fits, `load` takes it, to the byte."""

from __future__ import annotations

import pytest

import memfirst
from memfirst.codecs.base import U8
from memfirst.convert.synthetic import SyntheticCheckpoint
from memfirst.errors import CapacityError
from memfirst.graph import Graph
from memfirst.hardware import host
from memfirst.hardware.machines import Machine
from memfirst.ledger import required
from memfirst.lower.cpu import CAPACITIES, lower
from memfirst.models import build
from memfirst.plan import Options, Place, Subject, make
from memfirst.transform.recode import with_kv
from tests.support.tiny_models import tiny


class ReadError(Exception):
    """Bytes of a weight were asked for: the model was accepted."""


class Unread(SyntheticCheckpoint):
    """A model whose weights cannot be read."""

    def read(self, name: str) -> U8:
        raise ReadError(name)


def unread(name: str, codec: str) -> SyntheticCheckpoint:
    checkpoint = tiny(name, codec, max_position_embeddings=4096)[1]
    checkpoint.__class__ = Unread
    return checkpoint


def machine(memory: int, cores: int) -> Place:
    return Place(Machine("test", "", "cpu", memory=memory, memory_options=(memory,), bandwidth=1e10, cores=cores))


def plan_accepts(graph: Graph, memory: int, context: int, threads: int, kv: str) -> bool | None:
    model = Subject("tiny", "", graph, graph, "q4_0")
    options = Options(kv=kv, engine="memfirst", context=context, prompt=min(8, context), threads=threads)
    return make(model, machine(memory, 2), options).fits


def run_accepts(
    checkpoint: SyntheticCheckpoint, memory: int, context: int, threads: int, kv: str, monkeypatch: pytest.MonkeyPatch
) -> bool:
    monkeypatch.setattr(host, "available_memory", lambda: memory)
    try:
        memfirst.load(checkpoint, threads=threads, ctx=context, kv=kv)
    except CapacityError:
        return False
    except ReadError:
        return True
    raise AssertionError("loaded without reading a weight")


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("context", [1, 65, 4096])
@pytest.mark.parametrize(
    ("name", "codec", "kv"), [("llama", "q4_0", "f16"), ("qwen3", "q8_0", "q8_0"), ("qwen2", "q4_1", "q4_0")]
)
def test_the_same_yes_and_the_same_no(
    name: str, codec: str, kv: str, context: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = unread(name, codec)
    graph = build(checkpoint)
    edge = required(lower(with_kv(graph, kv, kv), 1, context, threads), [context], threads, CAPACITIES[-1]).total
    for memory, fits in ((edge, True), (edge - 1, False), (2 * edge, True), (1, False)):
        assert plan_accepts(graph, memory, context, threads, kv) is fits
        assert run_accepts(checkpoint, memory, context, threads, kv, monkeypatch) is fits


def test_here_is_planned_with_the_memory_that_is_free_now(monkeypatch: pytest.MonkeyPatch) -> None:
    from memfirst.plan import this_machine
    from memfirst.predict import measured

    class Measured:
        read, fingerprint, date = {1: 1e10}, "f", "today"

    monkeypatch.setattr(measured, "load", Measured)
    for free in (123_456_789, 5_000_000_000):
        monkeypatch.setattr(host, "available_memory", lambda free=free: free)
        found = this_machine()
        assert found is not None and found.machine.memory == free
