"""The engine: many answers at once are each what they would be alone, whatever is cancelled, interrupted or short."""

from __future__ import annotations

import asyncio
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import cache
from linecache import getline
from types import FrameType
from typing import Any

import pytest

from memfirst import runtime
from memfirst.backends.base import Backend, StepResult
from memfirst.backends.cpu.backend import CpuBackend, CpuOptions
from memfirst.backends.reference.generating import SlowBackend
from memfirst.errors import BackendError, CapacityError
from memfirst.graph import Step
from memfirst.graph.traffic import ACTIVATIONS
from memfirst.ledger import Ledger
from memfirst.runtime.engine import Engine
from memfirst.runtime.pace import PROMPT_CHUNK
from memfirst.runtime.request import MOST_AHEAD, Token
from tests.lower.graphs import window
from tests.support.requests import alone, answer, drain, prompts, request
from tests.support.tiny_models import tiny
from tests.support.toy import random_checkpoint, toy_mamba2

CONTEXT = 256
"""Four blocks: few enough that requests wait for each other."""


@cache
def cpu(windowed: bool = False, pool: int = 1, chunked: bool = False) -> CpuBackend:
    """A toy llama, four sequences in `pool` contexts; its first layer attends 40 positions (`windowed`), or those of
    its chunk of 40 (`chunked`)."""
    graph, checkpoint = tiny("llama", "q4_0")
    made = window(40, "blk.0.", chunked)(graph) if windowed or chunked else graph
    return CpuBackend(made, checkpoint, CpuOptions(2, CONTEXT, 4, pool))


@cache
def recurrent() -> SlowBackend:
    """A toy with state: eight sequences, two slots each."""
    graph = toy_mamba2("f32")
    return SlowBackend(graph, random_checkpoint(graph), CONTEXT)


@pytest.fixture(scope="module", autouse=True)
def ended() -> Iterator[None]:
    """No thread outlives these tests."""
    yield
    for made in (cpu(), cpu(True), cpu(False, 4), cpu(True, 4), cpu(chunked=True), cpu(False, 4, True)):
        made.close()
    cpu.cache_clear()


BACKENDS: dict[str, Callable[[], Any]] = {
    "cpu": cpu, "windowed": lambda: cpu(True), "chunked": lambda: cpu(chunked=True), "recurrent": recurrent,
}  # fmt: skip
VOCAB = {"cpu": 250, "windowed": 250, "chunked": 250, "recurrent": 120}


def nothing_held(engine: Engine) -> bool:
    """Once what is kept for reuse is gone."""
    engine.clear_cache()
    memory = engine.scheduler.memory
    return not any(pool.used for pool in (*memory.pools, memory.slots)) and not engine.scheduler.live


# --- each what it would be alone


@pytest.mark.parametrize("name", BACKENDS)
def test_interleaved_answers_are_those_of_each_alone(name: str) -> None:
    """Ten requests for four sequences and one context: they wait, share prefixes, lose their blocks and go on."""
    backend, asked = BACKENDS[name](), prompts(10, vocab=VOCAB[name])
    expected = alone(backend, CONTEXT, asked, 60)
    engine, rng = Engine(backend, CONTEXT), random.Random(3)
    requests = [request(engine, prompt, 60, seed) for seed, prompt in enumerate(asked)]
    found: list[list[int]] = [[] for _ in asked]
    for one in requests:
        engine.submit(one)
    left = set(range(len(asked)))
    while left:
        i = rng.choice(sorted(left))
        for _ in range(rng.randrange(1, 12)):
            if (token := engine.next(requests[i])) is None:
                left.discard(i)
                break
            found[i].append(token.id)
    assert found == expected
    assert nothing_held(engine)


@pytest.mark.parametrize("name", ["cpu", "recurrent"])
def test_answers_of_threads_are_those_of_each_alone(name: str) -> None:
    backend, asked = BACKENDS[name](), prompts(8, (1, 60), seed=2, vocab=VOCAB[name])
    expected = alone(backend, CONTEXT, asked, 25)
    engine = Engine(backend, CONTEXT)
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            found = list(pool.map(lambda i: answer(engine, asked[i], 25, i), range(8)))
            assert found == expected

    async def together() -> list[list[int]]:
        return await asyncio.gather(*(asyncio.to_thread(answer, engine, p, 25, i) for i, p in enumerate(asked)))

    assert asyncio.run(together()) == expected
    assert nothing_held(engine)


@pytest.mark.parametrize("name", ["cpu", "windowed", "chunked"])
def test_threads_that_come_and_go(name: str) -> None:
    """Ten threads, prompts up to most of the context, two in five left midway, slow readers, a cache that is cleared:
    nobody's text changes, nobody waits for ever."""
    backend, asked = BACKENDS[name](), prompts(12, (1, 200), seed=9)
    expected = alone(backend, CONTEXT, asked, 40)
    engine = Engine(backend, CONTEXT)

    def read(k: int) -> bool:
        rng, i = random.Random(k), k % 12
        one = request(engine, asked[i], 40, i)
        engine.submit(one)
        if rng.random() < 0.6:
            return drain(engine, one) == expected[i]
        found = []
        for _ in range(rng.randrange(40)):
            time.sleep(0.003 * (rng.random() < 0.1))
            if (token := engine.next(one)) is not None:
                found.append(token.id)
        engine.cancel(one)
        if rng.random() < 0.2:
            engine.clear_cache()
        return found == expected[i][: len(found)]

    with ThreadPoolExecutor(10) as pool:
        assert all(pool.map(read, range(60)))
    assert nothing_held(engine)


def test_steps_are_shared() -> None:
    """Four readers by turns: about as many steps as one of them needs."""
    backend = Counting(cpu(pool=4))
    engine = Engine(backend, CONTEXT)
    requests = [request(engine, [i, 2, 3], 20, i) for i in range(4)]
    for one in requests:
        engine.submit(one)
    for _ in range(20):
        for one in requests:
            engine.next(one)
    assert backend.steps <= 21


def test_a_reader_who_stops_reading_holds_nobody_up() -> None:
    """Its request gets some tokens ahead, then waits; where others need its blocks they have them, and it goes on."""
    backend = cpu()
    asked = [[1, 2, 3], list(range(200))]
    expected = alone(backend, CONTEXT, asked, 50)
    engine = Engine(backend, CONTEXT)
    slow, other = (request(engine, prompt, 50, seed) for seed, prompt in enumerate(asked))
    engine.submit(slow)
    first = engine.next(slow)
    engine.submit(other)
    assert drain(engine, other) == expected[1]
    assert len(slow.events) <= MOST_AHEAD
    assert first is not None and [first.id, *drain(engine, slow)] == expected[0]


# --- prefixes


def test_what_a_prompt_shares_with_an_earlier_one_is_not_computed_again() -> None:
    """Two conversations by turns, and a burst that begins alike: token-exact, and the same answers."""
    backend = cpu()
    system = list(range(70))
    talks = [[*system, 200 + i] for i in range(2)]
    expected = alone(backend, CONTEXT, talks, 10)
    engine = Engine(backend, CONTEXT)
    reused = []
    for _ in range(2):
        for seed, prompt in enumerate(talks):
            one = request(engine, prompt, 10, seed)
            engine.submit(one)
            assert drain(engine, one) == expected[seed]
            reused.append(one.timing.reused_tokens)
    assert reused[0] == 0 and reused[1] in (64, 70) and reused[2] == reused[3] == 70
    follow = [*talks[1], *expected[1], 5]
    one = request(engine, follow, 10)
    engine.submit(one)
    drain(engine, one)
    assert one.timing.reused_tokens == len(follow) - 2  # the last token that was sampled was never computed


def test_requests_that_arrive_together_share_what_the_first_has_computed() -> None:
    engine = Engine(cpu(), CONTEXT)
    first, second = (request(engine, [*range(100), i], 5, i) for i in range(2))
    engine.submit(first)
    engine.next(first)
    engine.submit(second)
    engine.next(second)
    assert second.timing.reused_tokens == 100
    assert engine.held()[0] < 4
    assert [drain(engine, one) for one in (first, second)] == [e[1:] for e in alone(cpu(), CONTEXT, [
        [*range(100), 0], [*range(100), 1]], 5)]  # fmt: skip


def test_a_chunk_gives_its_blocks_back() -> None:
    """150 tokens of a prompt and 80 more, chunks of 128: a chunk's blocks go back when the next begins."""
    graph, checkpoint = tiny("llama", "q4_0")
    with closing(CpuBackend(window(128, "blk.0.", True)(graph), checkpoint, CpuOptions(2, CONTEXT, 4))) as backend:
        engine = Engine(backend, CONTEXT)
        one = request(engine, list(range(150)), 80)
        engine.submit(one)
        seen = {tuple(sorted(engine.held())) for _ in iter(lambda: engine.next(one), None)}
        assert seen == {(1, 3), (2, 4), (0, 0)}


def test_a_window_gives_its_blocks_back() -> None:
    engine = Engine(cpu(True), CONTEXT)
    one = request(engine, list(range(150)), 80)
    engine.submit(one)
    seen = {tuple(sorted(engine.held())) for _ in iter(lambda: engine.next(one), None)}
    assert seen == {(2, 3), (1, 3), (2, 4), (0, 0)}
    assert [pool.used for pool in engine.scheduler.memory.pools] == [4, 4]  # the rest is cached


# --- the schedule


def test_decoding_comes_first_and_prompts_in_chunks_beside_it() -> None:
    backend = Counting(cpu(pool=4))
    engine = Engine(backend, CONTEXT)
    first, second = request(engine, [1, 2], 50), request(engine, list(range(150)), 50)
    engine.submit(first)
    engine.next(first)
    engine.submit(second)
    for _ in range(4):
        engine.next(first)
    rows = [[s.new for s in step.sequences] for step in backend.seen[1:5]]
    assert rows == [[1, PROMPT_CHUNK], [1, PROMPT_CHUNK], [1, 150 - 2 * PROMPT_CHUNK], [1, 1]]
    assert [step.logits for step in backend.seen[1:5]] == [1, 1, 2, 2]


def test_more_requests_than_sequences_wait_in_order() -> None:
    backend = Counting(cpu(pool=4))
    engine = Engine(backend, CONTEXT)
    requests = [request(engine, [i], 3, i) for i in range(9)]
    for one in requests:
        engine.submit(one)
    for one in requests:
        assert len(drain(engine, one)) == 3
    assert max(len(step.sequences) for step in backend.seen) == 4
    started = [one.submitted_at + one.timing.queued_s for one in requests]
    assert started == sorted(started) and started[8] > started[0]


def test_a_full_context_ends_an_answer() -> None:
    engine = Engine(cpu(), CONTEXT)
    one = request(engine, [7] * (CONTEXT - 3), None)
    engine.submit(one)
    assert len(drain(engine, one)) == 4 and one.stop_reason == "context"
    assert nothing_held(engine)


def test_logits_beside_running_answers() -> None:
    """They take the blocks of whoever is running; nobody's answer changes."""
    for make in BACKENDS.values():
        backend = make()
        expected = alone(backend, CONTEXT, [[1, 2, 3]], 30)[0]
        engine = Engine(backend, CONTEXT)
        tokens = [i % 100 for i in range(CONTEXT)]
        whole = engine.logits(tokens)
        one = request(engine, [1, 2, 3], 30)
        engine.submit(one)
        found = [token.id for token in (engine.next(one) for _ in range(10)) if token]
        assert engine.logits(tokens).tobytes() == whole.tobytes()
        assert [*found, *drain(engine, one)] == expected
        with pytest.raises(CapacityError, match="257 tokens"):
            engine.logits([0] * (CONTEXT + 1))


# --- cancelled, closed, broken


@pytest.mark.parametrize("name", BACKENDS)
def test_cancelled_at_any_step(name: str) -> None:
    backend = BACKENDS[name]()
    expected = alone(backend, CONTEXT, [[5, 6, 7]], 12)[0]
    engine = Engine(backend, CONTEXT)
    for taken in range(6):
        other = request(engine, [9] * 100, 30)
        engine.submit(other)
        for _ in range(taken):
            engine.next(other)
        engine.cancel(other)
        assert answer(engine, [5, 6, 7], 12) == expected
    assert nothing_held(engine)


def test_a_waiting_request_is_cancelled_before_it_ran() -> None:
    engine = Engine(cpu(), CONTEXT)
    requests = [request(engine, [i] * 60, 5, i) for i in range(6)]
    for one in requests:
        engine.submit(one)
    engine.cancel(requests[5])
    engine.next(requests[0])
    assert len(engine.scheduler.live) == 5 and requests[5].sequence is None
    for one in requests[:5]:
        engine.cancel(one)
    assert nothing_held(engine)


def test_an_engine_that_is_closed_says_so_to_everyone() -> None:
    graph, checkpoint = tiny("llama", "q4_0")
    engine = Engine(CpuBackend(graph, checkpoint, CpuOptions(2, CONTEXT, 4, pool=1)), CONTEXT)
    started, closed, raised = threading.Barrier(4), threading.Event(), []

    def read(i: int) -> None:
        one = request(engine, [i, 1], None, i)
        engine.submit(one)
        engine.next(one)
        started.wait()
        if i:  # one is amidst its steps, two are not
            closed.wait()
        try:
            drain(engine, one)
        except BackendError as error:
            raised.append(str(error))

    readers = [threading.Thread(target=read, args=(i,)) for i in range(3)]
    for reader in readers:
        reader.start()
    started.wait()
    engine.close()
    engine.close()
    closed.set()
    for reader in readers:
        reader.join(10)
    assert len(raised) >= 2 and all("the model is closed" in text for text in raised)
    with pytest.raises(BackendError, match="the model is closed"):
        engine.submit(request(engine, [1]))
    with pytest.raises(BackendError, match="the model is closed"):
        engine.logits([1])


class Counting:
    """A backend that remembers its steps, and can be told what to raise."""

    def __init__(self, backend: Backend) -> None:
        self._backend, self.seen = backend, list[Step]()
        self.fail: Callable[[Step], BaseException | None] = lambda step: None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    @property
    def steps(self) -> int:
        """How many there were."""
        return len(self.seen)

    def step(self, step: Step, tokens: Any) -> StepResult:
        """The backend's, remembered; interrupted once it is done and nobody has seen it."""
        self.seen.append(step)
        result = self._backend.step(step, tokens)
        if (error := self.fail(step)) is not None:
            raise error
        return result


@pytest.mark.parametrize("name", BACKENDS)
def test_an_interrupted_step_leaves_all_sequences_as_before(name: str) -> None:
    backend = Counting(BACKENDS[name]())
    asked = [[1, 2, 3], [4] * 80]
    expected = alone(backend, CONTEXT, asked, 20)
    engine, rng = Engine(backend, CONTEXT), random.Random(1)
    backend.fail = lambda step: KeyboardInterrupt() if rng.random() < 0.3 else None
    requests = [request(engine, prompt, 20, seed) for seed, prompt in enumerate(asked)]
    found: list[list[int]] = [[], []]
    for one in requests:
        engine.submit(one)
    interrupted = 0
    while not all(one.done and not one.events for one in requests):
        for out, one in zip(found, requests, strict=True):
            try:
                if (token := engine.next(one)) is not None:
                    out.append(token.id)
            except KeyboardInterrupt:
                interrupted += 1
    assert found == expected and interrupted > 3
    assert nothing_held(engine)


class Ctrl:
    """KeyboardInterrupt at the `n`th line of the engine's own code that runs; never twice."""

    def __init__(self, n: int) -> None:
        self.left, self.hit = n, False
        self._folder = runtime.__path__[0]

    def __call__(self, frame: FrameType, event: str, arg: object) -> Any:
        if not frame.f_code.co_filename.startswith(self._folder) or frame.f_code.co_name in ("_leave", "_recover"):
            return None
        line = getline(frame.f_code.co_filename, frame.f_lineno).lstrip()
        # A `with` is also visited on leaving it, just before __exit__, where no signal is ever looked at.
        if event == "line" and not self.hit and not line.startswith("with "):
            self.left -= 1
            if self.left < 0:
                self.hit = True
                raise KeyboardInterrupt
        return self

    def __enter__(self) -> Ctrl:
        sys.settrace(self)
        return self

    def __exit__(self, *exc: object) -> None:
        sys.settrace(None)


def test_interrupted_at_any_line_others_go_on_as_if_nothing_had_been() -> None:
    """The interrupted reader's request is cancelled; what its thread did for the other one is done again or kept."""
    backend = cpu()
    asked = [[1, 2, 3], [4] * 70, [8, 9]]
    expected = alone(backend, CONTEXT, asked, 8)
    at = 0
    while True:
        engine = Engine(backend, CONTEXT)
        engine.submit(other := request(engine, asked[1], 8, 1))
        found = [token.id for token in (engine.next(other), engine.next(other)) if token]
        engine.submit(mine := request(engine, asked[0], 8, 0))
        with Ctrl(at) as ctrl, suppress(KeyboardInterrupt):
            drain(engine, mine)
        engine.cancel(mine)
        found += drain(engine, other)
        assert found == expected[1], at
        assert answer(engine, asked[2], 8, 2) == expected[2], at
        assert nothing_held(engine), at
        if not ctrl.hit:
            break
        at += 1 + at // 25  # every line at first, then fewer: later steps are like the first
    assert at > 300


def test_broken_logits_end_one_request_only() -> None:
    backend = cpu()
    expected = alone(backend, CONTEXT, [[1, 2]], 10)[0]
    engine = Engine(backend, CONTEXT)
    good, bad = request(engine, [1, 2], 10), request(engine, [3], 10)
    sample = bad.sampler.sample

    def broken(logits: Any, banned: Any = ()) -> int:
        if bad.generated > 2:
            raise BackendError("the largest logit is nan")
        return sample(logits)

    bad.sampler.sample = broken  # type: ignore[method-assign]
    engine.submit(good)
    engine.submit(bad)
    assert drain(engine, good) == expected
    with pytest.raises(BackendError, match="nan"):
        drain(engine, bad)
    assert nothing_held(engine)


# --- bytes


def bytes_of(ledger: Ledger) -> dict[tuple[str, str], int]:
    out: dict[tuple[str, str], int] = {}
    for entry in ledger.entries:
        if entry.purpose != ACTIVATIONS:
            out[entry.op, entry.purpose] = out.get((entry.op, entry.purpose), 0) + int(entry.amount)
    return out


@pytest.mark.parametrize("name", ["cpu", "windowed", "chunked"])
def test_the_shares_of_a_step_are_whole_bytes_that_sum_to_it(name: str) -> None:
    backend = cpu(name == "windowed", 4, name == "chunked")
    engine = Engine(backend, CONTEXT)
    requests = [request(engine, [i] * n, 12, i) for i, n in enumerate((3, 90, 40))]
    tokens: list[Token] = []
    for one in requests:
        engine.submit(one)
    for _ in range(12):
        tokens += [token for one in requests if (token := engine.next(one)) is not None]
    steps: dict[int, list[Token]] = {}
    for token in tokens:
        assert token._origin is not None
        steps.setdefault(id(token._origin.step), []).append(token)
    full = [group for group in steps.values() if len(group) == len(group[0]._origin.step.sequences) == 3]
    assert len(full) > 5
    for group in full:
        step, result = group[0]._origin.step, group[0]._origin.result
        for whole, parts in (
            (backend.predicted(step), [t.predicted for t in group]),
            (backend.recorded(step, result), [t.recorded for t in group]),
        ):
            total: dict[tuple[str, str], int] = {}
            for part in parts:
                for key, n in bytes_of(part).items():
                    total[key] = total.get(key, 0) + n
            assert total == bytes_of(whole)
        for token, row in zip(group, step.sequences, strict=True):
            assert bytes_of(token.predicted) == bytes_of(token.recorded)
            mine = {k: v for k, v in bytes_of(token.recorded).items() if k[1].startswith("kv")}
            assert mine == {k: v for k, v in bytes_of(backend.predicted(Step((row,)))).items() if k[1].startswith("kv")}


def test_tokens_and_ledgers_print_short() -> None:
    engine = Engine(cpu(), CONTEXT)
    one = request(engine, [1, 2], 1)
    engine.submit(one)
    token = engine.next(one)
    assert token is not None and repr(token) == f"Token(text='{token.id} ', id={token.id})"
    assert repr(token.recorded).startswith("Ledger(2 tokens: ") and len(repr(token.predicted)) < 300
