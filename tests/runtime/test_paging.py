"""What has to leave memory is written to a file and read again, or computed again: nobody's text changes, whatever the
disk does."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import memfirst
from memfirst.backends.cpu.backend import CpuBackend, CpuOptions
from memfirst.graph import RELEASED
from memfirst.graph.types import BLOCK
from memfirst.runtime import page_file
from memfirst.runtime.engine import Engine
from memfirst.runtime.kv_memory import KVMemory
from memfirst.runtime.page_file import HEAD_BYTES, Head, PageFile, key_of
from memfirst.runtime.paging import Paging
from memfirst.runtime.prefix_page import Page
from tests.lower.graphs import window
from tests.runtime.test_engine import nothing_held
from tests.runtime.test_prefixes import FakeBackend, Machine
from tests.support.requests import alone, drain, request
from tests.support.tiny_models import tiny

CONTEXT = 256


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "windowed"])
def backend(request: Any) -> Iterator[CpuBackend]:
    """A toy llama of four blocks for four sequences."""
    graph, checkpoint = tiny("llama", "q4_0")
    made = window(40, "blk.0.")(graph) if request.param else graph
    with closing(CpuBackend(made, checkpoint, CpuOptions(2, CONTEXT, 4, pool=1))) as found:
        yield found


def paged(engine: Engine, folder: Path, records: int = 64, keep: bool = False, root: bytes = b"r" * 16) -> Paging:
    """An engine with a page file."""
    memory, storage = engine.scheduler.memory, engine.backend.storage
    assert storage is not None
    sizes = [*(blocks.shape[1] for blocks in storage.blocks), 0]
    path = folder / "kept.pages" if keep else None
    file = PageFile(sizes, records * (HEAD_BYTES + sum(sizes)), folder, path)
    memory.prefixes.paging = Paging(file, storage, keep, root)
    memory.prefixes.paging.load(memory.prefixes.root, [RELEASED] * len(memory.groups))
    return memory.prefixes.paging


def answers(engine: Engine, asked: list[list[int]], tokens: int) -> list[list[int]]:
    requests = [request(engine, prompt, tokens, seed) for seed, prompt in enumerate(asked)]
    for one in requests:
        engine.submit(one)
    found: list[list[int]] = [[] for _ in asked]
    left = set(range(len(asked)))
    while left:  # by turns, so that all are wanted at the same time
        for i in sorted(left):
            token = engine.next(requests[i])
            if token is None:
                left.discard(i)
            else:
                found[i].append(token.id)
    return found


ASKED = [[i + 1, *range(30 + 9 * i)] for i in range(4)]


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk so fast that reading is always the better choice: a toy's pages are computed in no time."""
    monkeypatch.setattr(page_file, "RATE", 1e18)
    monkeypatch.setattr(page_file, "LEARNS", 0.0)


def test_who_makes_room_goes_on_from_the_file(backend: CpuBackend, tmp_path: Path, fast: None) -> None:
    """Four requests that need eleven blocks of four: pages are written and read, none is computed twice."""
    expected = alone(backend, CONTEXT, ASKED, 120)
    engine = Engine(backend, CONTEXT)
    paging = paged(engine, tmp_path)
    assert answers(engine, ASKED, 120) == expected
    counts = engine.scheduler.counts
    assert paging.file.written_bytes > 0 and paging.file.read_bytes > 0
    assert counts["recomputed_tokens"] == 0
    assert nothing_held(engine) and paging.file.used == 0
    assert list(tmp_path.iterdir()) == []  # it has no name
    engine.scheduler.memory.close()


def test_a_slow_disk_is_not_read(backend: CpuBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_file, "RATE", 1.0)
    expected = alone(backend, CONTEXT, ASKED, 120)
    engine = Engine(backend, CONTEXT)
    paging = paged(engine, tmp_path)
    assert answers(engine, ASKED, 120) == expected
    assert paging.file.read_bytes == 0 and engine.scheduler.counts["recomputed_tokens"] > 0
    assert nothing_held(engine)
    engine.scheduler.memory.close()


def test_without_a_file_they_are_computed_again(backend: CpuBackend) -> None:
    expected = alone(backend, CONTEXT, ASKED, 120)
    engine = Engine(backend, CONTEXT)
    assert answers(engine, ASKED, 120) == expected
    assert engine.scheduler.counts["recomputed_tokens"] > 0
    assert nothing_held(engine)


def test_a_full_disk_costs_time_alone(backend: CpuBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At any write, the first to the tenth: what could not be written is computed again."""
    expected, pwrite = alone(backend, CONTEXT, ASKED, 90), os.pwrite
    for after in range(0, 10, 3):
        left = [after]

        def full(fd: int, data: Any, at: int, left: list[int] = left) -> int:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(28, "No space left on device")
            return pwrite(fd, data, at)

        engine = Engine(backend, CONTEXT)
        paging = paged(engine, tmp_path)
        monkeypatch.setattr(os, "pwrite", full)
        assert answers(engine, ASKED, 90) == expected
        assert "No space" in paging.file.failed
        monkeypatch.setattr(os, "pwrite", pwrite)
        assert nothing_held(engine)
        engine.scheduler.memory.close()


def test_a_small_file_is_enough_for_some(backend: CpuBackend, tmp_path: Path) -> None:
    expected = alone(backend, CONTEXT, ASKED, 120)
    for records in (0, 1, 2):
        engine = Engine(backend, CONTEXT)
        paging = paged(engine, tmp_path, records)
        assert answers(engine, ASKED, 120) == expected
        assert paging.file.total == records
        assert nothing_held(engine)
        engine.scheduler.memory.close()


def test_what_was_damaged_on_disk_is_computed_again(backend: CpuBackend, tmp_path: Path, fast: None) -> None:
    expected = alone(backend, CONTEXT, ASKED, 120)
    engine = Engine(backend, CONTEXT)
    paging = paged(engine, tmp_path)
    write = paging.file.write

    def damaged(record: int | None, head: Head, parts: Any) -> int | None:
        made = write(record, head, parts)
        if made is not None:
            os.pwrite(paging.file._fd, b"\xff" * 7, made * paging.file.record_bytes + HEAD_BYTES + 100)
        return made

    paging.file.write = damaged  # type: ignore[method-assign]
    assert answers(engine, ASKED, 120) == expected
    assert paging.lost > 0
    assert nothing_held(engine)
    engine.scheduler.memory.close()


def test_a_later_process_goes_on_from_kept_pages(backend: CpuBackend, tmp_path: Path, fast: None) -> None:
    """All but the last token, of prompt and answer; other weights find nothing, a cut or damaged file what is whole."""
    prompt = list(range(150))
    (said,) = alone(backend, CONTEXT, [prompt], 10)
    turn = [*prompt, *said, 1, 2, 3]
    (expected,) = alone(backend, CONTEXT, [turn], 10)

    def later(root: bytes = b"r" * 16) -> int:
        engine = Engine(backend, CONTEXT)
        paged(engine, tmp_path, keep=True, root=root)
        one = request(engine, turn, 10)
        engine.submit(one)
        assert drain(engine, one) == expected
        engine.scheduler.memory.close()
        return one.timing.reused_tokens

    engine = Engine(backend, CONTEXT)
    paged(engine, tmp_path, keep=True)
    one = request(engine, prompt, 10)
    engine.submit(one)
    drain(engine, one)
    engine.scheduler.memory.close()
    path = tmp_path / "kept.pages"
    assert path.stat().st_mode & 0o777 == 0o600
    whole = path.read_bytes()
    assert later() == 159
    path.write_bytes(whole)
    assert later(b"other weights!!!") == 0
    path.write_bytes(whole[: len(whole) * 2 // 3])
    assert later() in (64, 128)
    broken = bytearray(whole)
    for at in range(0, len(broken), 997):
        broken[at] ^= 0x55
    path.write_bytes(broken)
    assert later() == 0


def test_a_kept_file_has_one_owner(tmp_path: Path) -> None:
    path = tmp_path / "kept.pages"
    first = PageFile([64, 0], 10_000, tmp_path, path)
    with pytest.raises(BlockingIOError):
        PageFile([64, 0], 10_000, tmp_path, path)
    first.close()
    PageFile([64, 0], 10_000, tmp_path, path).close()


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=3000))
def test_any_file_is_read_without_harm(data: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kept.pages"
        path.write_bytes(data)
        with closing(PageFile([64, 0], 10_000, Path(folder), path)) as file:
            assert list(file.load()) == [] and file.used == 0


def test_a_record_is_what_was_written(tmp_path: Path) -> None:
    file = PageFile([64, 32], 10_000, tmp_path, tmp_path / "kept.pages")
    parts = {0: np.arange(64, dtype=np.uint8), 1: np.ones(32, np.uint8)}
    head = Head(key_of(b"root", range(BLOCK)), b"root".ljust(16, b"\0"), tuple(range(BLOCK)), {})
    head = head._replace(key=key_of(head.parent, head.tokens))
    record = file.write(None, head, parts)
    assert record is not None
    file.close()
    again = PageFile([64, 32], 10_000, tmp_path, tmp_path / "kept.pages")
    ((found, said),) = again.load()
    assert found == record and said[:3] == head[:3] and set(said.parts) == {0, 1}
    into = np.zeros(64, np.uint8)
    assert again.read(found, {0: into}) and (into == parts[0]).all()
    again.release(found)
    assert again.used == 0 and list(again.load()) == []
    again.close()


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([(None,), (40,), (None, 40), (None, -100), (-128,)]), st.integers(6, 14), st.booleans(),
    st.booleans(), st.integers(0, 8), st.integers(0, 1 << 30),
)  # fmt: skip
def test_no_page_is_lost_with_a_file(
    windows: tuple[int | None, ...], blocks: int, states: bool, keep: bool, records: int, seed: int
) -> None:
    """As without: references are those of tables and cache, records those of pages; and what is attended is right."""
    import tempfile

    rng = random.Random(seed)
    machine = Machine(FakeBackend(windows, (blocks,) * len(windows), 14 if states else 0), seed)
    memory: KVMemory = machine.memory
    with tempfile.TemporaryDirectory() as folder:
        sizes = [2 * BLOCK] * len(windows) + [8]
        file = PageFile(sizes, records * (HEAD_BYTES + sum(sizes)), Path(folder), Path(folder) / "p" if keep else None)
        paging = memory.prefixes.paging = Paging(file, machine.storage.storage, keep, b"r" * 16)
        parked: list[Page] = []
        for _ in range(150):
            if len(machine.running) < 5 and rng.random() < 0.3:
                machine.begin()
            elif machine.running and rng.random() < 0.15:
                sequence, _ = machine.running.pop(rng.randrange(len(machine.running)))
                last = memory.keep(sequence, wanted=True)
                parked += [last] if last is not None else []
            elif parked and rng.random() < 0.1:
                memory.let_go(parked.pop(rng.randrange(len(parked))))
            elif rng.random() < 0.02:
                memory.rebuild([s for s, _ in machine.running], parked)
            elif machine.running:
                machine.grow()
            machine.check()
            pages = list(memory.prefixes)
            having = [page.record for page in pages if page.record is not None]
            assert len(set(having)) == len(having) == file.used <= file.total
        while machine.running:
            machine.end()
        for last in parked:
            memory.let_go(last)
        memory.prefixes.clear()
        machine.check()
        assert not any(pool.used for pool in (*memory.pools, memory.slots)) and not paging.file.used
        file.close()


def test_a_model_keeps_its_conversations(smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`keep_kv`: the second process computes what was said since, to the same text."""
    monkeypatch.setenv("MEMFIRST_CACHE_DIR", str(tmp_path))
    prompt = "The quick brown fox jumps over the lazy dog. " * 12

    def ask(keep: bool) -> tuple[str, int]:
        with memfirst.load(smollm2, ctx=512, keep_kv=keep, progress=False) as model:
            answer = model.generate(prompt, temperature=0, max_tokens=8)
            return str(answer), answer.timing.reused_tokens

    text, none = ask(False)
    assert none == 0 and not (tmp_path / "kv").exists()
    assert ask(True) == (text, 0)
    again, reused = ask(True)
    assert again == text and reused > 100
    (kept,) = (tmp_path / "kv").iterdir()
    assert kept.stat().st_mode & 0o777 == 0o600
