"""The engine's process as the HTTP side sees it: requests in, answers out, and what happens when it dies."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import multiprocessing
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

from memfirst import errors
from memfirst.errors import BackendError, CapacityError, MemfirstError
from memfirst.progress import Progress, Silent
from memfirst.server import engine, messages
from memfirst.server.engine import Loading
from memfirst.server.messages import Ask, End, Loaded, Piece, PromptProgress, Stats

MOST_UNREAD = 256
"""Pieces of an answer that wait for its reader at most, where that lasts longer than `SLOW_SECONDS`."""
SLOW_SECONDS = 30.0
MAX_WAIT = 120.0
RESTARTS, WITHIN_SECONDS = 3, 60.0
"""An engine that dies more often than this is not started again."""


class QueueFullError(MemfirstError):
    """More requests wait than the server takes, or for longer; `seconds` is when to come again."""

    def __init__(self, found: str, expected: str, seconds: float) -> None:
        self.seconds = max(1, round(seconds))
        super().__init__(found, expected, f"try again in {self.seconds} s")


class EngineDiedError(BackendError):
    """The engine's process is not there: it is being started again, or it was given up."""


class Answer:
    """One request's answer: pieces as they come, then its end."""

    def __init__(self, link: EngineLink, number: int, client: str = "") -> None:
        self._link, self.number, self.client = link, number, client
        self.pieces: deque[Piece] = deque()
        self.progress: deque[PromptProgress] = deque(maxlen=MOST_UNREAD)
        """Of its prompt, where it was asked for; whoever reads the pieces takes it out."""
        self.prompt: list[int] = []
        self.end: End | None = None
        self._came = asyncio.Event()
        self._unread_since = 0.0

    def push(self, piece: Piece) -> bool:
        """One more; False where its reader is too slow."""
        now = time.monotonic()
        if len(self.pieces) < MOST_UNREAD:
            self._unread_since = now
        self.pieces.append(piece)
        self._came.set()
        return now - self._unread_since < SLOW_SECONDS

    def advance(self, progress: PromptProgress) -> None:
        """More of its prompt is computed."""
        self.progress.append(progress)
        self._came.set()

    def finish(self, end: End) -> None:
        """There is no more."""
        if self.end is None:
            self.end = end
            self._came.set()

    async def __aiter__(self) -> AsyncIterator[list[Piece]]:
        """All pieces that have come, as often as some do; none where its prompt goes on. Left early, or cancelled, it
        cancels the request. Raises what ended the answer."""
        try:
            while True:
                await self._came.wait()
                self._came.clear()
                end, pieces = self.end, list(self.pieces)
                self.pieces.clear()
                if pieces or self.progress:
                    yield pieces
                if end is not None:
                    if end.error is not None:
                        raise error_of(end.error)
                    return
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Nobody reads on."""
        self._link.forget(self)


class EngineLink:
    """Starts the engine's process, and again when it dies; gives it requests, and their answers what comes back."""

    def __init__(
        self, loading: Loading, max_queue: int, max_wait: float = MAX_WAIT, progress: Progress | None = None
    ) -> None:
        self._loading, self._progress = loading, progress or Silent()
        self._max_queue, self._max_wait = max_queue, max_wait
        self._process: SpawnProcess | None = None
        self._pipe: Connection | None = None
        self._comes: Callable[[float | None], bool] = lambda seconds: False
        self._out: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._live: dict[int, Answer] = {}
        self._numbers = itertools.count()
        self._ready: asyncio.Future[None] | None = None
        self._deaths: deque[float] = deque(maxlen=RESTARTS)
        self._closing = False
        self.loaded: Loaded | None = None
        self.stats: Stats | None = None
        self.state = "starting"
        """"starting", "ready", "failed" or "closed"."""
        self.on_stats: list[Callable[[Stats], None]] = []
        self.on_end: list[Callable[[End], None]] = []
        self.deaths = 0
        self.failed = asyncio.Event()
        """Set once the engine is given up."""

    # --- its life

    async def start(self) -> None:
        """Load the model; raises what the engine says of a model that it cannot load."""
        self._spawn()
        if self._ready is not None:
            await self._ready

    def _spawn(self) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        self._comes = messages.waits(ours)
        self._pipe, self._out, self.state = ours, queue.SimpleQueue(), "starting"
        launcher = engine.launcher() if self._loading.split else None
        self._process = context.Process(
            target=engine.main, args=(theirs, self._loading, launcher), name="memfirst engine", daemon=True
        )
        self._process.start()
        theirs.close()
        loop = asyncio.get_running_loop()
        if self._ready is None or self._ready.done():
            self._ready = loop.create_future()
        threading.Thread(target=_send, args=(ours, self._out), name="to the engine", daemon=True).start()
        loop.add_reader(ours.fileno(), self._read, ours)

    def _read(self, pipe: Connection) -> None:
        """Messages that are there; our own process sends them whole, so none is waited for long."""
        try:
            while self._comes(0):
                self._took(pipe, messages.decoded(pipe.recv_bytes()))
        except (EOFError, OSError):
            self._died(pipe)

    def _died(self, pipe: Connection) -> None:
        """The engine's process ended: its answers end, and it is started again unless it was meant to end."""
        asyncio.get_running_loop().remove_reader(pipe.fileno())
        if pipe is not self._pipe:
            return
        self._out.put(None)
        pipe.close()
        process = self._process
        if process is not None:
            process.join(timeout=1)
        code = process.exitcode if process is not None else None
        found = "the server is shutting down" if self._closing else f"the engine's process ended (exit code {code})"
        error = EngineDiedError(found, "one that runs", "try again")
        for answer in list(self._live.values()):
            answer.finish(End(answer.number, "", {}, [error.found, error.expected, error.do, "", "EngineDiedError"]))
        self._live.clear()
        if self._closing:
            self.state = "closed"
        elif self.state == "starting" and self.loaded is None:
            self.state = "failed"
            if self._ready is not None and not self._ready.done():
                self._ready.set_exception(error)
        else:
            self._again(error)
        if self.state == "failed":
            self.failed.set()

    def _again(self, error: EngineDiedError) -> None:
        now = time.monotonic()
        self.deaths += 1
        self._deaths.append(now)
        if self._loading.split:  # the other processes are within a step that it will not end
            self.state = "failed"
            self._progress.note(f"{error.found}; the others of the split model end too")
            return
        if len(self._deaths) == RESTARTS and now - self._deaths[0] < WITHIN_SECONDS:
            self.state = "failed"
            self._progress.note(f"{error.found}; given up after {RESTARTS} times")
            return
        self._progress.note(f"{error.found}; starting it again")
        self._spawn()

    async def close(self, seconds: float) -> None:
        """Let running requests end within so many seconds, then end the process."""
        self._closing = True
        deadline = time.monotonic() + seconds
        while self._live and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        for answer in list(self._live.values()):
            self._send(messages.DROP, answer.number)
        self._send(messages.CLOSE)
        process = self._process
        if process is not None:
            await asyncio.to_thread(process.join, 2.0)
            if process.is_alive():
                process.kill()
                await asyncio.to_thread(process.join, 2.0)
        self._out.put(None)
        self.state = "closed"

    def kill(self) -> None:
        """End the process at once."""
        if self._process is not None:
            self._process.kill()

    @property
    def split(self) -> bool:
        """Whether the model runs in several processes, which end with each other."""
        return bool(self._loading.split)

    # --- requests

    @property
    def live(self) -> int:
        """Requests that have not ended."""
        return len(self._live)

    @property
    def waiting(self) -> int:
        """Requests beyond those that one step takes."""
        return max(0, len(self._live) - (self.loaded.sequences if self.loaded else 0))

    def check_open(self, more: int = 1, client: str = "") -> None:
        """EngineDiedError where there is no engine, QueueFullError where too many requests wait. A client that has less
        than its share of the queue is taken in a full one, up to twice as many in all: others cannot keep it out."""
        if self._closing:
            raise EngineDiedError("the server is shutting down", "one that stays", "ask another")
        if self.state != "ready":
            raise EngineDiedError(f"the engine is {self.state}", "ready", "try again in a few seconds")
        waiting, (own, share) = self.waiting + more, self._share(client, more)
        seconds = self.predicted_wait * share
        fair = own * max(1, len(self._clients(client))) <= self._max_queue and waiting <= 2 * self._max_queue
        if self.waiting and waiting > self._max_queue and not fair:
            raise QueueFullError(f"{waiting} requests are waiting", f"at most {self._max_queue}", seconds)
        if self.waiting and seconds > self._max_wait:
            raise QueueFullError(f"a wait of {seconds:.0f} s is predicted", f"at most {self._max_wait:.0f}", seconds)

    def _clients(self, more: str) -> Counter[str]:
        """Live requests of each client, `more` among them."""
        found = Counter(answer.client for answer in self._live.values())
        found[more] += 0
        return found

    def _share(self, client: str, more: int) -> tuple[int, float]:
        """Requests of a client with `more` of them, and the part of all that its turns let before the last."""
        clients = self._clients(client)
        own = clients[client] + more
        return own, min(1.0, own * len(clients) / (clients.total() + more))

    @property
    def predicted_wait(self) -> float:
        """Seconds that a request that comes now will wait: as the engine said, and for those that came since."""
        if self.stats is None:
            return 0.0
        since = max(0, len(self._live) - len(self.stats.requests))
        return self.stats.wait + since * (self.stats.wait / max(1, len(self.stats.requests)))

    def check_price(self, ask: Ask) -> None:
        """CapacityError for a request that the KV cache could not hold to its end, even alone."""
        loaded = self.loaded
        if loaded is None or ask.max_tokens is None or not loaded.block:
            return
        pages = -(-min(len(ask.prompt) + ask.max_tokens, loaded.context) // loaded.block)
        have = -(-loaded.longest // loaded.block)
        if pages > have:
            raise CapacityError(
                f"{len(ask.prompt)} tokens and up to {ask.max_tokens} more need {pages} pages of {loaded.block}",
                f"at most the {have} of the KV cache",
                "shorten the prompt, lower max_tokens, or start with more --kv-memory",
            )  # fmt: skip

    def ask(self, ask: Callable[[int], Ask]) -> Answer:
        """Give a request to the engine; its answer. `ask` gets its number."""
        number = next(self._numbers)
        asked = ask(number)
        self.check_open(client=asked.client)
        answer = self._live[number] = Answer(self, number, asked.client)
        answer.prompt = asked.prompt
        self._send(messages.ASK, *asked)
        return answer

    def forget(self, answer: Answer) -> None:
        """Nobody reads an answer any more: unless it has ended, the engine is told."""
        if self._live.pop(answer.number, None) is not None and answer.end is None:
            self._send(messages.DROP, answer.number)  # which says what the answer had cost
            answer.finish(End(answer.number, messages.CANCELLED, {}))

    def measure(self) -> None:
        """Ask for the read bandwidth, which is measured if nothing runs."""
        self._send(messages.BANDWIDTH)

    def _send(self, kind: str, *parts: object) -> None:
        self._out.put(messages.encoded(kind, *parts))

    # --- what comes back, in the loop

    def _took(self, pipe: Connection, message: tuple[str, list[Any]]) -> None:
        if pipe is not self._pipe:
            return
        kind, parts = message
        if kind == messages.BATCH:
            self._batch(parts[0])
        elif kind == messages.STATS:
            self.stats = _stats(parts[0])
            for tell in self.on_stats:
                tell(self.stats)
        elif kind == messages.LOADED:
            self.loaded, self.state = Loaded(*parts[0]), "ready"
            if self._ready is not None and not self._ready.done():
                self._ready.set_result(None)
        elif kind == messages.FAILED:
            self.state = "failed"
            if self._ready is not None and not self._ready.done():
                self._ready.set_exception(error_of(parts))
        elif kind == messages.NOTE:
            self._progress.note(*parts)
        elif kind == messages.PROGRESS:
            self._progress.update(*parts)

    def _batch(self, events: list[list[Any]]) -> None:
        for kind, fields in events:
            answer = self._live.get(fields[0])
            if answer is None:
                if kind == "e" and fields[1] == messages.CANCELLED:
                    for tell in self.on_end:
                        tell(End(*fields))
                continue
            if kind == "p":
                answer.advance(PromptProgress(*fields))
            elif kind == "e":
                end = End(*fields)
                del self._live[answer.number]
                answer.finish(end)
                for tell in self.on_end:
                    tell(end)
            elif not answer.push(Piece(*fields)):
                error = CapacityError("an answer that nobody reads", f"a reader within {SLOW_SECONDS:.0f} s")
                answer.finish(End(answer.number, "", {}, [error.found, error.expected, "", "", "CapacityError"]))
                del self._live[answer.number]
                self._send(messages.DROP, answer.number)


def _send(pipe: Connection, out: queue.SimpleQueue[bytes | None]) -> None:
    """In a thread: what the engine is told, in order; a large prompt may have to wait until a step is done."""
    with contextlib.suppress(OSError):
        while (message := out.get()) is not None:
            pipe.send_bytes(message)


def _stats(fields: list[Any]) -> Stats:
    made = Stats(*fields)
    return made._replace(requests=[messages.Running(*request) for request in made.requests])


def error_of(said: list[str]) -> MemfirstError:
    """An error of the engine's process."""
    found, expected, do, command, kind = said
    made: type[MemfirstError] = getattr(errors, kind, EngineDiedError if kind == "EngineDiedError" else BackendError)
    return made(found, expected, do, command)
