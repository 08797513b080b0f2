"""The engine's process: it loads the model, takes requests from a pipe, steps, and sends what each step gave.

A process of its own, because the interpreter's lock would make steps wait for HTTP (p90 of the time between steps 6 to
10 ms beside busy neighbours, against 1.4 to 2.4), and because a crash of native code must not end the server.
"""

from __future__ import annotations

import base64
import gc
import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Literal

from memfirst.distributed import mpi
from memfirst.errors import CapacityError, MemfirstError
from memfirst.runtime.accounts import Accounts, position_bytes
from memfirst.runtime.arguments import check_threads
from memfirst.runtime.embedding import Embedding, check_causal, check_length, check_pooling
from memfirst.runtime.grammar import Grammar
from memfirst.runtime.model import Model, load
from memfirst.runtime.request import Request
from memfirst.runtime.speculation import AUTO
from memfirst.server import messages
from memfirst.server.gaps import Gaps
from memfirst.server.messages import CANCELLED, Ask, End, Loaded, Piece, PromptProgress, Running, Stats

STATS_SECONDS = 0.2

GAP = 2.0
"""A prompt may make the time between others' tokens so many times as long: each of its streams keeps half its speed."""

TOGETHER_SECONDS = 0.012
"""Of one request alone, tokens that come faster than this are sent together: to wake the HTTP process and its client
for each took a tenth of SmolLM2's time, as the threads of a step fill all cores. Less than a frame of a screen."""

LENGTH, LEARNS = 128.0, 0.05
"""Tokens of an answer as long as none has ended, and what the newest one's length weighs."""
SAVED_AT_ONCE = 8
"""Pages that are written before looking whether a request came: some milliseconds."""
COMPILING_SECONDS = 0.001
"""How often it is looked whether a grammar is compiled, where nothing else is to be done."""
IDLE_PROBE_SECONDS = 30.0
"""The read bandwidth is measured again when the engine has been idle, at most so often."""


@dataclass(frozen=True)
class Loading:
    """What to load and how; as for `memfirst.load`."""

    model: str
    threads: int | None = None
    ctx: int | None = None
    kv: str = "f16"
    sequences: int | None = None
    kv_memory: int | Literal["auto"] = "auto"
    speculate: str = AUTO
    spill: int | Literal["auto"] = "auto"
    keep_kv: bool = False
    memory: int | Literal["auto"] | None = None
    draft: str | None = None
    pack: str = "auto"
    head: str = "full"
    split: str = ""
    pooling: str = ""


class Reports:
    """Progress that goes to the HTTP process."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def note(self, text: str) -> None:
        """As of `Progress`."""
        self._pipe.send_bytes(messages.encoded(messages.NOTE, text))

    def update(self, what: str, done: int, total: int, unit: str = "B") -> None:
        """As of `Progress`."""
        self._pipe.send_bytes(messages.encoded(messages.PROGRESS, what, done, total, unit))


def main(pipe: Connection, loading: Loading, launcher: Connection | None = None) -> None:
    """Serve requests from `pipe` until it closes or says so; the process's whole life.

    launcher  the connection to mpiexec that the HTTP process was started with: this process is the rank
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the HTTP process decides
    if launcher is not None:
        os.environ[LAUNCHER] = str(os.dup(launcher.fileno()))  # of its own: it is needed to the very end
    if loading.split:
        threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    try:
        try:
            model = load(
                loading.model, threads=loading.threads, ctx=loading.ctx, kv=loading.kv, progress=Reports(pipe),
                sequences=loading.sequences, kv_memory=loading.kv_memory, speculate=loading.speculate,
                spill=0 if loading.split else loading.spill, keep_kv=loading.keep_kv, memory=loading.memory,
                draft=loading.draft, pack=loading.pack, split=loading.split,
                head=loading.head,
            )  # fmt: skip
            pooling = _pooling(model, loading)
        except MemfirstError as error:
            pipe.send_bytes(messages.encoded(messages.FAILED, *_said(error)))
            if loading.split:
                from memfirst.distributed.mpi import leave

                leave()
            return
        with model:
            serving = Serving(pipe, model, check_threads(loading.threads), pooling)
            serving.prepare()
            serving.run()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the HTTP process is gone


LAUNCHER = "PMI_FD"
"""The variable in which MPICH's mpiexec passes its connection."""


def launcher() -> Connection | None:
    """In the HTTP process: that connection, to be given to the engine's process, as others than 0, 1 and 2 are closed
    there; None where there is none."""
    number, mpi.handed_on = os.environ.get(LAUNCHER, ""), True
    return Connection(os.dup(int(number))) if number.isdigit() else None


def _end_with_parent() -> None:
    """In a thread: where the HTTP process is gone, so is mpiexec, and a collective would be waited for forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class Serving:
    """The loop: messages in, a step, what it gave out."""

    def __init__(self, pipe: Connection, model: Model, threads: int, pooling: str = "") -> None:
        self._threads, self._pooling = threads, pooling
        self._pipe, self._model, self._engine = pipe, model, model.engine
        self._comes = messages.waits(pipe)
        self._accounts = model.engine.accounts = Accounts(model.backend, model.whole)
        self._live: dict[int, Request] = {}
        self._compiling: dict[int, tuple[Ask, Grammar, Future[Any]]] = {}
        self._compiler = ThreadPoolExecutor(1, "grammars")
        self._closing = self._dropped = False
        self._bandwidth, self._measured_at, self._told_at = 0.0, 0.0, 0.0
        self._last = 0, 0.0
        self._ends: list[Any] = []
        self._due: list[Any] = []
        """Events that are not sent yet."""
        self._sent_at = 0.0
        self._prompts: dict[int, int] = {}
        """Of requests that want to know, the tokens of the prompt of which they know."""
        self._length, self._gaps = LENGTH, Gaps()
        self._engine.scheduler.gap = GAP

    def prepare(self) -> None:
        """What no request is to wait for: kernels, and looking for garbage among the 100,000 objects of a loaded model,
        which took as long as several steps; from here on only what is newer is looked at."""
        self._model.backend.warm_up()
        if (draft := self._engine.speculation.model) is not None:
            draft.backend.warm_up()
        gc.collect()
        gc.freeze()

    def run(self) -> None:
        """Until the pipe says close, and all requests have ended."""
        self._measure()
        self._pipe.send_bytes(messages.encoded(messages.LOADED, self._loaded()))
        self._tell(now=True)
        while not self._closing or self._live or self._compiling:
            self._receive()
            self._begin_compiled()
            before = self._accounts.steps, self._accounts.tokens, self._accounts.seconds
            stepped = self._engine.advance()
            if stepped:
                self._last = self._accounts.tokens - before[1], self._accounts.seconds - before[2]
            self._due += self._events()
            if stepped or self._dropped:
                self._dropped = False
                self._tell(now=not self._live)  # before the last end: who has all answers finds the counters complete
            if self._due and not (stepped and self._may_wait()):
                self._pipe.send_bytes(messages.encoded(messages.BATCH, self._due))
                self._due, self._sent_at = [], time.monotonic()

    def _may_wait(self) -> bool:
        """Whether what is due goes with the next step's: tokens of the only request, not its first."""
        if time.monotonic() - self._sent_at >= TOGETHER_SECONDS or any(event[0] != "t" for event in self._due):
            return False
        return len(self._live) == 1 and all(r.generated > len(self._due) for r in self._live.values())

    # --- messages in

    def _receive(self) -> None:
        """All that has come; where nothing is to be done, wait for more."""
        while self._comes(self._patience()):
            kind, parts = messages.decoded(self._pipe.recv_bytes())
            if kind == messages.ASK:
                self._ask(Ask(*parts))
            elif kind == messages.DROP:
                self._drop(parts[0])
            elif kind == messages.BANDWIDTH:
                self._measure()
                self._tell(now=True)
            elif kind == messages.CLOSE:
                self._closing = True

    def _patience(self) -> float | None:
        """Seconds to wait for a message; None: until one comes. With nothing else to do, pages are written that are to
        be kept."""
        if self._live or self._closing or self._dropped:
            return 0.0
        if self._compiling:
            return COMPILING_SECONDS
        while not self._comes(0) and self._engine.scheduler.memory.save(SAVED_AT_ONCE):
            pass
        return None

    def _ask(self, ask: Ask) -> None:
        """A request begins once its grammar is compiled, beside the steps of others: that gives up the interpreter."""
        grammar = None if ask.grammar is None else Grammar(*ask.grammar)
        if grammar is None or grammar in self._model.grammars:
            self._begin(ask, grammar)
        else:
            self._compiling[ask.number] = ask, grammar, self._compiler.submit(self._model.grammars.compile, grammar)

    def _begin_compiled(self) -> None:
        for number, (ask, grammar, compiled) in list(self._compiling.items()):
            if compiled.done():
                del self._compiling[number]
                self._begin(ask, grammar)

    def _begin(self, ask: Ask, grammar: Grammar | None) -> None:
        try:
            request = self._embedding(ask) if ask.pooling else self._answer(ask, grammar)
            self._engine.submit(request)
            if ask.progress:
                self._prompts[ask.number] = -1
        except MemfirstError as error:
            self._pipe.send_bytes(messages.encoded(messages.BATCH, [["e", End(ask.number, "", {}, _said(error))]]))
            return
        self._live[ask.number] = request

    def _embedding(self, ask: Ask) -> Request:
        check_length(ask.prompt, self._model.longest)
        return Embedding(ask.prompt, self._model.tokenizer, self._model.longest, ask.pooling, ask.client)

    def _answer(self, ask: Ask, grammar: Grammar | None) -> Request:
        make = self._model.sampler(messages.params_of(ask.params))
        request = Request(
            ask.prompt, make, self._model.tokenizer, ask.max_tokens, ask.stop, self._model.longest, ask.logprobs, None,
            ask.end_ids, ask.least, ask.endless, self._model.speculate == AUTO, ask.prediction,
            self._model.constraint(grammar, ask.end_ids), ask.special, ask.client, ask.priority,
        )  # fmt: skip
        if len(ask.prompt) >= self._model.longest:
            raise CapacityError(f"{len(ask.prompt)} tokens", f"fewer than the context of {self._model.longest}")
        return request

    def _drop(self, number: int) -> None:
        self._compiling.pop(number, None)
        request = self._live.pop(number, None)
        if request is not None:
            self._gaps.ended(number)
            self._engine.cancel(request)
            self._dropped = True
            self._ends.append(["e", End(number, CANCELLED, self._usage(request))])

    def _tell(self, now: bool) -> None:
        """Say how things are: five times a second, and when all is done."""
        moment = time.monotonic()
        if now or moment - self._told_at > STATS_SECONDS:
            self._told_at = moment
            self._pipe.send_bytes(messages.encoded(messages.STATS, self._stats()))

    def _measure(self) -> None:
        """The read bandwidth, unless it was measured a moment ago or somebody waits."""
        now = time.monotonic()
        if not self._live and (not self._measured_at or now - self._measured_at > IDLE_PROBE_SECONDS):
            self._bandwidth = self._model.backend.read_bandwidth() or 0.0
            self._measured_at = now

    # --- what steps gave

    def _events(self) -> list[Any]:
        """Pieces and ends of all requests, and how far prompts are."""
        events, self._ends = self._ends, []
        events += self._progress()
        now = time.perf_counter()
        for number, request in list(self._live.items()):
            wanted = request.logprobs is not None
            if request.events:
                self._gaps.gave(number, now)
            for _ in range(len(request.events)):
                token = request.events.popleft()
                listed = [(lp.id, lp.logprob) for lp in token.logprobs] if wanted else None
                events.append(["t", Piece(number, token.text, token.id, listed)])
            if request.done:
                del self._live[number]
                self._gaps.ended(number)
                if not isinstance(request, Embedding):
                    self._length += LEARNS * (request.generated - self._length)
                error = request.error
                said = _said(error) if isinstance(error, MemfirstError) else None
                vector = _base64(request) if isinstance(request, Embedding) and error is None else ""
                events.append(["e", End(number, request.stop_reason, self._usage(request), said, vector)])
        return events

    def _progress(self) -> list[Any]:
        """First what was cached of a prompt, then what is computed after each step."""
        events: list[Any] = []
        for number, known in list(self._prompts.items()):
            request = self._live.get(number)
            if request is None or known >= len(request.prompt):
                del self._prompts[number]
            elif request.cached:
                t, total = request.timing, len(request.prompt)
                steps = ((t.reused_tokens, 0.0), (min(total, request.cached), t.prefill_s))
                for done, seconds in steps if known < 0 else steps[1:]:
                    if done > self._prompts[number]:
                        events.append(["p", PromptProgress(number, total, t.reused_tokens, done, seconds)])
                        self._prompts[number] = done
        return events

    def _usage(self, request: Request) -> dict[str, Any]:
        t = request.timing
        self._accounts.settle()
        return {
            "prompt_tokens": len(request.prompt), "cached_tokens": t.reused_tokens, "tokens": request.generated,
            "queued_s": t.queued_s, "prompt_s": t.prefill_s, "answer_s": t.decode_s, "answer_steps": t.decoded,
            "drafted": t.drafted, "kept": t.kept, "predicted": bool(request.prediction),
            "stopped": request.stops.stopped,
            "bytes": dict(request.bytes), "kv_held": request.cached * position_bytes(self._model.whole),
        }  # fmt: skip

    def _wait(self) -> float:
        """Predicted seconds until a request that comes now is begun: prompts before it, and where all places are taken
        the answers before it, each as long as answers were lately."""
        scheduler = self._engine.scheduler
        pace, running, most = scheduler.pace, scheduler.running, self._model.backend.max_sequences
        prompts = sum(max(0, r.remaining - 1) for r in scheduler.live.values())
        ahead = len(scheduler.live) + 1 - most
        if ahead <= 0 and not scheduler.waiting:
            return prompts * pace.token
        left = sum(max(1.0, self._length - r.generated) for r in scheduler.live.values()) / max(1, len(running))
        share = max(1, ahead) / max(1, len(scheduler.live))
        return prompts * pace.token + share * left * pace.seconds(max(1, len(running)))

    def _stats(self) -> Stats:
        memory, accounts = self._engine.scheduler.memory, self._accounts
        pools = memory.pools
        requests = [
            Running(
                number, len(r.prompt), r.timing.reused_tokens, r.generated, r.cached,
                sum(1 for g in range(len(pools)) for _ in r.sequence.blocks.held(g)) if r.sequence else 0,
                r.sequence is None,
            )
            for number, r in self._live.items()
        ]  # fmt: skip
        return Stats(
            accounts.steps, accounts.tokens, accounts.prompt_tokens, accounts.rows, accounts.seconds,
            dict(accounts.bytes), [pool.used for pool in pools], [pool.idle for pool in pools], requests, *self._last,
            self._bandwidth, self._engine.scheduler.counts | memory.paged, self._wait(),
            self._gaps.counts, self._gaps.seconds,
        )  # fmt: skip

    def _loaded(self) -> Loaded:
        model, backend = self._model, self._model.backend
        groups, held = model.graph.cache_groups, model.memory([])
        weights = Counter[str]()
        for weight in model.graph.weights().values():
            weights[weight.codec] += weight.nbytes
        blocks, each = list(backend.blocks), [group.block_bytes for group in groups]
        memory = {
            "weights": held.weights, "kv": sum(n * size for n, size in zip(blocks, each, strict=True)),
            "buffers": held.buffers, "state": backend.slots * sum(c.state_bytes for c in model.graph.states),
        }  # fmt: skip
        return Loaded(
            model.graph.architecture, model.context, model.graph.context, backend.max_sequences,
            max((group.cache.block for group in groups), default=0), blocks, each, memory, sum(weights.values()),
            weights.most_common(1)[0][0], self._threads, model.longest, model.graph.hidden_size, self._pooling,
        )  # fmt: skip


def _said(error: MemfirstError) -> list[str]:
    return [error.found, error.expected, error.do, error.command, type(error).__name__]


def _base64(request: Embedding) -> str:
    return base64.b64encode(request.vector.astype("<f4").tobytes()).decode()


def _pooling(model: Model, loading: Loading) -> str:
    """How the model's embeddings are made, all ready for it; "" where neither the file nor the caller says so."""
    pooling = check_pooling(loading.pooling) if loading.pooling else model.pooling
    if pooling:
        check_causal(model.checkpoint)
        model.backend.warm_up_hidden()
    return pooling
