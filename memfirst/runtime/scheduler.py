"""Which requests take part in the next step, with how many tokens, on which blocks: continuous batching.

Every running request that waits for one token gets it first, the oldest first; what is left of the step's tokens goes
to prompts, in the order in which requests were begun. Who is begun next is decided by turns of clients (`fairness`). A
request whose prompt begins like one that is being computed waits for it and goes on from its pages. A request is
admitted when its prompt's blocks and a slot of state are free, or only cached. Where a block is missing later, cached
pages go, the longest unused first; then paused requests, then the youngest, which was begun last: they go on when there
is room, from what is still cached, to the same bits. The oldest request that is being read never goes, and one context
fits the pool: so it ends, and by induction all do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from memfirst.backends.base import Backend
from memfirst.codecs.base import ROWS
from memfirst.errors import BackendError
from memfirst.graph import RELEASED, Step
from memfirst.graph import Sequence as Row
from memfirst.graph.ops.sketched import sketched
from memfirst.graph.traffic import HeadTraffic
from memfirst.runtime.accounts import position_bytes
from memfirst.runtime.fairness import Turns, age
from memfirst.runtime.head_use import HeadUse
from memfirst.runtime.kv_memory import KVMemory, SequenceState
from memfirst.runtime.pace import Filling, Pace
from memfirst.runtime.prefixes import Match
from memfirst.runtime.request import Origin, Request

QUERIES, HITS, RECOMPUTED = "prefix_queries", "prefix_hits", "recomputed_tokens"
"""Names of `Scheduler.counts`."""

HEAD_SHARE = 4
"""Where a grammar leaves no more than 1 / HEAD_SHARE of the output head's tiles, only these are read. Grammars allow a
few dozen tokens or nearly all, so the share itself hardly matters."""

MOST_PASSING = 8
"""Younger requests that may start before the oldest one that waits for room, each no longer than it waits anyway."""


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
    draft: Sequence[int] = ()
    """Tokens after these that may come; `match`: what they are taken from, and `kept`: how many did come."""
    match: int = 0
    kept: int = 0
    each: float = 0.0
    """What a draft model took for each of them, where t(1) is 1."""
    drafts: tuple[Origin, ...] = ()
    """Its steps for this one."""
    rows: tuple[int, ...] = ()
    """Of an embedding, which of its tokens give hidden rows."""


def _by_tiles(backend: Backend) -> bool:
    """Whether steps may name tiles of the output head: it is here whole, and what these are is known before. Of BF16
    in 12 bits it is not, as blocks lie aside."""
    reads = [read for op in backend.graph.ops for read in op.traffic() if isinstance(read, HeadTraffic)]
    known = all(w.shape[0] >= backend.graph.vocab_size and not w.twelve_bits for w in (read.weight for read in reads))
    return backend.rows_are_exact and bool(reads) and known


class Scheduler:
    """Owns the requests that are waiting and running, and through `memory` all blocks and slots."""

    def __init__(self, backend: Backend) -> None:
        self.memory, self.pace = KVMemory(backend), Pace()
        self.gap: float | None = None
        """As of `Filling`."""
        self.counts = Counter[str]()
        """Since the start: tokens of prompts that were looked up in the prefix cache, found there, computed again."""
        self.turns = Turns(sum(w.nbytes for w in backend.graph.weights().values()), position_bytes(backend.graph))
        self._lists, self._tiles = _by_tiles(backend), -(-backend.graph.vocab_size // ROWS)
        self.head_use = HeadUse(self._tiles if sketched(backend.graph) else 0)
        self._most, self._budget = backend.max_sequences, backend.max_tokens
        self.live: dict[int, Request] = {}
        """All requests that have not ended, by number: what `rebuild` goes by."""
        self.waiting: list[Request] = []
        self.running: list[Request] = []
        self._work: list[Work] = []

    # --- requests come and go

    def add(self, request: Request) -> None:
        """A request arrives."""
        if request.number not in self.live:
            self.live[request.number] = request
            self.waiting.append(request)
            self.turns.arrive(request)

    def remove(self, request: Request) -> None:
        """A request ended or was cancelled: what it computed is kept for prompts that begin alike. Interrupted, it can
        be asked for again."""
        if request.number not in self.live:
            return
        self.waiting = [other for other in self.waiting if other is not request]
        self.running = [other for other in self.running if other is not request]
        self._keep(request)
        self.live.pop(request.number)
        self.turns.leave(request)

    def _keep(self, request: Request, wanted: bool = False) -> None:
        sequence, request.sequence = request.sequence, None
        if sequence is not None:
            last = self.memory.keep(sequence, wanted)
            request.parked = last if wanted else None
        elif request.parked is not None and not wanted:
            last, request.parked = request.parked, None
            self.memory.let_go(last)

    def _preempt(self, request: Request) -> None:
        """Back to waiting, at its age; what it has stays cached as long as nobody needs the blocks."""
        gone = [w for w in self._work if w.request is request]
        self.abandon(gone)
        self._work = [w for w in self._work if w.request is not request]
        self.running.remove(request)
        request.preempted = True
        self._keep(request, wanted=True)
        self.waiting.append(request)
        self.waiting.sort(key=age)

    def rebuild(self) -> None:
        """After an interruption between two changes: queues from the live requests, counts from what is held."""
        requests = sorted(self.live.values(), key=age)
        self.waiting = [r for r in requests if r.sequence is None]
        self.running = [r for r in requests if r.sequence is not None]
        self.turns.rebuild(requests)
        parked = (r.parked for r in self.waiting if r.parked is not None)
        self.memory.rebuild((r.sequence for r in self.running if r.sequence is not None), parked)

    # --- the next step

    def schedule(self) -> list[Work]:
        """Work of the next step; empty where no request wants any."""
        self._work, budget = [], self._budget
        for request in self.live.values():
            request.paused = request.ahead is not None and len(request.events) >= request.ahead
        for request in tuple(self.running):  # who is preempted meanwhile has no sequence any more
            if budget and request.sequence is not None and request.remaining == 1 and not request.paused:
                budget -= self._add(request, 1)
        compares = self.gap is not None and bool(self._work) and self.pace.compares
        if (len(self._work) < len(self.running) or self.waiting) and not compares:
            self._prompts(Filling(self.pace, len(self._work), budget, self.gap))
        return self._work

    def step(self, work: Sequence[Work]) -> tuple[Step, list[int]]:
        """What the backend is asked for: of work that gives tokens, or of work that gives hidden rows."""
        rows, tokens = [], []
        for w in work:
            sequence = w.request.sequence
            if sequence is None:
                raise BackendError("work without a sequence")
            tokens += w.request.ids[w.past : w.past + w.new]
            read = write = 0
            if w.slot is not None:
                read, write = w.slot if sequence.slot is None else sequence.slot, w.slot
            tokens += w.draft
            logits = w.rows or (tuple(range(w.new - 1, w.new + len(w.draft))) if w.draft else None if w.last else ())
            rows.append(Row(w.past, w.new + len(w.draft), sequence.blocks.tables, None, None, logits, read, write))
        head, hidden = self._head(work), bool(work and work[0].rows)
        return Step(tuple(rows), head=head, likeliest=head is None and self._likeliest(work), hidden=hidden), tokens

    def _likeliest(self, work: Sequence[Work]) -> bool:
        """Whether one token alone is wanted, the likeliest, and the output head has a sketch to find it by."""
        if len(work) != 1 or not work[0].last or work[0].new != 1 or work[0].draft or work[0].rows:
            return False
        return self.head_use.tiles > 0 and work[0].request.likeliest and self.head_use.wanted()

    def _head(self, work: Sequence[Work]) -> tuple[int, ...] | None:
        """Tiles of the output head that the grammars of all answers leave; None where that is not a small part."""
        tiles: set[int] = set()
        for w in work if self._lists else ():
            if w.last and not w.rows:
                wanted = w.request.tiles()
                if wanted is None:
                    return None
                tiles |= wanted
        return tuple(sorted(tiles)) if tiles and len(tiles) * HEAD_SHARE <= self._tiles else None

    def commit(self, w: Work) -> None:
        """The step is done: its tokens are cached."""
        request, sequence = w.request, w.request.sequence
        if sequence is None:
            raise BackendError("work without a sequence")
        sequence.ids += request.ids[w.past : w.past + w.new]
        request.cached = w.past + w.new
        self.counts[RECOMPUTED] += max(0, min(request.cached, request.reached) - w.past)
        request.reached = max(request.reached, request.cached)
        if w.slot is not None:
            old, sequence.slot, w.slot = sequence.slot, w.slot, None
            if old is not None:
                self.memory.slots.release(old)
        self.memory.advance(sequence, len(request.prompt))
        if w.last and not request.generated:
            self.memory.snapshot_prompt(sequence)

    def commit_drafts(self, w: Work) -> None:
        """Drafted tokens that came are cached too; behind them is what the sequence's next tokens write over."""
        sequence = w.request.sequence
        if sequence is None:
            raise BackendError("work without a sequence")
        sequence.ids += w.draft[: w.kept]
        w.request.cached += w.kept
        w.request.reached = max(w.request.reached, w.request.cached)
        self.memory.advance(sequence, len(w.request.prompt))

    def finish(self) -> None:
        """Nothing of the step is needed any more."""
        self._work = []

    def abandon(self, work: Sequence[Work]) -> None:
        """The step did not happen: sequences are as before it."""
        for w in work:
            slot, w.slot = w.slot, None
            if slot is not None:
                self.memory.slots.release(slot)

    def _prompts(self, filling: Filling) -> None:
        """Chunks of running requests that have more than one token to compute, then of newly admitted ones."""
        chosen = {w.request.number for w in self._work}
        for request in tuple(self.running):
            if filling.left and request.sequence and request.number not in chosen and not request.paused:
                self._chunk(request, filling)
        passing = 0
        for request in self.turns.order(tuple(self.waiting)):
            if not filling.left or passing > MOST_PASSING:
                return
            if request.paused or request.sequence is not None or (passing and not self._may_pass(request)):
                continue
            found = self.memory.match(None, request.ids, request.reusable)
            if self._is_awaited(request, found.tokens(self.memory.size)):
                continue
            if self._admit(request, found):
                self._chunk(request, filling)
            else:
                passing += 1

    def _chunk(self, request: Request, filling: Filling) -> None:
        """Give a request part of its prompt: first what is cached of it by now, then tokens to compute."""
        if not self._extend(request):
            return
        if request.parked is not None:
            last, request.parked = request.parked, None
            self.memory.let_go(last)
        sequence = request.sequence
        if sequence is None:
            return
        past = len(sequence.ids)
        if self._is_awaited(request, past):
            return
        stop = self.memory.next_stop(past, len(request.ids))
        new = min(request.remaining, filling.room(past), stop - past)
        if new:
            filling.take(self._add(request, new), past)

    def _extend(self, request: Request) -> bool:
        """Go on from what is cached of the request's tokens that need not be computed. False where it has to wait for
        room to read that."""
        sequence = request.sequence
        if sequence is None:
            return False
        others = [r.sequence for r in self.running if r.sequence is not None]
        found = self.memory.match(sequence, request.ids, request.reusable, others)
        unread = self.memory.unread(found)
        if any(unread):
            if not self._is_worth_reading(found, unread):
                found = self.memory.in_memory(sequence, request.ids, found)
            elif not self._make_room(request, found, unread):
                return False
        if not found.pages and found.tail is None:
            return True
        had = len(sequence.ids)
        made = request.sequence = self.memory.extended(sequence, request.ids, found, request.parked)
        if made is sequence:
            return True
        self.memory.settle(sequence, made)
        if not request.generated and not request.preempted:
            request.timing.reused_tokens += len(made.ids) - had
            self.counts[HITS] += len(made.ids) - had
        return True

    def _is_worth_reading(self, found: Match, unread: Sequence[int]) -> bool:
        """Whether reading so many blocks is faster than computing what they hold."""
        memory, paging = self.memory, self.memory.prefixes.paging
        nbytes = sum(n * group.block_bytes for n, group in zip(unread, memory.groups, strict=True))
        computing = self.pace.token * found.tokens(memory.size)
        return paging is not None and (not computing or nbytes / paging.file.rate <= computing)

    def _make_room(self, request: Request, found: Match, unread: Sequence[int]) -> bool:
        """Blocks for what is read of `found`, from the cache or from whoever may lose theirs to `request`."""
        while not self.memory.can_read(found, unread):
            victim = self._victim(request)
            if victim is None:
                return False
            self._preempt(victim)
        return True

    def _is_awaited(self, request: Request, have: int) -> bool:
        """Whether an older request is computing the page that this one would compute next."""
        size = self.memory.size
        at = have // size * size
        for other in self.running:
            sequence = other.sequence
            if other is request or sequence is None or other.paused or other.remaining == 1:
                continue
            if request.sequence is not None and age(other) > age(request):
                continue
            end = self.memory.next_stop(at, len(other.ids)) if self.memory.recurrent else at + size
            coming = len(sequence.ids) < end <= min(request.reusable, len(other.ids))
            if coming and other.ids[:end] == request.ids[:end]:
                return True
        return False

    def _add(self, request: Request, new: int) -> int:
        """Give a request `new` tokens of the step, if blocks can be had; how many it got."""
        sequence = request.sequence
        if sequence is None:
            return 0
        past = len(sequence.ids)
        if not self._reserve(sequence, past + new, request):
            return 0
        last, slot = new == len(request.ids) - past, self.memory.take_slot() if self.memory.recurrent else None
        self._work.append(Work(request, past, new, last, slot, rows=request.rows(past, new)))
        return new

    # --- room

    def _reserve(self, sequence: SequenceState, length: int, request: Request) -> bool:
        """Blocks for `length` positions, from whoever may lose theirs to `request`; False where nobody may."""
        while not self.memory.reserve(sequence, length):
            victim = self._victim(request)
            if victim is None:
                return False
            self._preempt(victim)
        return True

    def take(self, sequence: SequenceState, length: int) -> None:
        """Blocks for a sequence of no request, which goes before all others."""
        while not self.memory.reserve(sequence, length):
            self._preempt(self.running[-1])

    def two_slots(self) -> tuple[int, int]:
        """Slots to read and to write by turns, for a sequence of no request; free again, as nobody else steps."""
        memory = self.memory
        if not memory.recurrent:
            return 0, 0
        while memory.slots.free < 2:
            if not memory.prefixes.evict_snapshot():
                self._preempt(self.running[-1])
        pair = memory.slots.take(), memory.slots.take()
        for slot in pair:
            memory.slots.release(slot)
        return pair

    def _victim(self, request: Request) -> Request | None:
        """Who goes on later: a paused request, else the youngest that is younger than `request`."""
        paused = [r for r in self.running if r.paused and r is not request]
        if paused:
            return paused[-1]
        youngest = self.running[-1] if self.running else None
        return youngest if youngest is not None and age(youngest) > age(request) else None

    def _admit(self, request: Request, found: Match) -> bool:
        """Start a request, if its prompt's blocks can be had."""
        paused = [r for r in self.running if r.paused]
        alone = len(paused) == len(self.running)  # nobody else is being read: it may have what the paused ones hold
        if len(self.running) >= self._most:
            if not paused:
                return False
            self._preempt(paused[-1])
        if not alone and not self._has_room(request, found):
            return False
        self.waiting.remove(request)
        self.turns.begin(request)
        request.sequence = self.memory.new_sequence()
        self.running.append(request)
        self.running.sort(key=age)
        self.counts[QUERIES] += 0 if request.preempted else len(request.prompt)
        return True

    def _has_room(self, request: Request, found: Match) -> bool:
        """Whether blocks are free, or only cached, for the prompt, for what was promised to prompts before, and a block
        for every four who are running: they grow into a new one at different times."""
        total, running = len(request.ids) + 1, [r for r in self.running if not r.paused]
        for g, (cache, pool) in enumerate(zip(self.memory.caches, self.memory.pools, strict=True)):
            pages = found.pages[cache.first_block(found.tokens(self.memory.size)) :]
            shared = [page.blocks[g] for page in pages if page.blocks[g] != RELEASED]  # others are read into new blocks
            need = cache.most_blocks(total, self._budget) - len(shared) + -(-len(running) // 4)
            need += sum(map(pool.is_idle, shared))  # cached, but not to be had any more
            for other in running:
                held = sum(1 for _ in other.sequence.blocks.held(g)) if other.sequence else 0
                need += max(0, cache.most_blocks(len(other.ids) + 1, self._budget) - held)
            if need > pool.free + pool.idle:
                return False
        return True

    def _may_pass(self, request: Request) -> bool:
        """Whether a request ends, at its longest, before the first of the running ones must: who waits for room before
        it waits no longer."""
        first = min((r.longest for r in self.running), default=0)
        return request.longest <= first
