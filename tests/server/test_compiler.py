"""The process that compiles grammars, where the system bounds no address space: macOS and Windows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from memfirst.runtime.grammar import Grammar
from memfirst.server import compiler
from tests.support.tiny_served import tiny_model


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[compiler.Worker]:
    monkeypatch.setattr(compiler, "bounds_address_space", lambda: False)
    made = compiler.Worker(str(tiny_model(tmp_path)))
    yield made
    made.close()


YES_OR_NO = Grammar("regex", "yes|no")
LONG = Grammar("schema", json.dumps({"enum": [f"{i} of many" for i in range(15_000)]}))
"""Takes longer than its process needs to be looked at."""


def test_resident_memory_is_watched_where_address_space_is_not_bounded(
    worker: compiler.Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert worker.refusal(YES_OR_NO) is None
    monkeypatch.setattr(compiler, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(compiler, "MEMORY", 1 << 20)
    with pytest.raises(MemoryError):
        worker.refusal(LONG)


def test_time_is_watched_as_well(worker: compiler.Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    assert worker.refusal(YES_OR_NO) is None
    monkeypatch.setattr(compiler, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(compiler, "COMPILE_SECONDS", 0.0)
    with pytest.raises(TimeoutError):
        worker.refusal(LONG)


def test_a_process_that_ended_is_seen(worker: compiler.Worker) -> None:
    assert worker.refusal(YES_OR_NO) is None
    worker._process.kill()
    worker._process.join()
    with pytest.raises((EOFError, OSError)):
        worker.refusal(YES_OR_NO)
