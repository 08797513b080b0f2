"""Which requests take part in the next step, with how many tokens, on which blocks: continuous batching.

Every running request that waits for one token gets it first, the oldest first; what is left of the step's tokens goes
to prompts, in order of arrival. A request is admitted when its prompt's blocks and a slot of state are free, or only
kept for reuse. Where a block is missing later, kept sequences go, the longest unused first; then paused requests, then
the youngest: they are computed again when there is room, to the same bits. The oldest request that is being read never
goes, and one context fits the pool: so it ends, and by induction all do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from memfirst.backends.base import Backend
from memfirst.errors import BackendError
from memfirst.graph import Sequence as Row
from memfirst.graph import Step
from memfirst.runtime.cache import BlockPool, BlockTables
from memfirst.runtime.request import Request, SequenceState

PROMPT_CHUNK = 64
"""Tokens of prompts in a step that also decodes: who is being answered waits for no more than that of another's."""

COPY_LEAST = 8
"""Positions of a partly shared block that are worth copying it: fewer are computed as fast."""


@dataclass(slots=True)
class Work:
    """One request's part of a step: `new` tokens after `past`; `done` once all that follows from it is recorded."""

    request: Request
    past: int
    new: int
    last: bool
    """Whether the next token is known after it."""
    slot: int | None = None
    done: bool = False


class Scheduler:
    """Owns the requests that are waiting and running, the kept sequences, and all blocks and slots."""

    def __init__(self, backend: Backend) -> None:
        self._backend, graph = backend, backend.graph
        self._groups = graph.cache_groups
        self._caches = tuple(group.cache for group in self._groups)
        self.pools = tuple(BlockPool(n) for n in backend.blocks)
        self.slots = BlockPool(backend.slots if graph.states else 0)
        self._recurrent = bool(graph.states)
        self._most, self._budget = backend.max_sequences, backend.max_tokens
        self.live: dict[int, Request] = {}
        """All requests that have not ended, by number: what `rebuild` goes by."""
        self.waiting: list[Request] = []
        self.running: list[Request] = []
        self.kept: list[SequenceState] = []
        """Sequences of requests that ended, for prompts that begin alike; the longest unused first."""
        self._work: list[Work] = []

    # --- requests come and go

    def add(self, request: Request) -> None:
        """A request arrives."""
        if request.number not in self.live:
            self.live[request.number] = request
            self.waiting.append(request)

    def remove(self, request: Request) -> None:
        """A request ended or was cancelled: what it computed is kept for the next prompt. Interrupted, it can be asked
        for again."""
        if request.number not in self.live:
            return
        self.waiting = [other for other in self.waiting if other is not request]
        self.running = [other for other in self.running if other is not request]
        self._keep(request)
        self.live.pop(request.number)

    def _keep(self, request: Request) -> None:
        sequence = request.sequence
        if sequence is None:
            return
        if not sequence.ids:
            request.sequence = None
            self._release(sequence)
            return
        if all(other is not sequence for other in self.kept):
            self.kept.append(sequence)
        request.sequence = None
        if len(self.kept) > self._most:
            self.drop(self.kept[0])

    def drop(self, sequence: SequenceState) -> None:
        """Forget a kept sequence."""
        self.kept.remove(sequence)
        self._release(sequence)

    def clear(self) -> None:
        """Forget all kept sequences."""
        for sequence in list(self.kept):
            self.drop(sequence)

    def _release(self, sequence: SequenceState) -> None:
        sequence.blocks.cut(0)
        slot, sequence.slot = sequence.slot, None
        if slot is not None:
            self.slots.release(slot)

    def _preempt(self, request: Request) -> None:
        """Back to waiting, at its age; what it has is kept as long as nobody needs the blocks."""
        gone = [w for w in self._work if w.request is request]
        self.abandon(gone)
        self._work = [w for w in self._work if w.request is not request]
        self.running.remove(request)
        self._keep(request)
        self.waiting.append(request)
        self.waiting.sort(key=lambda r: r.number)

    def rebuild(self) -> None:
        """After an interruption between two changes: queues from the live requests, pools from what is held."""
        requests = sorted(self.live.values(), key=lambda r: r.number)
        self.waiting = [r for r in requests if r.sequence is None]
        self.running = [r for r in requests if r.sequence is not None]
        held = [*self.kept, *(r.sequence for r in self.running if r.sequence is not None)]
        for i, pool in enumerate(self.pools):
            pool.rebuild(block for sequence in held for block in sequence.blocks.held(i))
        self.slots.rebuild(sequence.slot for sequence in held if sequence.slot is not None)

    # --- the next step

    def schedule(self) -> list[Work]:
        """Work of the next step; empty where no request wants any."""
        self._work, budget = [], self._budget
        for request in self.live.values():
            request.paused = request.ahead is not None and len(request.events) >= request.ahead
        for request in tuple(self.running):  # who is preempted meanwhile has no sequence any more
            if budget and request.sequence is not None and request.remaining == 1 and not request.paused:
                budget -= self._add(request, 1)
        if len(self._work) < len(self.running) or self.waiting:
            self._prompts(min(budget, PROMPT_CHUNK) if self._work else budget)
        return self._work

    def step(self, work: Sequence[Work]) -> tuple[Step, list[int]]:
        """What the backend is asked for."""
        rows, tokens = [], []
        for w in work:
            sequence = w.request.sequence
            if sequence is None:
                raise BackendError("work without a sequence")
            tokens += w.request.ids[w.past : w.past + w.new]
            read = write = 0
            if w.slot is not None:
                read, write = w.slot if sequence.slot is None else sequence.slot, w.slot
            logits = None if w.last else ()
            rows.append(Row(w.past, w.new, sequence.blocks.tables, None, None, logits, read, write))
        return Step(tuple(rows)), tokens

    def commit(self, w: Work) -> None:
        """The step is done: its tokens are cached."""
        sequence = w.request.sequence
        if sequence is None:
            raise BackendError("work without a sequence")
        sequence.ids += w.request.ids[w.past : w.past + w.new]
        w.request.cached = w.past + w.new
        sequence.blocks.advance(w.past + w.new)
        if w.slot is not None:
            old, sequence.slot, w.slot = sequence.slot, w.slot, None
            if old is not None:
                self.slots.release(old)

    def finish(self) -> None:
        """Nothing of the step is needed any more."""
        self._work = []

    def abandon(self, work: Sequence[Work]) -> None:
        """The step did not happen: sequences are as before it."""
        for w in work:
            slot, w.slot = w.slot, None
            if slot is not None:
                self.slots.release(slot)

    def _prompts(self, budget: int) -> None:
        """Chunks of running requests that have more than one token to compute, then of newly admitted ones."""
        chosen = {w.request.number for w in self._work}
        for request in tuple(self.running):
            if budget and request.sequence and request.number not in chosen and not request.paused:
                budget -= self._add(request, min(request.remaining, budget))
        while budget and (first := next((r for r in self.waiting if not r.paused), None)) and self._admit(first):
            budget -= self._add(first, min(first.remaining, budget))

    def _add(self, request: Request, new: int) -> int:
        """Give a request `new` tokens of the step, if blocks can be had; how many it got."""
        sequence = request.sequence
        if sequence is None:
            return 0
        past = len(sequence.ids)
        if not self._reserve(sequence, past + new, request):
            return 0
        last = new == len(request.ids) - past
        self._work.append(Work(request, past, new, last, self._slot() if self._recurrent else None))
        return new

    def _slot(self) -> int:
        while not self.slots.free and self.kept:
            self.drop(self.kept[0])
        return self.slots.take()

    # --- room

    def _reserve(self, sequence: SequenceState, length: int, request: Request) -> bool:
        """Blocks for `length` positions, from whoever may lose theirs to `request`; False where nobody may."""
        if length <= sequence.blocks.room:
            return True
        while not self._fits(sequence.blocks, length):
            if self.kept:
                self.drop(self.kept[0])
            elif (victim := self._victim(request)) is not None:
                self._preempt(victim)
            else:
                return False
        sequence.blocks.reserve(length)
        return True

    def take(self, sequence: SequenceState, length: int) -> None:
        """Blocks for a sequence of no request, which goes before all others."""
        while not self._fits(sequence.blocks, length):
            if self.kept:
                self.drop(self.kept[0])
            else:
                self._preempt(self.running[-1])
        sequence.blocks.reserve(length)

    def two_slots(self) -> tuple[int, int]:
        """Slots to read and to write by turns, for a sequence of no request; free again, as nobody else steps."""
        if not self._recurrent:
            return 0, 0
        while self.slots.free < 2:
            if self.kept:
                self.drop(self.kept[0])
            else:
                self._preempt(self.running[-1])
        pair = self.slots.take(), self.slots.take()
        for slot in pair:
            self.slots.release(slot)
        return pair

    def release(self, sequence: SequenceState) -> None:
        """Give back all that a sequence of no request holds."""
        self._release(sequence)

    def new_sequence(self) -> SequenceState:
        """A sequence without a token."""
        return SequenceState(BlockTables(self._groups, self.pools))

    def _fits(self, blocks: BlockTables, length: int) -> bool:
        return all(
            -(-length // cache.block) - len(table) <= pool.free
            for cache, table, pool in zip(self._caches, blocks.tables, self.pools, strict=True)
        )

    def _victim(self, request: Request) -> Request | None:
        """Who is computed again later: a paused request, else the youngest that is younger than `request`."""
        paused = [r for r in self.running if r.paused and r is not request]
        if paused:
            return paused[-1]
        youngest = self.running[-1] if self.running else None
        return youngest if youngest is not None and youngest.number > request.number else None

    def _admit(self, request: Request) -> bool:
        """Start a request on the longest prefix that somebody has cached, if its prompt's blocks can be had."""
        paused = [r for r in self.running if r.paused]
        alone = len(paused) == len(self.running)  # nobody else is being read: it may have what the paused ones hold
        if len(self.running) >= self._most:
            if not paused:
                return False
            self._preempt(paused[-1])
        source, length = self._prefix(request)
        if not alone and not self._has_room(request, source, length):
            return False
        self.waiting.remove(request)
        request.sequence = self._sequence(source, length)
        self.running.append(request)
        self.running.sort(key=lambda r: r.number)
        if not request.generated:
            request.timing.reused_tokens = len(request.sequence.ids)
        return True

    def _has_room(self, request: Request, source: SequenceState | None, length: int) -> bool:
        """Whether blocks are free, or only kept, for the prompt, for what was promised to prompts before, and a block
        for every four who are running: they grow into a new one at different times."""
        total, running = len(request.ids) + 1, [r for r in self.running if not r.paused]
        for g, (cache, pool) in enumerate(zip(self._caches, self.pools, strict=True)):
            have = length // cache.block - cache.first_block(length) if source is not None else 0
            need = cache.most_blocks(total, self._budget) - max(0, have) + -(-len(running) // 4)
            for other in running:
                held = sum(1 for _ in other.sequence.blocks.held(g)) if other.sequence else 0
                need += max(0, cache.most_blocks(len(other.ids) + 1, self._budget) - held)
            if need > pool.free and need > pool.free + self._evictable(g, source):
                return False
        return True

    def _evictable(self, group: int, source: SequenceState | None) -> int:
        """Blocks that only kept sequences hold, without those of `source`."""
        count = Counter(b for kept in self.kept if kept is not source for b in kept.blocks.held(group))
        return sum(self.pools[group].references(block) == n for block, n in count.items())

    # --- prefixes

    def _prefix(self, request: Request) -> tuple[SequenceState | None, int]:
        """Who has the longest beginning of the request's tokens cached, all but the last: its logits are wanted."""
        best: tuple[SequenceState | None, int] = (None, 0)
        for sequence in self._candidates():
            length = sequence.blocks.reusable(common(sequence.ids, request.ids, len(request.ids) - 1))
            if self._recurrent and length != len(sequence.ids):
                continue  # state cannot be cut
            if length > best[1]:
                best = sequence, length
        return best

    def _candidates(self) -> Iterator[SequenceState]:
        yield from reversed(self.kept)
        if not self._recurrent:  # state has one owner
            yield from (r.sequence for r in self.running if r.sequence is not None)

    def _sequence(self, source: SequenceState | None, length: int) -> SequenceState:
        """A sequence of the first `length` tokens of `source`: itself where nothing else is lost, else a copy."""
        if source is None:
            return self.new_sequence()
        kept = any(other is source for other in self.kept)
        if kept and (self._recurrent or (len(source.ids) - length <= self._block() and self._alone(source, length))):
            self.kept = [other for other in self.kept if other is not source]
            source.blocks.cut(length)
            source.ids = source.ids[:length]
            return source
        return self._fork(source, length)

    def _fork(self, source: SequenceState, length: int) -> SequenceState:
        """A sequence of its own that shares whole blocks."""
        partial = [length % cache.block for cache in self._caches]
        free = all(pool.free for pool in self.pools)
        if any(0 < n < COPY_LEAST for n in partial) or not free:
            length = source.blocks.reusable(min(length - n for n in partial))
        made = SequenceState(source.blocks.fork(length, self._backend.copy_block))
        made.ids = source.ids[:length]
        return made

    def _block(self) -> int:
        return max((cache.block for cache in self._caches), default=0)

    def _alone(self, source: SequenceState, length: int) -> bool:
        """Nobody shares the block that position `length` is written to."""
        for cache, pool, table in zip(self._caches, self.pools, source.blocks.tables, strict=True):
            if length % cache.block and pool.references(table[length // cache.block]) > 1:
                return False
        return True


def common(a: Sequence[int], b: Sequence[int], most: int) -> int:
    """How many tokens two sequences have in common at their beginning, at most `most`."""
    most = min(most, len(a), len(b))
    same = 0
    while same < most and a[same : same + 64] == b[same : same + 64]:
        same += 64
    while same < most and a[same] == b[same]:
        same += 1
    return min(same, most)
