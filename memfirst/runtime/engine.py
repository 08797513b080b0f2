"""The engine: requests in, tokens out. Whoever wants a token and finds nobody stepping steps for all of them.

A step is schedule -> backend -> sample -> append -> events. One thread steps at a time; the others wait on a condition
until their request has a token or the turn is free. A request gives what it would give alone: logits do not depend on
the batch, and each request has its own sampler.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from memfirst.backends.base import Backend, StepResult
from memfirst.codecs.base import F32
from memfirst.errors import BackendError, CapacityError, MemfirstError
from memfirst.graph import Sequence as Row
from memfirst.graph import Step
from memfirst.ledger import Ledger
from memfirst.runtime.accounts import Accounts
from memfirst.runtime.kv_memory import SequenceState
from memfirst.runtime.logprobs import logprobs
from memfirst.runtime.request import Counted, Origin, Request, Token
from memfirst.runtime.scheduler import Scheduler, Work
from memfirst.runtime.speculation import Speculation, forget
from memfirst.speculate.account import alike

ARRAYS = 64
"""Arrays of logits whose rows are known: a backend gives the same few again and again, two for each number of rows."""


class Engine:
    """Steps one backend for the requests of all threads."""

    def __init__(self, backend: Backend, context: int) -> None:
        self.backend, self.context = backend, context
        self.scheduler = Scheduler(backend)
        self.speculation = Speculation(backend)
        self.accounts: Accounts | None = None
        """Where steps and their bytes are added up, if anybody wants that."""
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._stepper: int | None = None
        """The thread that steps; what belongs to the scheduler is its own meanwhile."""
        self._new: deque[Request] = deque()
        self._cancelled: deque[Request] = deque()
        self._numbers, self._waiting, self._closed = 0, 0, False
        self._steps = 0
        self._stepped = False
        """Whether the step that is being done has changed anything yet."""
        self._rows: dict[int, tuple[F32, list[F32]]] = {}

    # --- for readers, from any thread

    def submit(self, request: Request) -> None:
        """Take a request in; its tokens come from `next`."""
        with self._lock:
            self._check_open()
            request.number, self._numbers = self._numbers, self._numbers + 1
            request.submitted_at = time.perf_counter()
            self._new.append(request)
            if request.cancelled:  # before it had a number
                self._cancelled.append(request)

    def next(self, request: Request) -> Token | None:
        """The request's next token, None at its end. Steps the engine where nobody else does."""
        me = threading.get_ident()
        try:
            while True:
                with self._lock:
                    while not request.events and not request.done:
                        self._check_open()
                        if self._stepper is None or self._stepper == me:
                            self._stepper = me
                            break
                        self._wait()
                    else:
                        return request.take()
                self.step()
                with self._lock:
                    self._leave()
        finally:
            if self._stepper == me:  # interrupted
                with self._lock:
                    self._leave()

    def cancel(self, request: Request) -> None:
        """Nobody reads the request any more. It may be called while this very thread holds the lock: by a finalizer."""
        if request.done:
            return
        request.cancelled = True
        if request.number < 0:  # not submitted, and will not be
            return
        self._cancelled.append(request)
        if self._lock.acquire(blocking=False):
            try:
                if self._stepper is None:
                    self._reap()
            finally:
                self._lock.release()

    def advance(self) -> bool:
        """Do one step for all requests that can go on; False where none can. For who steps for all readers."""
        with self._turn():
            self._reap()
            return self._step()

    def held(self) -> tuple[int, ...]:
        """Blocks of each cache group that requests hold; what is only cached is not among them."""
        return tuple(pool.held for pool in self.scheduler.memory.pools)

    def clear_cache(self) -> None:
        """Forget what is kept for prompts that begin alike."""
        with self._turn():
            self._reap()
            self.scheduler.memory.prefixes.clear()

    def logits(self, tokens: Sequence[int]) -> F32:
        """Logits f32 [len(tokens), vocab] of every position, from an empty cache."""
        if len(tokens) > self.context:
            expected, do = f"at most the context of {self.context}", "load the model with a larger ctx"
            raise CapacityError(f"{len(tokens)} tokens", expected, do, "raise --ctx")
        out = np.empty((len(tokens), self.backend.graph.vocab_size), np.float32)
        with self._turn():
            self._reap()
            sequence, slots = self.scheduler.memory.new_sequence(), self.scheduler.two_slots()
            try:
                for start in range(0, len(tokens), self.backend.max_tokens):
                    part = list(tokens[start : start + self.backend.max_tokens])
                    out[start : start + len(part)] = self._all_rows(sequence, part, slots)
                    slots = slots[::-1]
            finally:
                self.scheduler.memory.release(sequence)
        return out

    def predicted(self, step: Step) -> Ledger:
        """The price of a step, also of one that no request has done."""
        with self._turn(closed=True):
            return self.backend.predicted(step)

    def ledgers(self, origin: Origin) -> tuple[Ledger, Ledger]:
        """What a step moved for one of its sequences, predicted and recorded."""
        with self._turn(closed=True):
            return origin.predicted, origin.recorded

    def close(self) -> None:
        """End all requests with an error, then the backend. A second call does nothing."""
        with self._turn(closed=True):
            if self._closed:
                return
            self._closed = True
            self._reap()
            for request in list(self.scheduler.live.values()):
                request.error = _closed()
                self.scheduler.remove(request)
            self.scheduler.memory.close()
            if self.speculation.model is not None:
                self.speculation.model.close()
            self.backend.close()

    # --- one step

    def step(self) -> None:
        """Do one step for all requests; only for the thread that has the turn."""
        if not self._step():
            raise BackendError("no request can go on", "one that can", "please report this")

    def _step(self) -> bool:
        start = time.perf_counter()
        work: list[Work] = []
        self._stepped = False
        try:
            self._reap()
            work = self.scheduler.schedule()
            if not work:
                return False
            tokens, embeddings = [w for w in work if not w.rows], [w for w in work if w.rows]
            self.speculation.extend(tokens)
            for part in (tokens, embeddings):
                if part:
                    self._do(part, start)
                    start = time.perf_counter()
            self.scheduler.finish()
        except BaseException:
            self._recover(work, self._stepped)
            raise
        return True

    def _do(self, work: list[Work], start: float) -> None:
        """A step of the backend, and what follows from it: tokens, or hidden rows, which have no head."""
        step, tokens = self.scheduler.step(work)
        before = time.perf_counter()
        result = self._run(work, step, tokens)
        if result is None:
            return
        self._stepped = True
        self._steps += 1
        after = time.perf_counter()
        if result.listed is not None:
            self.scheduler.head_use.learn(result.listed)
            if work[0].request.generated:  # else its time is the prompt's
                work[0].request.timing.sketched += 1
                work[0].request.timing.listed += result.listed
        if step.hidden:
            self._pool(work, result)
        else:
            self._take_drafts(work)
            self._record(work, step, result)
            self.speculation.learn(work, after - before)
        end = time.perf_counter()
        for w in work:
            self._count(w, end - start, after - before, start)
        if not step.hidden:
            prompts = [(w.new, w.past) for w in work if w.new > 1 or not w.request.generated]
            self.scheduler.pace.record(step.tokens, end - start, prompts)
        if self.accounts is not None:
            wrong = sum(len(w.draft) - w.kept for w in work)
            self.accounts.add(step, [w.request for w in work], result, end - start, wrong)

    def _run(self, work: list[Work], step: Step, tokens: list[int]) -> StepResult | None:
        """The backend's part. What it refuses is these requests' error; None then."""
        try:
            return self.backend.step(step, tokens)
        except MemfirstError as error:
            self.scheduler.abandon(work)
            for w in work:
                w.request.error = error
                self.scheduler.remove(w.request)
            return None

    def _record(self, work: list[Work], step: Step, result: StepResult) -> None:
        """Cache what was computed, choose tokens, and give them out."""
        rows, at = self._rows_of(result.logits), 0
        for index, w in enumerate(work):
            request = w.request
            decoding = request.generated > 0
            self.scheduler.commit(w)
            if w.last:
                origin = Origin(step, index, self.backend, result, w.drafts)
                self._choose_rows(w, rows[at : at + 1 + len(w.draft)], origin)
                at += 1 + len(w.draft)
                if decoding:
                    request.last_step = origin
                    self._counted(request, step, result)
                    request.timing.add_disk(result.disk)
                if request.done:
                    self.scheduler.remove(request)
            w.done = True

    def _pool(self, work: list[Work], result: StepResult) -> None:
        """Cache what was computed, and give embeddings their rows."""
        rows, at = self._rows_of(result.logits), 0
        for w in work:
            self.scheduler.commit(w)
            w.request.take_rows(w.past, w.rows, rows[at : at + len(w.rows)])
            at += len(w.rows)
            if w.request.done:
                self.scheduler.remove(w.request)
            w.done = True

    def _take_drafts(self, work: list[Work]) -> None:
        """What a draft model read for this step's requests."""
        model = self.speculation.model
        at = {w.request.number: w for w in work}
        for step in model.taken() if model is not None else ():
            for origin, request, nbytes in zip(step.origins, step.requests, step.parts, strict=True):
                if self.accounts is not None:
                    self.accounts.add_draft(request, nbytes)
                if request.number in at:
                    at[request.number].drafts += (origin,)
                if request.generated:
                    request.timing.draft_steps += 1
                    request.timing.draft_bytes += nbytes

    def _choose_rows(self, w: Work, rows: list[F32], origin: Origin) -> None:
        """The token after the last certain one; then, as long as drafted ones are what came, those after them."""
        request, start = w.request, w.past + w.new
        came: list[int] = []
        while len(came) == w.kept and not request.done:
            self._choose(request, rows[len(came)], origin)
            came = request.ids[start:]
            w.kept = alike(came, w.draft)
        if w.kept:
            self.scheduler.commit_drafts(w)

    def _counted(self, request: Request, step: Step, result: StepResult) -> None:
        """Where its bytes begin and end among those that kernels counted."""
        before, after = result.counts
        had = request.counted or Counted(before, self._steps, after, self._steps, False)
        shared = had.shared or len(step.sequences) > 1
        request.counted = Counted(had.before, had.first, after, self._steps, shared)

    def _choose(self, request: Request, row: F32, origin: Origin) -> None:
        """The token that a step's logits give, and those behind it that a grammar leaves no choice of."""
        try:
            id = request.choose(row)
            wanted = request.logprobs
            named = () if wanted is None else logprobs(row, id, wanted, request.tokenizer)
            text = request.accept(id)
            if text is not None:
                request.give(Token(text, id, origin, named))
            while (forced := request.forced()) is not None:
                request.timing.forced += 1
                text = request.accept(forced)
                if text is not None:
                    request.give(Token(text, forced, None))
        except MemfirstError as error:
            request.error = error

    def _count(self, w: Work, seconds: float, in_backend: float, start: float) -> None:
        """Its time, and whether it was the prompt's."""
        timing, request = w.request.timing, w.request
        timing.tokens = request.generated
        if request.last_step is None:
            if not timing.prefill_s:
                timing.queued_s = start - request.submitted_at
            timing.prefill_s += seconds
        else:
            timing.decode_s += seconds
            timing.steps_s += in_backend
            timing.decode_steps += w.last
            timing.drafted += len(w.draft)
            timing.kept += w.kept

    def _recover(self, work: list[Work], stepped: bool) -> None:
        """Interrupted: as if the step had not begun. Requests whose bookkeeping may be torn begin again: from the same
        tokens and seed they give the same answer."""
        if stepped:
            for w in work:
                if not w.done:
                    w.request.sequence, w.request.preempted = None, True
                    w.request.begin()
                    self.scheduler.live[w.request.number] = w.request  # one that had ended was taken out already
        forget(self.scheduler.live.values())
        self.scheduler.rebuild()

    def _rows_of(self, logits: F32) -> list[F32]:
        """Rows as objects that come again with their array: samplers look at an array once."""
        known = self._rows.get(id(logits))
        if known is None:
            if len(self._rows) >= ARRAYS:
                self._rows.clear()
            known = self._rows[id(logits)] = logits, list(logits)
        return known[1]

    def _all_rows(self, sequence: SequenceState, part: list[int], slots: tuple[int, int]) -> F32:
        past = len(sequence.ids)
        self.scheduler.take(sequence, past + len(part))
        row = Row(past, len(part), sequence.blocks.tables, None, None, tuple(range(len(part))), *slots)
        logits = self.backend.step(Step((row,)), part).logits
        sequence.ids += part
        sequence.blocks.advance(len(sequence.ids))
        return logits

    # --- turns

    def _reap(self) -> None:
        """Take in new requests, let go of cancelled ones; with the turn, or with the lock while nobody has it."""
        while self._new:
            self.scheduler.add(self._new[0])
            self._new.popleft()
        while self._cancelled:
            self.scheduler.remove(self._cancelled[0])
            self._cancelled.popleft()

    @contextmanager
    def _turn(self, closed: bool = False) -> Iterator[None]:
        """The right to step, for something else than a step; `closed`: also of a closed engine."""
        me = threading.get_ident()
        with self._lock:
            while self._stepper is not None and self._stepper != me:  # its own: interrupted while leaving
                self._wait()
            if not closed:
                self._check_open()
            self._stepper = me
        try:
            yield
        except BaseException:
            self.scheduler.rebuild()
            raise
        finally:
            with self._lock:
                self._leave()

    def _wait(self) -> None:
        """Until somebody leaves; with the lock."""
        self._waiting += 1
        try:
            self._changed.wait()
        finally:
            self._waiting -= 1

    def _leave(self) -> None:
        """The turn is free; with the lock."""
        if self._cancelled:
            self._reap()
        self._stepper = None
        if self._waiting:
            self._changed.notify_all()

    def _check_open(self) -> None:
        if self._closed:
            raise _closed()


def _closed() -> MemfirstError:
    return BackendError("the model is closed", "one that is open", "load it again")
