"""The prefix cache: what a burst has in common is computed once; pages are never lost, given twice or given wrongly."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memfirst.backends.base import Storage
from memfirst.backends.cpu.backend import CpuBackend, CpuOptions
from memfirst.graph import RELEASED, KVCache, StateCache
from memfirst.graph.types import BLOCK, CacheGroup
from memfirst.runtime.engine import Engine
from memfirst.runtime.kv_memory import KVMemory, SequenceState
from tests.lower.graphs import window
from tests.runtime.test_engine import CONTEXT, Counting, nothing_held, recurrent
from tests.support.requests import alone, drain, request
from tests.support.tiny_models import tiny


@cache
def cpu(windowed: bool, pool: int) -> CpuBackend:
    graph, checkpoint = tiny("llama", "q4_0")
    made = window(40, "blk.0.")(graph) if windowed else graph
    return CpuBackend(made, checkpoint, CpuOptions(2, CONTEXT, 8, pool))


@pytest.fixture(scope="module", autouse=True)
def ended() -> Iterator[None]:
    """No thread outlives these tests."""
    yield
    for made in (cpu(False, 8), cpu(True, 8), cpu(False, 1)):
        made.close()
    cpu.cache_clear()


def run(engine: Engine, asked: list[list[int]], tokens: int) -> tuple[list[list[int]], list[int]]:
    """All at once: their tokens, and how many of each prompt came from the cache."""
    requests = [request(engine, prompt, tokens, seed) for seed, prompt in enumerate(asked)]
    for one in requests:
        engine.submit(one)
    return [drain(engine, one) for one in requests], [one.timing.reused_tokens for one in requests]


@pytest.mark.parametrize("windowed", [False, True])
def test_a_burst_computes_what_it_has_in_common_once(windowed: bool) -> None:
    backend = Counting(cpu(windowed, 8))
    common = [i % 200 for i in range(150)]
    asked = [[*common, 200 + i, *[i] * i] for i in range(16)]
    expected = alone(backend, CONTEXT, asked, 6)
    engine = Engine(backend, CONTEXT)
    backend.seen.clear()
    found, reused = run(engine, asked, 6)
    assert found == expected
    assert reused == [0, *[150] * 15]
    computed = sum(s.new for step in backend.seen for s in step.sequences)
    assert computed == sum(len(prompt) - n for prompt, n in zip(asked, reused, strict=True)) + 16 * 5
    assert nothing_held(engine)


def test_what_a_burst_has_in_common_is_held_once() -> None:
    engine = Engine(cpu(False, 8), CONTEXT)
    requests = [request(engine, [*range(200), i], 20, i) for i in range(8)]
    for one in requests:
        engine.submit(one)
    for one in requests:
        engine.next(one)
    assert engine.held() == (3 + 8,)
    first = {r.sequence.blocks.tables[0][:3] for r in engine.scheduler.running if r.sequence}
    assert len(first) == 1


def test_the_same_page_computed_twice_is_held_once() -> None:
    """Two that were admitted before either had a page: one lets go of its own."""
    engine = Engine(cpu(False, 8), CONTEXT)
    memory = engine.scheduler.memory
    a, b = memory.new_sequence(), memory.new_sequence()
    for sequence in (a, b):
        assert memory.reserve(sequence, BLOCK)
        sequence.ids += range(BLOCK)
    memory.advance(a, BLOCK)
    memory.advance(b, BLOCK)
    assert a.blocks.tables == b.blocks.tables and memory.pools[0].used == 1
    memory.release(a)
    memory.release(b)
    assert memory.pools[0].held == 0 and memory.pools[0].idle == 1


def test_a_second_turn_goes_on_from_the_first() -> None:
    """All but what was said since: the page in which the first turn ended is taken over."""
    engine = Engine(cpu(False, 1), CONTEXT)
    (said,), _ = run(engine, [list(range(100))], 10)
    second = [*range(100), *said, 3, 4, 5]
    found, reused = run(engine, [second], 5)
    assert reused == [109] and found == alone(cpu(False, 1), CONTEXT, [second], 5)


def test_a_recurrent_model_goes_on_from_snapshots() -> None:
    """Behind the prompt, at its last whole page, and where the answer ended."""
    backend = recurrent()
    prompt = list(range(100))
    (said,) = alone(backend, CONTEXT, [prompt], 6)
    asked = [prompt, prompt, [*prompt, *said, 7], [*prompt, 1, 2]]
    expected = [alone(backend, CONTEXT, [one], 6) for one in asked]
    engine = Engine(backend, CONTEXT)
    assert [run(engine, [one], 6) for one in asked] == list(zip(expected, ([0], [64], [105], [100]), strict=True))
    assert nothing_held(engine)


def test_a_burst_of_a_recurrent_model_shares_a_snapshot() -> None:
    backend = recurrent()
    prompt = [i % 100 for i in range(140)]
    engine = Engine(backend, CONTEXT)
    found, reused = run(engine, [prompt] * 6, 5)
    assert reused == [0, *[128] * 5]
    assert found == [alone(backend, CONTEXT, [prompt] * (seed + 1), 5)[seed] for seed in range(6)]
    assert nothing_held(engine)


# --- a tree of any history


class FakeBackend:
    """A backend without a model: a block remembers which tokens were written to it, in which place of which text."""

    def __init__(self, windows: tuple[int | None, ...], blocks: tuple[int, ...], slots: int) -> None:
        caches = tuple(  # below 0: chunks of that many
            KVCache(f"kv.{i}", 1, 2, 2, window=w and abs(w), chunked=(w or 0) < 0) for i, w in enumerate(windows)
        )
        states = (StateCache("state", 4),) if slots else ()
        groups = tuple(CacheGroup((c,)) for c in caches)
        self.graph: Any = type("Shape", (), {"cache_groups": groups, "states": states})()
        self.blocks, self.slots, self.max_tokens, self.max_sequences = blocks, slots, 96, 6
        self.storage = Storage(
            [np.full((n, 2 * BLOCK), 0xFF, np.uint8) for n in blocks], np.zeros((max(1, slots), 8), np.uint8)
        )
        self.tokens = [stored.view(np.int16) for stored in self.storage.blocks]
        self.state = self.storage.states.view(np.int64)[:, 0]

    def copy_block(self, group: int, source: int, target: int) -> None:
        self.tokens[group][target] = self.tokens[group][source]


class Machine:
    """Sequences that grow, end, are cut off and begin again over one pool; everything is checked after each step."""

    def __init__(self, storage: FakeBackend, seed: int) -> None:
        self.storage, self.random = storage, random.Random(seed)
        self.memory = KVMemory(storage)  # type: ignore[arg-type]
        self.running: list[tuple[SequenceState, list[int]]] = []
        self.reused = 0

    def begin(self) -> None:
        rng = self.random
        ids = [rng.randrange(2) * 100 + i // 32 * rng.randrange(2) for i in range(rng.randrange(1, 260))]
        ids = [i // 64 for i in range(len(ids))] if rng.random() < 0.5 else ids
        sequence = self.memory.new_sequence()
        others = [s for s, _ in self.running]
        found = self.memory.match(sequence, ids, len(ids) - 1, others)
        made = self.memory.extended(sequence, ids, found)
        self.memory.settle(sequence, made)
        self.reused += len(made.ids)
        self.running.append((made, ids))

    def grow(self) -> None:
        sequence, ids = self.random.choice(self.running)
        past = len(sequence.ids)
        new = min(self.random.randrange(1, 97), len(ids) - past)
        if self.memory.recurrent:
            new = min(new, self.memory.next_stop(past, len(ids)) - past)
        if new <= 0 or not self.memory.reserve(sequence, past + new):
            return
        self.check_attended(sequence)
        for group, table in enumerate(sequence.blocks.tables):
            for at in range(past, past + new):
                self.storage.tokens[group][table[at // BLOCK], at % BLOCK] = ids[at]
        sequence.ids += ids[past : past + new]
        if self.memory.recurrent:
            old, sequence.slot = sequence.slot, self.memory.take_slot()
            self.storage.state[sequence.slot] = hash(tuple(sequence.ids))
            if old is not None:
                self.memory.slots.release(old)
        self.memory.advance(sequence, len(ids))
        if len(sequence.ids) == len(ids):
            self.memory.snapshot_prompt(sequence)

    def end(self) -> None:
        sequence, _ = self.running.pop(self.random.randrange(len(self.running)))
        (self.memory.keep if self.random.random() < 0.8 else self.memory.release)(sequence)

    def check_attended(self, sequence: SequenceState) -> None:
        """Every position that the next token attends holds the sequence's own token; its state is of its tokens."""
        length = len(sequence.ids)
        for group, (kv, table) in enumerate(zip(self.memory.caches, sequence.blocks.tables, strict=True)):
            for at in range(kv.first(length), length):
                assert table[at // BLOCK] != RELEASED
                assert self.storage.tokens[group][table[at // BLOCK], at % BLOCK] == sequence.ids[at]
        if sequence.slot is not None:
            assert self.storage.state[sequence.slot] == hash(tuple(sequence.ids))

    def check(self) -> None:
        memory, pages = self.memory, list(self.memory.prefixes)
        for g, pool in enumerate(memory.pools):
            count = Counter(b for s, _ in self.running for b in s.blocks.held(g))
            kept = Counter(page.blocks[g] for page in pages if page.blocks[g] != RELEASED)
            assert max(kept.values(), default=1) == 1
            total = count + kept
            assert [pool.references(b) for b in range(pool.total)] == [total[b] for b in range(pool.total)]
            assert pool.free == pool.total - len(total)
            assert pool.idle == sum(total[b] == 1 for b in kept)
        count = Counter(s.slot for s, _ in self.running if s.slot is not None)
        kept = Counter(page.slot for page in pages if page.slot is not None)
        assert [memory.slots.references(b) for b in range(memory.slots.total)] == [
            (count + kept)[b] for b in range(memory.slots.total)
        ]
        holders = Counter(s.page for s, _ in self.running)
        assert all(page.holders == holders[page] for page in pages)
        assert all(page.parent is not None and page.parent.children[page.tokens] is page for page in pages)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([(None,), (40,), (None, 40), (None, 100, 40), (-100,), (None, -128), (-64, 40, -30)]),
    st.integers(6, 20),
    st.booleans(),
    st.integers(0, 1 << 30),
    st.lists(st.sampled_from(["begin", "grow", "grow", "grow", "end", "clear", "rebuild"]), min_size=20, max_size=120),
)
def test_no_page_is_lost_or_given_twice(
    windows: tuple[int | None, ...], blocks: int, states: bool, seed: int, what: list[str]
) -> None:
    """Whatever happens in whatever order: references are those of the tables and of the cache, what is attended is the
    sequence's own, and at the end everything is free."""
    machine = Machine(FakeBackend(windows, (blocks,) * len(windows), 14 if states else 0), seed)
    for action in what:
        if action == "begin" and len(machine.running) < 6:
            machine.begin()
        elif action == "clear":
            machine.memory.prefixes.clear()
        elif action == "rebuild":
            machine.memory.rebuild([s for s, _ in machine.running])
        elif action in ("grow", "end") and machine.running:
            getattr(machine, action)()
        machine.check()
    while machine.running:
        machine.end()
    machine.memory.prefixes.clear()
    machine.check()
    assert not any(pool.used for pool in (*machine.memory.pools, machine.memory.slots))


def test_histories_share() -> None:
    """The test above is of something: sequences go on from each other."""
    machine = Machine(FakeBackend((None, 40), (20, 20), 0), 1)
    for _ in range(300):
        machine.begin() if len(machine.running) < 5 else machine.end()
        for _ in range(4):
            machine.grow()
    assert machine.reused > 2000
